"""Shares jobs that are spread over equals among their lanes, so that all of them end at the same time.

A job waits in one lane. Lanes that would answer it sooner take it over: one that idles at once, one that works from
time to time, so that it has enough while a call of the slowest runs; whoever is slow then finds nothing left to begin
near the end. What runs, what is parked at a limit and what is due later stays where it is.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from farebox.scripts import Tongue
from farebox_worker.bus.pace import ask_pace, read_pace
from farebox_worker.bus.pause import read_pauses
from farebox_worker.dispatch.relocation import SLICE, Relocation
from farebox_worker.events import event

log = logging.getLogger(__name__)

LOOK_S = 0.25  # between two looks, when no lane idles, or when nothing was found for one that does
STRANGE_S = 10.0  # for so long a flow whose jobs are not for a lane is not looked at again for it
NEWEST = 0.2  # the share of the newest call in how long a lane's calls take
LEAST_STOCK_S = 1.0  # of work that a lane keeps at hand
NEAR_S = 0.001


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

    def done_by(self, seconds: float) -> float:
        """How many more jobs it can have answered by then."""
        if not self.per_s or self.call_s is None or seconds < self.call_s:
            return 0.0
        return self.free + self.per_s * (seconds - self.call_s)


def soonest_s(loads: Iterable[Load]) -> float:
    """When all that waits can be answered, if each lane gets what it answers by then; for ever while nobody knows."""
    loads = list(loads)
    known = [load for load in loads if load.per_s]
    waiting = sum(load.waiting for load in loads)
    if not known:
        return math.inf
    early, late = 0.0, max((load.call_s or 0.0) + waiting / load.per_s for load in known)
    while late - early > NEAR_S:
        middle = (early + late) / 2
        if sum(load.done_by(middle) for load in known) < max(1, waiting):
            early = middle
        else:
            late = middle
    return late


def share(giver: Load, taker: Load, end_s: float) -> int:
    """How many jobs that wait for `giver` go to `taker`, so that all ends in `end_s`, and it has enough for a while."""
    half = -(-giver.waiting // 2)
    if taker.is_paused:
        return 0
    if not taker.call_s:  # its first calls tell
        return min(half, taker.idle)
    stock = taker.free + math.ceil(taker.per_s * max(LEAST_STOCK_S, giver.call_s or 0.0))
    if taker.waiting > stock // 2:
        return 0
    room = min(stock, taker.done_by(end_s)) - taker.waiting
    spare = giver.waiting - math.floor(giver.done_by(end_s)) if giver.call_s else half
    return max(0, min(spare, math.floor(room)))


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
        self._took: set[str] = set()  # since the last look
        self._strange: dict[tuple[str, str], float] = {}
        self.again_in_s = math.inf

    def answered(self, lane: str, seconds: float) -> None:
        """A call of a lane was answered after so long."""
        before = self._call_s.get(lane, seconds)
        self._call_s[lane] = before + NEWEST * (seconds - before)

    def is_due(self, idle: Collection[str]) -> bool:
        """Whether to look now; `idle` are lanes that asked for jobs and got none."""
        now_s, quiet_s = time.monotonic(), self._quiet_until_s
        for lane in self._took.intersection(idle):  # it could not begin what it took: some limit holds it, too
            quiet_s[lane] = now_s + LOOK_S
        self._took.clear()
        if now_s >= self._looked_s + LOOK_S:
            return True
        return quiet_s.get("", 0.0) <= now_s and any(quiet_s.get(lane, 0.0) <= now_s for lane in idle)

    async def take_over(self, slots: Mapping[str, tuple[int, int]]) -> int:
        """Let lanes take over jobs that wait elsewhere; return how many.

        `slots` says of each lane that is served here: calls in flight in this process, and slots that are free.
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
        loads = await self._loads(waiting, slots)
        taken = 0
        end_s = soonest_s(loads.values())
        for lane in sorted((lane for lane in slots if lane in loads), key=lambda one: loads[one].call_s or 0.0):
            got = await self._take(lane, waiting, loads, end_s)
            taken += got
            if got:
                self._took.add(lane)
            else:
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

    async def _loads(self, waiting: Mapping[str, int], slots: Mapping[str, tuple[int, int]]) -> dict[str, Load]:
        """The loads of all lanes that may give or take; one that has other work too takes nothing."""
        redis, keys = self._tongue.redis, self._tongue.keys
        lanes = sorted({*slots, *(self._parts(flow)[1] for flow in waiting)})
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
            if lane in slots and any(flow.decode() not in waiting for flow in opened):
                continue
            pace = read_pace(own, 0)
            rates = [rpm for rpm in (pace.rates.rpm, read_pace(shared, 0).rates.rpm) if rpm]
            mine, free = slots.get(lane, (0, 0))
            calls = max(calls, mine)  # what is settled and not acknowledged yet has still its slot
            loads[lane] = Load(
                sum(count for flow, count in waiting.items() if self._parts(flow)[1] == lane),
                calls,
                free if pace.target is None else max(0, min(free, pace.target - calls)),
                self._call_s.get(lane),
                min(rates) / 60 if rates else math.inf,
                lane in pauses,
            )
        return loads

    async def _take(self, lane: str, waiting: dict[str, int], loads: Mapping[str, Load], end_s: float) -> int:
        """Let a lane take over from the flow that gives most, those of high priority first."""
        now_s = time.monotonic()
        givers = [
            (self._tongue.keys.parts_of_flow(flow)[0], count, flow)
            for flow, count in waiting.items()
            if count and self._parts(flow)[1] != lane and self._strange.get((flow, lane), 0.0) < now_s
        ]
        for _, count, flow in sorted(givers, reverse=True):
            giver = self._parts(flow)[1]
            most = min(count, SLICE, share(loads.get(giver, Load(count)), loads[lane], end_s))
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
