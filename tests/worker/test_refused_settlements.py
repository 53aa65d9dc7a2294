"""A settlement that Redis goes on refusing holds up no other: it waits aside, told once, and is tried again."""

import asyncio

import pytest
from tests.polling import until
from tests.process_support import COST, HOLD, LANE

from farebox.batch import Batch
from farebox.records import Job
from farebox_worker.dispatch import settler as settler_module


@pytest.fixture
async def damaged(stage, monkeypatch):
    """Two jobs of a batch whose stream of results is no stream, and ten of another, in the same lane."""
    monkeypatch.setattr(settler_module, "AGAIN_S", 0.1)
    await stage.begin(2)
    await stage.batch.redis.set(stage.batch.keys.results("b1"), "damaged")
    other = Batch(stage.batch.redis, "b2")
    await other.open()
    await other.submit([Job(1, f"c{n}", LANE, "chat", b"{}") for n in range(10)])
    return other


def told(caplog, name):
    return [line.getMessage() for line in caplog.records if getattr(line, "event", "") == name]


async def test_the_others_go_on_and_it_is_settled_once_it_can_be(stage, damaged, caplog):
    async with stage.process(concurrency=4) as process:
        await until(lambda: _finished(damaged, 10))
        settler = process.dispatch.settler
        assert (settler.pending, process.in_flight) == (2, 2), "what waits aside keeps its slot, and its lease"
        await asyncio.sleep(0.5)  # it is tried again, and again refused
        assert len(told(caplog, "verb_refused")) == 2, "each is told once"
        assert stage.batch.job_id("c0") in "".join(told(caplog, "verb_refused"))
        await stage.batch.redis.delete(stage.batch.keys.results("b1"))
        await stage.finished(2)
        await until(lambda: settler.pending == 0)
    assert await stage.money() == (12 * COST, 0, 0)
    assert len(stage.provider.posted) == 12


async def test_it_is_tried_a_last_time_at_the_end_and_stops_nobody_from_leaving(stage, damaged, caplog):
    async with stage.process(concurrency=4) as process:
        await until(lambda: _finished(damaged, 10))
        process.drain()
        await asyncio.wait_for(process.task, 20)
    assert len(told(caplog, "settle_given_up")) == 2
    spent, held, unconfirmed = await stage.money()
    assert spent + held + unconfirmed <= 12 * HOLD
    assert spent == 12 * COST, "its money was booked at its first try"


async def _finished(batch, count):
    return (await batch.progress()).succeeded == count
