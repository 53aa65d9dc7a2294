"""Lets the Lua verbs believe in another time: the server's clock and what the key `test:shift_s` adds to it.

Leases, windows and records then live in that time; the TTL of keys and the ids of streams stay in the server's own.
"""

from contextlib import contextmanager

from farebox import scripts
from farebox_worker.bus import scripts as worker_scripts

SHIFT = "test:shift_s"
CLOCK = "redis.call('TIME')"
MOVED = f"t[1] = tonumber(t[1]) + tonumber(redis.call('GET', '{SHIFT}') or 0)"
SHIFTED = f"(function() local t = {CLOCK}; {MOVED}; return t end)()"


def verbs():
    """Every Lua verb that is loaded, by its name."""
    return {
        s.name: s for module in (scripts, worker_scripts) for s in vars(module).values() if type(s) is scripts.Script
    }


@contextmanager
def shifted_time():
    """Load the verbs with a clock that can be moved; put the true ones back afterwards."""
    found = verbs()
    true = {name: script.text for name, script in found.items()}
    for script in found.values():
        become(script, script.text.replace(CLOCK, SHIFTED))
    assert SHIFTED in found["settle"].text
    try:
        yield
    finally:
        for name, script in found.items():
            become(script, true[name])


def become(script, text):
    """Give a verb another text, for whoever holds it already."""
    object.__setattr__(script, "text", text)
    script.__post_init__()
