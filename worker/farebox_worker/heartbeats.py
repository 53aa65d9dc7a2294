"""Who lives: the heartbeats that worker processes show, as operators read them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from farebox.commands import Redis
from farebox.keys import Keys
from farebox_worker.latency import Latencies


@dataclass(frozen=True, slots=True)
class Trouble:
    """What a process met in a lane since it started: attempts put back to be tried again, and the newest failure."""

    retried: int = 0
    error: str = ""


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """What a worker process last said of itself; it is gone 30 s after its last word.

    Attributes:
        batch: the one batch it serves, "" when it serves all.
        lanes: those it has a provider and a key for.
        in_flight: attempts claimed and not yet settled.
        age_s: how long ago this was, by the server's clock.
        troubles: by lane, of those that had some.
        latencies: by lane, of the calls that were answered in the last minute.
        away: those of them whose calls are not answered there, and why.
        stopped: providers that refused this process's key, and what they said; a restart with a good key serves them.
    """

    worker_id: str
    host: str
    pid: int
    version: str
    started_ms: int
    batch: str
    lanes: tuple[str, ...]
    in_flight: int
    age_s: float
    troubles: Mapping[str, Trouble] = field(default_factory=dict)
    away: Mapping[str, str] = field(default_factory=dict)
    stopped: Mapping[str, str] = field(default_factory=dict)
    latencies: Mapping[str, Latencies] = field(default_factory=dict)


async def read_heartbeats(redis: Redis, keys: Keys) -> list[Heartbeat]:
    """Read every living worker process, by host and pid. Costs one command per process, in two round trips."""
    async with redis.pipeline(transaction=False) as pipe:
        pipe.zrange(keys.workers, 0, -1, withscores=True)
        pipe.time()
        index, (seconds, micros) = await pipe.execute()
    ids = {worker_id.decode(): beat_ms for worker_id, beat_ms in index}
    async with redis.pipeline(transaction=False) as pipe:
        for worker_id in ids:
            pipe.hgetall(keys.worker(worker_id))
        states = await pipe.execute() if ids else []
    now_ms = seconds * 1000 + micros / 1000
    found = [
        _heartbeat(worker_id, state, max(0.0, (now_ms - beat_ms) / 1000))
        for (worker_id, beat_ms), state in zip(ids.items(), states, strict=True)
        if state  # else it has left, or died
    ]
    return sorted(found, key=lambda one: (one.host, one.pid))


def _heartbeat(worker_id: str, state: Mapping[bytes, bytes], age_s: float) -> Heartbeat:
    said = {name.decode(): value.decode(errors="replace") for name, value in state.items()}
    return Heartbeat(
        worker_id=worker_id,
        host=said.get("host", ""),
        pid=int(said.get("pid", 0)),
        version=said.get("version", ""),
        started_ms=int(said.get("started_ms", 0)),
        batch=said.get("batch", ""),
        lanes=tuple(lane for lane in said.get("lanes", "").split("\n") if lane),
        in_flight=int(said.get("in_flight", 0)),
        age_s=age_s,
        away=_by_lane(said.get("away", "")),
        stopped=_by_lane(said.get("stopped", "")),
        troubles=_troubles(_by_lane(said.get("retried", "")), _by_lane(said.get("errors", ""))),
        latencies={lane: Latencies.read(words) for lane, words in _by_lane(said.get("latencies", "")).items()},
    )


def lines_by_lane(words: Mapping[str, object], *, most: int = 200) -> str:
    """Write what is said of each lane, one a line and so many characters at most, as heartbeats hold it."""
    return "\n".join(f"{lane}\t{' '.join(str(said).split())[:most]}" for lane, said in words.items())


def _by_lane(lines: str) -> dict[str, str]:
    return {lane: words for line in lines.split("\n") if line for lane, _, words in [line.partition("\t")]}


def _troubles(retried: Mapping[str, str], errors: Mapping[str, str]) -> dict[str, Trouble]:
    return {lane: Trouble(int(retried.get(lane, 0)), errors.get(lane, "")) for lane in retried.keys() | errors.keys()}
