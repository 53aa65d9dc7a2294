"""A fleet and what happens to machines: stopped, cut off, restarted one by one, with wrong clocks; the bill judges.

Each test states what was lost (nothing) and what was paid twice (at most the calls in flight at a kill).
"""

import signal
import tempfile
import time
from pathlib import Path

import pytest
from tests.conftest import server_binary
from tests.fleet.arena import Arena
from tests.proxy import Proxy

from farebox_worker.server.embedded import start_server

LEASE_S = 2.0  # of every arena
IN_FLIGHT = 6  # of a worker: 2 calls in 3 lanes

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not server_binary(), reason="no server"),
]


class Fleet(Arena):
    """An arena with a well-behaved provider, whose workers reach the server through a proxy each, or directly."""

    def __init__(self, folder, *, jobs, **options):
        calm = {"latency-ms": 150, "latency-jitter-ms": 50}
        super().__init__(folder, limit_usd=100.0, jobs=jobs, faults=calm, **options)
        self.proxies = []

    def _configure(self):
        super()._configure()
        patient = self.config.read_text().replace("request_timeout_s = 1.0", "request_timeout_s = 60.0")
        self.config.write_text(patient.replace("drain_s = 5.0", "drain_s = 60.0"))

    def __exit__(self, *exc):
        super().__exit__(*exc)
        for proxy in self.proxies:
            proxy.close()

    def work_through_a_proxy(self):
        proxy = Proxy(self.data / "redis.sock", self.folder / f"p{len(self.proxies)}")
        self.proxies.append(proxy)
        self.work(FAREBOX_REDIS_URL=proxy.url)
        return proxy

    def revive(self):
        """Nobody is to end by itself here."""
        assert all(worker.poll() is None for worker in self.workers), (self.folder / "workers.log").read_text()

    def billed(self):
        return self.bill()["billed_calls"]

    def wait_for_more(self, calls):
        enough = self.billed() + calls
        self.until(lambda: self.billed() >= enough, 90, f"{calls} calls more")

    def judged(self):
        self.settle_down(120)
        seen = self.judge()
        assert not seen.broken, seen.table() + seen.log
        assert (seen.answered, seen.lost) == (seen.jobs, 0), seen.table()
        unanswered = seen.billed_calls - seen.jobs
        words = f"\nlost: {seen.lost}; paid and not answered: {unanswered}, answered twice: {seen.twice}"
        print(words)  # noqa: T201 - with pytest -s
        assert unanswered <= seen.at_risk, "at most what was in flight"
        return seen


@pytest.fixture
def make():
    with tempfile.TemporaryDirectory(prefix="fbf") as folder:
        yield lambda **options: Fleet(folder, **options)


def test_a_stopped_worker_that_goes_on_after_two_leases_sends_and_finishes_nothing_of_others(make):
    with make(jobs=240) as fleet:
        fleet.work()
        fleet.work()
        fleet.wait_for_more(30)
        victim = fleet.workers[0]
        victim.send_signal(signal.SIGSTOP)
        time.sleep(2 * LEASE_S)
        victim.send_signal(signal.SIGCONT)
        fleet.seen.at_risk = IN_FLIGHT
        fleet.judged()


@pytest.mark.parametrize("mode", ["swallow", "delay"])
def test_a_worker_that_is_cut_off_sends_nothing_after_its_lease_and_comes_back(make, mode):
    with make(jobs=240) as fleet:
        fleet.work()
        proxy = fleet.work_through_a_proxy()
        fleet.wait_for_more(30)
        proxy.be(mode, delay_s=LEASE_S)
        time.sleep(3 * LEASE_S)
        proxy.be("pass")
        fleet.seen.at_risk = IN_FLIGHT
        fleet.judged()


def test_a_server_that_is_away_for_longer_than_a_lease_finds_every_call_again(make):
    with make(jobs=240) as fleet:
        fleet.work()
        fleet.work()
        fleet.wait_for_more(30)
        fleet.server.kill()
        time.sleep(1.0)  # what was on its way has ended
        before = fleet.billed()
        time.sleep(2 * LEASE_S)
        assert fleet.billed() == before, "nothing is sent"
        fleet.server = start_server(fleet.data, appendfsync="always")
        seen = fleet.judged()
        assert (seen.billed_calls, seen.unconfirmed) == (seen.jobs, 0), "nothing lapses: grace"
        assert seen.log.count("Redis is back") == seen.log.count("nothing is sent") == 2, seen.log


def test_a_rolling_restart_under_load_loses_no_attempt_and_owes_nothing(make):
    with make(jobs=1500, concurrency=8) as fleet:
        for _ in range(3):
            fleet.work()
        fleet.wait_for_more(100)
        for _ in range(3):
            oldest = fleet.workers.pop(0)
            fleet.work()
            oldest.send_signal(signal.SIGTERM)
            assert oldest.wait(30) == 0
        seen = fleet.judged()
        assert (seen.billed_calls, seen.unconfirmed) == (1500, 0), seen.table()


def test_clocks_that_are_an_hour_off_change_nothing(make):
    with make(jobs=240) as fleet:
        skewed = str(Path(__file__).parents[1] / "skewed")
        for hours in (-1, 0, 1):
            fleet.work(PYTHONPATH=skewed, TEST_SKEW_S=str(hours * 3600))
        fleet.wait_for_more(30)
        fleet.kill_worker_at(0)
        fleet.kill_worker_at(1)
        seen = fleet.judged()
        assert seen.at_risk == 2 * IN_FLIGHT


def test_a_cancel_with_now_ends_every_call_of_the_fleet_within_seconds(make):
    with make(jobs=240) as fleet:
        fleet.work()
        fleet.work()
        fleet.wait_for_more(30)
        fleet.ask(lambda batch: batch.cancel(now=True))
        fleet.until(lambda: fleet.ask(lambda batch: batch.waiting())[2] == 0, 5, "the end of every call")
        billed = fleet.billed()
        fleet.until(lambda: fleet.ask(lambda batch: batch.progress()).complete, 30, "the sweep")
        progress = fleet.ask(lambda batch: batch.progress())
        assert progress.cancelled_jobs == 240 - progress.succeeded > 100
        assert progress.scope.unconfirmed_nusd <= 12 * fleet.seen.hold
        assert fleet.billed() == billed, "nothing more was sent"
