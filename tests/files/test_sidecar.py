"""The file beside the output file: replaced as a whole, without secrets, refused when damaged."""

import errno
import os
from datetime import UTC, datetime

import msgspec
import pytest

from farebox.errors import InputError
from farebox_worker.files import Sidecar, sidecar, sidecar_path
from farebox_worker.files.durable import replacing

WHEN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def example(**fields):
    return Sidecar(
        **{"batch_id": "b1", "epoch": "e1", "namespace": "farebox", "input": "/data/in.jsonl", "created": WHEN} | fields
    )


def test_it_stands_beside_the_output_file(tmp_path):
    assert sidecar_path(tmp_path / "out.jsonl") == tmp_path / "out.jsonl.farebox"


def test_what_was_written_is_read(tmp_path):
    path = tmp_path / "s"
    assert sidecar.read(path) is None
    for epoch in ("e1", "e2"):
        sidecar.write(path, example(epoch=epoch, data_dir="/data/.farebox"))
        assert sidecar.read(path) == example(epoch=epoch, data_dir="/data/.farebox")
    assert list(tmp_path.iterdir()) == [path]


def test_later_members_are_passed_over_and_a_later_version_is_refused(tmp_path):
    path = tmp_path / "s"
    members = msgspec.to_builtins(example())
    path.write_bytes(msgspec.json.encode(members | {"later": 1}))
    assert sidecar.read(path) == example()
    path.write_bytes(msgspec.json.encode(members | {"version": 2}))
    with pytest.raises(InputError, match="newer Farebox"):
        sidecar.read(path)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"\xff", b'{"version":1}', b"[" * 100_000, b"\0" * 200]
    + [
        msgspec.json.encode(msgspec.to_builtins(example()) | wrong)
        for wrong in ({"batch_id": ""}, {"input": "in.jsonl"})
    ],
)
def test_a_damaged_one_is_refused_by_name(tmp_path, content):
    path = tmp_path / "out.jsonl.farebox"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"out\.jsonl\.farebox is damaged.*run the same command again"):
        sidecar.read(path)


def test_a_relative_path_is_never_written():
    with pytest.raises(ValueError, match="not an absolute path"):
        example(data_dir=".farebox")


def test_an_address_that_an_older_version_kept_goes_with_the_next_write(tmp_path):
    path = tmp_path / "s"
    sidecar.write(path, example())
    path.write_bytes(path.read_bytes().replace(b"{", b'{"redis_url": "redis://me:s3cret@host:6379/0",', 1))
    sidecar.write(path, sidecar.read(path))
    assert b"s3cret" not in path.read_bytes()


@pytest.mark.parametrize("step", ["write", "fsync", "rename"])
def test_a_write_that_fails_leaves_the_old_one_and_nothing_beside_it(tmp_path, monkeypatch, step):
    path = tmp_path / "s"
    sidecar.write(path, example())

    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(*{"rename": ("pathlib.Path.replace", full)}.get(step, (f"os.{step}", full)))
        with pytest.raises(InputError, match="No space left"):
            sidecar.write(path, example(epoch="e2"))
    assert sidecar.read(path) == example()
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_directory_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="No such file or directory"):
        sidecar.write(tmp_path / "gone" / "s", example())


def test_what_a_killed_writer_left_is_taken_over(tmp_path):
    path = tmp_path / "s"
    beside = tmp_path / ".s.tmp"
    beside.write_bytes(b"x" * 10_000)
    sidecar.write(path, example())
    assert sidecar.read(path) == example()
    assert list(tmp_path.iterdir()) == [path]


def test_two_writers_of_one_name_never_mix(tmp_path):
    path = tmp_path / "s"
    with replacing(path) as file:
        with pytest.raises(InputError, match="another run is writing"), replacing(path):
            pass
        file.write(b"first")
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]
