"""What is done to single jobs after they were submitted: cancel those that wait, retry those that failed."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Iterator, Sequence

import msgspec

from farebox.batch import CHUNK_BYTES, CHUNK_JOBS, Batch, Entry
from farebox.commands import server_now_ms
from farebox.fallback import first_lane, kind_of
from farebox.keys import parts_of_lane
from farebox.records import VERSION, Result, decode_result, encode_job, encode_unsent
from farebox.scripts import DROP, RETRY, Argument

KEPT_MS = 7 * 86_400_000  # results of batches that have not said yet how long


async def drop(batch: Batch, identity: str, custom_id: str, flow: str) -> bool:
    """Finish a job that waits in this flow as cancelled; False when it does not wait. Raises: LedgerError."""
    result = Result(
        VERSION,
        custom_id,
        parts_of_lane(batch.keys.parts_of_flow(flow)[2])[0],
        "cancelled",
        error_code="cancelled",
        error_message="it was cancelled before it was sent",
    )
    kept = await batch.redis.hget(batch.keys.batch(batch.batch_id), "results_ttl")
    kept_ms = int(kept) if kept else KEPT_MS
    ended = encode_unsent(result, identity, flow)
    _, is_dropped = await batch.tongue.say(DROP, batch.batch_id, kept_ms, identity, flow, ended)
    return bool(is_dropped)


def is_of_class(failure_class: str, error_code: str, wanted: Collection[str]) -> bool:
    """Tell whether a failure is one of those that are wanted, by our word for it or its provider's; none means all."""
    return not wanted or failure_class in wanted or error_code in wanted


async def retry_failed(batch: Batch, *, classes: Collection[str] = ()) -> int:
    """Put every failed job of a batch whose result is still here back, as new; return how many.

    `classes` names failures by `Result.failure_class` or `error_code`; none means all. A deadline that has passed is
    taken off. Raises: BatchClosedError when the batch is cancelled; LedgerError.
    """
    back, after = 0, "0-0"
    await batch.keep()
    while entries := await batch.read(after):
        after = entries[-1].entry_id
        ids = [job for entry in entries for job in _failed(entry, classes)]
        for start in range(0, len(ids), CHUNK_JOBS):
            back += await _retry(batch, ids[start : start + CHUNK_JOBS])
    if not back:
        await batch.retain()
    return back


async def count_failures(batch: Batch) -> Counter[tuple[str, str]]:
    """Count the failed jobs of a batch whose results are still here, by class and error code. Reads every result."""
    counts, after = Counter[tuple[str, str]](), "0-0"
    while entries := await batch.read(after):
        after = entries[-1].entry_id
        counts.update(
            (result.failure_class, result.error_code)
            for entry in entries
            for _, result in entry.results
            if result.outcome == "failed"
        )
    return counts


async def forget_ended(batch: Batch, *, days: float) -> int:
    """Forget jobs that ended so many days ago, of a batch that is not sealed and so never expires; return how many."""
    ended_ms = await server_now_ms(batch.redis) - int(86_400_000 * days)
    stream, forgotten = batch.keys.results(batch.batch_id), 0
    until = f"{max(0, ended_ms)}-0"
    while entries := await batch.redis.xrange(stream, "-", until, count=100):
        ids = [job.decode().removeprefix(batch.keys.prefix) for _, jobs in entries for job in jobs]
        await batch.redis.hdel(f"{batch.keys.prefix}ids:{batch.batch_id}", *ids)
        await batch.redis.xdel(stream, *(entry_id for entry_id, _ in entries))
        forgotten += len(ids)
    return forgotten


def _failed(entry: Entry, classes: Collection[str]) -> Iterator[str]:
    return (
        job
        for job, result in entry.results
        if result.outcome == "failed" and is_of_class(result.failure_class, result.error_code, classes)
    )


async def _retry(batch: Batch, ids: Sequence[str]) -> int:
    retried_ms = await server_now_ms(batch.redis)
    payloads = await batch.redis.mget([batch.keys.result(identity) for identity in ids])
    back, arguments, size = 0, list[Argument](), 0
    noted: dict[str, str] = {}
    for identity, payload in zip(ids, payloads, strict=True):
        if payload is None or not (envelope := decode_result(payload)).a or envelope.r.outcome != "failed":
            continue
        (job,) = envelope.a
        if 0 < job.deadline_ms <= retried_ms:  # it would fail at once
            job = msgspec.structs.replace(job, deadline_ms=0)
        priority, _, _ = batch.keys.parts_of_flow(envelope.q)
        flow = batch.keys.flow(priority, batch.batch_id, first_lane(job))
        if job.fallbacks:
            noted[flow] = kind_of(job)
        again = encode_job(job, int(time.time() * 1000), retried_ms=retried_ms)
        arguments += (identity, flow, job.deadline_ms, payload, again)
        size += len(payload) + len(again)
        if size >= CHUNK_BYTES:
            back += (await batch.tongue.say(RETRY, batch.batch_id, *arguments))[1]
            arguments, size = [], 0
    if arguments:
        back += (await batch.tongue.say(RETRY, batch.batch_id, *arguments))[1]
    for flow, kind in noted.items():
        await batch.note_flow(flow, [kind])
    return back
