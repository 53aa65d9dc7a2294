"""A CSV file as rows: its delimiter, its header, and its cells, streamed; broken quoting is told by the row's number.

Rows are numbered as a spreadsheet numbers them: the header is row 1, blank rows count.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import BinaryIO

from farebox.errors import InputError
from farebox_worker.files.members import MAX_LINE_BYTES

_DELIMITERS = ",;\t|"
_QUOTED = re.compile(r'"(?:[^"]|"")*"?')
_BOM = "\ufeff"
_UTF16 = ("\udcff\udcfe", "\udcfe\udcff")


class CsvTable:
    """An open CSV file; its header is read.

    Attributes:
        columns: the names in the header, without spaces around them.
        delimiter: the one of `,`, `;`, tab and `|` that the header uses most.
        has_bom: whether it begins with a byte order mark, as spreadsheets write one.

    Raises: InputError when there is no header, or it names a column twice.
    """

    def __init__(self, file: BinaryIO) -> None:
        csv.field_size_limit(MAX_LINE_BYTES)
        text = io.TextIOWrapper(file, encoding="utf-8", errors="surrogateescape", newline="")
        first = text.readline(MAX_LINE_BYTES)
        if first.startswith(_UTF16):
            raise InputError("it is written in UTF-16: save it as UTF-8")
        self.has_bom = first.startswith(_BOM)
        first = first.removeprefix(_BOM)
        seen = _QUOTED.sub("", first)
        self.delimiter = max(_DELIMITERS, key=seen.count)
        self._text = text
        self._rows = csv.reader(chain([first] if first else [], text), delimiter=self.delimiter, strict=True)
        _, header = next(self._numbered(), (1, []))
        self.columns = [name.strip() for name in header]
        if not any(self.columns):
            raise InputError("no header: the first row must name the columns")
        if (bad := next((name for name in self.columns if not _is_utf8(name)), None)) is not None:
            raise InputError(f"the header is not UTF-8 ({bad.encode(errors='replace').decode()}): save it as UTF-8")
        if twice := sorted({name for name in self.columns if name and self.columns.count(name) > 1}):
            raise InputError(f"the header names {', '.join(map(repr, twice))} twice: give each column its own name")

    def rows(self) -> Iterator[tuple[int, list[str] | InputError]]:
        """Read the rows with their numbers, blank ones left out; a row that does not fit is an error of its own.

        Raises: InputError when the quoting is broken, for then nobody knows where the next row begins.
        """
        for number, cells in self._numbered(after=1):
            if not cells:
                continue
            if len(cells) != len(self.columns):
                yield number, InputError(f"{_cells(len(cells))}, but the header has {len(self.columns)}")
            elif not all(map(_is_utf8, cells)):
                yield number, InputError("not UTF-8: save the file as UTF-8")
            else:
                yield number, cells

    def release(self) -> None:
        """Let go of the file without closing it."""
        self._text.detach()

    def _numbered(self, after: int = 0) -> Iterator[tuple[int, list[str]]]:
        number = after
        while True:
            number += 1
            try:
                cells = next(self._rows)
            except StopIteration:
                return
            except csv.Error as error:
                raise InputError(_broken(number, str(error))) from None
            yield number, cells


def delimiter_of(path: Path) -> str:
    """The delimiter that a new table's name asks for."""
    return "\t" if path.suffix.lower() == ".tsv" else ","


def _broken(number: int, reason: str) -> str:
    if "field larger" in reason:
        reason = f"a cell is larger than {MAX_LINE_BYTES // 1_000_000} MB"
    if "unexpected end of data" in reason:
        reason = "a quoted cell never ends"
    return f'row {number}: {reason}. Is a quote (") not closed or not doubled there, or before?'


def _cells(count: int) -> str:
    return "1 cell" if count == 1 else f"{count} cells"


def _is_utf8(cell: str) -> bool:
    if cell.isascii():
        return True
    try:
        cell.encode()
    except UnicodeEncodeError:
        return False
    return True
