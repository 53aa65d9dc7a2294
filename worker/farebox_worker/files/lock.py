"""Opening a file that one process alone may write, and finding out that another does.

The lock is on the file itself, so there is no lock file to lose. Whoever locks a file makes sure, afterwards, that it
still has its name: a file that takes the name over must be locked before it does.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path

from farebox.errors import InputError

FLAGS = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC


def refuse_unfit(path: Path, source: str | Path | None) -> None:
    """Refuse paths where no output file can be. Raises: InputError that says where to put it."""
    if path.is_dir():
        raise InputError(f"{path} is a directory: name a file in it with -o.")
    if path.exists() and not path.is_file():
        raise InputError(f"{path} is no regular file, and answers must survive a crash: name another with -o.")
    if not path.parent.is_dir():
        raise InputError(f"no directory {path.parent}: create it, or name another file with -o.")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise InputError(f"no right to write in {path.parent}: name a file elsewhere with -o.")
    if source is not None and path.exists() and Path(source).exists() and path.samefile(source):
        raise InputError(f"{path} is the input file: name another output file with -o.")


def open_locked(path: Path) -> int:
    """Open and lock the file that has this name at the moment it is locked. Raises: InputError."""
    while True:
        try:
            fd = os.open(path, FLAGS, 0o666)
        except OSError as error:
            raise InputError(f"cannot open {path} for writing: {error.strerror}. Name another file with -o.") from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if has_name(os.fstat(fd), path):
                return fd
        except BlockingIOError:
            os.close(fd)
            raise InputError(f"another run is writing {path}: wait for it, or name another file with -o.") from None
        except OSError as error:
            os.close(fd)
            raise InputError(f"cannot lock {path}: {error.strerror}. Name a file on a local disk with -o.") from error
        os.close(fd)


def has_name(mine: os.stat_result, path: Path) -> bool:
    """Tell whether an open file is the one under this name."""
    with suppress(FileNotFoundError):
        return os.path.samestat(mine, path.stat())
    return False
