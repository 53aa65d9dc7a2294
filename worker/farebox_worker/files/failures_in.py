"""The failed lines of an output file: which jobs, of which class. Reads only."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from farebox_worker.files.tally import Note
from farebox_worker.files.written import note_of


def failed_lines(path: Path) -> Iterator[Note]:
    """Read the notes of the jobs whose line says that they failed."""
    with path.open("rb", buffering=1 << 20) as file:
        for line in file:
            if b'"failed"' in line and (note := note_of(line)) and note.outcome == "failed":
                yield note


def class_of(note: Note) -> str:
    """The word by which a failure is counted: our class, or the provider's word in lines of before there were any."""
    return note.failure_class or note.error_code or "unknown"
