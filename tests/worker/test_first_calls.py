"""The first calls of a process to a provider are few, until one is let in: a wrong key is not met by a lane full."""

import asyncio

import pytest
from tests.process_support import Stage, until

from farebox.errors import ProviderAuthError
from farebox.records import Job
from farebox_worker.dispatch.first_calls import FIRST_CALLS, FirstCalls

SLOTS = 50


@pytest.fixture
async def stage(server):
    stage = Stage(server)
    yield stage
    await stage.batch.redis.aclose(close_connection_pool=True)


async def test_a_wrong_key_is_met_by_a_handful_of_calls(stage):
    await stage.begin(SLOTS)

    async def refuse(n):
        await asyncio.sleep(0.05)
        raise ProviderAuthError("sim", "no such key", status_code=401, own_body=True)

    stage.provider.act = refuse
    async with stage.process(concurrency=SLOTS) as process:
        await until(lambda: process.routes.stopped)
        await until(lambda: not process.in_flight)
    assert len(stage.provider.posted) == FIRST_CALLS


async def test_many_lanes_of_one_provider_meet_a_wrong_key_together_with_a_handful_of_calls(stage):
    await stage.begin()
    lanes = [f"sim:{n}" for n in range(6)]
    await stage.batch.submit([Job(1, f"{lane}-{n}", lane, "chat", b"{}") for lane in lanes for n in range(5)])

    async def refuse(n):
        await asyncio.sleep(0.05)
        raise ProviderAuthError("sim", "no such key", status_code=401, own_body=True)

    stage.provider.act = refuse
    async with stage.process(concurrency=SLOTS) as process:
        await until(lambda: process.routes.stopped)
        await until(lambda: not process.in_flight)
    assert len(stage.provider.posted) == FIRST_CALLS


async def test_many_lanes_of_one_provider_are_all_served_once_it_let_one_in(stage):
    await stage.begin()
    lanes = [f"sim:{n}" for n in range(6)]
    await stage.batch.submit([Job(1, lane, lane, "chat", b"{}") for lane in lanes])
    async with stage.process(concurrency=SLOTS):
        await stage.finished(len(lanes))
    assert len(stage.provider.posted) == len(lanes)


async def test_the_first_answer_lets_all_others_go(stage):
    await stage.begin(SLOTS)
    let_in = asyncio.Event()

    async def act(n):
        if n > 1:
            await let_in.wait()

    stage.provider.act = act
    async with stage.process(concurrency=SLOTS):
        await until(lambda: len(stage.provider.posted) == SLOTS)
        let_in.set()
        await stage.finished(SLOTS)


async def test_calls_that_take_long_are_not_waited_for(stage):
    await stage.begin(SLOTS)
    answer = asyncio.Event()

    async def act(n):
        await answer.wait()

    stage.provider.act = act
    async with stage.process(concurrency=SLOTS) as process:
        await until(lambda: len(stage.provider.posted) == SLOTS)
        answer.set()
        await until(lambda: not process.in_flight)


def test_the_lanes_of_a_provider_share_its_first_calls_and_other_providers_have_their_own():
    first = FirstCalls()
    lanes = {"a:one", "a:two", "b:one"}
    assert first.room("a", lanes, {}) == 2
    assert first.room("a", lanes, {"a:one": 3}) == 1
    assert first.room("a", lanes, {"a:one": 4}) == 0
    assert first.room("b", lanes, {"a:one": 4}) == FIRST_CALLS
    first.sent("a")
    assert 0 < first.again_in_s <= 1.0
    assert first.let_in("a")
    assert not first.let_in("a")
    assert first.room("a", lanes, {"a:one": 400}) is None
    assert first.again_in_s == float("inf")
