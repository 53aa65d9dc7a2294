"""Where input comes from: files, archives whole and cut short, pipes that are read more than once."""

import gzip
import io
import os
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import zstandard

from farebox.errors import InputError
from farebox_worker.files import read_jobs
from farebox_worker.files.destination import Copy, Destination, StdoutClosedError, destination, refuse_unkept
from farebox_worker.files.source import Source, take

LINES = b"".join(b'{"prompt":"%d %s"}\n' % (n, os.urandom(40).hex().encode()) for n in range(2000))


def zstd(raw):
    return zstandard.ZstdCompressor().compress(raw)


PACK = {"gz": gzip.compress, "zst": zstd}


def numbers(source):
    lines = read_jobs(
        source.path, resolve=lambda name, _: SimpleNamespace(model_ref=name), models=["a:a"], opener=source.open
    )
    return [line.number for line in lines if line.job]


@pytest.mark.parametrize("kind", PACK)
@pytest.mark.parametrize("frames", [1, 3])
def test_an_archive_is_read_whatever_it_is_called_frame_after_frame(tmp_path, kind, frames):
    path = tmp_path / "in.jsonl"
    third = len(LINES) // frames + 1
    path.write_bytes(b"".join(PACK[kind](LINES[n * third : (n + 1) * third]) for n in range(frames)))
    with take(path).open() as file:
        assert file.read() == LINES
    assert numbers(take(path)) == list(range(1, 2001))


@pytest.mark.parametrize("kind", PACK)
@pytest.mark.parametrize("cut", [5, 20_000, -1])
def test_an_archive_that_is_cut_short_is_refused_with_what_was_read(tmp_path, kind, cut):
    path = tmp_path / f"in.jsonl.{kind}"
    path.write_bytes(PACK[kind](LINES)[:cut])
    with pytest.raises(InputError, match=rf"cannot read .* beyond line [\d,]+: the \.{kind} archive ends too early"):
        numbers(take(path))


@pytest.mark.parametrize("kind", PACK)
def test_a_damaged_archive_is_refused(tmp_path, kind):
    path = tmp_path / f"in.jsonl.{kind}"
    packed = bytearray(PACK[kind](LINES))
    packed[20:220] = b"\xff" * 200
    path.write_bytes(packed)
    with pytest.raises(InputError, match=rf"the \.{kind} archive is damaged"):
        numbers(take(path))


def test_a_pipe_is_read_as_often_as_need_be(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=lambda: path.write_bytes(zstd(LINES)))
    writer.start()
    told = []
    source = take(path, tell=told.append)
    writer.join()
    for _ in range(2):
        assert numbers(source) == list(range(1, 2001))
    assert told
    source.spool.close()


@pytest.mark.parametrize(
    ("name", "kind"),
    [("a.csv", "csv"), ("a.CSV.gz", "csv"), ("a.tsv.zst", "csv"), ("a.jsonl.gz", "jsonl"), ("a", "jsonl")],
)
def test_the_name_says_the_format_and_a_flag_says_it_better(tmp_path, name, kind):
    (tmp_path / name).touch()
    assert take(tmp_path / name).format == kind
    assert take(tmp_path / name, "csv").format == "csv"


def test_what_is_not_there_and_what_is_a_directory_are_refused(tmp_path):
    with pytest.raises(InputError, match="no file"):
        take(tmp_path / "none")
    with pytest.raises(InputError, match="is a directory"):
        take(tmp_path)


def test_where_answers_go():
    jsonl, table = Source(Path("in.jsonl")), Source(Path("in.csv"), "csv")
    assert destination(None, jsonl) == Destination(Path("in.jsonl.out.jsonl"))
    assert destination(None, table) == Destination(Path("in.csv.out.jsonl"), Path("in.csv.out.csv"))
    assert destination(Path("a.csv"), jsonl) == Destination(Path("a.jsonl"), Path("a.csv"))
    assert destination(Path("a.jsonl"), table) == Destination(Path("a.jsonl"))
    assert destination(Path("-"), jsonl) == Destination(Path("in.jsonl.out.jsonl"), None, is_copied=True)
    with pytest.raises(InputError, match=r"write a\.jsonl, and then `farebox export a\.jsonl -o a\.jsonl\.gz`"):
        destination(Path("a.jsonl.gz"), jsonl)
    for output in (None, Path("-")):
        with pytest.raises(InputError, match="IN is a pipe"):
            refuse_unkept(output, Path("-"))


def test_a_table_that_no_run_made_is_not_replaced(tmp_path):
    where = Destination(tmp_path / "a.jsonl", tmp_path / "a.csv")
    where.refuse_foreign_table(tmp_path / "in.csv")
    (tmp_path / "a.csv").write_text("mine")
    with pytest.raises(InputError, match="no run made it"):
        where.refuse_foreign_table(tmp_path / "in.csv")
    with pytest.raises(InputError, match="is the input file"):
        where.refuse_foreign_table(tmp_path / "a.csv")
    (tmp_path / "a.jsonl").touch()
    where.refuse_foreign_table(tmp_path / "in.csv")


def test_the_copy_gives_what_is_synced_and_no_more(tmp_path):
    out, stream = tmp_path / "out", io.BytesIO()
    out.write_bytes(b"one\ntwo\nthree\n")
    copy = Copy(out, stream)
    copy.catch_up(4)
    assert stream.getvalue() == b"one\n"
    copy.catch_up(8)
    copy.catch_up(8)
    assert stream.getvalue() == b"one\ntwo\n"


def test_a_copy_that_nobody_reads_says_where_the_answers_are(tmp_path, monkeypatch):
    class Closed(io.BytesIO):
        def flush(self):
            raise BrokenPipeError

    (tmp_path / "out").write_bytes(b"one\n")
    monkeypatch.setattr(os, "dup2", lambda *_: None)
    with pytest.raises(StdoutClosedError, match="out keeps the answers"):
        Copy(tmp_path / "out", Closed()).catch_up(4)
