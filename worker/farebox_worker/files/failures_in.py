"""The failed lines of an output file: which jobs, of which class; and answers that do not match. Reads only."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from farebox_worker.files.tally import Note
from farebox_worker.files.written import note_of

INVALID = "invalid"  # the class of answers that do not match the schema


def failed_lines(path: Path, *, with_invalid: bool = False) -> Iterator[Note]:
    """Read the notes of the jobs whose line says that they failed, or were answered in another form than asked for."""
    marks = (b'"failed"', b'"invalid"') if with_invalid else (b'"failed"',)
    with path.open("rb", buffering=1 << 20) as file:
        for line in file:
            if not any(mark in line for mark in marks) or not (note := note_of(line)):
                continue
            if note.outcome == "failed" or (with_invalid and note.invalid):
                yield note


def class_of(note: Note) -> str:
    """The word by which a failure is counted: our class, or the provider's word in lines of before there were any."""
    return INVALID if note.invalid else note.failure_class or note.error_code or "unknown"
