"""sweep: finish what a cancelled batch left waiting, in the background, so that its lines say `cancelled`."""

from __future__ import annotations

from itertools import accumulate

import msgspec

from farebox.keys import Keys
from farebox.records import VERSION, JobEnvelope, Result, decode_job, encode_unsent
from farebox.scripts import Tongue
from farebox_worker.bus.settle import Settlement, settle

SLICE = 128  # some 5 ms of the server's time: claims pass between
SLICE_BYTES = 4_000_000  # of payloads that are read at once; one that is larger is read alone


async def sweep(tongue: Tongue, *, results_ttl_ms: int, batch: str = "") -> int:
    """Finish up to a slice of waiting jobs per flow of the cancelled batches (or of one); return how many.

    Jobs in flight are left to their workers. Raises: LedgerError; redis errors pass through.
    """
    redis, keys = tongue.redis, tongue.keys
    batches = [batch] if batch else [name.decode() for name in await redis.smembers(keys.cancelled)]
    swept = 0
    for name in batches:
        left = 0
        for flow in await redis.smembers(keys.flows(name)):
            found, waiting = await _sweep_flow(tongue, keys, flow.decode(), results_ttl_ms)
            swept += found
            left += waiting
        if not left:
            await redis.srem(keys.cancelled, name)
    return swept


async def _sweep_flow(tongue: Tongue, keys: Keys, flow: str, results_ttl_ms: int) -> tuple[int, int]:
    redis = tongue.redis
    ids = [job.decode() for job in await redis.zrange(flow, 0, SLICE - 1)]
    if not ids:
        return 0, 0
    ids = await _some(tongue, ids)
    payloads = await redis.mget([keys.job(job) for job in ids])
    running = await redis.mget([keys.in_progress(job) for job in ids])
    group = [
        _cancelled(job, flow, payload)
        for job, payload, busy in zip(ids, payloads, running, strict=True)
        if payload is not None and busy is None
    ]
    words = await settle(tongue, group, results_ttl_ms=results_ttl_ms) if group else []
    return words.count("done"), len(ids)


async def _some(tongue: Tongue, ids: list[str]) -> list[str]:
    """As many of these jobs as may be read at once."""
    async with tongue.redis.pipeline(transaction=False) as pipe:
        for job in ids:
            pipe.strlen(tongue.keys.job(job))
        sizes = accumulate(await pipe.execute())
    return [job for place, (job, size) in enumerate(zip(ids, sizes, strict=True)) if not place or size <= SLICE_BYTES]


def _cancelled(job_id: str, flow: str, payload: bytes) -> Settlement:
    envelope: JobEnvelope | None = None
    try:
        envelope = decode_job(payload)
        custom_id, model_ref = envelope.a[0].custom_id, envelope.a[0].model_ref
    except msgspec.DecodeError:
        custom_id, model_ref = "", ""
    result = Result(
        VERSION,
        custom_id,
        model_ref,
        "cancelled",
        error_code="cancelled",
        error_message="the batch was cancelled before this job was sent",
    )
    ended = encode_unsent(result, job_id, flow, envelope)
    return Settlement(job_id, flow, "", "sweep", "release", outcome="cancelled", result=ended)
