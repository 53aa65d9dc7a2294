"""What people see on a real terminal: rows that fit its width, and colour only where it is wanted."""

import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest
from tests.cli_support import COMMAND

from farebox_worker.run.screen import Screen
from farebox_worker.server.embedded import EmbeddedServer


def on_terminal(desk, *words, columns=80, **extra):
    """Run a command on a terminal of its own; what it wrote there."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
    environ = desk.environ(TERM="xterm-256color") | extra
    environ.pop("COLUMNS", None)
    process = subprocess.Popen(
        [*COMMAND, *map(str, words)], cwd=desk.home, env=environ, stdin=slave, stdout=slave, stderr=slave,
        start_new_session=True,
    )  # fmt: skip
    os.close(slave)
    written = b""
    try:
        while piece := os.read(master, 65_536):
            written += piece
    except OSError:  # so does Linux say that the other side is closed
        pass
    finally:
        os.close(master)
        process.wait(timeout=60)
    return written.decode().replace("\r\n", "\n")


def bare(text):
    """The words without colours and moves of the cursor."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


@pytest.fixture
def paused(desk):
    """A server with a lane that an operator paused for a long reason."""
    desk.prompts(3)
    with EmbeddedServer(desk.home / ".farebox"):
        desk.run("budget", "set", 1)
        desk.run("submit", "in.jsonl", "-m", "echo:echo")
        desk.run("lanes", "pause", "echo", "--why", "the account is being moved to another owner, ask Ann about it")
        yield


@pytest.mark.parametrize("columns", [80, 120])
def test_lanes_on_a_terminal_are_a_table_that_fits_and_below_it_what_is_in_words(desk, paused, columns):
    shown = bare(on_terminal(desk, "lanes", columns=columns)).splitlines()
    head, row, words, *_ = shown
    assert head.split() == ["lane", "runnable", "later", "in", "flight", "target", "parked", "oldest", "workers"]
    assert max(len(head.rstrip()), len(row.rstrip())) <= columns
    assert row.split()[:4] == ["echo:echo", "3", "0", "0"]
    assert words.startswith("echo:echo: paused")
    assert "ask Ann about it" in words


def test_without_colour_a_terminal_gets_none(desk):
    desk.prompts(3)
    coloured = r"\x1b\[[0-9;]*(3[0-7]|9[0-7])m"
    for extra in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        shown = on_terminal(desk, "run", "in.jsonl", "-m", "echo:echo", "--budget", 1, **extra)
        assert "3 of 3" in bare(shown)
        assert not re.search(coloured, shown), extra
    assert "\x1b" not in shown, "a dumb terminal knows no escape codes"


def test_a_dumb_terminal_gets_plain_lines_as_a_pipe_does(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("FORCE_COLOR", "1")
    written = io.StringIO()
    monkeypatch.setattr(sys, "stderr", written)
    with Screen(plain_after_s=0) as screen:
        screen.tell("reading: 5 lines")
    assert written.getvalue() == "farebox: reading: 5 lines\n"


def test_where_a_locale_lacks_a_letter_one_sign_keeps_its_place(desk):
    with EmbeddedServer(desk.home / ".farebox"):
        desk.run("budget", "set", 1)
        said = on_terminal(
            desk, "lanes", "pause", "echo", "--why", "bis Montag · ━━", LC_ALL="C", PYTHONUTF8="0",
            PYTHONCOERCECLOCALE="0", PYTHONIOENCODING="",
        )  # fmt: skip
    assert "\\u2501" not in said


def test_results_that_a_run_has_taken_are_said_to_be_elsewhere(desk):
    desk.prompts(2)
    name = desk.run("run", "in.jsonl", "-m", "echo:echo", "--budget", 1, "--json").json["batch_id"]
    again = desk.run("results", name, "-o", "again.jsonl")
    assert (again.code, "2 jobs have ended" in again.stderr) == (0, True)
