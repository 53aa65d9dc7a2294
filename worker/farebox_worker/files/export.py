"""Writing finished lines in other forms: the two files of OpenAI's batch API, a table, or the lines as they are.

Each file takes its name when it is complete, and is packed where its name ends in `.gz` or `.zst`.
"""

from __future__ import annotations

import csv
import gzip
import io
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import BinaryIO, Literal, Protocol

import msgspec
import zstandard

from farebox.records import Outcome
from farebox_worker.files.csv_answers import answer_and_error
from farebox_worker.files.csv_table import delimiter_of
from farebox_worker.files.destination import STDOUT
from farebox_worker.files.durable import replacing
from farebox_worker.files.source import bare

Form = Literal["openai-files", "csv", "jsonl"]
OUTPUT_NAME, ERROR_NAME = "output.jsonl", "error.jsonl"

CSV_COLUMNS = (
    "custom_id", "model_ref", "outcome", "finish", "answer", "error", "input_tokens", "output_tokens", "cost_usd",
    "latency_ms", "attempts",
)  # fmt: skip


class Writer(Protocol):
    """Takes lines of ours, one after the other."""

    def __call__(self, line: bytes) -> None:
        """Write one line."""


class _Response(msgspec.Struct):
    status_code: int
    request_id: str
    body: msgspec.Raw


class _Error(msgspec.Struct):
    code: str
    message: str


class _Usage(msgspec.Struct, frozen=True):
    input_tokens: int = 0
    output_tokens: int = 0


class _Own(msgspec.Struct):
    model_ref: str
    outcome: Outcome
    finish: str = ""
    cost_usd: msgspec.Raw = msgspec.Raw(b"0")
    usage: _Usage = _Usage()
    latency_ms: int = 0
    attempts: int = 0


class _Line(msgspec.Struct):
    id: str
    custom_id: str
    response: _Response | None
    error: _Error | None
    farebox: _Own


class _BatchLine(msgspec.Struct):
    """A line of the files that OpenAI's batch API gives."""

    id: str
    custom_id: str
    response: _Response | None
    error: _Error | None


_decode = msgspec.json.Decoder(_Line).decode
_encode = msgspec.json.Encoder().encode


@contextmanager
def openai_files(folder: Path) -> Iterator[Writer]:
    """Write `output.jsonl` and `error.jsonl` in a folder, which is made: answers there, everything else here.

    As from OpenAI, a request that a provider refused has its `response` and no `error`; one that was never answered
    has an `error` and no `response`. Raises: OSError.
    """
    folder.mkdir(exist_ok=True)
    with replacing(folder / OUTPUT_NAME) as output, replacing(folder / ERROR_NAME) as errors:

        def write(line: bytes) -> None:
            found = _decode(line)
            is_answered = found.farebox.outcome == "succeeded"
            is_refusal = found.response is not None and found.response.status_code >= 400
            given = _BatchLine(
                f"batch_req_{found.id.rpartition('-')[2]}",
                found.custom_id,
                found.response if is_answered or is_refusal else None,
                None if is_answered or is_refusal else found.error,
            )
            (output if is_answered else errors).write(_encode(given) + b"\n")

        yield write


@contextmanager
def table(path: Path) -> Iterator[Writer]:
    """Write a CSV table of answers and what they cost. Raises: OSError."""
    with _packed(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", newline="")
        rows = csv.writer(text, delimiter=delimiter_of(bare(path)))
        rows.writerow(CSV_COLUMNS)

        def write(line: bytes) -> None:
            found, (answer, error) = _decode(line), answer_and_error(line)
            own = found.farebox
            rows.writerow([
                found.custom_id, own.model_ref, own.outcome, own.finish, answer, error, own.usage.input_tokens,
                own.usage.output_tokens, bytes(own.cost_usd).decode(), own.latency_ms, own.attempts,
            ])  # fmt: skip

        yield write
        text.detach()


@contextmanager
def lines(path: Path) -> Iterator[Writer]:
    """Write the lines as they are. Raises: OSError."""
    with _packed(path) as file:

        def write(line: bytes) -> None:
            file.write(line)

        yield write


FORMS: dict[Form, Callable[[Path], AbstractContextManager[Writer]]] = {
    "openai-files": openai_files,
    "csv": table,
    "jsonl": lines,
}


@contextmanager
def _packed(path: Path) -> Iterator[BinaryIO]:
    if str(path) == STDOUT:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    with replacing(path) as file:
        if path.suffix.lower() == ".gz":
            with gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as packed:
                yield packed  # type: ignore[misc]  # typeshed does not call it a BinaryIO
        elif path.suffix.lower() == ".zst":
            with zstandard.ZstdCompressor().stream_writer(file, closefd=False) as packed:
                yield packed
        else:
            yield file
