"""What befalls a request: decided by the seed, the request's bytes and how often they were sent before."""

from hashlib import blake2b
from itertools import accumulate

from farebox_worker.simulate.options import Options

NOT_BILLED = frozenset({"429", "500", "overloaded", "flex_full"})
"""Fates that end with the vendor's own error before a token is made. Every other fate is billed."""
SPOKEN = frozenset({"refused", "filtered", "tool_call"})
"""Fates that only an answer in words can have: a vector is answered."""

_SPAN = 1 << 64
_STEP = 0x9E3779B97F4A7C15  # the golden ratio in 64 bits: its multiples spread evenly


class Luck:
    """The chances of one request, the same whenever the same bytes meet the same seed."""

    __slots__ = ("digest",)

    def __init__(self, seed: bytes, body: bytes) -> None:
        self.digest = blake2b(body, digest_size=24, key=seed).digest()

    def tokens(self, low: int, high: int, choice: int) -> int:
        """Return the output tokens that choice number `choice` wants, `low` to `high`, both included."""
        draw = (int.from_bytes(self.digest[:8], "big") + choice * _STEP) % _SPAN
        return low + draw * (high - low + 1) // _SPAN

    def place(self, below: int, choice: int) -> int:
        """Return where the text of a choice starts, 0 to `below` - 1."""
        return (int.from_bytes(self.digest[8:16], "big") + choice * _STEP) % _SPAN % below

    def delay_s(self, latency_ms: float, jitter_ms: float) -> float:
        """Return the latency in seconds, uniform within `jitter_ms` around `latency_ms`, never negative."""
        swing = int.from_bytes(self.digest[16:24], "big") / _SPAN * 2 - 1
        return max(0.0, latency_ms + swing * jitter_ms) / 1000


class Fates:
    """Deals each request its fate by the configured shares. A repeated request is dealt again."""

    def __init__(self, options: Options) -> None:
        shares = options.shares()
        self._uppers = list(zip(accumulate(shares.values()), shares, strict=True))
        self._flex_full, self._flex_default = options.share_flex_full, options.share_flex_default
        self._tries: dict[bytes, int] = {}

    def deal(self, luck: Luck) -> str:
        """Return `answered` or a key of `options.SHARES`."""
        if not self._uppers:
            return "answered"
        chance = self._chance(luck, b"")
        return next((fate for upper, fate in self._uppers if chance < upper), "answered")

    def serve_flex(self, luck: Luck) -> str:
        """Return the tier that serves a request for flex, `flex` or `default`, or `flex_full` when none does."""
        if not (self._flex_full or self._flex_default):
            return "flex"
        chance = self._chance(luck, b"flex")
        if chance < self._flex_full:
            return "flex_full"
        return "default" if chance < self._flex_full + self._flex_default else "flex"

    def _chance(self, luck: Luck, what: bytes) -> float:
        """Draw from [0, 1) for a request, anew each time it comes."""
        digest = luck.digest + what
        tries = self._tries.get(digest, 0)
        self._tries[digest] = tries + 1
        draw = blake2b(digest, digest_size=8, key=tries.to_bytes(8, "big")).digest()
        return int.from_bytes(draw, "big") / _SPAN

    def forget(self) -> None:
        """Forget which requests were seen: the next ones count as first tries."""
        self._tries.clear()
