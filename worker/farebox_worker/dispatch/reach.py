"""What one process knows of the providers it calls: whether they let it in, and whether their servers are found at all.

Few calls go to a provider until it let one in: a wrong key is met by a handful of calls, not by a lane full of them.
Where a handful in a row found no server, one goes at a time, with pauses: an outage is not met by a million. It is a
matter of each process, as its credentials and its network are. Nothing is waited for but one answer, and not for long.
"""

from __future__ import annotations

import math
import random
import time
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass

FIRST_CALLS = 4  # in flight at once
LET_IN_S = 1.0  # after the first was sent; who refuses credentials does it at once
FOUND_S = 15.0  # after a single one was sent; by then a connection is made, or was given up
MOST_AWAY_S = 5.0  # between two single calls


@dataclass(slots=True)
class _Provider:
    """Whether calls go there as they come, since when one runs that will tell, and misses in a row since when.

    `away_s` is when a handful of them had missed, `tries` the single calls since then, `again_s` when the next may go.
    """

    is_open: bool = False
    telling_s: float = math.inf
    misses: int = 0
    missed_s: float = math.inf
    away_s: float = math.inf
    tries: int = 0
    again_s: float = -math.inf

    @property
    def is_away(self) -> bool:
        return self.misses >= FIRST_CALLS and not self.is_open

    @property
    def opens_s(self) -> float:
        """When calls may go there though none was answered."""
        return self.telling_s + (FOUND_S if self.is_away else LET_IN_S)


class Reach:
    """The providers as one process knows them."""

    def __init__(self) -> None:
        self._providers: defaultdict[str, _Provider] = defaultdict(_Provider)

    def room(self, provider_id: str, lanes: Collection[str], in_flight: Mapping[str, int]) -> int | None:
        """How many more calls each of a provider's `lanes` may begin, by what is in flight there; None: any number."""
        one = self._providers[provider_id]
        if not one.is_open and time.monotonic() >= one.opens_s:
            one.is_open, one.misses = True, min(one.misses, 1)
        if one.is_open:
            return None
        if one.is_away:
            return int(one.telling_s == math.inf and time.monotonic() >= one.again_s)
        calls = [in_flight.get(lane, 0) for lane in lanes if lane.partition(":")[0] == provider_id]
        return math.ceil(max(0, FIRST_CALLS - sum(calls)) / max(1, len(calls)))  # its lanes share them

    def is_over(self, provider_id: str, in_flight: Mapping[str, int]) -> bool:
        """Whether more is in flight than may be: each of many lanes was asked for one call, and several had one."""
        if self.is_away(provider_id) or self.room(provider_id, (), in_flight) is None:
            return False
        calls = (count for lane, count in in_flight.items() if lane.partition(":")[0] == provider_id)
        return sum(calls) > FIRST_CALLS

    def is_away(self, provider_id: str) -> bool:
        """Whether its server is not found."""
        return self._providers[provider_id].is_away

    def missing_s(self, provider_id: str) -> float:
        """For how long no call has found its server; 0 where the newest did."""
        return max(0.0, time.monotonic() - self._providers[provider_id].missed_s)

    def sent(self, provider_id: str) -> None:
        """A call is on its way."""
        one = self._providers[provider_id]
        if not one.is_open:
            one.telling_s = min(one.telling_s, time.monotonic())

    def let_in(self, provider_id: str, took_s: float) -> bool:
        """A call found the server, and was not refused for its credentials; True when that is news.

        What was sent `took_s` ago, before the server was away, tells nothing.
        """
        one = self._providers[provider_id]
        if (one.is_open and not one.misses) or (one.is_away and time.monotonic() - took_s < one.away_s):
            return False
        self._providers[provider_id] = _Provider(is_open=True)
        return True

    def missed(self, provider_id: str) -> bool:
        """A call found no server; True when it is away from now on."""
        one, now_s = self._providers[provider_id], time.monotonic()
        one.misses += 1
        one.missed_s = min(one.missed_s, now_s)
        if one.misses < FIRST_CALLS:
            return False
        one.is_open, one.telling_s, one.away_s = False, math.inf, min(one.away_s, now_s)
        if now_s < one.again_s:  # it was sent with others that missed
            return False
        is_news = one.tries == 0
        one.again_s = now_s + min(MOST_AWAY_S, 2.0**one.tries) * (0.75 + random.random() / 2)
        one.tries += 1
        return is_news

    @property
    def again_in_s(self) -> float:
        """When more calls may begin though none was answered."""
        now_s = time.monotonic()
        closed = [one for one in self._providers.values() if not one.is_open]
        times_s = [*(one.opens_s for one in closed), *(one.again_s for one in closed)]
        return min((time_s - now_s for time_s in times_s if time_s > now_s), default=math.inf)
