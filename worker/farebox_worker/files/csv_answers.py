"""The table of a run: the input's columns, and the answers beside them, one row for each row of the input.

It is made of IN and OUT whenever a run ends, and replaced as a whole; it is never read.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path

import msgspec

from farebox.errors import InputError
from farebox.said import said_text, said_tool_calls
from farebox_worker.files.csv_table import CsvTable, delimiter_of
from farebox_worker.files.durable import replacing
from farebox_worker.files.line_index import LineIndex
from farebox_worker.files.lines import Line
from farebox_worker.files.source import Source

_BOM = "\ufeff"


class _Response(msgspec.Struct):
    body: msgspec.Raw = msgspec.Raw(b"null")


class _Error(msgspec.Struct):
    code: str = ""
    message: str = ""


class _Own(msgspec.Struct):
    invalid: str = ""


class _OutLine(msgspec.Struct):
    response: _Response | None = None
    error: _Error | None = None
    farebox: _Own = msgspec.field(default_factory=_Own)


_decode = msgspec.json.Decoder(_OutLine).decode


def answer_and_error(line: bytes | None) -> tuple[str, str]:
    """Read what an output line says: the answer's text (what it calls, where it says nothing), and what is wrong."""
    if line is None:
        return "", ""
    said = _decode(line)
    if said.error:
        return "", f"{said.error.code}: {said.error.message}"
    body = bytes(said.response.body) if said.response else b""
    flaw = f"invalid: {said.farebox.invalid}" if said.farebox.invalid else ""
    return said_text(body) or "\n".join(f"{name}({arguments})" for _, name, arguments in said_tool_calls(body)), flaw


def answer_columns(source: Source, column: str, models: Sequence[str]) -> list[str]:
    """Name the columns that are added. Raises: InputError when the input has one of that name."""
    names = [f"{column} {model}" for model in models] if len(models) > 1 else [column]
    added = [part for name in names for part in (name, f"{name}_error")]
    if source.format == "csv":
        with source.open() as file:
            try:
                taken = set(CsvTable(file).columns)
            except InputError as error:
                raise InputError(f"{source.path}: {error}") from None
        if both := next((name for name in added if name in taken), None):
            raise InputError(f"{source.path} has a column {both!r} already: name another with --answer-column.")
    return added


class AnswerTable:
    """Writes the table of a run.

    Args:
        source: the input.
        columns: what `answer_columns` says; `models` as there.
        job_id: the job of a custom id.
    """

    def __init__(
        self, source: Source, columns: Sequence[str], models: Sequence[str], job_id: Callable[[str], str]
    ) -> None:
        self._source = source
        self._columns = columns
        self._models = models
        self._job_id = job_id

    def write(self, path: Path, lines: Iterable[Line], index: LineIndex) -> int:
        """Write it, and return how many rows it has. `lines` are the good ones of the input. Raises: InputError."""
        rows = 0
        try:
            with replacing(path) as file, self._source.open() as packed:
                table = CsvTable(packed) if self._source.format == "csv" else None
                encoding = "utf-8-sig" if table and table.has_bom else "utf-8"
                text = io.TextIOWrapper(file, encoding=encoding, newline="", write_through=True)
                writer = csv.writer(text, delimiter=table.delimiter if table else delimiter_of(path))
                writer.writerow([*(table.columns if table else ["custom_id"]), *self._columns])
                for cells, asked in self._joined(table, lines):
                    writer.writerow([*cells, *self._answers(asked, index)])
                    rows += 1
                text.detach()
        except OSError as error:
            raise InputError(f"cannot write {path}: {error.strerror}. Free space, and run it again.") from error
        return rows

    def _joined(self, table: CsvTable | None, lines: Iterable[Line]) -> Iterator[tuple[list[str], list[Line]]]:
        """Lay the lines beside the rows they were made of."""
        groups = ((number, list(group)) for number, group in groupby(lines, key=lambda line: line.number))
        if table is None:
            for _, group in groups:
                yield [self._bare_id(group[0])], group
            return
        number, group = next(groups, (0, []))
        for row, cells in table.rows():
            while group and number < row:
                number, group = next(groups, (0, []))
            if not isinstance(cells, InputError):
                yield cells, group if number == row else []

    def _bare_id(self, line: Line) -> str:
        is_one_of_many = len(self._models) > 1 and line.job is not None
        return line.custom_id.removesuffix(f"@{line.job.model_ref}") if is_one_of_many and line.job else line.custom_id

    def _answers(self, lines: list[Line], index: LineIndex) -> Iterator[str]:
        said = {
            line.job.model_ref: answer_and_error(index.line(self._job_id(line.custom_id))) for line in lines if line.job
        }
        if len(self._models) < 2:
            yield from next(iter(said.values()), ("", ""))
            return
        for model in self._models:
            yield from said.get(model, ("", ""))
