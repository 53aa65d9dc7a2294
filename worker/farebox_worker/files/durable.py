"""The few steps by which a file's name and content survive a crash of the machine."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from farebox_worker.files.lock import open_locked


def write_all(fd: int, content: bytes) -> None:
    """Write everything, though the system may take it in pieces. Raises: OSError, possibly after a part is written."""
    view = memoryview(content)
    while view:
        view = view[os.write(fd, view) :]


def sync_directory(directory: Path) -> None:
    """Make names in a directory durable: a file that was created or renamed is found again after a power loss."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems sync names by themselves
            raise
    finally:
        os.close(fd)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Give a file to write, which takes the name when it is complete: readers see the old or the new.

    When the block raises, nothing has happened. What a kill leaves beside it, the next who writes takes over.
    Raises: OSError; InputError when somebody else is writing it.
    """
    beside = path.with_name(f".{path.name}.tmp")
    fd = open_locked(beside)
    try:
        with os.fdopen(fd, "wb") as file:
            file.truncate()
            yield file
            file.flush()
            os.fsync(file.fileno())
            beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def replace_file(path: Path, content: bytes) -> None:
    """Put new content under a name: readers see the old or the new, never a mixture. Raises: OSError."""
    with replacing(path) as file:
        write_all(file.fileno(), content)
