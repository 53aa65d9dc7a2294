"""Where a run's answers go: OUT, a table beside it, a copy on stdout.

OUT is a plain JSONL file, always: it is appended to and synced line by line, and is the authority on what is done.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from farebox.errors import FareboxError, InputError
from farebox_worker.files.output import default_output
from farebox_worker.files.source import Source, is_packed, is_pipe, is_table

STDOUT = "-"
_PIECE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Destination:
    """`table` is a CSV file that is made of OUT when a run ends, `is_copied` says that OUT goes to stdout too."""

    out: Path
    table: Path | None = None
    is_copied: bool = False

    def refuse_foreign_table(self, source: Path) -> None:
        """Refuse to replace a table that no run has made. Raises: InputError."""
        if self.table is None or not self.table.exists():
            return
        if source.exists() and self.table.samefile(source):
            raise InputError(f"{self.table} is the input file: name another table with -o.")
        if not self.out.exists():
            raise InputError(
                f"{self.table} is there, and no run made it ({self.out} is not there). Name another with -o, or "
                "replace it with --overwrite."
            )


def refuse_unkept(output: Path | None, source: Path) -> None:
    """Refuse a run from a pipe to a pipe: nothing would keep what is answered. Raises: InputError."""
    if is_pipe(source) and (output is None or str(output) == STDOUT):
        raise InputError(
            "IN is a pipe: name a file with -o, which keeps what is answered and paid for, whatever happens."
        )


def destination(output: Path | None, source: Source) -> Destination:
    """Find out where answers go. Raises: InputError for a compressed OUT."""
    is_stdout = str(output) == STDOUT
    if output is None or is_stdout:
        table = Path(f"{source.path}.out.csv") if source.format == "csv" and not is_stdout else None
        return Destination(default_output(source.path), table, is_stdout)
    if is_packed(output):
        plain = output.with_suffix("")
        raise InputError(
            f"{output} would be compressed, and answers are appended and synced one by one: write {plain}, and then "
            f"`farebox export {plain} -o {output}`."
        )
    return Destination(output.with_suffix(".jsonl"), output) if is_table(output) else Destination(output)


class StdoutClosedError(FareboxError):
    """Stdout takes no more answers: whoever read them has gone, or the disk is full."""

    def __init__(self, out: Path, error: OSError) -> None:
        why = "nobody reads stdout any more" if isinstance(error, BrokenPipeError) else f"stdout: {error.strerror}"
        super().__init__(f"{why}. {out} keeps the answers; the same command goes on.")


class Copy:
    """Copies OUT to stdout, as far as it is synced; from its start, so that a repeated run gives all of it."""

    def __init__(self, out: Path, stream: BinaryIO | None = None) -> None:
        self._out = out
        self._stream = stream or sys.stdout.buffer
        self._length = 0

    def skip_to(self, length: int) -> None:
        """Take what stands before this length for copied: OUT was rewritten, and what it lost was copied before."""
        self._length = length

    def catch_up(self, length: int) -> None:
        """Copy what is new up to this length. Raises: StdoutClosedError."""
        with self._out.open("rb") as file:
            file.seek(self._length)
            try:
                while self._length < length and (piece := file.read(min(_PIECE_BYTES, length - self._length))):
                    self._stream.write(piece)
                    self._length += len(piece)
                self._stream.flush()
            except OSError as error:
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains at its end
                raise StdoutClosedError(self._out, error) from None
