"""How long calls took: shares of any number of them, in a few hundred counters, right to 5 %."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable
from functools import lru_cache

RECENT_S = 30.0
_STEP = 1.05  # each bucket is so much wider than the one before


class Latencies:
    """Counts of calls by how long they took, in ms; what was counted can be taken out again.

    As text, `str` writes "bucket:calls bucket:calls", and `read` reads it.
    """

    __slots__ = ("counts",)

    def __init__(self) -> None:
        self.counts: Counter[int] = Counter()

    @classmethod
    def read(cls, words: str) -> Latencies:
        """Read what `str` wrote."""
        found = cls()
        for pair in words.split():
            bucket, _, calls = pair.partition(":")
            found.counts[int(bucket)] += int(calls)
        return found

    @classmethod
    def of(cls, others: Iterable[Latencies]) -> Latencies:
        """Count all that others have counted."""
        found = cls()
        for one in others:
            found.counts.update(one.counts)
        return found

    def __str__(self) -> str:
        return " ".join(f"{bucket}:{calls}" for bucket, calls in sorted(self.counts.items()) if calls)

    def count(self, ms: int, by: int = 1) -> None:
        """Count a call, or take it out with -1."""
        self.counts[_bucket(ms)] += by

    def share_ms(self, share: float) -> int | None:
        """How long at most this share (0 to 1) of the calls took, to 5 %; None without a call."""
        wanted, seen = share * self.counts.total(), 0
        if not wanted:
            return None
        for bucket, calls in sorted(self.counts.items()):
            seen += calls
            if seen >= wanted:
                return _middle_ms(bucket)
        raise AssertionError("all calls are more than a share of them")


class RecentLatencies:
    """The calls of the last 30 to 60 seconds. `clock` tells seconds that never go back."""

    __slots__ = ("_before", "_clock", "_now", "_since")

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._before, self._now = Latencies(), Latencies()
        self._since = clock()

    def count(self, ms: int) -> None:
        """Count a call; nothing is forgotten before somebody looks."""
        self._now.count(ms)

    def look(self) -> Latencies:
        """Forget what is old, and return the rest."""
        age_s = self._clock() - self._since
        if age_s >= RECENT_S:
            self._before = self._now if age_s < 2 * RECENT_S else Latencies()
            self._now, self._since = Latencies(), self._clock()
        return Latencies.of([self._before, self._now])


def duration(ms: int | None) -> str:
    """Write how long a call took; "" when nobody knows."""
    return "" if ms is None else f"{ms} ms" if ms < 1000 else f"{ms / 1000:.1f} s"


@lru_cache
def _bucket(ms: int) -> int:
    return math.floor(math.log(ms, _STEP)) + 1 if ms > 0 else 0


def _middle_ms(bucket: int) -> int:
    return round(_STEP ** (bucket - 0.5)) if bucket else 0
