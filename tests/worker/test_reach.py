"""The first calls of a process to a provider are few until one is let in, and single while none is answered."""

import asyncio
from types import SimpleNamespace

import pytest
from tests.process_support import Stage, until

from farebox.errors import (
    ProviderAuthError,
    ProviderConnectionError,
    ProviderOverloadedError,
    ProviderRateLimitError,
    ProviderRequestError,
)
from farebox.records import Job
from farebox_worker.attempts.failures import judge
from farebox_worker.dispatch import circuit, reach
from farebox_worker.dispatch.reach import FIRST_CALLS, FOUND_S, MOST_FAILURES, Reach

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


DEAD = judge(ProviderConnectionError("a", "refused", sent=False), attempts=1, doubts=0, max_attempts=5)
FAULT = judge(
    ProviderOverloadedError("a", "oops", status_code=500, own_body=True), attempts=1, doubts=0, max_attempts=5
)
REFUSAL = judge(ProviderRequestError("a", "no", status_code=400, own_body=True), attempts=1, doubts=0, max_attempts=5)
LIMITED = judge(ProviderRateLimitError("a", "slow", status_code=429), attempts=1, doubts=0, max_attempts=5)


def test_the_lanes_of_a_provider_share_its_first_calls_and_other_providers_have_their_own():
    first = Reach()
    lanes = {"a:one", "a:two", "b:one"}
    assert first.room("a:one", lanes, {}) == 2
    assert first.room("a:one", lanes, {"a:one": 3}) == 1
    assert first.room("a:two", lanes, {"a:one": 4}) == 0
    assert first.room("b:one", lanes, {"a:one": 4}) == FIRST_CALLS
    first.sent("a:one")
    assert 0 < first.again_in_s <= 1.0
    assert first.ended("a:one", None, 0.1) == "open"
    assert first.ended("a:one", None, 0.1) == ""
    assert first.room("a:two", lanes, {"a:one": 400}) is None
    assert first.again_in_s == float("inf")


@pytest.fixture
def now(monkeypatch):
    """The seconds that circuits read, to be moved."""
    clock = SimpleNamespace(s=1000.0)
    monkeypatch.setattr(reach.time, "monotonic", lambda: clock.s)
    monkeypatch.setattr(circuit.random, "random", lambda: 0.5)
    return clock


def away(now, verdict=DEAD, most=FIRST_CALLS):
    """One that answered `a:one` and `a:two`, until so many calls of `a:one` failed."""
    one = Reach()
    for lane in ("a:one", "a:two"):
        one.sent(lane)
        one.ended(lane, None, 0.1)
    now.s += 100
    assert [one.ended("a:one", verdict, 0.1) for _ in range(most)] == [""] * (most - 1) + ["away"]
    return one


BREAKS = pytest.mark.parametrize(("verdict", "most"), [(DEAD, FIRST_CALLS), (FAULT, MOST_FAILURES)])


@BREAKS
def test_single_calls_try_a_lane_that_is_not_answered_less_and_less_often(now, verdict, most):
    one, waits = away(now, verdict, most), []
    for _ in range(5):
        assert one.is_away("a:one")
        assert one.room("a:one", ["a:one"], {"a:one": 200}) == 0
        waits.append(one.again_in_s)
        now.s += one.again_in_s
        assert one.room("a:one", ["a:one"], {"a:one": 200}) == 1
        one.sent("a:one")
        assert one.room("a:one", ["a:one"], {}) == 0
        assert one.ended("a:one", verdict, 0.0) == ""
    assert waits == [1, 2, 4, 5, 5]
    assert one.failing_s("a:one") == sum(waits)


def test_a_server_that_is_not_found_is_away_for_all_lanes_of_its_provider(now):
    one = away(now)
    assert [one.is_away(lane) for lane in ("a:one", "a:two", "b:one")] == [True, True, False]


def test_a_lane_whose_calls_fail_leaves_the_others_of_its_provider_alone(now):
    one = away(now, FAULT, MOST_FAILURES)
    assert (one.is_away("a:two"), one.failing_s("a:two")) == (False, 0)


@BREAKS
@pytest.mark.parametrize("answer", [None, REFUSAL])
def test_the_first_answer_lets_all_go(now, verdict, most, answer):
    one = away(now, verdict, most)
    now.s += 1
    one.sent("a:one")
    now.s += 0.1
    assert one.ended("a:one", answer, 0.1) == "back"
    assert (one.room("a:one", ["a:one"], {}), one.is_away("a:one"), one.failing_s("a:one")) == (None, False, 0)


def test_a_rate_limit_says_nothing_of_failures_before_it(now):
    one = away(now, FAULT, MOST_FAILURES)
    now.s += 1
    assert one.ended("a:one", LIMITED, 0.1) == ""
    assert one.is_away("a:one")


@BREAKS
def test_answers_of_calls_that_were_sent_before_tell_nothing(now, verdict, most):
    one = away(now, verdict, most)
    now.s += 0.5
    assert one.ended("a:one", None, 0.6) == ""
    assert one.is_away("a:one")


@BREAKS
def test_what_failed_with_the_others_lengthens_no_pause(now, verdict, most):
    one = away(now, verdict, most)
    for _ in range(200):
        one.sent("a:one")
        assert one.ended("a:one", verdict, 0.0) == ""
    now.s += 1
    assert one.room("a:one", ["a:one"], {}) == 1


def test_a_single_call_that_runs_long_has_found_its_server(now):
    one = away(now)
    now.s += 1
    one.sent("a:one")
    now.s += FOUND_S - 0.1
    assert one.is_away("a:one")
    now.s += 0.1
    assert one.room("a:one", ["a:one"], {"a:one": 1}) is None
    assert one.ended("a:one", None, FOUND_S) == "back", "so that it is told"


def test_an_answer_between_failures_begins_the_count_anew(now):
    one = Reach()
    one.sent("a:one")
    for _ in range(10):
        one.ended("a:one", None, 0.1)
        assert not any(one.ended("a:one", DEAD, 0.1) for _ in range(FIRST_CALLS - 1))
        assert not any(one.ended("a:one", FAULT, 0.1) for _ in range(MOST_FAILURES - 1))
    assert one.room("a:one", ["a:one"], {}) is None


@pytest.mark.parametrize(
    ("error", "most"),
    [
        (ProviderConnectionError("sim", "refused", sent=False), FIRST_CALLS),
        (ProviderOverloadedError("sim", "refused", status_code=500, own_body=True), MOST_FAILURES + SLOTS),
    ],
)
async def test_an_outage_is_met_by_single_calls_and_fails_nothing(stage, error, most):
    jobs = 6 * SLOTS
    await stage.begin(jobs)
    is_down = True

    async def act(n):
        if is_down:
            raise error

    stage.provider.act = act
    async with stage.process(concurrency=SLOTS) as process:
        await until(lambda: process.dispatch.reach.is_away("sim:one"))
        assert process._describe()["away"] == "sim:one\trefused"
        await asyncio.sleep(1.5)
        assert len(stage.provider.posted) <= most + 2
        is_down = False
        await until(lambda: process.dispatch.complete >= jobs - most - 2)  # those are tried again later
    assert process.dispatch.failed == 0
