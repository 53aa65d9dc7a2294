"""A stand-in for the workers, which are not installed here: it ends jobs as a settle does."""

import time

import msgspec

from farebox.keys import Keys, lane_of
from farebox.records import FUNCTION, VERSION, Result, ResultEnvelope, decode_job, encode_result, job_id

KEYS = Keys()
DAY_MS = 86_400_000


def chat(text):
    return msgspec.json.encode({"choices": [{"message": {"role": "assistant", "content": text}}]})


class StandIn:
    """Ends jobs of one server, one settled group at a time."""

    def __init__(self, redis):
        self.redis = redis

    async def payload(self, batch, name):
        raw = await self.redis.get(KEYS.job(job_id("farebox", batch, name)))
        return decode_job(raw) if raw else None

    async def job(self, name, batch="default"):
        envelope = await self.payload(batch, name)
        return envelope.a[0] if envelope else None

    async def run(self, name, batch="default"):
        await self.redis.set(KEYS.in_progress(job_id("farebox", batch, name)), "a token of 16 letters")

    async def answer(self, *names, batch="default", text="yes", **fields):
        given = {"finish": "answered", "status_code": 200, "body": chat(text), "attempts": 1, "cost_nusd": 1000}
        await self._end(names, batch, "succeeded", given | fields)

    async def fail(self, *names, batch="default", code="bad_request", message="no such thing", **fields):
        given = {"error_code": code, "error_message": message, "status_code": 400, "attempts": 2}
        await self._end(names, batch, "failed", given | fields)

    async def _end(self, names, batch, outcome, fields):
        stream, pipe = {}, self.redis.pipeline(transaction=True)
        for name in names:
            identity = job_id("farebox", batch, name)
            envelope = await self.payload(batch, name)
            job = envelope.a[0]
            flows = [KEYS.flow(priority, batch, lane_of(job.model_ref, job.tier)) for priority in range(10)]
            (flow,) = [flow for flow in flows if await self.redis.zscore(flow, identity)]
            result = Result(VERSION, name, job.model_ref, outcome, **fields)
            now_ms = int(time.time() * 1000)
            kept = envelope.a if outcome == "failed" else ()
            ended = ResultEnvelope(
                t=1, f=FUNCTION, a=kept, k=envelope.k, et=envelope.et, s=outcome == "succeeded", r=result, st=now_ms,
                ft=now_ms, q=flow, id=identity,
            )  # fmt: skip
            pipe.delete(KEYS.job(identity), KEYS.in_progress(identity))
            pipe.zrem(flow, identity)
            pipe.set(KEYS.result(identity), encode_result(ended), px=DAY_MS)
            stream[identity] = outcome
        pipe.hincrby(KEYS.batch(batch), outcome, len(stream))
        pipe.xadd(KEYS.results(batch), stream)
        await pipe.execute()  # as a settle does it: who sees the counts sees the stream


def connections(redis):
    """How many connections an asyncio client has made and not closed."""
    pool = redis.connection_pool
    return len(pool._available_connections) + len(pool._in_use_connections)
