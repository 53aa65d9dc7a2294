"""Shares jobs that are spread over equals among their lanes, so that all of them end at the same time.

A job waits in one lane. Lanes that would answer it sooner take it over: one that idles at once, one that works from
time to time, so that it has enough while a call of the slowest runs; whoever is slow then finds nothing left to begin
near the end. What runs, what is parked at a limit and what is due later stays where it is.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from farebox.scripts import Tongue
from farebox_worker.bus.pace import ask_pace, read_pace
from farebox_worker.bus.pause import read_pauses
from farebox_worker.events import event
from farebox_worker.relocation import SLICE, Relocation

log = logging.getLogger(__name__)

LOOK_S = 0.25  # between two looks, when no lane idles, or when nothing was found for one that does
STRANGE_S = 10.0  # for so long a flow whose jobs are not for a lane is not looked at again for it
NEWEST = 0.2  # the share of the newest call in how long a lane's calls take
LEAST_STOCK_S = 1.0  # of work that a lane keeps at hand


@dataclass(slots=True)
class Load:
    """What a lane has to do, and how quickly it does it.

    waiting: spread jobs that are due in it. calls: in flight, in the whole fleet. free: slots of this process that wait
    for work. call_s: how long a call takes, None while that is not known. most_per_s: calls that its rate allows.
    """

    waiting: int = 0
    calls: int = 0
    free: int = 0
    call_s: float | None = None
    most_per_s: float = math.inf
    is_paused: bool = False

    @property
    def per_s(self) -> float:
        """Calls it answers per second when it has enough to do."""
        if self.is_paused or not self.call_s:
            return 0.0
        return min((self.calls + self.free) / self.call_s, self.most_per_s)

    @property
    def idle(self) -> int:
        """Slots for which nothing waits."""
        return max(0, self.free - self.waiting)

    @property
    def ends_s(self) -> float:
        """When the last job that waits in it is answered, from now; for ever while it is unknown."""
        if not self.per_s or self.call_s is None:
            return math.inf
        return max(0, self.waiting - self.free) / self.per_s + self.call_s


def share(giver: Load, taker: Load) -> int:
    """How many jobs that wait for `giver` would be answered sooner by `taker`, which then has enough for a while."""
    half = -(-giver.waiting // 2)
    if taker.is_paused:
        return 0
    if not taker.call_s:  # its first calls tell
        return min(half, taker.idle)
    stock = taker.free + math.ceil(taker.per_s * max(LEAST_STOCK_S, giver.call_s or 0.0))
    if taker.waiting > stock // 2:
        return 0
    return min(stock - taker.waiting, _sooner(giver, taker) if giver.call_s else half, giver.waiting)


def _sooner(giver: Load, taker: Load) -> int:
    """How many would be answered sooner by `taker`: both then end at the same time."""
    if not giver.per_s:
        return giver.waiting
    lead_s = giver.ends_s - taker.ends_s
    if lead_s <= 0 or not taker.per_s:
        return 0
    jobs = lead_s * giver.per_s
    if jobs <= taker.idle:  # while it takes into free slots, only the giver's end moves
        return math.ceil(jobs)
    return math.floor(taker.idle + (lead_s - taker.idle / giver.per_s) / (1 / giver.per_s + 1 / taker.per_s))


class Balance:
    """What one process takes over for the lanes it serves.

    Args:
        tongue: speaks to the bus.
        only_batch: the one batch this process serves, or "" for all.

    Attributes:
        again_in_s: when it is worth to look again: jobs are spread that other lanes may get.
    """

    def __init__(self, tongue: Tongue, *, only_batch: str) -> None:
        self._tongue = tongue
        self._only_batch = only_batch
        self._spread = Relocation(tongue, "spread")
        self._call_s: dict[str, float] = {}
        self._quiet_until_s: dict[str, float] = {}
        self._looked_s = -math.inf
        self._strange: dict[tuple[str, str], float] = {}
        self.again_in_s = math.inf

    def answered(self, lane: str, seconds: float) -> None:
        """A call of a lane was answered after so long."""
        before = self._call_s.get(lane, seconds)
        self._call_s[lane] = before + NEWEST * (seconds - before)

    def is_due(self, idle: Collection[str]) -> bool:
        """Whether to look now; `idle` are lanes that asked for jobs and got none."""
        now_s, quiet_s = time.monotonic(), self._quiet_until_s
        if now_s >= self._looked_s + LOOK_S:
            return True
        return quiet_s.get("", 0.0) <= now_s and any(quiet_s.get(lane, 0.0) <= now_s for lane in idle)

    async def take_over(self, free: Mapping[str, int]) -> int:
        """Let lanes take over jobs that wait elsewhere; return how many.

        `free` says how many slots each lane that is served here has left.
        Raises: LedgerError; redis errors pass through.
        """
        now_s, quiet_s = time.monotonic(), self._quiet_until_s
        self._looked_s = now_s
        flows = [flow for flow in await self._spread.flows() if self._only_batch in ("", self._parts(flow)[0])]
        self.again_in_s = LOOK_S if flows else math.inf
        if not flows:
            quiet_s[""] = now_s + LOOK_S
            return 0
        waiting = await self._waiting(flows)
        loads = await self._loads(waiting, free)
        taken = 0
        for lane in sorted((lane for lane in free if lane in loads), key=lambda one: loads[one].ends_s):
            got = await self._take(lane, waiting, loads)
            taken += got
            if not got:
                quiet_s[lane] = now_s + LOOK_S
        return taken

    async def _waiting(self, flows: Sequence[str]) -> dict[str, int]:
        """How many jobs are due in each flow; one that is empty is noted no more."""
        now_ms = await self._spread.now_ms()
        async with self._tongue.redis.pipeline(transaction=False) as pipe:
            for flow in flows:
                pipe.zcount(flow, "-inf", now_ms)
            counts = await pipe.execute()
        for flow in [flow for flow, count in zip(flows, counts, strict=True) if not count]:
            await self._spread.forget_if_empty(flow)
        return dict(zip(flows, counts, strict=True))

    async def _loads(self, waiting: Mapping[str, int], free: Mapping[str, int]) -> dict[str, Load]:
        """The loads of all lanes that may give or take; one that has other work too takes nothing."""
        redis, keys = self._tongue.redis, self._tongue.keys
        lanes = sorted({*free, *(self._parts(flow)[1] for flow in waiting)})
        pauses = await read_pauses(redis, keys, lanes)
        async with redis.pipeline(transaction=False) as pipe:
            for lane in lanes:
                ask_pace(pipe, keys, lane)
                pipe.zcard(keys.leases(lane))
                pipe.zrange(keys.opened(lane), 0, len(waiting))
            told = await pipe.execute()
        loads: dict[str, Load] = {}
        for n, lane in enumerate(lanes):
            own, shared, calls, opened = told[4 * n : 4 * n + 4]
            if lane in free and any(flow.decode() not in waiting for flow in opened):
                continue
            pace = read_pace(own, 0)
            rates = [rpm for rpm in (pace.rates.rpm, read_pace(shared, 0).rates.rpm) if rpm]
            slots = free.get(lane, 0)
            loads[lane] = Load(
                sum(count for flow, count in waiting.items() if self._parts(flow)[1] == lane),
                calls,
                slots if pace.target is None else max(0, min(slots, pace.target - calls)),
                self._call_s.get(lane),
                min(rates) / 60 if rates else math.inf,
                lane in pauses,
            )
        return loads

    async def _take(self, lane: str, waiting: dict[str, int], loads: Mapping[str, Load]) -> int:
        """Let a lane take over from the flow that gives most, those of high priority first."""
        now_s = time.monotonic()
        givers = [
            (self._tongue.keys.parts_of_flow(flow)[0], count, flow)
            for flow, count in waiting.items()
            if count and self._parts(flow)[1] != lane and self._strange.get((flow, lane), 0.0) < now_s
        ]
        for _, count, flow in sorted(givers, reverse=True):
            giver = self._parts(flow)[1]
            most = min(count, SLICE, share(loads.get(giver, Load(count)), loads[lane]))
            if most < 1:
                continue
            now_ms = await self._spread.now_ms()
            ids = await self._tongue.redis.zrevrangebyscore(flow, now_ms, "-inf", start=0, num=most)
            found, choices = await self._spread.read([one.decode() for one in ids], giver)
            fitting = [job for job, lanes in zip(found, choices, strict=True) if lane in lanes]
            if not fitting:
                self._strange[flow, lane] = now_s + STRANGE_S
            elif moved := await self._spread.move(flow, lane, fitting):
                waiting[flow] -= moved
                loads[lane].waiting += moved
                if giver in loads:
                    loads[giver].waiting -= moved
                if log.isEnabledFor(logging.DEBUG):
                    extra = event("taken_over", lane=giver, goal=lane, jobs=moved)
                    log.debug("lane %s takes %d jobs over from %s", lane, moved, giver, extra=extra)
                return moved
        return 0

    def _parts(self, flow: str) -> tuple[str, str]:
        """Batch and lane of a flow."""
        return self._tongue.keys.parts_of_flow(flow)[1:]
