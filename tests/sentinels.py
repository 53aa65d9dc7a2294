"""Sentinels over a primary and its replica, all of them real processes of the server that the tests run on."""

import asyncio
import subprocess
import time
from contextlib import suppress

from redis import Redis as SyncRedis
from redis.exceptions import RedisError
from tests.conftest import server_binary
from tests.ports import free_port

from farebox.connection import connect
from farebox.sentinel import primary_of

PASSWORD, SENTINELS_PASSWORD = "of-the-server", "of-the-sentinels"


def wait(is_so, within_s, what):
    """Ask again and again, until it is so."""
    ends = time.monotonic() + within_s
    while not is_so():
        assert time.monotonic() < ends, f"no {what} within {within_s} s"
        time.sleep(0.05)


class Guarded:
    """A primary, a replica and three sentinels in a folder; everybody has a password. `url` leads clients there."""

    def __init__(self, folder):
        self.folder = folder
        self.nodes = {}
        self.sentinels = []

    def start(self):
        """Start them, and wait until they know each other."""
        first, second = free_port(), free_port()
        self.node(first)
        self.node(second, "--replicaof", "127.0.0.1", str(first))
        self.ports = [free_port() for _ in range(3)]
        for port in self.ports:
            folder = self.folder / str(port)
            folder.mkdir()
            (folder / "sentinel.conf").write_text(
                f"port {port}\nbind 127.0.0.1\ndir {folder}\nlogfile {folder}/log\nrequirepass {SENTINELS_PASSWORD}\n"
                f"sentinel sentinel-pass {SENTINELS_PASSWORD}\n"
                f"sentinel monitor mymaster 127.0.0.1 {first} 2\nsentinel auth-pass mymaster {PASSWORD}\n"
                "sentinel down-after-milliseconds mymaster 1000\nsentinel failover-timeout mymaster 5000\n"
            )
            command = [server_binary(), str(folder / "sentinel.conf"), "--sentinel"]
            self.sentinels.append(subprocess.Popen(command, stdout=subprocess.DEVNULL))
        hosts = ",".join(f"127.0.0.1:{port}" for port in self.ports)
        self.url = f"sentinel://:{PASSWORD}@{hosts}/mymaster/0?sentinel_password={SENTINELS_PASSWORD}"
        self.wait_for_copy(second)
        wait(lambda: len(self.ask_sentinel("SENTINEL", "SENTINELS", "mymaster")) == 2, 20, "other sentinels")
        wait(lambda: len(self.ask_sentinel("SENTINEL", "REPLICAS", "mymaster")) == 1, 20, "replica that they know")

    def close(self):
        """End them all."""
        for process in [*self.sentinels, *self.nodes.values()]:
            process.kill()
            process.wait()

    def node(self, port, *extra):
        """Start a server."""
        folder = self.folder / str(port)
        folder.mkdir(exist_ok=True)
        words = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", "", "--appendonly", "yes"]
        words += ["--requirepass", PASSWORD, "--masterauth", PASSWORD, "--logfile", str(folder / "log")]
        words += ["--repl-diskless-sync-delay", "0"]
        self.nodes[port] = subprocess.Popen([server_binary(), *words, *extra], stdout=subprocess.DEVNULL)
        wait(lambda: self.said(port, "server"), 20, f"server on {port}")

    def kill(self, port):
        """Kill a server with SIGKILL."""
        self.nodes[port].kill()
        self.nodes[port].wait()

    def demote(self, port):
        """Let the other one, which lives, be the primary; ordered again when no replica was found good yet."""
        for _ in range(4):
            wait(lambda: self.ask_sentinel("SENTINEL", "FAILOVER", "mymaster"), 30, "order to demote it")
            with suppress(AssertionError):
                wait(lambda: self.primary() not in {0, port}, 12, "other primary")
                return
        raise AssertionError(f"{port} stays the primary")

    def wait_for_copy(self, port):
        """Wait until a replica has what its primary has."""
        wait(lambda: self.said(port, "replication").get("master_link_status") == "up", 30, f"copy on {port}")

    def said(self, port, section):
        """What a server says of itself, {} when it is not there."""
        try:
            with SyncRedis(port=port, password=PASSWORD) as client:
                return client.info(section)
        except RedisError:
            return {}

    def ask_sentinel(self, *words):
        """What the first sentinel answers, [] when it refuses."""
        try:
            with SyncRedis(port=self.ports[0], password=SENTINELS_PASSWORD) as client:
                return client.execute_command(*words)
        except RedisError:
            return []

    def primary(self):
        """Whom a client would be led to, 0 when the sentinels know none."""

        async def ask():
            redis = connect(self.url)
            try:
                return int((await primary_of(redis)).rpartition(":")[2])
            except RedisError:
                return 0
            finally:
                await redis.aclose(close_connection_pool=True)

        return asyncio.run(ask())
