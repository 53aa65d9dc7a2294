"""expire: fail jobs whose deadline passed while they waited, be they parked, paused or due later."""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from farebox.commands import server_now_ms
from farebox.fallback import lanes_of
from farebox.records import VERSION, JobEnvelope, Result, decode_job, encode_unsent
from farebox.scripts import Tongue
from farebox_worker.bus.settle import Settlement, settle

SLICE = 256
RUNNING_MS = 5_000  # after so long whoever runs at its deadline is looked at again: it may be waiting once more


async def expire(tongue: Tongue, *, results_ttl_ms: int) -> int:
    """Fail up to a slice of waiting jobs whose deadline has passed, by the server's clock; return how many.

    Jobs in flight are left to their workers. Only jobs that have a deadline cost anything here.
    Raises: LedgerError; redis errors pass through.
    """
    redis, keys = tongue.redis, tongue.keys
    now_ms = await server_now_ms(redis)
    due = await redis.zrangebyscore(keys.deadlines, 0, now_ms, start=0, num=SLICE)
    if not due:
        return 0
    batch_ids, _, ids = zip(*(member.decode(errors="replace").partition("\t") for member in due), strict=True)
    payloads = await redis.mget([keys.job(identity) for identity in ids])
    running = await redis.mget([keys.in_progress(identity) for identity in ids])
    flows = {batch_id: await redis.smembers(keys.flows(batch_id)) for batch_id in set(batch_ids)}
    group: list[Settlement] = []
    gone, later = list[bytes](), dict[bytes, int]()
    tried: list[bytes] = []
    for member, batch_id, identity, payload, busy in zip(due, batch_ids, ids, payloads, running, strict=True):
        envelope = _decoded(payload)
        deadline_ms = envelope.a[0].deadline_ms if envelope else 0
        if envelope is None or not deadline_ms:  # it has ended, or was put back without one
            gone.append(member)
        elif deadline_ms > now_ms:  # it was submitted again with another one: what it was first submitted with holds
            later[member] = deadline_ms
        elif busy is None and (flow := await _find_flow(tongue, flows[batch_id], identity, envelope)):
            tried.append(member)
            group.append(_expired(identity, flow, envelope))
        else:
            later[member] = now_ms + RUNNING_MS
    words = await settle(tongue, group, results_ttl_ms=results_ttl_ms) if group else []
    for member, word in zip(tried, words, strict=True):
        if word != "done":  # somebody claimed it meanwhile, and may put it back
            later[member] = now_ms + RUNNING_MS
    async with redis.pipeline(transaction=True) as pipe:
        if later:
            pipe.zadd(keys.deadlines, later, xx=True)
        if gone:
            pipe.zrem(keys.deadlines, *gone)
        await pipe.execute()
    return words.count("done")


def _decoded(payload: bytes | None) -> JobEnvelope | None:
    try:
        return decode_job(payload) if payload else None
    except msgspec.DecodeError:
        return None


async def _find_flow(tongue: Tongue, flows_of_batch: Collection[bytes], identity: str, envelope: JobEnvelope) -> str:
    """Find where a job waits: in one of its batch's flows, in any lane that may answer it."""
    lanes = lanes_of(envelope.a[0])
    flows = [flow for flow in map(bytes.decode, flows_of_batch) if tongue.keys.parts_of_flow(flow)[2] in lanes]
    async with tongue.redis.pipeline(transaction=False) as pipe:
        for flow in flows:
            pipe.zscore(flow, identity)
        scores = await pipe.execute()
    return next((flow for flow, score in zip(flows, scores, strict=True) if score is not None), "")


def _expired(identity: str, flow: str, envelope: JobEnvelope) -> Settlement:
    job = envelope.a[0]
    result = Result(
        VERSION,
        job.custom_id,
        job.model_ref,
        "failed",
        error_code="deadline",
        error_message="the job's deadline passed while it waited",
        tier=job.tier,
        failure_class="deadline",
    )
    ended = encode_unsent(result, identity, flow, envelope)
    return Settlement(identity, flow, "", "sweep", "release", outcome="failed", result=ended)
