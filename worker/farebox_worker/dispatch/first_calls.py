"""Few calls go to a provider until it let one in: a wrong key is met by a handful of calls, not by a lane full of them.

It is a matter of each process, as its credentials are. Nothing is waited for but one answer, and for that not long.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Mapping

FIRST_CALLS = 4  # in flight at once
LET_IN_S = 1.0  # after the first was sent; who refuses credentials does it at once


class FirstCalls:
    """What one process knows of the providers it calls."""

    def __init__(self) -> None:
        self._since_s: dict[str, float] = {}
        self._known: set[str] = set()

    def room(self, provider_id: str, lanes: Collection[str], in_flight: Mapping[str, int]) -> int | None:
        """How many more calls each of a provider's `lanes` may begin, by what is in flight there; None: any number."""
        if provider_id in self._known:
            return None
        if time.monotonic() - self._since_s.get(provider_id, math.inf) >= LET_IN_S:
            self._known.add(provider_id)
            return None
        calls = [in_flight.get(lane, 0) for lane in lanes if lane.partition(":")[0] == provider_id]
        return math.ceil(max(0, FIRST_CALLS - sum(calls)) / max(1, len(calls)))  # its lanes share them

    def is_over(self, provider_id: str, in_flight: Mapping[str, int]) -> bool:
        """Whether more is in flight than may be: each of many lanes was asked for one call, and several had one."""
        if self.room(provider_id, (), in_flight) is None:
            return False
        calls = (count for lane, count in in_flight.items() if lane.partition(":")[0] == provider_id)
        return sum(calls) > FIRST_CALLS

    def sent(self, provider_id: str) -> None:
        """A call is on its way."""
        if provider_id not in self._known:
            self._since_s.setdefault(provider_id, time.monotonic())

    def let_in(self, provider_id: str) -> bool:
        """A call was not refused for its credentials; True the first time."""
        is_news = provider_id not in self._known
        self._known.add(provider_id)
        return is_news

    @property
    def again_in_s(self) -> float:
        """When more calls may begin though none was answered."""
        now_s = time.monotonic()
        ends_s = [since_s + LET_IN_S for one, since_s in self._since_s.items() if one not in self._known]
        return min((end_s - now_s for end_s in ends_s if end_s > now_s), default=math.inf)
