"""Moves waiting jobs to lanes that may answer them too: away from lanes that cannot go on, and to those that idle.

Jobs that name fallbacks leave a lane that is paused for long, or that nobody serves. Jobs that are spread over equals
are taken over by whichever of them has free slots and nothing to do. Both look only at the flows that were noted as
holding such jobs; neither touches what runs, what is parked at a limit, or what is due later.
"""

from __future__ import annotations

import logging
import math
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence

import msgspec

from farebox.batch import CHUNK_BYTES
from farebox.fallback import lanes_after
from farebox.keys import SEQUENCE_END
from farebox.records import decode_job
from farebox.scripts import Tongue
from farebox_worker.bus.move import Kind, move
from farebox_worker.bus.pause import Pause, read_pauses
from farebox_worker.events import event
from farebox_worker.heartbeats import read_heartbeats
from farebox_worker.routes import Routes

log = logging.getLogger(__name__)

SLICE = 256  # jobs that are looked at together
BARREN_SLICES = 4  # so many slices in a row without a job that can move end the look at a flow
RETRY_S = 0.5  # after a lane found nothing to take over
STRANGE_S = 10.0  # for so long a flow whose jobs are not for a lane is not looked at again for it


class Moves:
    """What one process moves.

    Args:
        tongue: speaks to the bus.
        routes: which lanes can be served here.
        after_s: for how long a lane may be paused or unserved before its jobs leave it.
        only_batch: the one batch this process serves, or "" for all.

    Attributes:
        again_in_s: when it is worth to look for jobs to take over again: jobs are spread that other lanes may get.
    """

    def __init__(self, tongue: Tongue, routes: Routes, *, after_s: float, only_batch: str) -> None:
        self._tongue = tongue
        self._routes = routes
        self._after_ms = int(after_s * 1000)
        self._only_batch = only_batch
        self._quiet_until_s: dict[str, float] = {}
        self.again_in_s = math.inf
        self._strange: dict[tuple[str, str], float] = {}

    # --- away from lanes that cannot go on ------------------------------------------------------------------------

    async def relieve(self) -> int:
        """Move jobs with fallbacks out of lanes that are paused for long or unserved; return how many.

        Each goes to the next of its lanes that is served and not paused; it stays where there is none.
        Raises: LedgerError; redis errors pass through.
        """
        flows = await self._noted("movable")
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
                await move(self._tongue, flow, flow, "movable", ())  # forgets it when it is empty
        return total

    async def _away(self, lanes: Iterable[str], flows: Sequence[str], served: Mapping[str, set[str]]) -> set[str]:
        """Those lanes that jobs should leave by now. Since when a lane cannot go on is noted in its state."""
        redis, keys = self._tongue.redis, self._tongue.keys
        ordered = sorted(lanes)
        pauses = await read_pauses(redis, keys, ordered)
        now_ms, away = await self._now_ms(), set()
        for lane in ordered:
            batches = {self._parts(flow)[0] for flow in flows if self._parts(flow)[1] == lane}
            unserved = not any(self._serves(lane, batch, served) for batch in batches)
            pause = pauses.get(lane)
            if pause is None and not unserved:
                await redis.hdel(keys.lane(lane), "away_since")  # type: ignore[misc]
                continue
            await redis.hsetnx(keys.lane(lane), "away_since", str(now_ms))  # type: ignore[misc]
            since = await redis.hget(keys.lane(lane), "away_since")  # type: ignore[misc]
            for_ms = now_ms - int(since or now_ms)
            alone = unserved and batches == {self._only_batch}  # nobody else will come
            if alone or for_ms >= self._after_ms or (pause and _lasts(pause, now_ms, self._after_ms)):
                away.add(lane)
        return away

    async def _empty(self, flow: str, served: Mapping[str, set[str]]) -> int:
        """Move what can leave a flow, in slices."""
        redis, now_ms = self._tongue.redis, await self._now_ms()
        batch, lane = self._parts(flow)
        total = stayed = barren = 0
        goals: dict[str, int] = defaultdict(int)
        while barren < BARREN_SLICES:
            ids = await redis.zrangebyscore(flow, "-inf", now_ms, start=stayed, num=SLICE)
            if not ids:
                break
            ids, choices = await self._read([one.decode() for one in ids], lane)
            open_lanes = await self._open({one for lanes in choices for one in lanes}, batch, served)
            by_goal: dict[str, list[str]] = defaultdict(list)
            for job, lanes in zip(ids, choices, strict=True):
                goal = next((one for one in lanes if one in open_lanes), None)
                if goal is not None:
                    by_goal[goal].append(job)
            moved = 0
            for goal, leaving in by_goal.items():
                done = await self._move(flow, goal, "movable", leaving)
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
            found[beat.batch].update(beat.lanes)
        return found

    def _serves(self, lane: str, batch: str, served: Mapping[str, set[str]]) -> bool:
        """Whether somebody serves a lane for a batch: this process, or one that says so."""
        if self._only_batch in ("", batch) and self._routes.find(lane) is not None:
            return True
        return lane in served.get("", ()) or lane in served.get(batch, ())

    # --- to lanes that idle ---------------------------------------------------------------------------------------

    async def take_over(self, free: Mapping[str, int]) -> int:
        """Let lanes that have so many free slots, and got no job, take over some that wait elsewhere; return how many.

        Of the flow with the most waiting jobs, the last half goes, but no more than is worth a claim.
        Raises: LedgerError; redis errors pass through.
        """
        now_s, taken = time.monotonic(), 0
        free = {lane: slots for lane, slots in free.items() if slots > 0 and self._looks(lane, now_s)}
        if not free:
            return 0
        flows = await self._noted("spread")
        self.again_in_s = RETRY_S if flows else math.inf
        if not flows:
            self._quiet_until_s[""] = now_s + RETRY_S
            return 0
        for lane in await self._idle(free):
            got = await self._take(lane, flows, free[lane])
            taken += got
            if not got:
                self._quiet_until_s[lane] = now_s + RETRY_S
        return taken

    def _looks(self, lane: str, now_s: float) -> bool:
        """Whether enough time has passed since nothing was found for a lane, or nothing was spread at all."""
        return max(self._quiet_until_s.get(lane, 0.0), self._quiet_until_s.get("", 0.0)) <= now_s

    async def _idle(self, free: Mapping[str, int]) -> list[str]:
        """Those lanes that are not paused and have no flow with work."""
        redis, keys = self._tongue.redis, self._tongue.keys
        lanes = list(free)
        pauses = await read_pauses(redis, keys, lanes)
        async with redis.pipeline(transaction=False) as pipe:
            for lane in lanes:
                pipe.exists(keys.opened(lane))
            busy = await pipe.execute() if lanes else []
        return [lane for lane, is_busy in zip(lanes, busy, strict=True) if not is_busy and lane not in pauses]

    async def _take(self, lane: str, flows: Sequence[str], slots: int) -> int:
        redis, now_s = self._tongue.redis, time.monotonic()
        others = [
            flow for flow in flows if self._parts(flow)[1] != lane and self._strange.get((flow, lane), 0.0) < now_s
        ]
        async with redis.pipeline(transaction=False) as pipe:
            for flow in others:
                pipe.zcount(flow, "-inf", f"({SEQUENCE_END}")
            counts = await pipe.execute() if others else []
        waiting = {flow: count for flow, count in zip(others, counts, strict=True) if count}
        for flow in [flow for flow, count in zip(others, counts, strict=True) if not count]:
            await move(self._tongue, flow, flow, "spread", ())  # forgets it when it is empty
        priority = {flow: self._tongue.keys.parts_of_flow(flow)[0] for flow in waiting}
        for flow in sorted(waiting, key=lambda one: (priority[one], waiting[one]), reverse=True):
            most = min(-(-waiting[flow] // 2), max(slots, SLICE // 4), SLICE)
            ids = await redis.zrevrangebyscore(flow, f"({SEQUENCE_END}", "-inf", start=0, num=most)
            found, choices = await self._read([one.decode() for one in ids], self._parts(flow)[1])
            fitting = [job for job, lanes in zip(found, choices, strict=True) if lane in lanes]
            if not fitting:
                self._strange[flow, lane] = now_s + STRANGE_S
            elif moved := await self._move(flow, lane, "spread", fitting):
                if log.isEnabledFor(logging.DEBUG):
                    extra = event("taken_over", lane=self._parts(flow)[1], goal=lane, jobs=moved)
                    log.debug("lane %s takes %d jobs over from %s", lane, moved, self._parts(flow)[1], extra=extra)
                return moved
        return 0

    # --- both -----------------------------------------------------------------------------------------------------

    async def _noted(self, kind: Kind) -> list[str]:
        flows = [flow.decode() for flow in await self._tongue.redis.smembers(f"{self._tongue.keys.prefix}{kind}")]  # type: ignore[misc]
        if kind == "spread" and self._only_batch:
            flows = [flow for flow in flows if self._parts(flow)[0] == self._only_batch]
        return sorted(flows)

    async def _read(self, ids: list[str], lane: str) -> tuple[list[str], list[tuple[str, ...]]]:
        """Read jobs, as many as are read in one go; return them with the lanes each may go to."""
        redis, keys = self._tongue.redis, self._tongue.keys
        async with redis.pipeline(transaction=False) as pipe:
            for job in ids:
                pipe.strlen(keys.job(job))
            lengths = await pipe.execute() if ids else []
        size = count = 0
        for length in lengths:
            size += length
            if count and size > 4 * CHUNK_BYTES:
                break
            count += 1
        ids = ids[:count]
        payloads = await redis.mget([keys.job(job) for job in ids]) if ids else []
        return ids, [_choices(payload, lane) for payload in payloads]

    async def _move(self, flow: str, lane: str, kind: Kind, ids: Sequence[str]) -> int:
        keys = self._tongue.keys
        priority, batch, _ = keys.parts_of_flow(flow)
        return await move(self._tongue, flow, keys.flow(priority, batch, lane), kind, ids)

    async def _now_ms(self) -> int:
        seconds, micros = await self._tongue.redis.time()
        return int(seconds) * 1000 + int(micros) // 1000

    def _parts(self, flow: str) -> tuple[str, str]:
        """Batch and lane of a flow."""
        return self._tongue.keys.parts_of_flow(flow)[1:]


def _lasts(pause: Pause, now_ms: int, after_ms: int) -> bool:
    """Whether it is known that a pause lasts so much longer; one that somebody has to end may end at any moment."""
    return pause.ends_by_itself and pause.until_ms - now_ms > after_ms


def _choices(payload: bytes | None, lane: str) -> tuple[str, ...]:
    try:
        return lanes_after(decode_job(payload), lane) if payload is not None else ()
    except msgspec.DecodeError:  # its worker will say so
        return ()
