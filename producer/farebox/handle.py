"""Handles: a job or a batch that was submitted, from whatever process. They hold no connection of their own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from functools import partial

from farebox.amend import drop, retry_failed
from farebox.answer import Answer, answer_of
from farebox.batch import Batch, Entry
from farebox.errors import ResultGoneError
from farebox.link import Link
from farebox.progress import Progress
from farebox.records import decode_result
from farebox.status import JobStatus, find_place, read_status
from farebox.streams import before, taken_apart

HEAL_S = 5.0  # a batch that another process seals says nothing
GATHER_S = 0.02  # one look at a batch tells of all that ended in this time


class JobHandle:
    """One job. Made by `Client.submit` and `Client.job`.

    Attributes:
        job_id: the id its producer gave it.
        batch_id: the batch it belongs to.
        is_new: False when this submit found the job submitted before, with the same body.
    """

    def __init__(self, link: Link, batch_id: str, job_id: str, *, is_new: bool = False) -> None:
        self.job_id = job_id
        self.batch_id = batch_id
        self.is_new = is_new
        self._link = link
        self._batch = link.batch(batch_id)
        self._id = self._batch.job_id(job_id)

    def __repr__(self) -> str:
        return f"<JobHandle {self.job_id!r} of batch {self.batch_id!r}>"

    async def result(self, timeout: float | None = None) -> Answer:  # noqa: ASYNC109 - it leaves the job alone
        """Wait for the job to end, and return how it did; a job that failed is returned too, with its `error`.

        Any number of handles wait on one connection. A lost connection is made again, and nothing is missed. When a job
        is awaited for 30 s and something holds it up, the logger `farebox` is told what, once per client.

        Args:
            timeout: seconds to wait at most; None for as long as it takes, 0 to look only.

        Raises: TimeoutError when the job has not ended by then (it goes on); ResultGoneError when its result was
        deleted or has expired; ServerError.
        """
        try:
            if timeout is not None and timeout <= 0:
                found = await self._link.do(lambda: self._link.redis.get(self._link.keys.result(self._id)))
                if found is None:
                    raise TimeoutError  # noqa: TRY301 - told below
                return answer_of(self.batch_id, decode_result(found).r)
            with self._link.complaint.about(self.job_id, self._held_up):
                async with asyncio.timeout(timeout):
                    return answer_of(self.batch_id, await self._link.waiting.result(self.batch_id, self._id))
        except TimeoutError:
            raise TimeoutError(f"job {self.job_id!r} has not ended within {timeout:g} s; it goes on.") from None
        except ResultGoneError:
            raise ResultGoneError(self.job_id) from None

    async def status(self) -> JobStatus:
        """Say where the job is, and what holds it up: a limit, a pause, or that no worker serves its model.

        It costs four round trips; wait with `result` instead of asking again and again. Raises: ServerError.
        """
        redis, keys = self._link.redis, self._link.keys
        return await self._link.do(lambda: read_status(redis, keys, self.batch_id, self._id))

    async def _held_up(self) -> str:
        status = await self.status()
        return str(status) if status.reason else ""

    async def cancel(self) -> bool:
        """Cancel the job if it waits: its result says `cancelled` at once, and whoever waits for it is told.

        False when there was nothing to cancel: it has ended, or it runs. A running call is left to its end, for it
        may be paid already. Raises: LedgerError, ServerError.
        """
        return await self._link.do(self._cancel)

    async def _cancel(self) -> bool:
        flow, _, is_running = await find_place(self._link.redis, self._link.keys, self.batch_id, self._id)
        is_dropped = bool(flow) and not is_running and await drop(self._batch, self._id, self.job_id, flow)
        if is_dropped:
            await self._batch.retain()
        return is_dropped


class BatchHandle:
    """One batch. Made by `Client.submit_batch` and `Client.batch`.

    Attributes:
        batch_id: its id, by which any process finds it again.
        created: jobs that the submit which made this handle brought in; 0 for a batch that was found.
        existing: those of its jobs that were there before, with the same body.
        reused: those of the created that have the answer of an identical job (`reuse="content"`).
    """

    def __init__(self, link: Link, batch_id: str, *, created: int = 0, existing: int = 0, reused: int = 0) -> None:
        self.batch_id = batch_id
        self.created = created
        self.existing = existing
        self.reused = reused
        self._link = link
        self._batch: Batch = link.batch(batch_id)

    def __repr__(self) -> str:
        return f"<BatchHandle {self.batch_id!r}>"

    async def results(self, after: str = "", *, deletes: bool = False) -> AsyncGenerator[Answer, None]:
        """Yield the result of each job once, in the order in which they end, until the batch is complete.

        Args:
            after: the `cursor` of the last result that is done with: reading goes on behind it, in any process.
            deletes: delete results from Redis once the next settled group is asked for; others cannot read them then.

        Results that were deleted or have expired are passed over. A job that is retried after it failed is yielded
        again when it ends again. Raises: InputError when there is no such batch, or `after` is no cursor;
        ServerError.
        """
        resumed, count = taken_apart(after) if after else ("", 0)
        place, is_last = (before(resumed) if resumed else "0-0"), False
        async with self._link.waiting.news(self.batch_id) as bell:
            while True:
                bell.clear()
                entries = await self._link.do(partial(self._batch.read, place))
                for entry in entries:
                    for answer in self._answers(entry, skips=count if entry.entry_id == resumed else 0):
                        yield answer
                    place = entry.entry_id
                    if deletes:
                        await self._link.do(partial(self._batch.acknowledge, [entry]))
                if not entries:
                    if is_last:
                        return
                    is_last = (await self.progress()).complete
                    if not is_last:
                        await _heard(bell)

    def _answers(self, entry: Entry, skips: int) -> list[Answer]:
        results = dict(entry.results)
        return [
            answer_of(self.batch_id, results[job], f"{entry.entry_id}/{number}")
            for number, job in enumerate(entry.ids, 1)
            if number > skips and job in results
        ]

    async def progress(self) -> Progress:
        """Count the batch's jobs and money now. Raises: InputError when there is no such batch; ServerError."""
        return await self._link.do(self._batch.progress)

    async def wait(self, timeout: float | None = None) -> Progress:  # noqa: ASYNC109 - it leaves the batch alone
        """Wait until every job has ended, and return the final counts.

        Raises: TimeoutError after `timeout` seconds, with the batch going on; InputError; ServerError.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout) as limit, self._link.waiting.news(self.batch_id) as bell:
                while not limit.expired():  # redis-py can swallow the one cancellation that ends it
                    bell.clear()
                    progress = await self.progress()
                    if progress.complete:
                        return progress
                    await _heard(bell)
                    await asyncio.sleep(GATHER_S)
        raise TimeoutError(f"batch {self.batch_id!r} is not complete within {timeout:g} s; it goes on.")

    async def cancel(self, *, now: bool = False) -> bool:
        """Stop everything that is not sent; calls that run go on to their end.

        True when it was not cancelled before, nor complete: that it stays.
        With `now` running calls are ended too, within a second: what they cost stays unconfirmed.
        Waiting jobs end as `cancelled` when a worker comes by, within seconds. Raises: BatchClosedError when there is
        no such batch; InputError for "default", to which every program's single jobs go; LedgerError; ServerError.
        """
        return await self._link.do(lambda: self._batch.cancel(now=now))

    async def retry_failed(self) -> int:
        """Submit every failed job again, with the body it had; return how many. Their failures are forgotten.

        Only those can be retried whose result is still here. Raises: BatchClosedError when the batch is cancelled;
        LedgerError; ServerError.
        """
        return await self._link.do(lambda: retry_failed(self._batch))


async def _heard(bell: asyncio.Event) -> None:
    with suppress(TimeoutError):
        await asyncio.wait_for(bell.wait(), HEAL_S)
