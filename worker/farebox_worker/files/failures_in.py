"""The failed lines of an output file: which jobs, of which class; and answers that do not match. Reads only."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

from farebox_worker.files.tally import Note
from farebox_worker.files.written import note_of

INVALID = "invalid"  # the class of answers that do not match the schema
CANCELLED = "cancelled"  # the class of jobs that did not fail, but were cancelled


def failed_lines(path: Path, *, also: Collection[str] = ()) -> Iterator[Note]:
    """Read the notes of the jobs whose line says that they failed.

    Named in `also`, those of the classes `invalid`, answered in another form than asked for, and `cancelled` too.
    """
    wanted = {INVALID, CANCELLED}.intersection(also)
    marks = [f'"{word}"'.encode() for word in ("failed", *wanted)]
    with path.open("rb", buffering=1 << 20) as file:
        for line in file:
            if not any(mark in line for mark in marks) or not (note := note_of(line)):
                continue
            if note.outcome == "failed" or class_of(note) in wanted:
                yield note


def class_of(note: Note) -> str:
    """The word by which a failure is counted: our class, or the provider's word in lines of before there were any."""
    if note.invalid:
        return INVALID
    return CANCELLED if note.outcome == "cancelled" else note.failure_class or note.error_code or "unknown"
