"""Moves jobs that name fallbacks away from lanes that cannot go on: paused for long, or served by nobody.

It looks only at the flows that were noted as holding such jobs, and never touches what runs, what is parked at a limit,
or what is due later.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from farebox.scripts import Tongue
from farebox_worker.bus.pause import Pause, read_pauses
from farebox_worker.dispatch.relocation import SLICE, Relocation
from farebox_worker.events import event
from farebox_worker.heartbeats import read_heartbeats
from farebox_worker.routes import Routes

log = logging.getLogger(__name__)

BARREN_SLICES = 4  # so many slices in a row without a job that can move end the look at a flow


class Moves:
    """What one process moves away.

    Args:
        tongue: speaks to the bus.
        routes: which lanes can be served here.
        is_away: tells whether calls of a lane are not answered from here.
        after_s: for how long a lane may be paused or unserved before its jobs leave it; away is unserved.
        only_batch: the one batch this process serves, or "" for all.
    """

    def __init__(
        self, tongue: Tongue, routes: Routes, is_away: Callable[[str], bool], *, after_s: float, only_batch: str
    ) -> None:
        self._tongue = tongue
        self._routes = routes
        self._is_away = is_away
        self._after_ms = int(after_s * 1000)
        self._only_batch = only_batch
        self._movable = Relocation(tongue, "movable")

    async def relieve(self) -> int:
        """Move jobs with fallbacks out of lanes that are paused for long or unserved; return how many.

        Each goes to the next of its lanes that is served and not paused; it stays where there is none.
        Raises: LedgerError; redis errors pass through.
        """
        flows = await self._movable.flows()
        if not flows:
            return 0
        served = await self._served()
        lanes = {self._parts(flow)[1] for flow in flows}
        away = await self._away(lanes, flows, served)
        total = 0
        for flow in flows:
            if self._parts(flow)[1] in away:
                total += await self._empty(flow, served)
            else:
                await self._movable.forget_if_empty(flow)
        return total

    async def _away(self, lanes: Iterable[str], flows: Sequence[str], served: Mapping[str, set[str]]) -> set[str]:
        """Those lanes that jobs should leave by now. Since when a lane cannot go on is noted in its state."""
        redis, keys = self._tongue.redis, self._tongue.keys
        ordered = sorted(lanes)
        pauses = await read_pauses(redis, keys, ordered)
        now_ms, away = await self._movable.now_ms(), set()
        for lane in ordered:
            batches = {self._parts(flow)[0] for flow in flows if self._parts(flow)[1] == lane}
            unserved = not any(self._serves(lane, batch, served) for batch in batches)
            pause = pauses.get(lane)
            if pause is None and not unserved:
                await redis.hdel(keys.lane(lane), "away_since")
                continue
            await redis.hsetnx(keys.lane(lane), "away_since", str(now_ms))
            since = await redis.hget(keys.lane(lane), "away_since")
            for_ms = now_ms - int(since or now_ms)
            alone = unserved and batches == {self._only_batch} and self._routes.find(lane) is None  # nobody will come
            if alone or for_ms >= self._after_ms or (pause and _lasts(pause, now_ms, self._after_ms)):
                away.add(lane)
        return away

    async def _empty(self, flow: str, served: Mapping[str, set[str]]) -> int:
        """Move what can leave a flow, in slices."""
        redis, now_ms = self._tongue.redis, await self._movable.now_ms()
        batch, lane = self._parts(flow)
        total = stayed = barren = 0
        goals: dict[str, int] = defaultdict(int)
        while barren < BARREN_SLICES:
            found = await redis.zrangebyscore(flow, "-inf", now_ms, start=stayed, num=SLICE)
            if not found:
                break
            ids, choices = await self._movable.read([one.decode() for one in found], lane)
            open_lanes = await self._open({one for lanes in choices for one in lanes}, batch, served)
            by_goal: dict[str, list[str]] = defaultdict(list)
            onward: set[str] = set()
            for job, lanes in zip(ids, choices, strict=True):
                goal = next((one for one in lanes if one in open_lanes), None)
                if goal is not None:
                    by_goal[goal].append(job)
                    if goal != lanes[-1]:
                        onward.add(goal)
            moved = 0
            for goal, leaving in by_goal.items():
                done = await self._movable.move(flow, goal, leaving, is_last=goal not in onward)
                goals[goal] += done
                moved += done
            total += moved
            stayed += len(ids) - moved
            barren = 0 if moved else barren + 1
        for goal, jobs in goals.items():
            if jobs:
                extra = event("moved", lane=lane, goal=goal, jobs=jobs)
                log.info("%d jobs that wait in lane %s go to %s", jobs, lane, goal, extra=extra)
        return total

    async def _open(self, lanes: Collection[str], batch: str, served: Mapping[str, set[str]]) -> set[str]:
        """Those lanes that are served for a batch and not paused."""
        if not lanes:
            return set()
        pauses = await read_pauses(self._tongue.redis, self._tongue.keys, sorted(lanes))
        return {lane for lane in lanes if lane not in pauses and self._serves(lane, batch, served)}

    async def _served(self) -> dict[str, set[str]]:
        """By batch ("" for all): the lanes that living workers serve for it."""
        found: dict[str, set[str]] = defaultdict(set)
        for beat in await read_heartbeats(self._tongue.redis, self._tongue.keys):
            found[beat.batch] |= set(beat.lanes) - beat.away.keys()
        return found

    def _serves(self, lane: str, batch: str, served: Mapping[str, set[str]]) -> bool:
        """Whether somebody serves a lane for a batch: this process, or one that says so."""
        if self._only_batch in ("", batch) and self._routes.find(lane) is not None and not self._is_away(lane):
            return True
        return lane in served.get("", ()) or lane in served.get(batch, ())

    def _parts(self, flow: str) -> tuple[str, str]:
        """Batch and lane of a flow."""
        return self._tongue.keys.parts_of_flow(flow)[1:]


def _lasts(pause: Pause, now_ms: int, after_ms: int) -> bool:
    """Whether it is known that a pause lasts so much longer; one that somebody has to end may end at any moment."""
    return pause.ends_by_itself and pause.until_ms - now_ms > after_ms
