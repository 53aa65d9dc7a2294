"""What an output file holds: which jobs have their line, how they ended, what they cost.

Lines are split at newlines only and read no deeper than their member `farebox`. Nothing here writes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec

from farebox.errors import InputError
from farebox.records import job_id as name_job
from farebox_worker.files.table import NameSet
from farebox_worker.files.tally import Note, Tally

PREFIX = b'{"id":"farebox-'  # how every line of ours begins
_HEAD_BYTES = 64


NameNow = Callable[[str, str], str]  # from a line's custom_id and model_ref: the custom_id of the same question now


class ForeignFileError(InputError):
    """The file was not written by Farebox."""


class _Error(msgspec.Struct):
    code: str = ""
    message: str = ""


class OwnLine(msgspec.Struct):
    """What is read of a line of ours."""

    farebox: Note
    custom_id: str = ""
    error: _Error | None = None


_decode = msgspec.json.Decoder(OwnLine).decode


def note_of(line: bytes) -> Note | None:
    """Read the note of a complete line; None when it is no line of ours."""
    own = own_of(line)
    return None if own is None else _note(own)


def own_of(line: bytes) -> OwnLine | None:
    """Read a complete line; None when it is no line of ours."""
    try:
        return _decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def same_job(own: OwnLine, name_now: NameNow | None) -> str:
    """The job that asks the same under the name it has now; "" where it has no other name."""
    note = own.farebox
    if name_now is None or (name := name_now(own.custom_id, note.model_ref)) == own.custom_id:
        return ""
    return name_job(note.job.rpartition(":")[0], note.batch, name)


def _note(own: OwnLine) -> Note:
    if own.error:
        return msgspec.structs.replace(own.farebox, error_code=own.error.code, error_message=own.error.message)
    return own.farebox


class Written:
    """The jobs that have their line, in 9 bytes a line. What was added last can be forgotten until it is kept.

    Attributes:
        tally: the lines, counted.
        batch: the batch of the newest line, "" when there is none.
    """

    def __init__(self) -> None:
        self.tally = Tally()
        self.batch = ""
        self._kept = NameSet()
        self._renamed = NameSet()
        self._fresh: dict[str, Note] = {}

    def __len__(self) -> int:
        return len(self._kept) + len(self._fresh)

    def __contains__(self, job_id: object) -> bool:
        return isinstance(job_id, str) and self.contains(job_id)

    def contains(self, job_id: str) -> bool:
        """Tell whether the job has its line."""
        if job_id in self._fresh or job_id in self._kept:
            return True
        return len(self._renamed) > 0 and job_id in self._renamed

    def add(self, note: Note) -> bool:
        """Count a job; False when it has its line already."""
        if self.contains(note.job):
            return False
        self._fresh[note.job] = note
        self.tally.count(note)
        self.batch = note.batch or self.batch
        return True

    def adopt(self, own: OwnLine, name_now: NameNow | None) -> None:
        """Take in a line of the file; it stands for the job too that asks the same under the name it has now."""
        note = _note(own)
        if (len(self._renamed) and note.job in self._renamed) or not self._kept.add(note.job):
            return
        self.tally.count(note)
        self.batch = note.batch or self.batch
        if name_now and (same := same_job(own, name_now)):
            self._renamed.add(same)

    def keep(self) -> None:
        """Make what was added final."""
        for job_id in self._fresh:
            self._kept.add(job_id)
        self._fresh.clear()

    def forget(self) -> None:
        """Undo what was added since it was last kept."""
        for note in self._fresh.values():
            self.tally.count(note, -1)
        self._fresh.clear()


def scan(file: BinaryIO, path: object, name_now: NameNow | None = None) -> tuple[Written, int]:
    """Read a file of ours from its start; return what it holds and its length up to the last complete line.

    A last line without its newline was torn by a crash. So were last lines with NUL bytes in them: JSON has none,
    but a machine that loses power can leave them in place of what it had not synced.

    `name_now` knows under which custom_id a line's question would be asked now, where that is another.

    Raises: ForeignFileError when the file is not ours; InputError when a line in it is not.
    """
    if (head := file.read(_HEAD_BYTES)) and not head.lstrip().startswith(b"{") and not head.isspace():
        raise _foreign(path)
    file.seek(0)
    written = Written()
    length = hole = 0
    for number, line in enumerate(file, start=1):
        if not line.endswith(b"\n"):
            if not length and not _may_be_torn(line):
                raise _foreign(path)
            break
        own = own_of(line)
        if own is None and not line.isspace():
            if not len(written):
                raise _foreign(path)
            if b"\0" not in line:
                raise _damaged(path, number)
            hole = hole or number
        elif own and hole:
            raise _damaged(path, hole)
        elif own:
            written.adopt(own, name_now)
        length += 0 if hole else len(line)
    return written, length


def _may_be_torn(line: bytes) -> bool:
    """Tell whether these bytes can be the beginning of a line of ours."""
    return line.startswith(PREFIX) or PREFIX.startswith(line)


def _foreign(path: object) -> ForeignFileError:
    return ForeignFileError(
        f"{path} was not written by Farebox. Name another file with -o, or replace its content with --overwrite."
    )


def _damaged(path: object, number: int) -> InputError:
    return InputError(f"{path}:{number}: not a line of Farebox's. Delete that line and run the same command again.")


def notes_of(path: Path, job_ids: Collection[str]) -> Iterator[Note]:
    """Read the notes of the lines of these jobs."""
    with path.open("rb", buffering=1 << 20) as file:
        for line in file:
            note = note_of(line)
            if note is not None and note.job in job_ids:
                yield note


def lines_without(file: BinaryIO, job_ids: Iterable[str]) -> Iterable[bytes]:
    """Read the lines of ours from the file's start, but for those of the given jobs."""
    dropped = frozenset(job_ids)
    file.seek(0)
    for line in file:
        note = note_of(line)
        if note is not None and note.job not in dropped:
            yield line
