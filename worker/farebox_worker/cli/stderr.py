"""stderr as a command needs it: what is told must not end what is done.

Whoever reads it may leave (`| head`, Ctrl-C to a `| tee`), its disk may be full, or nobody opened it. Then words are
lost, and calls that were paid are not.
"""

from __future__ import annotations

import io
import os
import sys
from typing import Any


class _MayBeGone(io.RawIOBase):
    """A file that takes what cannot be written for written."""

    def __init__(self, raw: io.RawIOBase) -> None:
        self._raw = raw

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._raw.fileno()

    def isatty(self) -> bool:
        return self._raw.isatty()

    def write(self, data: Any, /) -> int | None:
        try:
            return self._raw.write(data)
        except OSError:
            return memoryview(data).nbytes


def outlive_stderr() -> None:
    """Let whatever is written to stderr never fail; a letter that its encoding lacks becomes a `?`."""
    if sys.stderr is None:
        raw: Any = io.FileIO(os.devnull, "w")
    elif isinstance(sys.stderr, io.TextIOWrapper):
        raw = getattr(sys.stderr.buffer, "raw", sys.stderr.buffer)
    else:  # a test's
        return
    sys.stderr = io.TextIOWrapper(
        io.BufferedWriter(_MayBeGone(raw)),
        encoding=sys.stderr.encoding if sys.stderr else "utf-8",
        errors="replace",  # one ? keeps its place in the row
        line_buffering=True,
    )
