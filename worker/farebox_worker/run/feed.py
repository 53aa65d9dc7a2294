"""Feeds a batch: submits the lines that are not done, never more than a window of outstanding jobs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator

from farebox.batch import CHUNK_BYTES, CHUNK_JOBS, Batch
from farebox.errors import InputError, JobConflictError
from farebox.records import Job
from farebox_worker.files.lines import Line

WINDOW_JOBS = 20_000
WINDOW_BYTES = 128_000_000


class Feed:
    """Submits lines in order while the window has room.

    Args:
        batch: where to.
        lines: the file's lines; bad ones and done ones are passed over.
        is_done: tells whether a job id has its line in OUT.
        written: how many jobs of this run have been written to OUT since it began.

    Attributes:
        sent: jobs handed to the bus by this run, existing ones included.
        total: good lines seen so far; all of them once `finished`.
    """

    def __init__(
        self, batch: Batch, lines: Iterable[Line], *, is_done: Callable[[str], bool], written: Callable[[], int]
    ) -> None:
        self._batch = batch
        self._lines = lines
        self._is_done = is_done
        self._written = written
        self._bytes = 0
        self._numbers: dict[str, int] = {}
        self.sent = 0
        self.total = 0
        self.finished = False

    async def run(self) -> None:
        """Submit everything. Raises: InputError naming the lines whose body changed since they were submitted."""
        chunk: list[Job] = []
        size = 0
        for line in self._open_lines():
            assert line.job is not None  # noqa: S101 - _open_lines passes bad lines over
            chunk.append(line.job)
            self._numbers[self._batch.job_id(line.job.custom_id)] = line.number
            size += len(line.job.body)
            if len(chunk) >= CHUNK_JOBS or size >= CHUNK_BYTES:
                await self._submit(chunk, size)
                chunk, size = [], 0
        if chunk:
            await self._submit(chunk, size)
        self.finished = True

    def _open_lines(self) -> Iterator[Line]:
        for line in self._lines:
            if line.job is None:
                continue
            self.total += 1
            if not self._is_done(self._batch.job_id(line.job.custom_id)):
                yield line

    async def _submit(self, chunk: list[Job], size: int) -> None:
        while self._is_full(size):
            await asyncio.sleep(0.02)
        try:
            await self._batch.submit(chunk)
        except JobConflictError as error:
            lines = sorted(self._numbers.get(job_id, 0) for job_id in error.job_ids)
            shown = ", ".join(str(number) for number in lines[:10]) + (" …" if len(lines) > 10 else "")
            raise InputError(
                f"line {shown} changed since it was submitted, and is not answered yet: restore it, "
                "give it a new custom_id, or start again with another -o."
            ) from error
        self._numbers.clear()
        self.sent += len(chunk)
        self._bytes += size
        await asyncio.sleep(0)

    def _is_full(self, size: int) -> bool:
        outstanding = self.sent - self._written()
        if outstanding <= 0:
            return False
        mean = self._bytes / max(1, self.sent)
        return outstanding >= WINDOW_JOBS or outstanding * mean + size > WINDOW_BYTES


async def changed_lines(batch: Batch, lines: Iterable[Line], is_done: Callable[[str], bool]) -> list[Line]:
    """Find done lines whose job now asks something else, as far as the server remembers what was asked."""
    changed: list[Line] = []
    chunk: list[Line] = []
    for line in lines:
        if line.job is not None and is_done(batch.job_id(line.job.custom_id)):
            chunk.append(line)
        if len(chunk) >= CHUNK_JOBS:
            changed += await _changed(batch, chunk)
            chunk = []
    return changed + (await _changed(batch, chunk) if chunk else [])


async def _changed(batch: Batch, chunk: list[Line]) -> list[Line]:
    differs = await batch.differing([line.job for line in chunk if line.job])
    return [line for line, is_other in zip(chunk, differs, strict=True) if is_other]
