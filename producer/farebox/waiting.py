"""One connection that waits for everybody: for the results of jobs, and for news of batches.

A single task blocks on the result streams of all batches that somebody waits for, and hands on what comes. Nothing is
polled: a settle writes the stream, and the stream wakes the task. A job is looked up once when waiting for it begins,
again after every lost connection, and every minute, so that nothing can be missed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import msgspec
from redis.exceptions import RedisError

from farebox.commands import Redis
from farebox.connection import passes
from farebox.errors import FareboxError, ResultGoneError, ServerError
from farebox.keys import Keys
from farebox.records import Result, decode_result
from farebox.streams import Ended, Stream, read_streams

log = logging.getLogger(__name__)

BLOCK_MS = 5000  # below a connection's own patience
HEAL_S = 60.0
SLICE = 500
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 2.0


@dataclass(slots=True)
class _Post:
    """What is waited for in one batch. `after` is the last entry seen of its stream, "" before the first look."""

    after: str = ""
    jobs: dict[str, set[asyncio.Future[Result]]] = field(default_factory=dict)
    bells: set[asyncio.Event] = field(default_factory=set)
    unchecked: set[str] = field(default_factory=set)

    @property
    def is_wanted(self) -> bool:
        return bool(self.jobs or self.bells)


class Waiting:
    """Waits on behalf of any number of callers of one event loop.

    Args:
        redis: where; one of its connections is kept busy while anybody waits.
        keys: of which namespace.
    """

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._redis = redis
        self._keys = keys
        self._posts: dict[str, _Post] = {}
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._reading: asyncio.Task[list[Stream]] | None = None
        self._read_keys: frozenset[str] = frozenset()
        self._checked_s = 0.0

    async def result(self, batch_id: str, job_id: str) -> Result:
        """Wait for a job to end. Raises: ResultGoneError, ServerError when waiting cannot go on."""
        post = self._post(batch_id)
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        post.jobs.setdefault(job_id, set()).add(future)
        post.unchecked.add(job_id)
        self._wake.set()
        try:
            return await future
        finally:
            if futures := post.jobs.get(job_id):
                futures.discard(future)
                if not futures:
                    del post.jobs[job_id]
                    post.unchecked.discard(job_id)

    @asynccontextmanager
    async def news(self, batch_id: str) -> AsyncIterator[asyncio.Event]:
        """Set the event whenever jobs of the batch have ended; who waits for it clears it before looking."""
        post, bell = self._post(batch_id), asyncio.Event()
        post.bells.add(bell)
        self._wake.set()
        try:
            yield bell
        finally:
            post.bells.discard(bell)

    def ring(self, batch_id: str) -> None:
        """Tell whoever waits for news of a batch that there may be some."""
        if post := self._posts.get(batch_id):
            for bell in post.bells:
                bell.set()

    async def aclose(self) -> None:
        """Stop waiting; whoever still waits is told. Safe to call twice."""
        tasks: set[asyncio.Task[Any]] = {task for task in (self._task, self._reading) if task}
        self._task = self._reading = None
        while tasks:  # redis-py can swallow a cancellation that comes while it times out
            for task in tasks:
                task.cancel()
            done, tasks = await asyncio.wait(tasks, timeout=0.5)
            await asyncio.gather(*done, return_exceptions=True)
        self._fail(FareboxError("the client was closed while this waited; the job goes on."))

    def _post(self, batch_id: str) -> _Post:
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._serve(), name="farebox waiting")
        return self._posts.setdefault(batch_id, _Post())

    async def _serve(self) -> None:
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                await self._turn()
            except (RedisError, OSError, ValueError) as error:
                if not passes(error):
                    self._fail(ServerError(f"results cannot be waited for: {error}"))
                elif pause_s == FIRST_PAUSE_S:
                    log.warning("waiting for results: %s; trying again", str(error) or type(error).__name__)
                self._look_again(forgets_places=True)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            except Exception as error:  # noqa: BLE001 - nobody awaits this task: who waits for results would hang
                self._fail(ServerError(f"results cannot be waited for: {error!r}"))
                self._look_again(forgets_places=True)
                await asyncio.sleep(pause_s)
            else:
                pause_s = FIRST_PAUSE_S

    async def _turn(self) -> None:
        """Look at what is new, then wait until something ends or somebody new waits."""
        self._wake.clear()
        self._posts = {batch_id: post for batch_id, post in self._posts.items() if post.is_wanted}
        if asyncio.get_running_loop().time() - self._checked_s > HEAL_S:
            self._look_again()
        for batch_id, post in list(self._posts.items()):
            if not post.after:
                post.after = await self._end_of(batch_id)
                for bell in post.bells:
                    bell.set()
            if post.unchecked:
                await self._check(post)
        await self._listen()

    def _look_again(self, *, forgets_places: bool = False) -> None:
        self._checked_s = asyncio.get_running_loop().time()
        for post in self._posts.values():
            post.unchecked.update(post.jobs)
            if forgets_places:
                post.after = ""

    async def _end_of(self, batch_id: str) -> str:
        last = await self._redis.xrevrange(self._keys.results(batch_id), count=1)
        return last[0][0].decode() if last else "0-0"

    async def _check(self, post: _Post) -> None:
        """Find those that have ended already, and those that will never end here."""
        for some in _slices(post.unchecked & post.jobs.keys()):
            async with self._redis.pipeline(transaction=True) as pipe:
                pipe.mget([self._keys.result(job) for job in some])
                for job in some:
                    pipe.exists(self._keys.job(job))
                payloads, *waits = await pipe.execute()
            post.unchecked.difference_update(some)
            for job, payload, is_there in zip(some, payloads, waits, strict=True):
                if payload is not None or not is_there:
                    _deliver(post, job, payload)

    async def _listen(self) -> None:
        known = {batch_id: post for batch_id, post in self._posts.items() if post.is_wanted and post.after}
        wanted = {self._keys.results(batch_id): post for batch_id, post in known.items()}
        await self._end_reading(unless_it_reads=wanted.keys())
        if self._reading is None and wanted:
            self._read_keys = frozenset(wanted)
            places = {key: post.after for key, post in wanted.items()}
            self._reading = asyncio.create_task(read_streams(self._redis, places, block_ms=BLOCK_MS))
        woken = asyncio.create_task(self._wake.wait())
        either = {woken, self._reading} if self._reading else {woken}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        finally:
            woken.cancel()
        if self._reading and self._reading.done():
            reading, self._reading = self._reading, None
            for key, entries in reading.result():
                if key in wanted and entries:
                    await self._hand_on(wanted[key], entries)

    async def _end_reading(self, *, unless_it_reads: Iterable[str]) -> None:
        """Break the read off when it does not hear somebody who waits by now."""
        if self._reading is None or self._read_keys.issuperset(unless_it_reads):
            return
        reading, self._reading = self._reading, None
        while not reading.done():
            reading.cancel()
            await asyncio.wait({reading}, timeout=0.5)
        with suppress(asyncio.CancelledError, RedisError, OSError):
            reading.result()

    async def _hand_on(self, post: _Post, entries: list[Ended]) -> None:
        ended = {job for _, jobs in entries for job in jobs if job in post.jobs}
        for some in _slices(ended):
            payloads = await self._redis.mget([self._keys.result(job) for job in some])
            for job, payload in zip(some, payloads, strict=True):
                _deliver(post, job, payload)
        post.after = entries[-1][0]
        for bell in post.bells:
            bell.set()

    def _fail(self, error: FareboxError) -> None:
        for post in self._posts.values():
            for futures in post.jobs.values():
                for future in futures:
                    if not future.done():
                        future.set_exception(error)
            for bell in post.bells:
                bell.set()


def _slices(jobs: Iterable[str]) -> Iterable[list[str]]:
    listed = list(jobs)
    return (listed[start : start + SLICE] for start in range(0, len(listed), SLICE))


def _deliver(post: _Post, job_id: str, payload: bytes | None) -> None:
    for future in post.jobs.get(job_id, ()):
        if future.done():
            continue
        if payload is None:
            future.set_exception(ResultGoneError(job_id))
            continue
        try:
            future.set_result(decode_result(payload).r)
        except msgspec.DecodeError as error:
            future.set_exception(ServerError(f"the result of job {job_id} cannot be read: {error}"))
