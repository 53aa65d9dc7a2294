"""A fleet behind Sentinel: real sentinels, a primary that is killed under load, one that is demoted alive."""

import asyncio
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
from redis import Redis as SyncRedis
from redis.exceptions import RedisError
from tests.conftest import server_binary
from tests.fleet.arena import Arena
from tests.fleet.test_state_loss_fleet import free_port

from farebox.connection import check_server, connect
from farebox.errors import ServerAwayError, ServerError
from farebox.sentinel import primary_of
from farebox_worker.doctor.server import check_redis

WORKERS, JOBS = 2, 260
PASSWORD, SENTINELS_PASSWORD = "of-the-server", "of-the-sentinels"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.server,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not server_binary(), reason="no server to run as sentinel"),
]


class Guarded(Arena):
    """A primary, a replica and three sentinels; everybody has a password."""

    def __init__(self, folder):
        calm = {"latency-ms": 150, "latency-jitter-ms": 50}
        super().__init__(folder, limit_usd=20.0, jobs=JOBS, faults=calm)
        self.nodes = {}
        self.sentinels = []

    def _start_server(self):
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
            self.sentinels.append(
                subprocess.Popen(
                    [server_binary(), str(folder / "sentinel.conf"), "--sentinel"], stdout=subprocess.DEVNULL
                )
            )
        hosts = ",".join(f"127.0.0.1:{port}" for port in self.ports)
        self.url = f"sentinel://:{PASSWORD}@{hosts}/mymaster/0?sentinel_password={SENTINELS_PASSWORD}"
        self.until(lambda: self.said(second, "replication").get("master_link_status") == "up", 20, "the replica's copy")
        self.until(lambda: len(self.ask_sentinel("SENTINEL", "SENTINELS", "mymaster")) == 2, 20, "the sentinels")
        self.until(lambda: len(self.ask_sentinel("SENTINEL", "REPLICAS", "mymaster")) == 1, 20, "what they know")

    def node(self, port, *extra):
        folder = self.folder / str(port)
        folder.mkdir(exist_ok=True)
        words = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", "", "--appendonly", "yes"]
        words += ["--requirepass", PASSWORD, "--masterauth", PASSWORD, "--logfile", str(folder / "log")]
        words += ["--repl-diskless-sync-delay", "0"]
        self.nodes[port] = subprocess.Popen([server_binary(), *words, *extra], stdout=subprocess.DEVNULL)
        self.until(lambda: self.said(port, "server"), 20, f"the server on {port}")

    def said(self, port, section):
        try:
            with SyncRedis(port=port, password=PASSWORD) as client:
                return client.info(section)
        except RedisError:
            return {}

    def ask_sentinel(self, *words):
        try:
            with SyncRedis(port=self.ports[0], password=SENTINELS_PASSWORD) as client:
                return client.execute_command(*words)
        except RedisError:
            return []

    def primary(self):
        async def ask():
            redis = connect(self.url)
            try:
                return int((await primary_of(redis)).rpartition(":")[2])
            except RedisError:
                return 0
            finally:
                await redis.aclose(close_connection_pool=True)

        return asyncio.run(ask())

    def revive(self):
        """Workers survive here: one that ended is a broken promise."""
        assert [worker.poll() for worker in self.workers] == [None] * WORKERS

    def __exit__(self, *exc):
        super().__exit__(*exc)
        for process in [*self.sentinels, *self.nodes.values()]:
            process.kill()
            process.wait()

    def billed(self):
        return self.bill()["billed_calls"]

    def wait_for_more(self, calls):
        enough = self.billed() + calls
        self.until(lambda: self.billed() >= enough, 90, f"{calls} calls more")


@pytest.fixture
def guarded():
    with tempfile.TemporaryDirectory(prefix="fbs") as folder, Guarded(folder) as guarded:
        yield guarded


def test_a_fleet_outlives_the_death_and_the_demotion_of_its_primary(guarded):
    for _ in range(WORKERS):
        guarded.work()
    guarded.wait_for_more(40)
    first = guarded.primary()
    guarded.nodes[first].kill()
    guarded.nodes[first].wait()
    time.sleep(0.6)  # what was on its way has ended
    before = guarded.billed()
    time.sleep(0.5)
    assert guarded.billed() == before, "nothing is sent without a primary"
    guarded.until(lambda: guarded.primary() not in {0, first}, 30, "another primary")
    second = guarded.primary()
    guarded.wait_for_more(40)
    guarded.node(first)  # it comes back believing that it is the primary, and is made a replica
    guarded.until(
        lambda: guarded.said(first, "replication").get("master_link_status") == "up", 30, "the old one, demoted"
    )
    guarded.until(lambda: guarded.ask_sentinel("SENTINEL", "FAILOVER", "mymaster"), 30, "the order to demote it")
    guarded.until(lambda: guarded.primary() == first, 30, "the first one again")
    assert guarded.said(second, "replication")
    guarded.settle_down()
    seen = guarded.judge()
    assert not seen.broken, seen.table() + seen.log
    assert (seen.answered, seen.unconfirmed, seen.billed_calls) == (JOBS, 0, JOBS), seen.table()
    assert "LEDGERLOST" not in seen.log
    assert WORKERS <= seen.log.count("Redis is back") == seen.log.count("nothing is sent") <= 3 * WORKERS, seen.log


def test_the_doctor_shows_the_primary_and_a_wrong_password_is_no_outage(guarded):
    async def look():
        redis = connect(guarded.url)
        wrong = connect(guarded.url.replace(SENTINELS_PASSWORD, "wrong"))
        try:
            checks = await check_redis(redis, guarded.url)
            with pytest.raises(ServerError) as refused:
                await check_server(wrong, url=guarded.url)
        finally:
            await redis.aclose(close_connection_pool=True)
            await wrong.aclose(close_connection_pool=True)
        return checks, refused.value

    checks, refused = asyncio.run(look())
    said = next(check.message for check in checks if check.name == "server")
    assert f"primary 127.0.0.1:{guarded.primary()}" in said
    assert PASSWORD not in said + str(refused)
    assert not isinstance(refused, ServerAwayError)
    assert Path(guarded.folder).exists()
