"""How long calls took: shares of any number of them, in a few hundred counters, right to 5 %."""

from __future__ import annotations

import math
from collections import Counter
from functools import lru_cache

_STEP = 1.05  # each bucket is so much wider than the one before


class Latencies:
    """Counts of calls by how long they took, in ms; what was counted can be taken out again."""

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()

    def count(self, ms: int, by: int = 1) -> None:
        """Count a call, or take it out with -1."""
        self._counts[_bucket(ms)] += by

    def share_ms(self, share: float) -> int | None:
        """How long at most this share (0 to 1) of the calls took, to 5 %; None without a call."""
        wanted, seen = share * self._counts.total(), 0
        if not wanted:
            return None
        for bucket, calls in sorted(self._counts.items()):
            seen += calls
            if seen >= wanted:
                return _middle_ms(bucket)
        raise AssertionError("all calls are more than a share of them")


@lru_cache
def _bucket(ms: int) -> int:
    return math.floor(math.log(ms, _STEP)) + 1 if ms > 0 else 0


def _middle_ms(bucket: int) -> int:
    return round(_STEP ** (bucket - 0.5)) if bucket else 0
