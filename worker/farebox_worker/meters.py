"""What a process counts of its own work: plain numbers, so that counting costs next to nothing.

They only grow, and start at zero with the process. Metrics are made of them when somebody asks.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterator

from farebox_worker.latency import RecentLatencies

CALL_S = (0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0)
SETTLE_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 10.0)
GROUP_JOBS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
LAG_S = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0)


class Histogram:
    """How often a value fell below each of some bounds, and the sum of all values."""

    __slots__ = ("_bounds", "_counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        """Count a value; one that equals a bound is within it."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self.total += value

    def buckets(self) -> Iterator[tuple[str, int]]:
        """Each bound, "+Inf" last, with how many values were within it."""
        within = 0
        for bound, count in zip([*map(str, self._bounds), "+Inf"], self._counts, strict=True):
            within += count
            yield bound, within


class Meters:
    """The counters of one process, by lane.

    Attributes:
        claimed: jobs taken.
        admissions: by lane and admit's word.
        calls: by lane and class: "answered", or the class of the failure.
        call_s: seconds that calls took, whatever came of them.
        latency: of those that were answered a moment ago, in ms.
        pauses: pauses of a lane asked for by this process, by lane and reason.
        attempts: by lane and how they were settled.
        tokens: by lane and "input" or "output".
        cost_nusd, unconfirmed_nusd: nano-dollars booked, and left owed.
    """

    def __init__(self) -> None:
        self.claimed: Counter[str] = Counter()
        self.admissions: Counter[tuple[str, str]] = Counter()
        self.calls: Counter[tuple[str, str]] = Counter()
        self.call_s: defaultdict[str, Histogram] = defaultdict(lambda: Histogram(CALL_S))
        self.latency: defaultdict[str, RecentLatencies] = defaultdict(RecentLatencies)
        self.pauses: Counter[tuple[str, str]] = Counter()
        self.attempts: Counter[tuple[str, str]] = Counter()
        self.tokens: Counter[tuple[str, str]] = Counter()
        self.cost_nusd: Counter[str] = Counter()
        self.unconfirmed_nusd: Counter[str] = Counter()
