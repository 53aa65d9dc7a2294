"""The slots of one process: how many attempts of each lane it holds, and how many more it may claim."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from farebox_worker.bus.claim import Ask
from farebox_worker.dispatch.reach import Reach
from farebox_worker.routes import Routes


class Slots:
    """What one process holds of each lane.

    Args:
        routes: which lanes can be served, and how many calls each may have at once.
        reach: bounds what is begun with a provider that let nothing in yet, and with a lane that is away.
        per_lane: slots that each lane has here.

    Attributes:
        held: by lane, attempts claimed and not yet settled.
    """

    def __init__(self, routes: Routes, reach: Reach, *, per_lane: int) -> None:
        self._routes = routes
        self._reach = reach
        self._per_lane = per_lane
        self.held: dict[str, int] = {}

    def take(self, lane: str) -> None:
        """A job of the lane was claimed."""
        self.held[lane] = self.held.get(lane, 0) + 1

    def give_back(self, lane: str) -> None:
        """A job of the lane is settled, or another's."""
        self.held[lane] -= 1

    def free(self, lane: str) -> int:
        """How many more calls of the lane this process could make now."""
        route = self._routes.find(lane)
        most = (route.entry.max_concurrency if route else None) or self._per_lane
        return max(0, min(most, self._per_lane) - self.held.get(lane, 0))

    def asks(self, lanes: Iterable[str], all_lanes: Collection[str], leaving: Mapping[str, int]) -> list[Ask]:
        """What to claim for `lanes`; `leaving` of what is held is being settled, and will be gone by then.

        The first calls of a provider are shared by those of `all_lanes` that are its own.
        """
        asks = []
        for lane in lanes:
            route = self._routes.find(lane)
            if route is None:
                continue
            slots = self._per_lane - self.held.get(lane, 0) + leaving.get(lane, 0)
            few = self._reach.room(lane, all_lanes, self.held)
            slots = slots if few is None else min(slots, few)
            if slots > 0:
                asks.append(Ask(lane, slots, route.entry.max_concurrency or 0))
        return asks
