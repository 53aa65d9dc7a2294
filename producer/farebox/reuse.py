"""Reuse: a job that asks what another one asked before gets the answer that one had, at no cost.

Only a job that asks for it takes one, in one namespace. The first that is submitted is sent, and leaves word under the
digest of what it asked; once it has succeeded, those that come later are finished with its answer, as long as its
result is kept. Jobs that are submitted singly leave word too, those of a batch only when they ask for reuse: that keeps
batches small. Two that are submitted before either has ended are both sent. Nothing here moves money.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import msgspec

from farebox.batch import CHUNK_BYTES, CHUNK_JOBS, Batch, Entry, Submitted
from farebox.commands import Redis
from farebox.keys import check_lane, check_tag, lane_of
from farebox.records import Job, Result, ResultEnvelope, body_digest, content_digest, decode_result, encode_unsent
from farebox.scripts import REUSE, Argument

Reuse = Literal["content"]
KEPT_MS = 7 * 86_400_000  # of results, where the batch has not said how long, and of the word where one is


class ReusingBatch(Batch):
    """A batch whose jobs take the answers of identical ones, and leave theirs to those that come after."""

    async def submit(self, jobs: Iterable[Job], *, priority: int = 0, not_before_ms: int = 0) -> Submitted:
        """Finish the jobs whose answer is known, and put the others into their lanes; see `Batch.submit`."""
        done = Submitted(0, 0)
        for chunk in _chunks(jobs):
            found, is_awaited = await self._look_up(chunk)
            done += await self._finish([(job, found[n]) for n, job in enumerate(chunk) if n in found], priority)
            rest = [job for n, job in enumerate(chunk) if n not in found]
            if not rest:
                continue
            done += await super().submit(rest, priority=priority, not_before_ms=not_before_ms)
            # What was said before is of no use: that job has no answer to give.
            unknown = [job for n, job in enumerate(chunk) if n not in found and n not in is_awaited]
            await leave_word(self, unknown, instead=True)
        return done

    async def acknowledge(self, entries: Sequence[Entry]) -> None:
        """Delete entries that were read and kept safe; their results stay until they expire, to be reused."""
        if entries:
            await self.redis.xdel(self.keys.results(self.batch_id), *(entry.entry_id for entry in entries))

    async def _look_up(self, jobs: Sequence[Job]) -> tuple[dict[int, ResultEnvelope], set[int]]:
        """By the jobs' places: the answers that are known, and who is identical to one that is still unfinished."""
        words = await self.redis.mget([_word(self, job) for job in jobs])
        ids = {n: word.decode() for n, word in enumerate(words) if word is not None}
        if not ids:
            return {}, set()
        async with self.redis.pipeline(transaction=False) as pipe:
            for identity in ids.values():
                pipe.get(self.keys.result(identity))
                pipe.exists(self.keys.job(identity))
            answers: list[Any] = await pipe.execute()
        found = {}
        for n, payload in zip(ids, answers[::2], strict=True):
            envelope = decode_result(payload) if payload is not None else None
            if envelope and _says_something(envelope.r) and envelope.r.model_ref == jobs[n].model_ref:
                found[n] = envelope
        return found, {n for n, is_unfinished in zip(ids, answers[1::2], strict=True) if is_unfinished}

    async def _finish(self, hits: Sequence[tuple[Job, ResultEnvelope]], priority: int) -> Submitted:
        kept = await self.redis.hget(self.keys.batch(self.batch_id), "results_ttl") if hits else None
        kept_ms = int(kept) if kept else KEPT_MS
        done, arguments, size = Submitted(0, 0), list[Argument](), 0
        for job, envelope in hits:
            result = self._copy(job, envelope, priority)
            arguments += (self.job_id(job.custom_id), body_digest(job), envelope.r.finish, result)
            size += len(result)
            if size >= CHUNK_BYTES:
                done += await self._say(kept_ms, arguments)
                arguments, size = [], 0
        return done + await self._say(kept_ms, arguments) if arguments else done

    async def _say(self, kept_ms: int, arguments: Sequence[Argument]) -> Submitted:
        answer = await self.tongue.say(REUSE, self.batch_id, kept_ms, *arguments)
        return Submitted(int(answer[1]), len(answer) - 2, int(answer[1]))

    def _copy(self, job: Job, envelope: ResultEnvelope, priority: int) -> bytes:
        """Write the answer as that of another job, which cost nothing; `saved_nusd` is what the first one cost."""
        was = envelope.r
        result = msgspec.structs.replace(
            was,
            custom_id=job.custom_id,
            attempts=0,
            cost_nusd=0,
            unconfirmed_nusd=0,
            latency_ms=0,
            saved_nusd=was.saved_nusd if was.reused_from else was.cost_nusd,
            reused_from=was.reused_from or envelope.id,
            note="",
        )
        flow = self.keys.flow(priority, self.batch_id, check_lane(lane_of(job.model_ref, job.tier)))
        identity = self.job_id(job.custom_id)
        return encode_unsent(result, identity, flow)


async def leave_word(batch: Batch, jobs: Iterable[Job], *, instead: bool) -> None:
    """Let identical jobs that ask for reuse find these, `instead` of those they find already."""
    async with batch.redis.pipeline(transaction=False) as pipe:
        for job in jobs:
            pipe.set(_word(batch, job), batch.job_id(job.custom_id), px=KEPT_MS, nx=not instead)
        await pipe.execute()


def batch_of(redis: Redis, batch_id: str, *, namespace: str = "farebox", reuse: Reuse | None = None) -> Batch:
    """A batch on one server, one that reuses answers when that is asked for. Raises: InputError."""
    made = Batch if reuse is None else ReusingBatch
    return made(redis, batch_id, namespace=namespace)


def _word(batch: Batch, job: Job) -> str:
    return batch.keys.content(content_digest(job))


def _says_something(result: Result) -> bool:
    return result.outcome == "succeeded" and result.finish != ""


def _chunks(jobs: Iterable[Job]) -> Iterator[list[Job]]:
    chunk, size = list[Job](), 0
    for job in jobs:
        for tag in job.tags:
            check_tag(tag)
        chunk.append(job)
        size += len(job.body)
        if len(chunk) >= CHUNK_JOBS or size >= CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk
