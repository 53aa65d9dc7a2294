"""Opening the input: a file or a pipe, plain, `.gz` or `.zst`, as bytes that can be read from the start again.

Compression is told by the first bytes, not by the name. What comes through a pipe is kept in an unnamed file while
the command runs: it is judged before anything is sent, and read once more when it is sent.
"""

from __future__ import annotations

import gzip
import io
import os
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

import zstandard

from farebox.errors import InputError

Format = Literal["jsonl", "csv"]

STDIN = "-"
_BUFFER_BYTES = 1 << 20
_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"
_PACKED = (".gz", ".zst")
_TABLES = (".csv", ".tsv")
_PIECE_BYTES = 1024  # of zstd input: one piece becomes 32 MB at most, be it made for that


class ArchiveError(Exception):
    """A compressed file is cut short or damaged; the message is a clause that says so."""


@dataclass(frozen=True, slots=True)
class Source:
    """An input that can be read as often as need be.

    Attributes:
        path: what messages call it; a pipe is called `stdin`.
        format: `csv` for a table with a header, `jsonl` for an object a line.
        spool: what came through a pipe; None when `path` is the file.
    """

    path: Path
    format: Format = "jsonl"
    spool: Spool | None = None

    def open(self) -> BinaryIO:
        """Open it from the start, decompressed. Raises: OSError; reading raises ArchiveError too."""
        return unpacked(self.raw())

    def raw(self) -> BinaryIO:
        """Open it from the start as it is. Raises: OSError."""
        return self.spool.open() if self.spool else self.path.open("rb", buffering=_BUFFER_BYTES)

    def stamp(self) -> tuple[int, ...]:
        """What changes when somebody writes to the file, or puts another in its place. Raises: OSError."""
        if self.spool:
            return ()
        status = self.path.stat()
        return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def take(path: Path, format_: Format | None = None, *, tell: Callable[[str], object] = lambda _: None) -> Source:
    """Find an input by its path; `-` is stdin. A pipe is read to its end, and `tell` hears how far.

    Without a format the name says it: `.csv` and `.tsv`, also packed, are tables.
    Raises: InputError when there is none.
    """
    is_stdin = str(path) == STDIN
    if not is_stdin and path.is_dir():
        raise InputError(f"{path} is a directory: name a file of prompts in it.")
    if not is_stdin and not path.exists():
        raise InputError(f"no file {path}: IN is a JSONL file of prompts, one JSON object a line, or a CSV table.")
    chosen = format_ or ("csv" if is_table(bare(path)) else "jsonl")
    if not is_pipe(path):
        return Source(path, chosen)
    try:
        with open(0 if is_stdin else path, "rb", buffering=0, closefd=not is_stdin) as pipe:
            return Source(Path("stdin") if is_stdin else path, chosen, Spool(pipe, tell))
    except OSError as error:
        raise InputError(f"cannot read {'stdin' if is_stdin else path}: {error.strerror or error}") from error


def is_pipe(path: Path) -> bool:
    """Tell what can be read once only: stdin, and whatever is there and is neither a regular file nor a directory."""
    return str(path) == STDIN or (path.exists() and not path.is_file() and not path.is_dir())


def bare(path: Path) -> Path:
    """The name without `.gz` or `.zst`."""
    return path.with_suffix("") if path.suffix.lower() in _PACKED else path


def is_packed(path: Path) -> bool:
    """Tell whether the name says that the file is compressed."""
    return path.suffix.lower() in _PACKED


def is_table(path: Path) -> bool:
    """Tell whether the name is one of a table."""
    return path.suffix.lower() in _TABLES


class Spool:
    """A pipe's content in a file without a name, which is gone when the process is, however it ends."""

    def __init__(self, pipe: io.RawIOBase | io.FileIO, tell: Callable[[str], object]) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as this
        read = 0
        while piece := pipe.read(_BUFFER_BYTES):
            self._file.write(piece)
            read += len(piece)
            tell(f"reading the pipe: {read / 1e6:,.1f} MB")
        self._file.flush()

    def open(self) -> BinaryIO:
        """Open it from the start."""
        return io.BufferedReader(_From(self._file.fileno()), _BUFFER_BYTES)

    def close(self) -> None:
        """Let go of the content."""
        self._file.close()


class _From(io.RawIOBase):
    """Reads a descriptor from its start, wherever others read it."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._at = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # it is always given one
        piece = os.pread(self._fd, len(buffer), self._at)
        buffer[: len(piece)] = piece
        self._at += len(piece)
        return len(piece)


def begin(file: BinaryIO) -> bytes:
    """Look at the next four bytes, or what is left of them."""
    head: bytes = file.peek(4)[:4]  # type: ignore[attr-defined]  # all of ours are buffered
    return head


def is_archive(head: bytes) -> bool:
    """Tell a compressed file by its first four bytes."""
    return head.startswith((_GZIP, _ZSTD))


def unpacked(file: BinaryIO) -> BinaryIO:
    """Return the file, or what it holds when its first bytes say that it is compressed."""
    head = begin(file)
    if head.startswith(_GZIP):
        return io.BufferedReader(_Gunzipped(file), _BUFFER_BYTES)
    if head == _ZSTD:
        return io.BufferedReader(_Unzstd(file), _BUFFER_BYTES)
    return file


class _Gunzipped(io.RawIOBase):
    def __init__(self, packed: BinaryIO) -> None:
        self._packed = packed
        self._file = gzip.GzipFile(fileobj=packed)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # it is always given one
        try:
            return self._file.readinto(buffer)
        except EOFError:
            raise ArchiveError("the .gz archive ends too early") from None
        except (gzip.BadGzipFile, zlib.error) as error:
            raise ArchiveError(f"the .gz archive is damaged ({error})") from None

    def close(self) -> None:
        self._packed.close()
        super().close()


class _Unzstd(io.RawIOBase):
    """Frame after frame. The library's own stream takes an archive that is cut short for a whole one."""

    def __init__(self, packed: BinaryIO) -> None:
        self._packed = packed
        self._frame = zstandard.ZstdDecompressor().decompressobj()
        self._is_within = False
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # it is always given one
        while not self._ready:
            piece = self._packed.read(_PIECE_BYTES)
            if not piece and self._is_within:
                raise ArchiveError("the .zst archive ends too early")
            if not piece:
                return 0
            try:
                self._ready = memoryview(self._unpacked(piece))
            except zstandard.ZstdError as error:
                raise ArchiveError(f"the .zst archive is damaged ({error})") from None
        count = min(len(buffer), len(self._ready))
        buffer[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count

    def _unpacked(self, piece: bytes) -> bytes:
        content = b""
        while piece:
            self._is_within = True
            content += self._frame.decompress(piece)
            piece = b""
            if self._frame.eof:
                piece = self._frame.unused_data
                self._frame = zstandard.ZstdDecompressor().decompressobj()
                self._is_within = False
        return content

    def close(self) -> None:
        self._packed.close()
        super().close()
