"""`farebox worker --processes N`: who is killed is replaced, who ends by itself is not."""

import signal
import subprocess
import sys
import time

import pytest

SUPERVISOR = """
import logging, os, pathlib, signal, sys, time
from farebox_worker.cli import supervise as module

module.FIRST_WAIT_S, module.LOOK_S = 0.05, 0.01
logging.basicConfig(format="%(event)s %(message)s")
here = pathlib.Path(sys.argv[1])
signal.signal(signal.SIGINT, lambda *_: os._exit(0))  # in a background job it would be ignored
number = module.supervise(int(sys.argv[2]))
mine = here / str(number)
with mine.open("a") as file:
    file.write("x")
"""


@pytest.fixture
def start(tmp_path):
    """Start a supervisor of some processes which do this; end with whatever is left of them."""
    started = []

    def start(work, processes=2):
        program = SUPERVISOR + work
        command = [sys.executable, "-c", program, str(tmp_path), str(processes)]
        started.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True))
        return started[-1]

    yield start
    for process in started:
        with process:
            process.kill()


def wait_for(names):
    deadline = time.monotonic() + 30
    while not all(name.exists() and name.read_text() for name in names):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_each_process_has_its_number_and_a_group_that_the_terminals_ctrl_c_does_not_reach(start, tmp_path):
    process = start("mine.write_text(f'{os.getpgrp() == os.getpid()} {os.getsid(0)}')", processes=3)
    told = process.communicate(timeout=30)[1]
    assert (process.returncode, told) == (0, "")
    assert {name.name for name in tmp_path.iterdir()} == {"0", "1", "2"}
    assert {name.read_text() for name in tmp_path.iterdir()} == {f"True {process.pid}"}  # one share of the CPU for all


def test_a_process_that_was_killed_is_started_again(start, tmp_path):
    process = start("if mine.read_text() == 'x':\n    os.kill(os.getpid(), signal.SIGKILL)\n")
    told = process.communicate(timeout=30)[1]
    assert process.returncode == 0
    assert [line.split()[0] for line in told.splitlines()] == ["process_killed", "process_killed"]
    assert [(tmp_path / name).read_text() for name in "01"] == ["xx", "xx"]


def test_a_process_that_ended_with_an_error_is_not_started_again_and_its_code_is_kept(start, tmp_path):
    process = start("sys.exit([0, 2, 1][number])", processes=3)
    told = process.communicate(timeout=30)[1]
    assert process.returncode == 2
    assert [(tmp_path / name).read_text() for name in "012"] == ["x", "x", "x"]
    assert sorted(line.split(" with ")[1] for line in told.splitlines()) == [
        "code 1, and is not replaced",
        "code 2, and is not replaced",
    ]


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_all_and_replaces_nobody(start, tmp_path, signum):
    process = start("time.sleep(60)")
    wait_for([tmp_path / "0", tmp_path / "1"])
    process.send_signal(signum)
    assert process.communicate(timeout=30)[1] == ""
    assert process.returncode == 0


def test_a_signal_at_any_moment_of_the_forking_leaves_nobody_behind(start, tmp_path):
    for wait_s in (0.0, 0.002, 0.005, 0.01):
        process = start("time.sleep(60)", processes=16)
        wait_for([tmp_path / "0"])
        time.sleep(wait_s)
        process.terminate()
        assert process.communicate(timeout=30)[1] == ""  # its end is the end of all that hold its stderr
        assert process.returncode == 0
        for name in tmp_path.iterdir():
            name.unlink()


def test_no_memory_for_a_process_is_said_and_tried_again(start, tmp_path):
    work = "sys.exit(0)"
    program = "import errno, os\nfork, tries = os.fork, []\ndef poor():\n    tries.append(1)\n"
    program += (
        "    if len(tries) < 3:\n        raise OSError(errno.ENOMEM, 'Cannot allocate memory')\n    return fork()\n"
    )
    command = [sys.executable, "-c", f"{program}os.fork = poor\n{SUPERVISOR}{work}", str(tmp_path), "1"]
    ended = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=30, check=False)
    assert ended.returncode == 0
    assert [line.split()[0] for line in ended.stderr.splitlines()] == ["process_not_started", "process_not_started"]
    assert (tmp_path / "0").read_text() == "x"


def test_where_a_fork_alone_is_unsafe_each_process_is_executed_anew(tmp_path):
    program = (
        "import sys, types, farebox_worker.cli.worker\n"
        "print('executed', file=sys.stderr)\n"
        "mac = types.SimpleNamespace(**vars(sys) | {'platform': 'darwin'})\n"
        "sys.modules['farebox_worker.cli.worker'].sys = mac\n"
        "farebox_worker.cli.main()\n"
    )
    command = [sys.executable, "-c", program, "worker", "--processes", "2", "--metrics-port", "0"]
    ended = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=60, check=False, cwd=tmp_path)
    assert ended.stderr.count("executed") == 1 + 2, ended.stderr
    assert ended.stderr.count("metrics and health at http") == 2, ended.stderr
    assert ended.stderr.count("farebox: nothing here yet") == 2, ended.stderr
    assert ended.returncode == 2
