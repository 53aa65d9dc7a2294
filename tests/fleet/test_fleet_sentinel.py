"""A fleet behind Sentinel: real sentinels, a primary that is killed under load, one that is demoted alive."""

import asyncio
import tempfile
import time
from pathlib import Path

import pytest
from tests.conftest import server_binary
from tests.fleet.arena import Arena
from tests.sentinels import PASSWORD, SENTINELS_PASSWORD, Guarded

from farebox.connection import check_server, connect
from farebox.errors import ServerAwayError, ServerError
from farebox_worker.doctor.server import check_redis

WORKERS, JOBS = 2, 260

pytestmark = [
    pytest.mark.slow,
    pytest.mark.server,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not server_binary(), reason="no server to run as sentinel"),
]


class Watched(Arena):
    """An arena whose server is guarded by sentinels."""

    def __init__(self, folder):
        calm = {"latency-ms": 150, "latency-jitter-ms": 50}
        super().__init__(folder, limit_usd=20.0, jobs=JOBS, faults=calm)
        self.servers = Guarded(self.folder)

    def _start_server(self):
        self.servers.start()
        self.url = self.servers.url

    def revive(self):
        """Workers survive here: one that ended is a broken promise."""
        assert [worker.poll() for worker in self.workers] == [None] * WORKERS

    def __exit__(self, *exc):
        super().__exit__(*exc)
        self.servers.close()

    def billed(self):
        return self.bill()["billed_calls"]

    def wait_for_more(self, calls):
        enough = self.billed() + calls
        self.until(lambda: self.billed() >= enough, 90, f"{calls} calls more")


@pytest.fixture
def fleet():
    with tempfile.TemporaryDirectory(prefix="fbs") as folder, Watched(folder) as fleet:
        yield fleet


def test_a_fleet_outlives_the_death_and_the_demotion_of_its_primary(fleet):
    servers = fleet.servers
    for _ in range(WORKERS):
        fleet.work()
    fleet.wait_for_more(40)
    first = servers.primary()
    servers.kill(first)
    time.sleep(0.6)  # what was on its way has ended
    before = fleet.billed()
    time.sleep(0.5)
    assert fleet.billed() == before, "nothing is sent without a primary"
    fleet.until(lambda: servers.primary() not in {0, first}, 30, "another primary")
    fleet.wait_for_more(40)
    second = servers.primary()
    servers.node(first)  # it comes back believing that it is the primary, and is made a replica
    servers.wait_for_copy(first)
    servers.demote(second)
    assert servers.said(second, "replication")
    fleet.settle_down()
    seen = fleet.judge()
    assert not seen.broken, seen.table() + seen.log
    assert (seen.answered, seen.unconfirmed, seen.billed_calls) == (JOBS, 0, JOBS), seen.table()
    assert "LEDGERLOST" not in seen.log
    assert WORKERS <= seen.log.count("Redis is back") == seen.log.count("nothing is sent") <= 3 * WORKERS, seen.log


def test_the_doctor_shows_the_primary_and_a_wrong_password_is_no_outage(fleet):
    async def look():
        redis = connect(fleet.url)
        wrong = connect(fleet.url.replace(SENTINELS_PASSWORD, "wrong"))
        try:
            checks = await check_redis(redis, fleet.url)
            with pytest.raises(ServerError) as refused:
                await check_server(wrong, url=fleet.url)
        finally:
            await redis.aclose(close_connection_pool=True)
            await wrong.aclose(close_connection_pool=True)
        return checks, refused.value

    checks, refused = asyncio.run(look())
    said = next(check.message for check in checks if check.name == "server")
    assert f"primary 127.0.0.1:{fleet.servers.primary()}" in said
    assert PASSWORD not in said + str(refused)
    assert not isinstance(refused, ServerAwayError)
    assert Path(fleet.folder).exists()
