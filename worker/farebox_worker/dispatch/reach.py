"""What one process knows of where it calls: whether a provider lets it in, and whether calls are answered at all.

Few calls go to a provider until it let one in: a wrong key is met by a handful of calls, not by a lane full of them.
Where a handful in a row found no server, or 50 of a lane in a row were failures of its provider (5xx, time-outs, lost
connections, answers that are none), single calls try: an outage burns no million jobs. It is a matter of each process,
as its credentials and its network are.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Mapping
from typing import Literal

from farebox_worker.attempts.failures import Verdict
from farebox_worker.dispatch.circuit import Circuit

FIRST_CALLS = 4  # in flight at once; and so many in a row that find no server
LET_IN_S = 1.0  # after the first was sent; who refuses credentials does it at once
FOUND_S = 15.0  # of a single call; by then a connection is made, or was given up
MOST_FAILURES = 50  # in a row, of a lane
FAULTS = frozenset({"overloaded", "timeout", "connection", "answer", "unknown"})  # the provider's, whatever is asked


News = Literal["", "open", "away", "back"]  # a lane: more calls may begin; single ones; all again


class Reach:
    """The providers and lanes as one process knows them."""

    def __init__(self) -> None:
        self._since_s: dict[str, float] = {}
        self._let_in: set[str] = set()
        self._servers: dict[str, Circuit] = {}
        self._by_lane: dict[str, tuple[str, Circuit, Circuit]] = {}

    def room(self, lane: str, lanes: Collection[str], in_flight: Mapping[str, int]) -> int | None:
        """How many more calls a lane may begin, by what is in flight in `lanes`; None: any number."""
        provider_id, *circuits = self._known(lane)
        if broken := [one for one in circuits if one.is_broken]:
            return int(not any(one.again_in_s for one in broken))
        if self._is_let_in(provider_id):
            return None
        calls = [in_flight.get(one, 0) for one in lanes if provider_of(one) == provider_id]
        return math.ceil(max(0, FIRST_CALLS - sum(calls)) / max(1, len(calls)))  # its lanes share them

    def is_over(self, lane: str, in_flight: Mapping[str, int]) -> bool:
        """Whether more is in flight than may be: each of many lanes was asked for one call, and several had one."""
        provider_id, *_ = self._known(lane)
        if self._is_let_in(provider_id) or self.is_away(lane):
            return False
        return sum(count for one, count in in_flight.items() if provider_of(one) == provider_id) > FIRST_CALLS

    def is_away(self, lane: str) -> bool:
        """Whether only single calls try it."""
        _, server, own = self._known(lane)
        return server.is_broken or own.is_broken

    def failing_s(self, lane: str) -> float:
        """For how long no call of its provider has found a server, or all of a lane that is away have failed."""
        _, server, own = self._known(lane)
        return max(server.failing_s, own.failing_s if own.is_broken else 0.0)

    def sent(self, lane: str) -> None:
        """A call is on its way."""
        provider_id, server, own = self._known(lane)
        if provider_id not in self._let_in:
            self._since_s.setdefault(provider_id, time.monotonic())
        if server.failures or own.failures:
            server.sent()
            own.sent()

    def ended(self, lane: str, verdict: Verdict | None, took_s: float) -> News:
        """A call has ended after so long, answered or failed by a verdict: say what that changes for others."""
        provider_id, server, own = self._known(lane)
        if verdict and verdict.failure_class == "unreachable":
            return "away" if server.failed() else ""
        is_back = server.failures > 0 and server.answered(took_s)
        if verdict and verdict.failure_class in FAULTS:
            if own.failed():
                return "away"
        elif own.failures and (not verdict or verdict.action == "fail"):
            is_back |= own.answered(took_s)
        if is_back:
            return "back"
        if provider_id in self._let_in or (verdict and verdict.action == "stop_provider"):
            return ""
        self._let_in.add(provider_id)
        return "open"

    @property
    def again_in_s(self) -> float:
        """When more calls may begin though none was answered."""
        now_s = time.monotonic()
        waits_s = [since_s + LET_IN_S - now_s for one, since_s in self._since_s.items() if one not in self._let_in]
        waits_s += [one.again_in_s for _, *circuits in self._by_lane.values() for one in circuits]
        return min((wait_s for wait_s in waits_s if wait_s > 0), default=math.inf)

    def _is_let_in(self, provider_id: str) -> bool:
        if time.monotonic() - self._since_s.get(provider_id, math.inf) >= LET_IN_S:
            self._let_in.add(provider_id)
        return provider_id in self._let_in

    def _known(self, lane: str) -> tuple[str, Circuit, Circuit]:
        """A lane's provider, the circuit of its server, and the lane's own."""
        known = self._by_lane.get(lane)
        if known is None:
            provider_id = provider_of(lane)
            server = self._servers.setdefault(provider_id, Circuit(FIRST_CALLS, found_s=FOUND_S))
            known = self._by_lane[lane] = (provider_id, server, Circuit(MOST_FAILURES))
        return known


def provider_of(lane: str) -> str:
    """The provider that a lane is of."""
    return lane.partition(":")[0]
