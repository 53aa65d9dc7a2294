"""All that stands in a server, read in one go: the judge looks at everything after every step."""

from collections import defaultdict

from redis.client import Pipeline

HASHES = ("scope", "window", "holds", "unconfirmed", "strikes", "batch", "lane", "provider", "parking")
ZSETS = ("flow", "leases", "open", "wait", "parked", "deadlines")
STRINGS = ("limit", "starved", "in-progress")
READ = {
    **dict.fromkeys(HASHES, Pipeline.hgetall),
    **dict.fromkeys(ZSETS, lambda pipe, key: pipe.zrange(key, 0, -1, withscores=True)),
    **dict.fromkeys(STRINGS, Pipeline.get),
    "history": lambda pipe, key: pipe.lrange(key, 0, -1),
    "results": Pipeline.xrange,
}
RETAINED = ("batch", "results", "flows", "history")


class Snapshot:
    """The keys of a server with what they hold, as far as it is judged; sorted sets as dicts of scores.

    `eyes` is a client that decodes. What `READ` does not name is None; `ttl_ms` knows only what is `RETAINED`.
    """

    def __init__(self, eyes):
        parts = {key: key.split(":", 2) for key in eyes.keys("*")}
        read = [key for key, (_, kind, *_) in parts.items() if kind in READ]
        retained = [key for key, (_, kind, *_) in parts.items() if kind in RETAINED]
        with eyes.pipeline(transaction=False) as pipe:
            for key in read:
                READ[parts[key][1]](pipe, key)
            for key in retained:
                pipe.pttl(key)
            found = iter(pipe.execute())
        values = dict(zip(read, found, strict=False))
        self.ttl_ms = dict(zip(retained, found, strict=True))
        self._under = defaultdict(dict)
        for key, (owner, kind, *rest) in parts.items():
            value = values.get(key)
            self._under[f"{owner}:{kind}"][rest[0] if rest else ""] = dict(value) if kind in ZSETS else value

    def __getitem__(self, key):
        """What a key holds; nothing if it is not there."""
        owner, kind, *rest = key.split(":", 2)
        return self._under[f"{owner}:{kind}"].get(rest[0] if rest else "", {})

    def under(self, prefix):
        """What stands under a prefix of two words, by the rest of its keys."""
        return self._under[prefix]
