"""The worker's Lua verbs, loaded once."""

from importlib.resources import files

from farebox.scripts import load

_HERE = files("farebox_worker") / "bus"

CLAIM = load("claim", "prelude", "pace", "turns", folder=_HERE)
ADMIT = load("admit", "prelude", "tally", "scopes", "pace", folder=_HERE)
SETTLE = load("settle", "prelude", "tally", "scopes", "pace", "felt", folder=_HERE)
RENEW = load("renew", "prelude", folder=_HERE)
LAPSE = load("lapse", "prelude", "tally", "scopes", folder=_HERE)
FOLD = load("fold", "prelude", "tally", folder=_HERE)
REASSERT = load("reassert", "prelude", "tally", "scopes", folder=_HERE)
BLAME = load("blame", "prelude", folder=_HERE)
PAUSE = load("pause", "prelude", folder=_HERE)
TUNE = load("tune", "prelude", folder=_HERE)
WITHDRAW = load("withdraw", "prelude", folder=_HERE)
MOVE = load("move", "prelude", folder=_HERE)
