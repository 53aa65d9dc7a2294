"""The output file: the authority on what is done, append-only, one complete line per job, each exactly once.

A line counts once it is synced; only then may its result be acknowledged. Whatever tears a write (a kill, a full
disk, a power loss), the next `open` finds complete lines only. It never waits, never reads results, never deletes.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Self

from farebox.errors import FareboxError
from farebox_worker.files.durable import sync_directory, write_all
from farebox_worker.files.fit import Fit
from farebox_worker.files.line_index import LineIndex
from farebox_worker.files.lock import FLAGS, has_name, open_locked, refuse_unfit
from farebox_worker.files.tally import Tally
from farebox_worker.files.written import ForeignFileError, NameNow, Written, lines_without, note_of, scan

_BUFFER_BYTES = 1 << 20
FULL = (errno.ENOSPC, errno.EDQUOT)


class OutputError(FareboxError):
    """The output file cannot be written; it was cut back to its last synced line. `path` is the file."""

    def __init__(self, path: Path, reason: str, advice: str) -> None:
        self.path = path
        super().__init__(f"cannot write {path}: {reason}. {advice}, and run the same command again: nothing is lost.")


class DiskFullError(OutputError):
    """The disk or the quota of the output file is full."""


def default_output(path: str | Path) -> Path:
    """Name the output file of an input file: `prompts.jsonl` becomes `prompts.jsonl.out.jsonl`."""
    return Path(f"{path}.out.jsonl")


class OutputFile:
    """An output file that this process alone writes, from `open` to `close`.

    The lock (`lock.py`) stays right when `rewrite_without` puts another file under the name: that one is locked before
    it takes the name. A forked child shares the lock: fork before opening.

    Attributes:
        path: the file, symbolic links resolved.
        done: the jobs that have their line; `job_id in done`.
        synced_length: in bytes, what is on the disk for certain.
        fit: judges the answers that are written; None where no schema was asked for.
    """

    def __init__(self, path: Path, fd: int, name_now: NameNow | None = None) -> None:
        self.path = path
        self._name_now = name_now
        self.done = Written()
        self.synced_length = 0
        self.fit: Fit | None = None
        self._length = 0
        self._fd = fd
        self._broken = False

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        overwrite: bool = False,
        source: str | Path | None = None,
        name_now: NameNow | None = None,
    ) -> Self:
        """Lock the file, creating it if need be; cut what is torn, and read what is done.

        `overwrite` replaces the content of a file that is not ours; answers of ours are always kept.
        `source` is the input file, which must be another one. `name_now` is for `scan`.

        Raises: InputError when the file is not fit, not ours, or in use; OutputError when the disk fails.
        """
        path = Path(os.path.realpath(path))
        refuse_unfit(path, source)
        out = cls(path, open_locked(path), name_now)
        try:
            with _explaining(path):
                out._copy_path.unlink(missing_ok=True)  # a killed run may have left it
                out._adopt(overwrite)
        except BaseException:
            os.close(out._fd)
            raise
        return out

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def lines(self) -> int:
        """How many jobs have their line."""
        return len(self.done)

    @property
    def spent_nusd(self) -> int:
        """What these jobs cost, in nano-dollars."""
        return self.done.tally.cost_nusd

    @property
    def tally(self) -> Tally:
        """Its lines, counted."""
        return self.done.tally

    def append(self, lines: Iterable[bytes]) -> int:
        """Write lines in one go, leaving out jobs that have theirs already; return how many were written.

        Raises: ValueError when one is not a complete line of ours; OutputError, after which the file is cut back to
        `synced_length`, `done` with it, and takes nothing more.
        """
        self._refuse_broken()
        noted = [(line, note_of(line)) for line in lines]
        if any(note is None or line.find(b"\n") != len(line) - 1 for line, note in noted):
            raise ValueError("not an output line: it must be one line of JSON as output_line builds it")
        with self._cutting_back():
            fresh = [line for line, note in noted if note and self.done.add(note)]
            content = b"".join(fresh)
            write_all(self._fd, content)
            self._length += len(content)
        return len(fresh)

    def sync(self) -> None:
        """Bring what was appended onto the disk: afterwards its results may be acknowledged.

        Raises: OutputError as `append` does, and when the file was changed, moved or deleted by something else.
        """
        self.flush()
        self.keep()

    def flush(self) -> None:
        """Do the part of `sync` that waits for the disk, in another thread if need be; the rest is to `keep` it."""
        self._refuse_broken()
        if self._length == self.synced_length:
            return
        self._refuse_changed()
        with self._cutting_back():
            os.fsync(self._fd)
            self.synced_length = self._length

    def keep(self) -> None:
        """Make final in `done` what was flushed, in the thread of those who ask it: its tables belong to one."""
        self.done.keep()

    def rewrite_without(self, job_ids: Collection[str]) -> int:
        """Take out the lines of these jobs, which will be asked again; return how many were taken out.

        A copy is written beside the file and takes its name when complete: a crash leaves the old file or the new.
        Raises: OutputError; the file is then as it was.
        """
        self.sync()
        self._refuse_changed()
        before = self.lines
        with _explaining(self.path):
            with _reader(self._fd) as file:
                fd = self._locked_copy(lines_without(file, job_ids))
            os.close(self._fd)
            self._fd = fd
            self._adopt(overwrite=False)
        return before - self.lines

    def put_in_order(self, job_ids: Iterable[str]) -> bool:
        """Bring the lines into the order of these jobs, others behind them; False when they stand so already.

        As in `rewrite_without`, a crash leaves the old file or the new. Raises: OutputError; the file is as it was.
        """
        self.sync()
        self._refuse_changed()
        with _explaining(self.path), _reader(self._fd) as file:
            lines = LineIndex(file, self._name_now).in_order(job_ids)
            if lines is None:
                return False
            fd = self._locked_copy(lines)
        os.close(self._fd)
        self._fd = fd
        self._length = self.synced_length = os.fstat(fd).st_size
        with _explaining(self.path):
            sync_directory(self.path.parent)
        return True

    def index(self) -> LineIndex:
        """Find where each line stands, of what is written so far; good until the file is rewritten."""
        with _reader(self._fd) as file:
            return LineIndex(file, self._name_now)

    def close(self) -> None:
        """Sync what is left, and let go of the file. Raises: OutputError as `sync` does; the file is closed anyway."""
        if self._fd < 0:
            return
        try:
            if not self._broken:
                self.sync()
        finally:
            os.close(self._fd)
            self._fd = -1

    def _adopt(self, overwrite: bool) -> None:
        """Read the file, cut what is torn, and make sure of the rest: a killed run may have left it unsynced."""
        try:
            with _reader(self._fd) as file:
                self.done, self._length = scan(file, self.path, self._name_now)
        except ForeignFileError:
            if not overwrite:
                raise
        os.ftruncate(self._fd, self._length)
        os.fsync(self._fd)
        sync_directory(self.path.parent)
        self.synced_length = self._length

    @property
    def _copy_path(self) -> Path:
        return self.path.with_name(f".{self.path.name}.rewrite.tmp")

    def _locked_copy(self, lines: Iterable[bytes]) -> int:
        """Put these lines under the name and return their descriptor; it is locked before it takes the name."""
        beside = self._copy_path
        fd = os.open(beside, FLAGS | os.O_TRUNC, 0o600)
        try:
            os.fchmod(fd, stat.S_IMODE(os.fstat(self._fd).st_mode))
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with open(fd, "wb", buffering=_BUFFER_BYTES, closefd=False) as copy:
                copy.writelines(lines)
            os.fsync(fd)
            beside.replace(self.path)
        except BaseException:
            os.close(fd)
            beside.unlink(missing_ok=True)
            raise
        return fd

    @contextmanager
    def _cutting_back(self) -> Iterator[None]:
        """On any error, an interrupt too, cut back to what is certain and take nothing more.

        It takes nothing more because the fsync after a failed one can succeed though the data is gone.
        """
        try:
            with _explaining(self.path):
                yield
        except BaseException:
            self._broken = True
            self.done.forget()
            with suppress(OSError):
                os.ftruncate(self._fd, self.synced_length)
                os.fsync(self._fd)
            self._length = self.synced_length
            raise

    def _refuse_broken(self) -> None:
        if self._broken or self._fd < 0:
            raise OutputError(self.path, "it is closed, or failed earlier", "See the first error")

    def _refuse_changed(self) -> None:
        """Acknowledge nothing into a file that is no longer the one with this name, or that others write to."""
        mine = os.fstat(self._fd)
        if mine.st_size == self._length and has_name(mine, self.path):
            return
        self._broken = True
        self.done.forget()
        raise OutputError(self.path, "something else changed, moved or deleted it during the run", "Put it back")


def _reader(fd: int) -> BinaryIO:
    file = open(fd, "rb", buffering=_BUFFER_BYTES, closefd=False)  # noqa: SIM115 - a descriptor, closed by callers
    file.seek(0)
    return file


@contextmanager
def _explaining(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = f"{error.strerror or error} ({errno.errorcode.get(error.errno or 0, 'unknown')})"
        if error.errno in FULL:
            raise DiskFullError(path, reason, "Free space") from error
        raise OutputError(path, reason, "Repair that") from error
