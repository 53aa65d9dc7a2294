"""Batches: create, fill, seal, follow, read and acknowledge. What a producer says to the bus.

A batch is sealed when its producer has declared the total; it is complete when sealed and all its jobs are finished.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Collection, Iterable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field

from redis.exceptions import NoPermissionError, ResponseError

from farebox.commands import Redis
from farebox.errors import InputError, ServerFullError
from farebox.fallback import first_lane, kind_of
from farebox.keys import Keys, check_batch_id, check_lane, check_tag
from farebox.ledger import PERIODS, Ledger
from farebox.progress import Progress, progress_of
from farebox.records import Job, Result, body_digest, decode_result, encode_job, job_id
from farebox.scripts import ACKNOWLEDGE, CANCEL, REOPEN, SUBMIT, Argument, Tongue, evaluate
from farebox.streams import read_streams

DEFAULT_BATCH = "default"  # single jobs of every program
CHUNK_JOBS = 500
CHUNK_BYTES = 1_000_000
BREATH_JOBS = 50  # encoded between two turns of the event loop, which sends the chunk before
FULL_SHARE = 0.7  # of maxmemory: above it nothing is submitted, so that settles always fit


@dataclass(frozen=True, slots=True)
class Submitted:
    """What a submit did: ids created now, and ids that existed with the same body; `reused` of the new are answered."""

    created: int
    existing: int
    reused: int = 0

    def __add__(self, other: Submitted) -> Submitted:
        return Submitted(self.created + other.created, self.existing + other.existing, self.reused + other.reused)


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a batch's result stream: the jobs that one settle finished, `ids` in the stream's order.

    `gone` are those whose result was deleted or has expired, or that were retried since: a later entry tells of them.
    `failures` are the results of jobs that failed, as they were read: a retry may replace them.
    """

    entry_id: str
    results: list[tuple[str, Result]] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    failures: dict[str, bytes] = field(default_factory=dict)


class Batch:
    """One batch on one server.

    Args:
        redis: an asyncio client that does not decode responses.
        batch_id: 1 to 64 letters, digits, dots, dashes and underscores.
        namespace: which bus on that server.
    """

    def __init__(self, redis: Redis, batch_id: str, *, namespace: str = "farebox") -> None:
        self.redis = redis
        self.batch_id = check_batch_id(batch_id)
        self.keys = Keys(namespace)
        self.ledger = Ledger(redis, namespace)
        self.tongue: Tongue = self.ledger.tongue
        self._room_checked = 0.0

    def job_id(self, custom_id: str) -> str:
        """The id of the job that `custom_id` names in this batch."""
        return job_id(self.keys.namespace, self.batch_id, custom_id)

    async def open(self, name: str = "") -> bool:
        """Create the batch, or take one up again; True when it was sealed. Raises: NoLedgerError, InputError."""
        await self.ledger.epoch()
        key, now_ms = self.keys.batch(self.batch_id), int(time.time() * 1000)
        if await self.redis.hexists(key, "cancelled"):
            raise InputError(f"batch {self.batch_id} is cancelled and takes no more jobs: start a new one.")
        async with self.redis.pipeline(transaction=True) as pipe:
            pipe.hsetnx(key, "created_ms", str(now_ms))
            pipe.hsetnx(key, "name", name)
            pipe.hdel(key, "sealed", "total")
            pipe.zadd(self.keys.batches, {self.batch_id: now_ms}, nx=True)
            _, _, was_sealed, _ = await pipe.execute()
        await self.keep()
        return bool(was_sealed)

    async def keep(self) -> None:
        """Let nothing of the batch expire: it has work again."""
        async with self.redis.pipeline(transaction=True) as pipe:
            for kept in (*self._kept_keys(), *self._counting_keys()):
                pipe.persist(kept)
            await pipe.execute()

    async def submit(self, jobs: Iterable[Job], *, priority: int = 0, not_before_ms: int = 0) -> Submitted:
        """Put jobs into their lanes, chunk by chunk; submitting a job twice is submitting it once.

        Raises: JobConflictError (that chunk is not submitted), BatchClosedError, NoLedgerError, ServerFullError when
        the server is above 70 % of its maxmemory.
        """
        done = Submitted(0, 0)
        async with aclosing(self._chunks(jobs, not_before_ms)) as chunks:
            sending: asyncio.Task[Submitted] | None = None  # one at a time keeps the order; the next is made meanwhile
            try:
                async for lane, chunk in chunks:
                    if sending:
                        done += await sending
                    sending = asyncio.create_task(self._send(lane, chunk, priority))
            except asyncio.CancelledError:
                if sending:
                    sending.cancel()
                raise
            finally:
                if sending:
                    done += await sending
        return done

    async def _chunks(self, jobs: Iterable[Job], not_before_ms: int) -> AsyncGenerator[tuple[str, _Chunk]]:
        lanes: dict[str, _Chunk] = {}
        now_ms = int(time.time() * 1000)
        for number, job in enumerate(jobs):
            if number % BREATH_JOBS == BREATH_JOBS - 1:
                await asyncio.sleep(0)
            for tag in job.tags:
                check_tag(tag)
            lane = first_lane(job)
            chunk = lanes.get(lane)
            if chunk is None:
                chunk = lanes[check_lane(lane)] = _Chunk()
            identity, payload = self.job_id(job.custom_id), encode_job(job, now_ms)
            chunk.add(identity, body_digest(job), not_before_ms, job.deadline_ms, payload)
            if job.fallbacks:
                chunk.kinds.add(kind_of(job))
            if chunk.full:
                yield lane, lanes.pop(lane)
        for lane, chunk in lanes.items():
            yield lane, chunk

    async def _send(self, lane: str, chunk: _Chunk, priority: int) -> Submitted:
        await self._refuse_when_full()
        flow = self.keys.flow(priority, self.batch_id, lane)
        answer = await self.tongue.say(SUBMIT, flow, self.batch_id, lane, *chunk.arguments)
        await self.note_flow(flow, chunk.kinds)
        return Submitted(int(answer[1]), len(answer) - 2)

    async def note_flow(self, flow: str, kinds: Iterable[str]) -> None:
        """Note that a flow has jobs that other lanes may answer; once they are in it, for an empty one is forgotten."""
        for kind in kinds:
            await self.redis.sadd(self.keys.flows_to_move(kind), flow)

    async def _refuse_when_full(self) -> None:
        if time.monotonic() - self._room_checked < 0.5:
            return
        memory = {}
        with suppress(ResponseError):
            memory = await self.redis.info("memory")
        limit, used = int(memory.get("maxmemory", 0)), int(memory.get("used_memory", 0))
        if limit and used > FULL_SHARE * limit:
            raise ServerFullError(
                f"the Redis server uses {used / limit:.0%} of its maxmemory: above {FULL_SHARE:.0%} nothing is "
                "submitted. Collect results, wait for the workers, or give it more memory; then run it again."
            )
        self._room_checked = time.monotonic()

    async def differing(self, jobs: Sequence[Job]) -> list[bool]:
        """Tell of each job whether its id is known here with another body."""
        ids = [self.job_id(job.custom_id)[len(self.keys.prefix) :] for job in jobs]
        known = await self.redis.hmget(f"{self.keys.prefix}ids:{self.batch_id}", ids)
        return [was is not None and was.decode() != body_digest(job) for was, job in zip(known, jobs, strict=True)]

    async def forget(self, ids: Sequence[str], *, counted: Collection[str]) -> None:
        """Forget that the jobs of these ids were submitted; they have finished, and can be asked again.

        `counted` are the fields of the batch's record that count each of them, and will no more.
        """
        digests = [identity.removeprefix(self.keys.prefix) for identity in ids]
        for start in range(0, len(digests), 1000):
            gone = await self.redis.hdel(f"{self.keys.prefix}ids:{self.batch_id}", *digests[start : start + 1000])
            if gone:
                async with self.redis.pipeline(transaction=True) as pipe:
                    for count in ("submitted", *counted):
                        pipe.hincrby(self.keys.batch(self.batch_id), count, -gone)
                    await pipe.execute()

    async def seal(self, total: int | None = None, *, ids_days: float = 90, results_days: float = 7) -> int:
        """Declare how many jobs the batch has, which is returned: it is complete when that many are finished.

        Unless told, it has all that were submitted by now.
        """
        total = (await self.progress()).submitted if total is None else total
        key, day_ms = self.keys.batch(self.batch_id), 86_400_000
        retention = {"ids_ttl": int(ids_days * day_ms), "results_ttl": int(results_days * day_ms)}
        await self.redis.hset(key, mapping={"sealed": 1, "total": total, **retention})
        await self.retain()
        return total

    async def retain(self) -> None:
        """Begin the retention of a sealed batch that is complete; of any other, do nothing."""
        ttl = await self.redis.hget(self.keys.batch(self.batch_id), "ids_ttl")
        if ttl is None or not (progress := await self.progress()).complete:
            return
        await self._expire(self._kept_keys(), int(ttl))
        scope, *limits = self._counting_keys()  # what is owed keeps the scope, see tally.lua
        with suppress(NoPermissionError):  # an ACL keeps producers away from what counts money
            await self._expire(limits if progress.scope.unconfirmed_nusd else [scope, *limits], int(ttl))

    async def _expire(self, keys: Sequence[str], ttl_ms: int) -> None:
        async with self.redis.pipeline(transaction=True) as pipe:
            for key in keys:
                pipe.pexpire(key, ttl_ms)
            await pipe.execute()

    def _kept_keys(self) -> list[str]:
        keys, batch_id = self.keys, self.batch_id
        ids = f"{keys.prefix}ids:{batch_id}"
        limit = keys.limit(f"batch:{batch_id}")
        return [keys.batch(batch_id), ids, keys.flows(batch_id), limit, keys.results(batch_id)]

    def _counting_keys(self) -> list[str]:
        keys, scope = self.keys, f"batch:{self.batch_id}"
        return [keys.scope(scope), *(keys.limit(f"{per}:{scope}") for per in PERIODS)]

    async def progress(self) -> Progress:
        """Count the batch. Raises: InputError when there is no such batch."""
        record = await self.redis.hgetall(self.keys.batch(self.batch_id))
        if not record:
            raise InputError(f"no batch {self.batch_id!r} here; `farebox batches` lists them.")
        scope = await self.ledger.scope(f"batch:{self.batch_id}")
        return progress_of(self.batch_id, record, scope)

    async def read(self, after: str = "0-0", *, count: int = 16, block_ms: int | None = None) -> list[Entry]:
        """Read finished jobs after an entry of the result stream, oldest first; wait up to `block_ms` for the first.

        Results that were deleted or have expired are named in `gone`.
        """
        found = await read_streams(
            self.redis, {self.keys.results(self.batch_id): after}, count=count, block_ms=block_ms
        )
        entries = [entry for _, of_stream in found for entry in of_stream]
        ids = [job for _, jobs in entries for job in jobs]
        payloads = await self.redis.mget([self.keys.result(job) for job in ids]) if ids else []
        by_id = dict(zip(ids, payloads, strict=True))
        return [_entry(entry_id, {job: by_id[job] for job in jobs}) for entry_id, jobs in entries]

    async def acknowledge(self, entries: Sequence[Entry]) -> None:
        """Delete entries that were read and kept safe, and their results; those of a retry meanwhile stay."""
        if not entries:
            return
        failures = [part for entry in entries for failure in entry.failures.items() for part in failure]
        for start in range(0, len(failures), 1000):
            arguments = [self.keys.prefix, *failures[start : start + 1000]]
            await evaluate(self.redis, ACKNOWLEDGE, [self.keys.ledger], arguments)
        async with self.redis.pipeline(transaction=True) as pipe:
            jobs = [job for entry in entries for job, _ in entry.results if job not in entry.failures]
            results = [self.keys.result(job) for job in jobs]
            histories = [self.keys.history(job) for job in jobs]
            for start in range(0, len(results), 1000):
                pipe.unlink(*results[start : start + 1000])
                pipe.unlink(*histories[start : start + 1000])
            pipe.xdel(self.keys.results(self.batch_id), *(entry.entry_id for entry in entries))
            await pipe.execute()

    async def cancel(self, *, now: bool = False) -> bool:
        """Stop everything that is not sent yet; True when it was not cancelled, nor ended, before.

        With `now` calls that run are ended too, everywhere, within a second: what they cost stays unconfirmed.
        Raises: InputError for the batch of single jobs.
        """
        if self.batch_id == DEFAULT_BATCH:
            raise InputError(
                f"every program's single jobs go to {DEFAULT_BATCH}, which would take no more of them once it is "
                "cancelled: `handle.cancel()` cancels one, and a limit of 0 for the batch stops what is not sent"
            )
        _, first = await self.tongue.say(CANCEL, self.batch_id, "1" if now else "")
        return bool(first)

    async def reopen(self) -> bool:
        """Let a cancelled batch go on; True when it was cancelled. What has ended as cancelled by now stays so."""
        _, was_cancelled = await self.tongue.say(REOPEN, self.batch_id)
        return bool(was_cancelled)

    async def lanes(self, *, even_parked: bool = False) -> set[str]:
        """The lanes in which jobs of the batch wait for a worker or run.

        Finished flows are left out, and so are parked ones, whose running calls may still end, unless `even_parked`.
        """
        flows = [flow.decode() for flow in await self.redis.smembers(self.keys.flows(self.batch_id))]
        parked = set() if even_parked else {flow for flow, _, _ in await self.parked()}
        async with self.redis.pipeline(transaction=False) as pipe:
            for flow in flows:
                pipe.exists(flow)
            exist = await pipe.execute() if flows else []
        open_flows = [flow for flow, is_there in zip(flows, exist, strict=True) if is_there and flow not in parked]
        return {self.keys.parts_of_flow(flow)[2] for flow in open_flows}

    async def parked(self) -> list[tuple[str, str, int]]:
        """The batch's parked flows: flow, the scope that has no room, what is needed in nano-dollars."""
        flows = [flow.decode() for flow in await self.redis.smembers(self.keys.flows(self.batch_id))]
        records = await self.redis.hmget(self.keys.parking, flows) if flows else []
        parked = [(flow, record.decode().split("\t")) for flow, record in zip(flows, records, strict=True) if record]
        return [(flow, scope, int(need)) for flow, (scope, need, *_) in parked]

    async def waiting(self) -> tuple[int, int, int]:
        """Count unfinished jobs: waiting in parked flows, waiting in others, in flight."""
        flows = [flow.decode() for flow in await self.redis.smembers(self.keys.flows(self.batch_id))]
        parked = {flow for flow, _, _ in await self.parked()}
        held = waits = running = 0
        for flow in flows:
            lane = self.keys.parts_of_flow(flow)[2]
            async with self.redis.pipeline(transaction=True) as pipe:
                pipe.zcard(flow)
                pipe.zrange(self.keys.leases(lane), 0, -1)
                queued, leased = await pipe.execute()
            flying = 0
            for start in range(0, len(leased), 1000):
                scores = await self.redis.zmscore(flow, leased[start : start + 1000])
                flying += sum(score is not None for score in scores)
            running += flying
            if flow in parked:
                held += queued - flying
            else:
                waits += queued - flying
        return held, waits, running


class _Chunk:
    """Arguments of one submit, up to 500 jobs or 1 MB."""

    def __init__(self) -> None:
        self.arguments: list[Argument] = []
        self.kinds: set[str] = set()
        self._bytes = 0

    def add(self, identity: str, digest: str, due_ms: int, deadline_ms: int, payload: bytes) -> None:
        self.arguments += (identity, digest, due_ms, deadline_ms, payload)
        self._bytes += len(payload)

    @property
    def full(self) -> bool:
        return len(self.arguments) >= 5 * CHUNK_JOBS or self._bytes >= CHUNK_BYTES


def _entry(entry_id: str, payloads: dict[str, bytes | None]) -> Entry:
    entry, written_ms = Entry(entry_id), int(entry_id.partition("-")[0])
    for job, payload in payloads.items():
        entry.ids.append(job)
        envelope = None if payload is None else decode_result(payload)
        if payload is None or envelope is None or written_ms <= int(envelope.k.get("retried", 0)):
            entry.gone.append(job)
        else:
            entry.results.append((job, envelope.r))
            if envelope.r.outcome == "failed":
                entry.failures[job] = payload
    return entry
