"""What is done to single jobs after they were submitted: cancel those that wait, retry those that failed."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any, cast

from farebox.batch import CHUNK_BYTES, CHUNK_JOBS, Batch, Entry
from farebox.keys import lane_of
from farebox.records import (
    FUNCTION,
    VERSION,
    Result,
    ResultEnvelope,
    decode_result,
    encode_job,
    encode_result,
)
from farebox.scripts import DROP, RETRY, Argument

KEPT_MS = 7 * 86_400_000  # results of batches that have not said yet how long


async def drop(batch: Batch, identity: str, custom_id: str, flow: str) -> bool:
    """Finish a job that waits in this flow as cancelled; False when it does not wait. Raises: LedgerError."""
    now_ms = int(time.time() * 1000)
    result = Result(
        VERSION,
        custom_id,
        batch.keys.parts_of_flow(flow)[2].partition("@")[0],
        "cancelled",
        error_code="cancelled",
        error_message="it was cancelled before it was sent",
    )
    envelope = ResultEnvelope(
        t=0, f=FUNCTION, a=(), k={}, et=now_ms, s=False, r=result, st=now_ms, ft=now_ms, q=flow, id=identity
    )
    kept = await cast("Any", batch.redis.hget(batch.keys.batch(batch.batch_id), "results_ttl"))
    kept_ms = int(kept) if kept else KEPT_MS
    _, is_dropped = await batch.tongue.say(DROP, batch.batch_id, kept_ms, identity, flow, encode_result(envelope))
    return bool(is_dropped)


async def retry_failed(batch: Batch) -> int:
    """Put every failed job of a batch whose result is still here back, as new; return how many.

    Raises: BatchClosedError when the batch is cancelled; LedgerError.
    """
    back, after = 0, "0-0"
    await batch.keep()
    while entries := await batch.read(after):
        after = entries[-1].entry_id
        ids = [job for entry in entries for job in _failed(entry)]
        for start in range(0, len(ids), CHUNK_JOBS):
            back += await _retry(batch, ids[start : start + CHUNK_JOBS])
    return back


async def forget_ended(batch: Batch, *, days: float) -> int:
    """Forget jobs that ended so many days ago, of a batch that is not sealed and so never expires; return how many."""
    server_s, _ = await batch.redis.time()
    stream, forgotten = batch.keys.results(batch.batch_id), 0
    until = f"{max(0, int((server_s - 86_400 * days) * 1000))}-0"
    while entries := await batch.redis.xrange(stream, max=until, count=100):
        ids = [job.decode().removeprefix(batch.keys.prefix) for _, jobs in entries for job in jobs]
        await cast("Any", batch.redis.hdel(f"{batch.keys.prefix}ids:{batch.batch_id}", *ids))
        await batch.redis.xdel(stream, *(entry_id for entry_id, _ in entries))
        forgotten += len(ids)
    return forgotten


def _failed(entry: Entry) -> Iterator[str]:
    return (job for job, result in entry.results if result.outcome == "failed")


async def _retry(batch: Batch, ids: Sequence[str]) -> int:
    server_s, server_us = await batch.redis.time()
    retried_ms = int(server_s) * 1000 + int(server_us) // 1000
    payloads = await batch.redis.mget([batch.keys.result(identity) for identity in ids])
    back, arguments, size = 0, list[Argument](), 0
    for identity, payload in zip(ids, payloads, strict=True):
        envelope = decode_result(payload) if payload is not None else None
        if envelope is None or not envelope.a or envelope.r.outcome != "failed":
            continue
        (job,) = envelope.a
        priority, _, _ = batch.keys.parts_of_flow(envelope.q)
        flow = batch.keys.flow(priority, batch.batch_id, lane_of(job.model_ref, job.tier))
        again = encode_job(job, int(time.time() * 1000), retried_ms=retried_ms)
        arguments += (identity, flow, payload, again)
        size += len(payload) + len(again)
        if size >= CHUNK_BYTES:
            back += (await batch.tongue.say(RETRY, batch.batch_id, *arguments))[1]
            arguments, size = [], 0
    if arguments:
        back += (await batch.tongue.say(RETRY, batch.batch_id, *arguments))[1]
    return back
