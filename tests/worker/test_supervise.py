"""`farebox worker --processes N`: who is killed is replaced, who ends by itself is not."""

import os
import signal
import sys
import threading
import time

import pytest

from farebox_worker.cli import supervise as module
from farebox_worker.cli.supervise import supervise


@pytest.fixture(autouse=True)
def _as_before(monkeypatch):
    monkeypatch.setattr(module, "FIRST_WAIT_S", 0.05)
    monkeypatch.setattr(module, "LOOK_S", 0.01)
    handlers = {signum: signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT)}
    yield
    for signum, handler in handlers.items():
        signal.signal(signum, handler)


def python(program, *words):
    return [sys.executable, "-c", program, *map(str, words)]


def test_a_process_that_was_killed_is_started_again(tmp_path, caplog):
    program = (
        "import os, pathlib, signal, sys\n"
        "place = pathlib.Path(sys.argv[1])\n"
        "if not place.exists():\n"
        "    place.touch()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert supervise([python(program, tmp_path / "a"), python(program, tmp_path / "b")], os.environ) == 0
    assert [record.event for record in caplog.records] == ["process_killed", "process_killed"]


def test_a_process_that_ended_with_an_error_is_not_started_again_and_its_code_is_kept(tmp_path, caplog):
    program = "import pathlib, sys; pathlib.Path(sys.argv[1]).open('a').write('x'); sys.exit(int(sys.argv[2]))"
    commands = [python(program, tmp_path / str(code), code) for code in (0, 2, 1)]
    assert supervise(commands, os.environ) == 2
    assert [(tmp_path / str(code)).read_text() for code in (0, 2, 1)] == ["x", "x", "x"]
    assert sorted(record.fields["code"] for record in caplog.records) == [1, 2]


def test_sigterm_ends_all_and_replaces_nobody(tmp_path):
    program = "import pathlib, sys, time; pathlib.Path(sys.argv[1]).touch(); time.sleep(60)"
    names = [tmp_path / "a", tmp_path / "b"]

    def stop():
        while not all(name.exists() for name in names):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop, daemon=True).start()
    assert supervise([python(program, name) for name in names], os.environ) == 0
