"""Fills a batch from a source of any length: chunk by chunk, and never more than a window of unfinished jobs."""

from __future__ import annotations

import asyncio
import logging

from farebox.batch import CHUNK_BYTES, CHUNK_JOBS, Submitted
from farebox.errors import InputError, JobConflictError, ServerFullError
from farebox.handle import BatchHandle
from farebox.link import Link
from farebox.records import Job
from farebox.request import Item, Request, job_of, request_of
from farebox.reuse import Reuse

log = logging.getLogger(__name__)

WINDOW_JOBS = 100_000
WINDOW_BYTES = 256_000_000
LOOK_S = 5.0


class Feed:
    """A batch that is being filled. Made by `Client.begin_batch`; `Client.submit_batch` does all of this by itself.

    Call `take` with each item; when it says so, await `flush`; at the end await `seal`.

    Attributes:
        batch_id: the batch that is filled.
        submitted: what was submitted so far.
    """

    def __init__(  # noqa: PLR0913 - what holds for all items
        self,
        link: Link,
        batch_id: str,
        defaults: Request,
        *,
        priority: int,
        not_before_ms: int,
        window_jobs: int = WINDOW_JOBS,
        window_bytes: int = WINDOW_BYTES,
        reuse: Reuse | None = None,
    ) -> None:
        self.batch_id = batch_id
        self.submitted = Submitted(0, 0)
        self._link = link
        self._batch = link.batch(batch_id, reuse)
        self._defaults = defaults
        self._priority = priority
        self._not_before_ms = not_before_ms
        self._window_jobs = window_jobs
        self._window_bytes = window_bytes
        self._chunk: list[Job] = []
        self._size = 0
        self._taken = self._bytes = 0
        self._unfinished = 0
        self._was_sealed = False

    async def open(self) -> None:
        """Create the batch, or take one up again. Raises: LedgerError, BatchClosedError, ServerError."""
        self._was_sealed = await self._link.do(lambda: self._batch.open(self.batch_id))

    def take(self, item: Item) -> bool:
        """Take one item, a `Request` or a dict; True when there is enough to `flush`.

        Raises: InputError naming the item by its number, from 1. What was taken before may be submitted already.
        """
        self._taken += 1
        try:
            request, job_id = request_of(item, self._defaults, self._taken)
            job = job_of(request, job_id)
        except InputError as error:
            raise InputError(
                f"item {self._taken} of batch {self.batch_id!r}: {error}. {self.submitted.created:,} jobs were "
                "submitted; mend it and submit all again under the same name: nothing is asked twice."
            ) from None
        self._chunk.append(job)
        self._size += len(job.body)
        return len(self._chunk) >= CHUNK_JOBS or self._size >= CHUNK_BYTES

    async def flush(self) -> None:
        """Submit what was taken, once the window has room for it.

        Raises: JobConflictError naming ids that were submitted before with another body; BatchClosedError;
        LedgerError; ServerFullError when the server is full and nothing runs that would make room; ServerError.
        """
        chunk, size, self._chunk, self._size = self._chunk, self._size, [], 0
        if not chunk:
            return
        await self._have_room(len(chunk), size)
        self._bytes += size
        self._unfinished += len(chunk)
        self.submitted += await self._submit(chunk)

    async def seal(self, *, ids_days: float = 90, results_days: float = 7) -> BatchHandle:
        """Submit the rest, and declare the batch whole: it is complete when all its jobs have ended.

        Args:
            ids_days: how long its jobs are known once it is complete: so long nothing in it is asked twice.
            results_days: how long after its completion its results can be read.
        """
        await self.flush()
        total = (await self._link.do(self._batch.progress)).submitted
        await self._link.do(lambda: self._batch.seal(total, ids_days=ids_days, results_days=results_days))
        self._link.waiting.ring(self.batch_id)
        done = self.submitted
        return BatchHandle(self._link, self.batch_id, created=done.created, existing=done.existing, reused=done.reused)

    async def give_up(self, *, ids_days: float = 90, results_days: float = 7) -> None:
        """Take no more; a batch that was whole before is whole again, or whoever follows it would wait for ever."""
        self._chunk, self._size = [], 0
        if self._was_sealed:
            await self.seal(ids_days=ids_days, results_days=results_days)

    async def _submit(self, chunk: list[Job]) -> Submitted:
        while True:
            try:
                return await self._link.do(
                    lambda: self._batch.submit(chunk, priority=self._priority, not_before_ms=self._not_before_ms)
                )
            except JobConflictError as error:
                names = {self._batch.job_id(job.custom_id): job.custom_id for job in chunk}
                raise JobConflictError([names.get(identity, identity) for identity in error.job_ids]) from None
            except ServerFullError:  # what runs may make room, as long as something does
                await self._count()
                if self._unfinished == 0:
                    raise
                await asyncio.sleep(0.25)

    async def _have_room(self, jobs: int, size: int) -> None:
        if not self._is_full(jobs, size):
            return
        async with self._link.waiting.news(self.batch_id) as bell:
            while True:
                bell.clear()
                await self._count()
                if not self._is_full(jobs, size):
                    return
                try:
                    await asyncio.wait_for(bell.wait(), LOOK_S)
                except TimeoutError:
                    log.warning(
                        "batch %s: %s jobs are not finished, more are submitted as they end; does a worker run?",
                        self.batch_id,
                        f"{self._unfinished:,}",
                    )

    def _is_full(self, jobs: int, size: int) -> bool:
        if not self._unfinished:
            return False
        mean = self._bytes / max(1, self._taken - jobs)
        too_many = self._unfinished + jobs > self._window_jobs
        return too_many or self._unfinished * mean + size > self._window_bytes

    async def _count(self) -> None:
        progress = await self._link.do(self._batch.progress)
        self._unfinished = progress.submitted - progress.finished
