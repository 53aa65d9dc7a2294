"""Whether IN is still what it was when its lines were last laid beside OUT, told by its bytes.

A million lines are hashed in a second, where comparing each with what was submitted takes half a minute.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import BinaryIO

import msgspec

from farebox.errors import InputError
from farebox_worker.files.source import Source, begin, is_archive

_PIECE_BYTES = 1 << 22
_TOLD_BYTES = 1 << 28


class Compared(msgspec.Struct, frozen=True):
    """What IN was when everything submitted of it was found to be as its lines say.

    `asked` stands for the flags that made jobs of the lines, `last_line` is the number of the last one.
    """

    sha256: str
    size: int
    asked: str
    last_line: int


class Content:
    """The bytes of IN as they are now.

    Args:
        source: the input.
        asked: stands for the flags that make jobs of its lines.
        before: what it was earlier, to be compared with.
        tell: hears how far it is.

    Attributes:
        known_lines: up to this number lines are what they were, 0 when they may not be.
        is_whole: there are no further lines.

    Raises: InputError when it cannot be read.
    """

    def __init__(self, source: Source, asked: str, before: Compared | None, tell: Callable[[str], object]) -> None:
        self._source = source
        self._asked = asked
        self.known_lines = 0
        self.is_whole = False
        try:
            self._stamp = source.stamp()
            with source.raw() as file:
                self._digest(file, before if before and before.asked == asked else None, tell)
        except OSError as error:
            raise InputError(f"cannot read {source.path}: {error.strerror or error}") from error

    def _digest(self, file: BinaryIO, before: Compared | None, tell: Callable[[str], object]) -> None:
        digest, size, known = hashlib.sha256(), 0, before.size if before else 0
        is_packed = is_archive(begin(file))
        while piece := file.read(min(_PIECE_BYTES, known - size) if size < known else _PIECE_BYTES):
            digest.update(piece)
            size += len(piece)
            if before and size == known and digest.hexdigest() == before.sha256:
                self.is_whole = not begin(file)
                if self.is_whole or (piece.endswith(b"\n") and not is_packed):
                    self.known_lines = before.last_line
            if size % _TOLD_BYTES < len(piece):
                tell(f"reading: {size / 1e6:,.0f} MB")
        self._sha256, self._size = digest.hexdigest(), size

    def compared(self, last_line: int) -> Compared | None:
        """What to remember of it, once all is compared; None when somebody has written to it since."""
        try:
            is_same = self._source.stamp() == self._stamp
        except OSError:
            return None
        return Compared(self._sha256, self._size, self._asked, last_line) if is_same else None
