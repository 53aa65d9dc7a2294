"""One job as an operator sees it: where it is, what was tried, what it cost.

It reads only, in a handful of round trips whatever the number of jobs, and takes no result away.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

import msgspec

from farebox.commands import Redis, server_now_ms
from farebox.errors import InputError
from farebox.keys import SEQUENCE_END, Keys, check_batch_id, lane_of
from farebox.ledger import Ledger, Unconfirmed
from farebox.records import JobEnvelope, ResultEnvelope, decode_job, decode_result, job_id
from farebox_worker.attempts.history import Tried, read_tried
from farebox_worker.bus.pause import Pause, ask_pause, read_pause
from farebox_worker.lanes import in_slices

State = Literal[
    "waiting",
    "not yet due",
    "retry due",
    "parked",
    "leased",
    "running",
    "succeeded",
    "failed",
    "cancelled",
    "gone",
    "undecodable",
    "stray",
]
_DIGEST = re.compile(r"[0-9a-f]{24}\Z")
_LINE = "farebox-"  # stands before a digest in the `id` of an output line


@dataclass(slots=True)
class JobView:
    """A job at one moment. Money is in nano-dollars, times are ms of the server's clock, unknown ones 0.

    Attributes:
        state: "gone" is a job that ended and whose result was taken, deleted or has expired; "stray" one that is kept
            and stands in no flow.
        due_ms: when it may be claimed (not yet due, retry due), or when its lease ends (leased, running).
        attempts: those that were admitted; all of them once it has ended.
        doubts: attempts whose outcome is unknown.
        claims: claims in a row that ended before they were admitted.
        hold_nusd: what the running attempt may cost, None when none runs.
        blocked: the scope that has no room and what is needed, of a parked job.
        history: the last 20 attempts that did not answer it, oldest first; retries keep it.
    """

    job_id: str
    batch_id: str = ""
    state: State = "gone"
    flow: str = ""
    lane: str = ""
    custom_id: str = ""
    enqueued_ms: int = 0
    due_ms: int = 0
    attempts: int = 0
    doubts: int = 0
    claims: int = 0
    hold_nusd: int | None = None
    blocked: tuple[str, int] | None = None
    pause: Pause | None = None
    cancelled_batch: bool = False
    unconfirmed: tuple[Unconfirmed, ...] = ()
    history: tuple[Tried, ...] = ()
    ended: ResultEnvelope | None = None
    now_ms: int = 0

    @property
    def cost_nusd(self) -> int:
        """What is known to have been paid for it."""
        return self.ended.r.cost_nusd if self.ended else 0

    @property
    def unconfirmed_nusd(self) -> int:
        """What attempts of unknown outcome still hold of it."""
        return sum(one.amount_nusd for one in self.unconfirmed)


def name_job(keys: Keys, words: tuple[str, ...]) -> tuple[str, str]:
    """Turn `ID` or `BATCH CUSTOM_ID` into a job id and, where it is known, its batch. Raises: InputError."""
    if len(words) == 2:
        return job_id(keys.namespace, check_batch_id(words[0]), words[1]), words[0]
    digest = words[0].removeprefix(keys.prefix).removeprefix(_LINE) if len(words) == 1 else ""
    if not _DIGEST.match(digest):
        raise InputError(
            f"{' '.join(words)!r} is no job: say its id (24 hex digits, `farebox` in a line of the output names it), "
            "or BATCH CUSTOM_ID"
        )
    return f"{keys.prefix}{digest}", ""


async def read_job(ledger: Ledger, identity: str, batch_id: str = "") -> JobView:
    """Find a job wherever it is. Raises: InputError when nothing here ever knew it."""
    redis, keys = ledger.redis, ledger.keys
    view = JobView(identity, batch_id or await _find_batch(redis, keys, identity))
    async with redis.pipeline(transaction=True) as pipe:
        pipe.get(keys.job(identity))
        pipe.get(keys.in_progress(identity))
        pipe.get(keys.result(identity))
        pipe.get(f"arq:retry:{identity}")
        pipe.hmget(f"{keys.prefix}strikes", [f"{identity}:doubts", f"{identity}:claims"])
        pipe.hget(f"{keys.prefix}ids:{view.batch_id}", identity.removeprefix(keys.prefix))
        pipe.hexists(keys.batch(view.batch_id), "cancelled")
        pipe.lrange(keys.history(identity), 0, -1)
        payload, running, result, attempts, strikes, known, cancelled, history = await pipe.execute()
    if payload is None and result is None and known is None:
        where = f" in batch {batch_id!r}" if batch_id else ""
        raise InputError(
            f"no job {identity!r}{where}: it was never submitted here, or was forgotten ([retention] ids_days)."
        )
    view.now_ms = await server_now_ms(redis)
    view.attempts = int(attempts or 0)
    view.doubts, view.claims = int(strikes[0] or 0), int(strikes[1] or 0)
    view.cancelled_batch = bool(cancelled)
    view.history = tuple(map(read_tried, history))
    view.unconfirmed = tuple(one for one in await ledger.unconfirmed() if one.job_id == identity)
    if result is not None:
        _add_result(view, result)
    elif payload is not None:
        await _add_place(redis, keys, view, payload, running)
    return view


async def _find_batch(redis: Redis, keys: Keys, identity: str) -> str:
    """Find whose tombstones know a job; "" when none does."""
    digest = identity.removeprefix(keys.prefix)
    batches = [name.decode() for name in await redis.zrevrange(keys.batches, 0, -1)]
    known = await in_slices(redis, batches, lambda pipe, name: pipe.hexists(f"{keys.prefix}ids:{name}", digest))
    return next((name for name, knows in zip(batches, known, strict=True) if knows), "")


def _add_result(view: JobView, result: bytes) -> None:
    try:
        ended = decode_result(result)
    except msgspec.DecodeError:
        view.state = "undecodable"
        return
    view.ended = ended
    view.state = ended.r.outcome
    view.flow = ended.q
    view.lane = lane_of(ended.r.model_ref, ended.r.tier)
    view.custom_id, view.enqueued_ms, view.attempts = ended.r.custom_id, ended.et, ended.r.attempts


async def _add_place(redis: Redis, keys: Keys, view: JobView, payload: bytes, running: bytes | None) -> None:
    """Say where an unfinished job is."""
    envelope = _decoded(payload)
    if envelope is not None:
        job = envelope.a[0]
        view.custom_id, view.enqueued_ms = job.custom_id, envelope.et
        view.lane = lane_of(job.model_ref, job.tier)
    token = (running or b"")[:16].decode(errors="replace")
    view.flow = (running or b"")[16:].decode(errors="replace") or await _find_flow(redis, keys, view)
    if view.flow:
        view.lane = keys.parts_of_flow(view.flow)[2]
    async with redis.pipeline(transaction=True) as pipe:
        pipe.zscore(view.flow, view.job_id)
        pipe.hget(keys.holds, token)
        pipe.hget(keys.parking, view.flow)
        ask_pause(pipe, keys, view.lane)
        score, hold, parked, *paused = await pipe.execute()
    view.pause = read_pause(paused, view.now_ms)
    view.due_ms = int(score) if score and score >= SEQUENCE_END else 0
    if hold is not None:
        view.hold_nusd = int(hold.split(b"\t")[0])
    if parked is not None:
        scope, need = parked.decode(errors="replace").split("\t")[:2]
        view.blocked = scope, int(need)
    view.state = "undecodable" if envelope is None else _state(view, is_placed=score is not None, is_leased=bool(token))


def _state(view: JobView, *, is_placed: bool, is_leased: bool) -> State:
    if is_leased:
        return "leased" if view.hold_nusd is None else "running"
    if not is_placed:
        return "stray"
    if view.due_ms > view.now_ms:
        return "retry due" if view.attempts or view.doubts or view.claims else "not yet due"
    return "parked" if view.blocked else "waiting"


async def _find_flow(redis: Redis, keys: Keys, view: JobView) -> str:
    """Find the flow of a job that nobody runs: one of its batch's."""
    flows = [flow.decode(errors="replace") for flow in await redis.smembers(keys.flows(view.batch_id))]
    scores = await in_slices(redis, flows, lambda pipe, flow: pipe.zscore(flow, view.job_id))
    return next((flow for flow, score in zip(flows, scores, strict=True) if score is not None), "")


def _decoded(payload: bytes) -> JobEnvelope | None:
    try:
        return decode_job(payload)
    except msgspec.DecodeError:
        return None
