"""The lanes as an operator sees them: what waits, runs, is parked or paused, and whether anybody serves it.

It reads only. Counting costs O(log n) per flow that has work, whatever the number of jobs, in pipelines of bounded
length, so that it may run on a busy server.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from redis.asyncio.client import Pipeline

from farebox.commands import Redis, server_now_ms
from farebox.errors import InputError
from farebox.keys import Keys, parts_of_lane
from farebox_worker.bus.pace import Pace, ask_pace, read_pace
from farebox_worker.bus.pause import Pause, ask_pause, read_pause
from farebox_worker.heartbeats import Heartbeat, read_heartbeats

SLICE = 500  # commands per pipeline
_TAIL = 9  # bytes at the end of a payload: its enqueue time in ms, a MessagePack uint64


@dataclass(slots=True)
class Blocked:
    """Flows of a lane that are parked at one limit: how many, their jobs, and the least that one of them needs."""

    flows: int = 0
    jobs: int = 0
    need_nusd: int = 0


@dataclass(slots=True)
class Lane:
    """A lane at one moment, by the server's clock.

    Attributes:
        runnable: jobs that are due now, and wait for nothing but a free slot.
        later: jobs that are due later (retries, jobs submitted for a later time).
        in_flight: jobs that are leased to a worker.
        parked: by the scope whose limit leaves no room.
        pause: why nothing is claimed here now, or None.
        pace: what it may send, and does; `shared_pace` is that of its provider, over all its lanes.
        workers: processes that serve it.
        away: why calls of none of them are answered; "" when some are.
        unserved: runnable jobs that no living worker serves; those of paused lanes count too.
        oldest_s: for how long the oldest of the jobs next in line has waited, or None.
    """

    name: str
    runnable: int = 0
    later: int = 0
    in_flight: int = 0
    parked: dict[str, Blocked] = field(default_factory=dict)
    pause: Pause | None = None
    pace: Pace = field(default_factory=Pace)
    shared_pace: Pace = field(default_factory=Pace)
    workers: int = 0
    away: str = ""
    unserved: int = 0
    oldest_s: float | None = None

    @property
    def parked_jobs(self) -> int:
        """Jobs that wait for a limit."""
        return sum(blocked.jobs for blocked in self.parked.values())

    @property
    def has_work(self) -> bool:
        """Whether any job of it is unfinished."""
        return bool(self.runnable or self.later or self.in_flight or self.parked)


async def read_lanes(redis: Redis, keys: Keys, workers: Sequence[Heartbeat] | None = None) -> list[Lane]:
    """Read every lane, by name. `workers` are the heartbeats, if they were read before."""
    beats = await read_heartbeats(redis, keys) if workers is None else workers
    now_ms = await server_now_ms(redis)
    names = sorted(name.decode(errors="replace") for name in await redis.smembers(keys.lanes))
    lanes = {name: Lane(name) for name in names}
    parking = await redis.hgetall(keys.parking)
    flows = await _read_states(redis, keys, lanes, now_ms)
    flows |= {flow.decode(errors="replace") for flow in parking}
    parked = {
        flow.decode(errors="replace"): record.decode(errors="replace").split("\t") for flow, record in parking.items()
    }
    await _count(redis, keys, lanes, sorted(flows), parked, now_ms, beats)
    for lane in lanes.values():
        lane.later = max(0, lane.later - lane.in_flight)  # a lease's end stands in a flow like a time to come
        serving = [beat for beat in beats if lane.name in beat.lanes]
        lane.workers = len(serving)
        if serving and all(lane.name in beat.away for beat in serving):
            lane.away = serving[-1].away[lane.name]
    return list(lanes.values())


async def find_lanes(redis: Redis, keys: Keys, ref: str) -> list[str]:
    """Name the lanes that REF means: a lane, a model_ref (all its tiers) or a provider (all its models).

    Raises: InputError naming the nearest.
    """
    known = sorted(name.decode(errors="replace") for name in await redis.smembers(keys.lanes))
    exact = ref.removesuffix("@standard")
    found = [exact] if exact != ref and exact in known else []
    found = found or [lane for lane in known if ref in (lane, parts_of_lane(lane)[0], lane.partition(":")[0])]
    if found:
        return found
    if not known:
        raise InputError(f"no lane {ref!r}: there are none yet. A lane appears with its first job.")
    words = sorted({*known, *(parts_of_lane(lane)[0] for lane in known), *(lane.partition(":")[0] for lane in known)})
    near = difflib.get_close_matches(ref, words, n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(map(repr, near))}?" if near else "`farebox lanes` lists those there are."
    raise InputError(f"no lane, model or provider {ref!r} has jobs here. {hint}")


async def in_slices(redis: Redis, items: Sequence[Any], ask: Callable[[Pipeline, Any], object]) -> list[Any]:
    """Ask something about each item, in pipelines of bounded length; `ask` adds the same number of commands for each.

    Returns one answer per item: a list when there are several commands.
    """
    answers: list[Any] = []
    for start in range(0, len(items), SLICE):
        part = items[start : start + SLICE]
        async with redis.pipeline(transaction=False) as pipe:
            for item in part:
                ask(pipe, item)
            got = await pipe.execute()
        each = len(got) // len(part)
        answers += got if each == 1 else [got[at : at + each] for at in range(0, len(got), each)]
    return answers


async def _read_states(redis: Redis, keys: Keys, lanes: dict[str, Lane], now_ms: int) -> set[str]:
    """Read each lane's pause and leases; return the flows that have work now or later."""

    def ask(pipe: Pipeline, name: str) -> None:
        ask_pause(pipe, keys, name)
        ask_pace(pipe, keys, name)
        pipe.zcount(keys.leases(name), f"({now_ms}", "+inf")
        pipe.zrange(keys.opened(name), 0, -1)
        pipe.zrange(keys.waiting(name), 0, -1)

    flows: set[str] = set()
    names = list(lanes)
    for name, (paused, lent, of, shared, leased, opened, waiting) in zip(
        names, await in_slices(redis, names, ask), strict=True
    ):
        lanes[name].pause = read_pause([paused, lent], now_ms)
        lanes[name].pace, lanes[name].shared_pace = read_pace(of, now_ms), read_pace(shared, now_ms)
        lanes[name].in_flight = leased
        flows |= {flow.decode(errors="replace") for flow in [*opened, *waiting]}
    return flows


async def _count(
    redis: Redis,
    keys: Keys,
    lanes: dict[str, Lane],
    flows: Sequence[str],
    parked: dict[str, list[str]],
    now_ms: int,
    beats: Iterable[Heartbeat],
) -> None:
    """Count the jobs of each flow into its lane."""

    def ask(pipe: Pipeline, flow: str) -> None:
        pipe.zcount(flow, "-inf", now_ms)
        pipe.zcount(flow, f"({now_ms}", "+inf")
        pipe.zrange(flow, 0, 0)

    served = {(lane, beat.batch) for beat in beats for lane in beat.lanes}
    heads: dict[str, Lane] = {}
    for flow, (due, to_come, head) in zip(flows, await in_slices(redis, flows, ask), strict=True):
        _, batch_id, name = keys.parts_of_flow(flow)
        lane = lanes.setdefault(name, Lane(name))
        lane.later += to_come
        if flow in parked:
            scope, need, *_ = parked[flow]
            blocked = lane.parked.setdefault(scope, Blocked(need_nusd=int(need)))
            blocked.flows, blocked.jobs = blocked.flows + 1, blocked.jobs + due
            blocked.need_nusd = min(blocked.need_nusd, int(need))
            continue
        lane.runnable += due
        if due and head:
            heads[head[0].decode(errors="replace")] = lane
        if not served & {(name, ""), (name, batch_id)}:
            lane.unserved += due
    await _age(redis, keys, heads, now_ms)


async def _age(redis: Redis, keys: Keys, heads: dict[str, Lane], now_ms: int) -> None:
    """Tell how long the head of each flow has waited, from the last bytes of its payload."""
    ids = list(heads)
    tails = await in_slices(redis, ids, lambda pipe, job: pipe.getrange(keys.job(job), -_TAIL, -1))
    for job, tail in zip(ids, tails, strict=True):
        enqueued_ms = _enqueued_ms(tail)
        if enqueued_ms is not None:
            lane = heads[job]
            lane.oldest_s = max(lane.oldest_s or 0.0, (now_ms - enqueued_ms) / 1000)


def _enqueued_ms(tail: bytes) -> int | None:
    try:
        return msgspec.msgpack.decode(tail, type=int)
    except msgspec.DecodeError:
        return None
