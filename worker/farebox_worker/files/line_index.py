"""Where each job's line stands in an output file: 20 bytes a line, so that lines can be read in any order."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable, Iterator
from typing import BinaryIO

from farebox_worker.files.table import NameTable
from farebox_worker.files.written import NameNow, own_of, same_job


class LineIndex:
    """The lines of a file of ours, from its start to its end as it is now; `name_now` is for `same_job`."""

    def __init__(self, file: BinaryIO, name_now: NameNow | None = None) -> None:
        self._fd = file.fileno()
        self._numbers = NameTable()
        self._starts = array("Q")
        self._ends = array("Q")
        end = 0
        for line in file:
            start, end = end, end + len(line)
            own, number = own_of(line), len(self._starts) + 1
            if own is None or self._numbers.add(own.farebox.job, number):
                continue
            self._starts.append(start)
            self._ends.append(end)
            if same := same_job(own, name_now):
                self._numbers.add(same, number)

    def __len__(self) -> int:
        return len(self._starts)

    def line(self, job_id: str) -> bytes | None:
        """Read a job's line; None when it has none."""
        number = self._numbers.get(job_id)
        return self._read(number) if number else None

    def in_order(self, job_ids: Iterable[str]) -> Iterator[bytes] | None:
        """The lines of these jobs in their order, then the others; None when they stand so already."""
        order, is_placed = array("I"), bytearray(len(self) + 1)
        for number in map(self._numbers.get, job_ids):
            if number and not is_placed[number]:
                is_placed[number] = 1
                order.append(number)
        order.extend(number for number in range(1, len(self) + 1) if not is_placed[number])
        if all(number == place for place, number in enumerate(order, 1)):
            return None
        return map(self._read, order)

    def _read(self, number: int) -> bytes:
        start = self._starts[number - 1]
        return os.pread(self._fd, self._ends[number - 1] - start, start)
