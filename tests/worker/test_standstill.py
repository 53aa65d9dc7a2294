"""A process that stands still while the world goes on: a stalled event loop, a suspended machine."""

import asyncio
import threading
import time

import pytest
from tests.conftest import server_binary
from tests.polling import until
from tests.process_support import COST, HOLD, Stage
from tests.shifted_time import SHIFT, shifted_time

from farebox_worker import clock as clock_module

LEASE_S = 1.0
HOUR_S = 3600


@pytest.fixture
async def stage(server):
    stage = Stage(server)
    yield stage
    await stage.batch.redis.aclose(close_connection_pool=True)


@pytest.fixture
def suspend(monkeypatch):
    """Lets the clock of leases go on by so many seconds, as it does while a machine sleeps."""
    slept_s = 0.0
    true = time.clock_gettime
    monkeypatch.setattr(clock_module.time, "clock_gettime", lambda kind: true(kind) + slept_s)

    def sleep(seconds):
        nonlocal slept_s
        slept_s += seconds

    return sleep


class Elsewhere:
    """A worker in a thread with an event loop of its own: it goes on while ours stands still."""

    def __init__(self, url, jobs):
        self.posted = 0
        self._url, self._jobs = url, jobs
        self._thread = threading.Thread(target=lambda: asyncio.run(self._work()))

    async def _work(self):
        stage = Stage(self._url)
        async with stage.process(lease_s=LEASE_S):
            await stage.finished(self._jobs, 60)
        self.posted = len(stage.provider.posted)
        await stage.batch.redis.aclose(close_connection_pool=True)

    def answer_everything(self):
        """Stand still until it has."""
        self._thread.start()
        self._thread.join(60)
        assert not self._thread.is_alive()


@pytest.mark.server
@pytest.mark.skipif(not server_binary(), reason="no server that two event loops can reach")
async def test_a_stalled_event_loop_sends_nothing_more_and_finishes_nothing_of_others(real_server):
    stage = Stage(real_server)
    await stage.begin(12)
    go_on = asyncio.Event()
    stage.provider.act = lambda n: go_on.wait()
    async with stage.process(lease_s=LEASE_S, concurrency=4) as stalled:
        await until(lambda: len(stage.provider.posted) == 4)
        other = Elsewhere(real_server, 12)
        other.answer_everything()
        assert other.posted == 12, "what it had in flight was taken over"
        assert await stage.money() == (12 * COST, 0, 4 * HOLD)
        go_on.set()
        await until(lambda: stalled.in_flight == 0)
        assert len(stage.provider.posted) == 4, "it sent nothing more"
    assert await stage.money() == (16 * COST, 0, 0), "both calls of a job are paid, and both are known"
    answered = [job for job, _ in await stage.results()]
    assert len(answered) == len(set(answered)) == 12
    await stage.batch.redis.aclose(close_connection_pool=True)


async def test_a_machine_that_slept_between_claim_and_send_sends_nothing_on_its_old_leases(stage, suspend):
    await stage.begin(4)
    seen = []

    def fall_asleep(job):
        if not seen:
            suspend(HOUR_S)
        seen.append(job.custom_id)

    stage.provider.on_prepare = fall_asleep
    async with stage.process(concurrency=4, lease_s=30.0) as process:
        await stage.finished(4)
        assert process.dispatch.complete == 4
    assert len(seen) > 4, "they were handed back and claimed again"
    assert len(stage.provider.posted) == 4
    assert await stage.money() == (4 * COST, 0, 0)


async def test_a_laptop_that_was_closed_keeps_its_calls_and_pays_them_once(stage, suspend):
    with shifted_time():
        await stage.begin(6)
        go_on = asyncio.Event()
        stage.provider.act = lambda n: go_on.wait()
        calm = {"concurrency": 2, "lease_s": 30.0}
        async with stage.process(**calm), stage.process(**calm):  # neither ends what is the other's
            await until(lambda: len(stage.provider.posted) == 4)
            await stage.batch.redis.set(SHIFT, HOUR_S)  # the server slept with us
            suspend(HOUR_S)
            running = [one for process in stage.processes for one in process.dispatch.running.values()]
            await until(lambda: all(one.deadline > clock_module.clock() for one in running))
            go_on.set()
            await stage.finished(6)
    assert len(stage.provider.posted) == 6
    assert await stage.money() == (6 * COST, 0, 0)
