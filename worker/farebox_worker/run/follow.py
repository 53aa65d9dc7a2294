"""Follows a batch: reads its result stream, appends to OUT what is not there, syncs, and only then acknowledges.

Killed between any two of these steps, the next run finds either a result that is still in Redis or a line in OUT,
never neither; ids that are in OUT already are skipped, but where a retry has replaced a failure.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

from farebox.batch import Batch, Entry
from farebox.records import Result
from farebox_worker.files.answers import output_line
from farebox_worker.files.destination import Copy
from farebox_worker.files.failures_in import failed_lines
from farebox_worker.files.output import OutputFile
from farebox_worker.files.written import note_of

SYNC_S = 1.0
SYNC_LINES = 1000
READ_ENTRIES = 32  # of up to 64 results each, so that results which piled up are read in pieces
BLOCK_MS = 200


class Follow:
    """Writes a batch's results to OUT.

    Args:
        batch: what to follow.
        out: where to.
        deletes: acknowledge what is synced, so that Redis holds a window only.
        copy: copies to stdout what is synced.

    Attributes:
        outstanding: jobs that were submitted and have no line yet; `Feed` adds, a written line takes out.
        written: lines this run wrote.
    """

    def __init__(self, batch: Batch, out: OutputFile, *, deletes: bool = True, copy: Copy | None = None) -> None:
        self._batch = batch
        self._out = out
        self._deletes = deletes
        self._copy = copy
        self._after = "0-0"
        self._unsynced: list[Entry] = []
        self._unsynced_lines = 0
        self._synced_s = time.monotonic()
        self.outstanding: set[str] = set()
        self.written = 0
        self._gone: set[str] = set()

    async def step(self, *, block_ms: int = BLOCK_MS) -> int:
        """Read and write once; return how many results came. Raises: OutputError (nothing is acknowledged then)."""
        entries = await self._batch.read(self._after, count=READ_ENTRIES, block_ms=block_ms)
        came = sum(len(entry.results) for entry in entries)
        if entries:
            self._after = entries[-1].entry_id
            self._write(entries)
        due = time.monotonic() - self._synced_s >= SYNC_S or self._unsynced_lines >= SYNC_LINES
        if self._unsynced and due:
            await self.sync()
        return came

    def _write(self, entries: list[Entry]) -> None:
        self._take_out_stale({job: result for entry in entries for job, result in entry.results})
        fresh: list[tuple[str, Result]] = []
        for entry in entries:
            fresh += [(job, result) for job, result in entry.results if job not in self._out.done]
            self._gone.update(job for job in entry.gone if job not in self._out.done)
            self._gone.difference_update(job for job, _ in entry.results)
        self.written += self._out.append([self._line(job, result) for job, result in fresh])
        self.outstanding.difference_update(job for entry in entries for job, _ in entry.results)
        self._unsynced += entries
        self._unsynced_lines += len(fresh)

    def _take_out_stale(self, results: Mapping[str, Result]) -> None:
        """Take out the failed lines of jobs that were retried since, and have ended anew."""
        anew = {job for job in results if job in self._out.done}
        if not anew or not self._out.tally.outcomes["failed"]:
            return
        self._make_durable()
        self._out.keep()
        stale = [
            note.job
            for note in failed_lines(self._out.path)
            if note.job in anew and note != note_of(self._line(note.job, results[note.job]))
        ]
        if stale:
            self._out.rewrite_without(stale)
            if self._copy:
                self._copy.skip_to(self._out.synced_length)

    def _line(self, job_id: str, result: Result) -> bytes:
        invalid = self._out.fit.flaw(result) if self._out.fit else ""
        return output_line(job_id, result, self._batch.batch_id, invalid)

    async def lost(self) -> int:
        """Count the results that expired or were deleted before they were read; jobs that were put back still come."""
        gone = [self._batch.keys.job(job) for job in self._gone]
        slices = (gone[start : start + 1000] for start in range(0, len(gone), 1000))
        waiting: int = sum([await self._batch.redis.exists(*some) for some in slices])
        return len(gone) - waiting

    async def sync(self) -> None:
        """Make what was written durable, then acknowledge it."""
        await asyncio.get_running_loop().run_in_executor(None, self._make_durable)
        self._out.keep()
        self._synced_s = time.monotonic()
        if self._deletes:
            await self._batch.acknowledge(self._unsynced)
        self._unsynced, self._unsynced_lines = [], 0

    async def catch_up(self) -> None:
        """Write and acknowledge everything that has ended by now."""
        while await self.step(block_ms=1):
            pass
        await self.sync()

    def _make_durable(self) -> None:
        self._out.flush()
        if self._copy:
            self._copy.catch_up(self._out.synced_length)
