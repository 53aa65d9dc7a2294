"""Where a job is, and what holds it up: read anew each time, in four round trips whatever the number of jobs."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

import msgspec

from farebox.commands import Redis
from farebox.keys import SEQUENCE_END, Keys
from farebox.ledger import in_words
from farebox.money import dollars_from_nusd
from farebox.pauses import ask_pause, read_pause
from farebox.records import decode_result

JobState = Literal[
    "waiting", "later", "parked", "paused", "unserved", "running", "succeeded", "failed", "cancelled", "gone"
]
_ENDED = ("succeeded", "failed", "cancelled", "gone")


class JobStatus(msgspec.Struct, frozen=True):
    """Where a job is at one moment.

    Attributes:
        state: `waiting` for its turn; `later`: not yet due, or to be tried again; `parked`: a limit leaves no room;
            `paused`: its model or provider is; `unserved`: no worker answers its model (as for the first second of a
            model that nobody asked before), or gets an answer; `running`; `succeeded`, `failed` or `cancelled`;
            `gone`: it has no result any more, or was never submitted.
        reason: what holds it up, in words, such as `no room in the daily limit of tag nightly for $0.02`; else "".
    """

    state: JobState
    reason: str = ""

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will come of it; `JobHandle.result` returns at once then, or raises ResultGoneError."""
        return self.state in _ENDED

    def __str__(self) -> str:
        """Say it in one line."""
        return f"{self.state}: {self.reason}" if self.reason else self.state


async def find_place(redis: Redis, keys: Keys, batch_id: str, job_id: str) -> tuple[str, float, bool]:
    """Find the flow a job stands in ("" when in none), its score there, and whether it runs."""
    flows = [flow.decode() for flow in await redis.smembers(keys.flows(batch_id))]
    async with redis.pipeline(transaction=True) as pipe:
        pipe.exists(keys.in_progress(job_id))
        for flow in flows:
            pipe.zscore(flow, job_id)
        is_running, *scores = await pipe.execute()
    places = ((flow, score) for flow, score in zip(flows, scores, strict=True) if score is not None)
    flow, score = next(places, ("", 0.0))
    return flow, score, bool(is_running)


async def read_status(redis: Redis, keys: Keys, batch_id: str, job_id: str) -> JobStatus:
    """Say where a job is. Raises: redis errors."""
    flow, score, is_running = await find_place(redis, keys, batch_id, job_id)
    if not flow:
        payload = await redis.get(keys.result(job_id))
        return JobStatus("gone" if payload is None else decode_result(payload).r.outcome)
    return JobStatus("running") if is_running else await _waiting(redis, keys, flow, score)


async def _waiting(redis: Redis, keys: Keys, flow: str, score: float) -> JobStatus:
    _, batch_id, lane = keys.parts_of_flow(flow)
    async with redis.pipeline(transaction=False) as pipe:
        pipe.time()
        pipe.hget(keys.parking, flow)
        pipe.sismember(keys.flows_to_move("spread"), flow)
        pipe.zrange(keys.workers, 0, -1)
        ask_pause(pipe, keys, lane)
        (seconds, micros), parked, is_spread, workers, *paused = await pipe.execute()
    now_ms = int(seconds) * 1000 + int(micros) // 1000
    if score >= SEQUENCE_END and score > now_ms:
        return JobStatus("later", f"due at {datetime.fromtimestamp(score / 1000, UTC):%Y-%m-%d %H:%M:%SZ}")
    if parked is not None:
        limit, need = parked.decode(errors="replace").split("\t")[:2]
        return JobStatus("parked", f"no room in {in_words(limit)} for {dollars_from_nusd(int(need))}")
    if is_spread:  # what holds up one of its lanes does not hold it up
        return JobStatus("waiting")
    if pause := read_pause(paused, now_ms):
        return JobStatus("paused", f"{lane} is {pause}")
    unserved = await _why_unserved(redis, keys, workers, batch_id, lane)
    return JobStatus("unserved", unserved) if unserved else JobStatus("waiting")


async def _why_unserved(redis: Redis, keys: Keys, workers: list[bytes], batch_id: str, lane: str) -> str:
    """Say why no worker serves a lane, by their heartbeats; "" when one does."""
    async with redis.pipeline(transaction=False) as pipe:
        for worker in workers:
            pipe.hmget(keys.worker(worker.decode()), ["lanes", "batch", "unserved", "away"])
        beats = await pipe.execute() if workers else []
    said = [[(words or b"").decode(errors="replace") for words in beat] for beat in beats if beat[0] is not None]
    living = [beat for beat in said if beat[1] in {"", batch_id}]
    if any(lane in lanes.split("\n") and not _why(lane, away) for lanes, _, _, away in living):
        return ""
    why = next((why for _, _, *reasons in living for lines in reasons if (why := _why(lane, lines))), "")
    if why:
        return f"no worker serves {lane}: {why}"
    return f"no worker that runs serves {lane}" if living else "no worker runs"


def _why(lane: str, lines: str) -> str:
    """What lines of lane, tab and reason say of one."""
    return next((why for name, _, why in (line.partition("\t") for line in lines.split("\n")) if name == lane), "")
