"""Lets the Lua verbs believe in another time: the server's clock and what the key `test:shift_s` adds to it.

Leases, windows and records then live in that time; the TTL of keys and the ids of streams stay in the server's own.
"""

import hashlib
from contextlib import contextmanager

from farebox import scripts
from farebox_worker.bus import scripts as worker_scripts

SHIFT = "test:shift_s"
CLOCK = "redis.call('TIME')"
MOVED = f"t[1] = tonumber(t[1]) + tonumber(redis.call('GET', '{SHIFT}') or 0)"
SHIFTED = f"(function() local t = {CLOCK}; {MOVED}; return t end)()"


@contextmanager
def shifted_time():
    """Load the verbs with a clock that can be moved; put the true ones back afterwards."""
    found = {
        s.name: s for module in (scripts, worker_scripts) for s in vars(module).values() if type(s) is scripts.Script
    }
    true = {name: (script.text, script.sha) for name, script in found.items()}
    for script in found.values():
        text = script.text.replace(CLOCK, SHIFTED)
        _become(script, text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())
    assert SHIFTED in found["settle"].text
    try:
        yield
    finally:
        for name, script in found.items():
            _become(script, *true[name])


def _become(script, text, sha):
    object.__setattr__(script, "text", text)
    object.__setattr__(script, "sha", sha)
