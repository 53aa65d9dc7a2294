"""CSV in: delimiters, quoting, encodings, and what is said, with row numbers, about tables that are broken."""

import csv
import io
import json
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farebox.errors import InputError
from farebox_worker.files import read_jobs
from farebox_worker.files.csv_table import CsvTable
from farebox_worker.files.template import Template
from farebox_worker.files.wording import Wording


def read(content, template="{text}", **options):
    raw = content if isinstance(content, bytes) else content.encode()
    wording = Wording(template=Template(template) if template else None, **options)
    return list(
        read_jobs(
            "t.csv", resolve=lambda name, _: SimpleNamespace(model_ref=name), models=["echo:echo"], wording=wording,
            format_="csv", opener=lambda: io.BytesIO(raw),
        )
    )  # fmt: skip


def prompts(lines):
    return [json.loads(line.job.body)["messages"][0]["content"] for line in lines]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("bom", ["", "\ufeff"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_the_delimiter_is_found_and_the_mark_of_a_spreadsheet_passed_over(delimiter, bom, newline):
    rows = [["id", "text"], ["1", f"a{delimiter}b"], ["2", 'say "hi"'], ["3", "two\nlines"], ["4", "é"]]
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter, lineterminator=newline).writerows(rows)
    lines = read(bom + out.getvalue(), id_column="id")
    assert prompts(lines) == [f"a{delimiter}b", 'say "hi"', "two\nlines", "é"]
    assert [(line.number, line.custom_id) for line in lines] == [(2, "1"), (3, "2"), (4, "3"), (5, "4")]


def test_rows_are_named_by_their_number_in_a_spreadsheet_blank_rows_counted():
    lines = read("text,x\na,1\n\nb,2\n")
    assert [(line.number, line.custom_id) for line in lines] == [(2, "line-2"), (4, "line-4")]


def test_a_column_custom_id_names_rows_unless_another_is_chosen():
    assert [line.custom_id for line in read("custom_id,text,k\na,1,x\nb,2,y\n")] == ["a", "b"]
    assert [line.custom_id for line in read("custom_id,text,k\na,1,x\nb,2,y\n", id_column="k")] == ["x", "y"]


def test_without_a_template_the_column_prompt_is_asked():
    assert prompts(read("prompt,n\nhello {x},1\n", template=None)) == ["hello {x}"]
    with pytest.raises(InputError, match=r"t\.csv: no column 'prompt': there are text, n; say with --template"):
        read("text,n\nhello,1\n", template=None)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "no header"),
        (",,\n1,2,3\n", "no header"),
        ("a,text,a\n1,2,3\n", "names 'a' twice"),
        ("a,b\n1,2\n", "no column 'text': there are a, b"),
        ('text\n"never closed\n\nb\n', "row 2: a quoted cell never ends"),
        ('text,x\n"a"b,1\n', "row 2: .*expected after"),
        ("text\na\n" + '"' + "x" * 8_000_001, "row 3: a cell is larger than 8 MB"),
        ("text\na\n".encode("utf-16"), "UTF-16: save it as UTF-8"),
        ("t\xe9xt,text\na,b\n".encode("latin-1"), "header is not UTF-8"),
    ],
    ids=range(9),
)  # fmt: skip
def test_a_broken_table_is_refused_with_the_row(content, says):
    with pytest.raises(InputError, match=rf"t\.csv: .*{says}"):
        read(content)


def test_a_row_that_does_not_fit_is_a_bad_line_among_good_ones():
    lines = read(b"text,id\na,1\nb\nc,3,4\n\xe9,5\n ,6\ng,7\n", id_column="id")
    assert [(line.number, line.error) for line in lines if line.error] == [
        (3, "1 cell, but the header has 2"),
        (4, "3 cells, but the header has 2"),
        (5, "not UTF-8: save the file as UTF-8"),
        (6, "the prompt is empty"),
    ]
    assert prompts([line for line in lines if line.job]) == ["a", "g"]


def test_two_rows_of_one_id_are_told():
    first, second = read("text,id\na,1\nb,1\n", id_column="id")
    assert first.job
    assert second.error == "custom_id '1' stands on line 2 already: give each line its own"


@given(st.lists(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=2, max_size=2), max_size=5))
def test_whatever_a_spreadsheet_can_write_is_read(rows):
    out = io.StringIO()
    csv.writer(out).writerows([["a", "b"], *rows])
    table = CsvTable(io.BytesIO(out.getvalue().encode()))
    assert [cells for _, cells in table.rows()] == rows
