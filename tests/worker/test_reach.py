"""The first calls of a process to a provider are few until one is let in, and single while no server is found."""

import asyncio
from types import SimpleNamespace

import pytest
from tests.process_support import Stage, until

from farebox.errors import ProviderAuthError, ProviderConnectionError
from farebox.records import Job
from farebox_worker.dispatch import reach
from farebox_worker.dispatch.reach import FIRST_CALLS, FOUND_S, Reach

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
    first = Reach()
    lanes = {"a:one", "a:two", "b:one"}
    assert first.room("a", lanes, {}) == 2
    assert first.room("a", lanes, {"a:one": 3}) == 1
    assert first.room("a", lanes, {"a:one": 4}) == 0
    assert first.room("b", lanes, {"a:one": 4}) == FIRST_CALLS
    first.sent("a")
    assert 0 < first.again_in_s <= 1.0
    assert first.let_in("a", 0.1)
    assert not first.let_in("a", 0.1)
    assert first.room("a", lanes, {"a:one": 400}) is None
    assert first.again_in_s == float("inf")


@pytest.fixture
def now(monkeypatch):
    """The seconds that `Reach` reads, to be moved."""
    clock = SimpleNamespace(s=1000.0)
    monkeypatch.setattr(reach.time, "monotonic", lambda: clock.s)
    monkeypatch.setattr(reach.random, "random", lambda: 0.5)
    return clock


def away(now):
    """One that was open, and whose server a handful of calls did not find."""
    one = Reach()
    one.sent("a")
    assert one.let_in("a", 0.1)
    now.s += 100
    assert [one.missed("a") for _ in range(FIRST_CALLS)] == [False] * (FIRST_CALLS - 1) + [True]
    return one


def test_single_calls_try_a_server_that_was_not_found_less_and_less_often(now):
    one, waits = away(now), []
    for _ in range(5):
        assert one.is_away("a")
        assert one.room("a", ["a:one"], {"a:one": 200}) == 0
        waits.append(one.again_in_s)
        now.s += one.again_in_s
        assert one.room("a", ["a:one"], {"a:one": 200}) == 1
        one.sent("a")
        assert one.room("a", ["a:one"], {}) == 0
        assert not one.missed("a")
    assert waits == [1, 2, 4, 5, 5]
    assert one.missing_s("a") == sum(waits)


def test_the_first_call_that_finds_it_lets_all_go(now):
    one = away(now)
    now.s += 1
    one.sent("a")
    now.s += 0.1
    assert one.let_in("a", 0.1)
    assert (one.room("a", ["a:one"], {}), one.is_away("a"), one.missing_s("a")) == (None, False, 0)


def test_answers_of_calls_that_were_sent_before_tell_nothing(now):
    one = away(now)
    now.s += 0.5
    assert not one.let_in("a", 0.6)
    assert one.is_away("a")


def test_what_missed_with_the_others_lengthens_no_pause(now):
    one = away(now)
    for _ in range(200):
        one.sent("a")
        assert not one.missed("a")
    now.s += 1
    assert one.room("a", ["a:one"], {}) == 1


def test_a_single_call_that_runs_long_has_found_it(now):
    one = away(now)
    now.s += 1
    one.sent("a")
    now.s += FOUND_S - 0.1
    assert one.room("a", ["a:one"], {"a:one": 1}) == 0
    now.s += one.again_in_s
    assert one.room("a", ["a:one"], {"a:one": 1}) is None
    assert one.let_in("a", 60), "so that it is told"


def test_an_answer_between_misses_begins_the_count_anew(now):
    one = Reach()
    one.sent("a")
    for _ in range(10):
        one.let_in("a", 0.1)
        assert not any(one.missed("a") for _ in range(FIRST_CALLS - 1))
    assert one.room("a", ["a:one"], {}) is None


async def test_an_outage_is_met_by_one_call_at_a_time_and_nothing_is_failed_for_it(stage):
    jobs = 3 * SLOTS
    await stage.begin(jobs)
    is_down = True

    async def act(n):
        if is_down:
            raise ProviderConnectionError("sim", "refused", sent=False)

    stage.provider.act = act
    async with stage.process(concurrency=SLOTS) as process:
        await until(lambda: process.dispatch.is_away("sim:one"))
        assert process._describe()["away"] == "sim:one\trefused"
        await asyncio.sleep(1.5)
        assert FIRST_CALLS < len(stage.provider.posted) <= FIRST_CALLS + 2
        is_down = False
        await until(lambda: process.dispatch.complete >= jobs - FIRST_CALLS - 2)  # those are tried again later
    assert process.dispatch.failed == 0
