"""Feeds a batch: submits the lines that are not done, never more than a window of outstanding jobs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator

from redis.exceptions import RedisError

from farebox.batch import CHUNK_BYTES, CHUNK_JOBS, Batch
from farebox.connection import passes
from farebox.errors import InputError, JobConflictError, ServerError
from farebox.records import Job
from farebox_worker.files.lines import Line

WINDOW_JOBS = 20_000  # for a fleet, of which nobody knows how much it takes at once
LEAST_WINDOW_JOBS = 10_000  # two seconds of the fastest worker; each takes 500 bytes of this process
WINDOW_BYTES = 128_000_000


def window_for(slots: int) -> int:
    """How many jobs may be outstanding where so many calls can be in flight; 0 slots are those of a fleet."""
    return min(WINDOW_JOBS, max(LEAST_WINDOW_JOBS, 2 * slots)) if slots else WINDOW_JOBS


class Feed:
    """Submits lines in order while the window has room.

    Args:
        batch: where to.
        lines: the file's lines; bad ones and done ones are passed over.
        is_done: tells whether a job id has its line in OUT.
        done: answered lines that are not among `lines`.
        window: how many jobs may be outstanding.
        outstanding: job ids that were submitted and have no line yet; whoever writes their lines takes them out.

    Attributes:
        sent: jobs handed to the bus by this run, those included that it knew already.
        done: lines that have their answer: given, and passed over.
    """

    def __init__(
        self,
        batch: Batch,
        lines: Iterable[Line],
        *,
        is_done: Callable[[str], bool],
        outstanding: set[str],
        done: int = 0,
        window: int = WINDOW_JOBS,
    ) -> None:
        self._batch = batch
        self._lines = lines
        self._is_done = is_done
        self._outstanding = outstanding
        self._window = window
        self._bytes = 0
        self._numbers: dict[str, int] = {}
        self.sent = 0
        self.done = done

    async def run(self) -> None:
        """Submit everything. Raises: InputError naming the lines whose body changed since they were submitted."""
        chunk: list[Job] = []
        size = 0
        for line in self._open_lines():
            assert line.job is not None  # noqa: S101 - _open_lines passes bad lines over
            chunk.append(line.job)
            size += len(line.job.body)
            if len(chunk) >= CHUNK_JOBS or size >= CHUNK_BYTES:
                await self._submit(chunk, size)
                chunk, size = [], 0
        if chunk:
            await self._submit(chunk, size)

    def _open_lines(self) -> Iterator[Line]:
        for line in self._lines:
            if line.job is None:
                continue
            job_id = self._batch.job_id(line.job.custom_id)
            if self._is_done(job_id):
                self.done += 1
                continue
            self._numbers[job_id] = line.number
            yield line

    async def _submit(self, chunk: list[Job], size: int) -> None:
        while self._is_full(size):  # noqa: ASYNC110 - others take out of a plain set
            await asyncio.sleep(0.02)
        answered = {job_id for job_id in self._numbers if self._is_done(job_id)}  # while this waited for room
        self.done += len(answered)
        chunk = [job for job in chunk if self._batch.job_id(job.custom_id) not in answered]
        self._outstanding.update(self._numbers.keys() - answered)  # first: an answer may come at once
        try:
            await self._insist(chunk)
        except JobConflictError as error:
            lines = sorted(self._numbers.get(job_id, 0) for job_id in error.job_ids)
            shown = ", ".join(str(number) for number in lines[:10]) + (" …" if len(lines) > 10 else "")
            raise InputError(
                f"line {shown} changed since it was submitted, and a call of it may still be answered: restore it, "
                "give it a new custom_id, or start again with another -o."
            ) from error
        self._numbers.clear()
        self.sent += len(chunk)
        self._bytes += size
        await asyncio.sleep(0)

    async def _insist(self, chunk: list[Job]) -> None:
        while True:
            try:
                await self._batch.submit(chunk)
            except (RedisError, OSError) as error:
                if not passes(error):
                    raise
                await asyncio.sleep(0.25)
            except ServerError:  # full: what is answered makes room, as long as something still is
                if len(self._outstanding) <= len(chunk):
                    raise
                await asyncio.sleep(0.25)
            else:
                return

    def _is_full(self, size: int) -> bool:
        outstanding = len(self._outstanding)
        if not outstanding:
            return False
        mean = self._bytes / max(1, self.sent)
        return outstanding >= self._window or outstanding * mean + size > WINDOW_BYTES
