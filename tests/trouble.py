"""A server that can be troubled in every way a server is, and the fixture that brings one."""

import contextlib
import shutil
import tempfile
import threading
from pathlib import Path

import pytest
from redis import Redis as SyncRedis
from redis.exceptions import RedisError, ResponseError
from tests.conftest import server_binary
from tests.proxy import Proxy

from farebox_worker.server import server_process
from farebox_worker.server.embedded import start_server


class Trouble:
    """A server of our own, that can be troubled, behind a proxy."""

    def __init__(self, folder):
        self.folder = Path(folder)
        (self.folder / "data").mkdir()
        self.server = start_server(self.folder / "data", extra=["--enable-protected-configs", "yes"])
        self.proxy = Proxy(self.server.address, self.folder / "bus")
        self.admin = SyncRedis(unix_socket_path=str(self.server.address))
        self.url = self.proxy.url

    def close(self):
        self.admin.close()
        self.proxy.close()
        self.server.kill()

    def settings(self, **values):
        for name, value in values.items():
            self.admin.config_set(name.replace("_", "-"), value)

    @contextlib.contextmanager
    def busy(self):
        """A long script runs."""
        self.settings(busy_reply_threshold=20)

        def spin():
            with contextlib.suppress(RedisError), SyncRedis(unix_socket_path=str(self.server.address)) as client:
                client.eval("while true do end", 0)

        spinning = threading.Thread(target=spin)
        spinning.start()
        yield
        with contextlib.suppress(ResponseError):
            self.admin.script_kill()
        spinning.join()

    @contextlib.contextmanager
    def readonly(self):
        """It was demoted."""
        self.admin.replicaof("127.0.0.1", 1)
        yield
        self.admin.replicaof("NO", "ONE")

    @contextlib.contextmanager
    def masterdown(self):
        """It was demoted, and shows nothing that may be stale."""
        self.settings(replica_serve_stale_data="no")
        with self.readonly():
            yield
        self.settings(replica_serve_stale_data="yes")

    @contextlib.contextmanager
    def oom(self):
        """It is full."""
        self.settings(maxmemory=1)
        yield
        self.settings(maxmemory=0)

    @contextlib.contextmanager
    def noreplicas(self):
        """Its replicas are gone."""
        self.settings(min_replicas_to_write=1)
        yield
        self.settings(min_replicas_to_write=0)

    @contextlib.contextmanager
    def misconf(self):
        """Its disk is full: a snapshot could not be written."""
        gone = self.folder / "gone"
        gone.mkdir()
        self.settings(dir=str(gone), save="3600 1")
        shutil.rmtree(gone)
        with contextlib.suppress(ResponseError):
            self.admin.bgsave()
        for _ in range(200):
            if self.admin.info("persistence")["rdb_last_bgsave_status"] == "err":
                break
            threading.Event().wait(0.02)
        yield
        self.settings(save="", dir=str(self.folder / "data"))

    @contextlib.contextmanager
    def noauth(self):
        """It came back with a password."""
        self.settings(requirepass="other")
        self.admin.auth("other")
        self.admin.client_kill_filter(_type="normal", skipme=True)
        yield
        self.settings(requirepass="")

    def answering(self, error):
        @contextlib.contextmanager
        def act():
            self.proxy.be(error)
            yield
            self.proxy.be("pass")

        return act()

    @contextlib.contextmanager
    def cut(self):
        """Connections break, and new ones too."""
        self.proxy.be("reset")
        yield
        self.proxy.be("pass")


@pytest.fixture
def trouble(monkeypatch):
    monkeypatch.setattr(server_process, "find_server_binary", lambda: Path(server_binary()))  # each has its own words
    with tempfile.TemporaryDirectory(prefix="fbo") as folder:
        trouble = Trouble(folder)
        yield trouble
        trouble.close()
