"""A job that names several models: who answers it, when it moves on, and what becomes of its money meanwhile."""

import asyncio
import math
from collections import Counter
from contextlib import asynccontextmanager

import fakeredis
import pytest
from redis import Redis as SyncRedis
from tests.polling import until
from tests.process_support import Stage

from farebox.amend import retry_failed
from farebox.errors import (
    FareboxError,
    ProviderAccountError,
    ProviderAuthError,
    ProviderOverloadedError,
    ProviderRateLimitError,
    ProviderRequestError,
    ProviderTimeoutError,
    UntranslatableError,
)
from farebox.fallback import as_asked_in, first_lane, lanes_after, moved
from farebox.records import Job, JobEnvelope
from farebox_worker.bus.admit import Fare, admit
from farebox_worker.bus.claim import Ask, claim
from farebox_worker.bus.lapse import lapse
from farebox_worker.bus.move import move
from farebox_worker.bus.pause import pause, resume
from farebox_worker.bus.settle import Settlement, settle
from farebox_worker.bus.sweep import sweep
from farebox_worker.dispatch.balance import Balance, Load, share, soonest_s
from farebox_worker.dispatch.moves import Moves
from farebox_worker.prices.catalogue import Entry
from farebox_worker.prices.rates import PRETEND
from farebox_worker.process.process import Process
from farebox_worker.providers.base import Facts, Prepared, Reply, TokenUsage
from farebox_worker.routes import Routes
from farebox_worker.settings import Settings, WorkerSettings

A, B, C = "a:one", "b:two", "c:three"
COST = 9_000  # 3 tokens in at $1, 3 out at $2 per million
OPTIONS = {"concurrency": 4, "lease_s": 30.0, "drain_s": 10.0, "max_attempts": 2}


class Vendor:
    """Answers every model at once, or as `act` says for it; `posted` names the lanes in which it was asked."""

    def __init__(self):
        self.posted = []
        self.asked = []
        self.act = {}
        self.unsaid = set()

    def prepare(self, job, facts):
        if job.model_ref in self.unsaid:
            raise UntranslatableError(job.model_ref, ["seed"])
        self.asked.append((job.model_ref, job.tier))
        return Prepared(job.model_ref.encode(), 10, 10, capped_by_default=False, api="chat")

    async def post(self, prepared, *, timeout_s):
        model_ref = prepared.body.decode()
        self.posted.append(model_ref)
        if act := self.act.get(model_ref):
            await act()
        return Reply(200, "r", b"{}", b"{}", TokenUsage(3, 3), "answered")

    async def aclose(self):
        pass


class Shelf:
    """Every model, at the same price; providers in `unknown` are not configured here."""

    def __init__(self, unknown=()):
        self.unknown = unknown

    def resolve(self, model_ref, *, tier):
        provider, _, model = model_ref.partition(":")
        if provider in self.unknown:
            raise FareboxError(f"no provider {provider}")
        facts = Facts(model, 1000, 100, 100)
        return Entry(model_ref, provider, model, facts, PRETEND, free=False, rpm=None, tpm=None, max_concurrency=None)

    def refresh_if_older_than(self, seconds):
        return False


class Fallbacks(Stage):
    """A stage on which jobs name several models, and a vendor answers them all."""

    def __init__(self, url):
        super().__init__(url)
        self.vendor = Vendor()

    def eyes(self):
        if self.url:
            return SyncRedis.from_url(self.url, decode_responses=True)
        return fakeredis.FakeRedis(server=self.fake, decode_responses=True)

    async def begin(self, count, *fallbacks, start=0, **fields):
        if not start:
            await self.batch.redis.flushall()
            await self.batch.ledger.create()
            await self.batch.open()
        jobs = [Job(1, f"c{n}", A, "chat", b"{}", fallbacks=fallbacks, **fields) for n in range(start, start + count)]
        await self.batch.submit(jobs)

    @asynccontextmanager
    async def process(self, *, unknown=(), only_batch="b1", **worker):
        shelf = Shelf(unknown)
        routes = Routes(shelf, shelf, lambda _: self.vendor)
        settings = Settings(worker=WorkerSettings(**OPTIONS | worker))
        process = Process(self.client(), settings, routes, only_batch=only_batch, handle_signals=False)
        task = asyncio.create_task(process.main())
        try:
            yield process
        finally:
            process.leave()
            await asyncio.gather(task, return_exceptions=True)
            await process.close()

    async def results(self):
        return [result for _, result in await super().results()]


@pytest.fixture
async def stage(server):
    stage = Fallbacks(server)
    yield stage
    await stage.batch.redis.aclose(close_connection_pool=True)


def raising(error):
    async def act():
        raise error

    return act


REFUSED = ProviderRequestError("a", "context too long", status_code=400, own_body=True)


# --- after a failure ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "tries"),
    [
        (REFUSED, 1),
        (ProviderRequestError("a", "model_not_found", status_code=404, own_body=True), 1),
        (ProviderOverloadedError("a", "overloaded", status_code=529, own_body=True), 2),
    ],
)
async def test_what_one_model_refuses_the_next_one_answers_at_its_own_price(stage, monkeypatch, error, tries):
    monkeypatch.setattr("farebox_worker.attempts.failures.RETRY_BASE_S", 0.01)
    await stage.begin(3, B)
    stage.vendor.act[A] = raising(error)
    async with stage.process():
        await stage.finished(3)
    results = await stage.results()
    assert {(r.model_ref, r.asked, r.outcome, r.attempts) for r in results} == {(B, A, "succeeded", tries + 1)}
    assert Counter(stage.vendor.posted) == {A: 3 * tries, B: 3}
    assert await stage.money() == (3 * COST, 0, 0)
    assert (await stage.batch.ledger.scope(f"model:{B}")).spent_nusd == 3 * COST
    assert (await stage.batch.ledger.scope(f"model:{A}")).spent_nusd == 0


async def test_each_model_is_tried_once_and_the_last_one_s_failure_is_the_job_s(stage):
    await stage.begin(2, B, C)
    for lane in (A, B, C):
        stage.vendor.act[lane] = raising(
            ProviderRequestError(lane[0], f"no, says {lane}", status_code=400, own_body=True)
        )
    async with stage.process():
        await stage.finished(2)
    assert Counter(stage.vendor.posted) == {A: 2, B: 2, C: 2}
    for result in await stage.results():
        assert (result.outcome, result.model_ref, result.asked, result.attempts) == ("failed", C, A, 3)
        assert f"no, says {C}" in result.error_message


async def test_a_fallback_may_be_another_tier(stage):
    await stage.begin(1, f"{B}@flex")
    stage.vendor.act[A] = raising(REFUSED)
    async with stage.process():
        await stage.finished(1)
    (result,) = await stage.results()
    assert (result.model_ref, result.tier, result.asked) == (B, "flex", A)
    assert stage.vendor.asked == [(A, "standard"), (B, "flex")]


async def test_what_cannot_be_said_to_one_provider_is_said_to_the_next_unpaid(stage):
    await stage.begin(1, B)
    stage.vendor.unsaid = {A}
    async with stage.process():
        await stage.finished(1)
    (result,) = await stage.results()
    assert (result.model_ref, result.outcome, stage.vendor.posted) == (B, "succeeded", [B])


async def test_two_bills_in_doubt_are_enough_for_one_job_however_many_models_it_names(stage, monkeypatch):
    monkeypatch.setattr("farebox_worker.attempts.failures.RETRY_BASE_S", 0.01)
    await stage.begin(1, B, C)
    for lane in (A, B, C):
        stage.vendor.act[lane] = raising(ProviderTimeoutError(lane[0], "no answer"))
    async with stage.process(max_attempts=1):
        await stage.finished(1)
    (result,) = await stage.results()
    assert result.outcome == "failed"
    assert stage.vendor.posted == [A, B]
    assert (await stage.money())[2] == 2 * 30_000


async def test_what_failed_in_all_its_lanes_begins_with_the_first_when_it_is_retried(stage):
    await stage.begin(1, B)
    stage.vendor.act = {A: raising(REFUSED), B: raising(REFUSED)}
    async with stage.process():
        await stage.finished(1)
    await retry_failed(stage.batch)
    stage.vendor.act.clear()
    stage.vendor.posted.clear()
    async with stage.process():
        await stage.finished(1)
    (result,) = await stage.results()
    assert (result.model_ref, result.asked, result.attempts) == (A, "", 1)


async def test_a_job_that_moves_while_its_batch_is_cancelled_is_swept_in_its_new_lane(stage):
    await stage.begin(1, B)
    cancelled = asyncio.Event()

    async def refuse():
        await stage.batch.cancel()
        await sweep(stage.batch.tongue, results_ttl_ms=1000)
        cancelled.set()
        raise REFUSED

    stage.vendor.act[A] = refuse
    async with stage.process() as process:
        await cancelled.wait()
        await until(lambda: not process.in_flight)
        while await sweep(stage.batch.tongue, results_ttl_ms=1000):
            pass
        await stage.finished(1)
    assert [result.outcome for result in await stage.results()] == ["cancelled"]


# --- away from a lane that cannot go on -------------------------------------------------------------------------------


async def relieved(stage, **worker):
    async with stage.process(**worker) as process:
        return await process.dispatch.moves.relieve()


async def test_jobs_leave_a_lane_whose_account_is_empty_and_come_back_to_no_one(stage):
    await stage.begin(8, B)
    stage.vendor.act[A] = raising(ProviderAccountError("a", "no credit", status_code=402, own_body=True))
    async with stage.process(concurrency=2):
        await stage.finished(8)
    assert {(r.model_ref, r.asked) for r in await stage.results()} == {(B, A)}
    assert await stage.money() == (8 * COST, 0, 0)


async def test_jobs_leave_a_lane_that_nobody_serves(stage):
    await stage.begin(4, B)
    async with stage.process(unknown=("a",)):
        await stage.finished(4)
    assert {r.model_ref for r in await stage.results()} == {B}


async def test_jobs_leave_a_lane_whose_key_is_refused(stage):
    await stage.begin(4, B)
    stage.vendor.act[A] = raising(ProviderAuthError("a", "wrong key", status_code=401, own_body=True))
    async with stage.process(concurrency=1):
        await stage.finished(4)
    assert {r.model_ref for r in await stage.results()} == {B}


async def moves_of(stage, *, after_s=60.0, unknown=(), away=()):
    shelf = Shelf(unknown)
    routes = Routes(shelf, shelf, lambda _: stage.vendor)
    return Moves(stage.batch.tongue, routes, away.__contains__, after_s=after_s, only_batch="")


async def counts(stage):
    flows = {lane: f"farebox:flow:0:b1:{lane}" for lane in (A, B, C)}
    return [await stage.batch.redis.zcard(flow) for flow in flows.values()]


async def test_a_short_pause_moves_nothing_and_one_known_to_last_moves_all_at_once(stage):
    await stage.begin(600, B, C)
    moves = await moves_of(stage)
    await pause(stage.batch.tongue, A, seconds=20, why="rate_limit")
    assert await moves.relieve() == 0
    await pause(stage.batch.tongue, A, seconds=300, why="account")
    await pause(stage.batch.tongue, B, seconds=20, why="rate_limit")
    assert await moves.relieve() == 600
    assert await counts(stage) == [0, 0, 600]


async def test_an_operator_s_pause_moves_jobs_when_it_has_lasted(stage):
    await stage.begin(5, B)
    moves = await moves_of(stage)
    await pause(stage.batch.tongue, A, seconds=None, why="", by="operator")
    assert await moves.relieve() == 0
    await stage.batch.redis.hset("farebox:lane:" + A, "away_since", 1)
    assert await moves.relieve() == 5
    await resume(stage.batch.tongue, A)
    await stage.begin(2, B, start=5)
    assert await moves.relieve() == 0
    assert await stage.batch.redis.hget("farebox:lane:" + A, "away_since") is None


async def test_jobs_stay_where_no_other_lane_would_take_them(stage):
    await stage.begin(5, B)
    moves = await moves_of(stage, after_s=0, unknown=("b",))
    await pause(stage.batch.tongue, A, seconds=300, why="account")
    assert await moves.relieve() == 0
    assert await counts(stage) == [5, 0, 0]


async def test_jobs_leave_a_lane_whose_server_nobody_finds_when_that_has_lasted(stage):
    await stage.begin(5, B)
    moves = await moves_of(stage, away={A})
    assert await moves.relieve() == 0
    await stage.batch.redis.hset("farebox:lane:" + A, "away_since", 1)
    assert await moves.relieve() == 5
    assert await counts(stage) == [0, 5, 0]


async def test_jobs_stay_while_another_worker_finds_the_server(stage):
    await stage.begin(5, B)
    moves, redis, keys = await moves_of(stage, away={A}, after_s=0), stage.batch.redis, stage.batch.keys
    await redis.zadd(keys.workers, {"w": 1})
    await redis.hset(keys.worker("w"), mapping={"lanes": A})
    assert await moves.relieve() == 0
    await redis.hset(keys.worker("w"), "away", f"{A}\tno route to host")
    assert await moves.relieve() == 5


async def test_jobs_without_fallbacks_stay_in_a_flow_they_share(stage):
    await stage.begin(5)
    await stage.begin(300, start=5)
    await stage.begin(5, B, start=305)
    await pause(stage.batch.tongue, A, seconds=300, why="account")
    assert await (await moves_of(stage)).relieve() == 5
    assert await counts(stage) == [305, 5, 0]


async def test_what_is_parked_what_runs_and_what_is_due_later_stays(stage):
    await stage.begin(4, B)
    claimed = (await claim(stage.batch.tongue, [Ask(A, 1)], lease_ms=30_000)).jobs
    flow, goal = f"farebox:flow:0:b1:{A}", f"farebox:flow:0:b1:{B}"
    ids = [stage.batch.job_id(f"c{n}") for n in range(4)]
    await stage.batch.redis.zadd(flow, {ids[3]: 9 * 10**12})
    assert await move(stage.batch.tongue, flow, goal, "movable", ids) == 2
    assert await move(stage.batch.tongue, goal, flow, "movable", ids) == 2
    await stage.batch.ledger.set_limit("global", 5)
    (verdict,) = await admit(stage.batch.tongue, [Fare(claimed[0], 10, ("global",))])
    assert verdict.word == "no_room"
    siding = f"farebox:flow:0:b1+global:{A}"
    assert await move(stage.batch.tongue, siding, goal, "movable", ids) == 0, "what waits for money waits"
    assert await move(stage.batch.tongue, flow, goal, "movable", ids) == 2, "its neighbours do not"
    await stage.batch.ledger.set_limit("global", 50)
    assert await move(stage.batch.tongue, siding, goal, "movable", ids) == 1
    (first, *_) = (await claim(stage.batch.tongue, [Ask(B, 4)], lease_ms=30_000)).jobs
    assert first.job_id == claimed[0].job_id


async def test_jobs_keep_their_order_in_another_lane(stage):
    await stage.begin(6, B)
    flow, goal = f"farebox:flow:0:b1:{A}", f"farebox:flow:0:b1:{B}"
    ids = [stage.batch.job_id(f"c{n}") for n in range(6)]
    await move(stage.batch.tongue, flow, goal, "movable", ids[3:])
    await move(stage.batch.tongue, flow, goal, "movable", ids[:3])
    claimed = (await claim(stage.batch.tongue, [Ask(B, 6)], lease_ms=30_000)).jobs
    assert [job.job_id for job in claimed] == ids


async def test_an_answer_from_before_the_move_ends_the_job_where_it_is_now(stage):
    await stage.begin(1, B)
    tongue, flow, goal = stage.batch.tongue, f"farebox:flow:0:b1:{A}", f"farebox:flow:0:b1:{B}"
    (claimed,) = (await claim(tongue, [Ask(A, 1)], lease_ms=1)).jobs
    await admit(tongue, [Fare(claimed, 10, ("global",))])
    await asyncio.sleep(0.01)
    await lapse(tongue, dead=True)
    assert await move(tongue, flow, goal, "movable", [claimed.job_id]) == 1
    (again,) = (await claim(tongue, [Ask(B, 1)], lease_ms=30_000)).jobs
    answer = Settlement(
        claimed.job_id, flow, claimed.token, "finish", "actual", 7, outcome="succeeded answered", result=b"r"
    )
    assert await settle(tongue, [answer], results_ttl_ms=1000) == ["done"]
    assert await counts(stage) == [0, 0, 0]
    assert [verdict.word for verdict in await admit(tongue, [Fare(again, 10, ("global",))])] == ["lost"]
    assert await stage.money() == (7, 0, 0)
    assert not await stage.batch.redis.zcard("farebox:leases:" + B)


async def test_what_a_worker_has_claimed_does_not_move_even_when_its_lease_has_run_out(stage):
    await stage.begin(2, B)
    (claimed,) = (await claim(stage.batch.tongue, [Ask(A, 1)], lease_ms=1)).jobs
    await asyncio.sleep(0.01)
    ids = [stage.batch.job_id(f"c{n}") for n in range(2)]
    flow, goal = f"farebox:flow:0:b1:{A}", f"farebox:flow:0:b1:{B}"
    assert await move(stage.batch.tongue, flow, goal, "movable", ids) == 1
    assert await stage.batch.redis.zscore(goal, claimed.job_id) is None


async def test_a_flow_is_noted_only_while_its_jobs_may_still_go_elsewhere(stage):
    await stage.begin(5, B, C)
    noted = stage.batch.ledger.keys.flows_to_move("movable")
    moves = await moves_of(stage)
    await pause(stage.batch.tongue, A, seconds=300, why="account")
    assert await moves.relieve() == 5
    await moves.relieve()
    assert await stage.batch.redis.smembers(noted) == {f"farebox:flow:0:b1:{B}".encode()}
    await pause(stage.batch.tongue, B, seconds=300, why="account")
    assert await moves.relieve() == 5
    await moves.relieve()
    assert await stage.batch.redis.smembers(noted) == set()


async def test_what_failed_in_all_lanes_but_one_is_noted_no_more(stage):
    await stage.begin(3, B)
    stage.vendor.act[A] = raising(REFUSED)
    async with stage.process():
        await stage.finished(3)
        await stage.batch.redis.srem(stage.batch.ledger.keys.flows_to_move("movable"), f"farebox:flow:0:b1:{A}")
        assert await stage.batch.redis.smembers(stage.batch.ledger.keys.flows_to_move("movable")) == set()


# --- spread over equals ---------------------------------------------------------------------------------------------


async def test_jobs_that_are_spread_begin_in_all_lanes_and_none_was_asked_first(stage):
    await stage.begin(90, B, C, spread=True)
    assert all(15 < count < 45 for count in await counts(stage))
    async with stage.process():
        await stage.finished(90)
    results = await stage.results()
    assert set(Counter(r.model_ref for r in results)) == {A, B, C}
    assert {r.asked for r in results} == {""}
    assert len(stage.vendor.posted) == 90


async def test_a_slow_lane_loses_its_jobs_to_the_quick_ones_and_nothing_is_sent_twice(stage):
    await stage.begin(120, B, C, spread=True)
    others_are_done = asyncio.Event()
    stage.vendor.act[C] = others_are_done.wait
    async with stage.process(concurrency=4):
        await stage.finished(116)
        others_are_done.set()
        await stage.finished(120)
    posted = Counter(stage.vendor.posted)
    assert sum(posted.values()) == 120
    assert posted[C] == 4


async def test_a_lane_at_its_rate_limit_loses_its_jobs(stage):
    await stage.begin(90, B, spread=True)
    stage.vendor.act[A] = raising(
        ProviderRateLimitError("a", "slow down", retry_after=60, status_code=429, own_body=True)
    )
    async with stage.process(concurrency=4):
        await stage.finished(90)
    assert {r.model_ref for r in await stage.results()} == {B}


async def test_what_an_equal_refused_is_not_brought_back_to_it(stage):
    await stage.begin(60, B, spread=True)
    stage.vendor.act[A] = raising(REFUSED)
    async with stage.process(concurrency=4):
        await stage.finished(60)
    results = await stage.results()
    assert {(r.model_ref, r.outcome) for r in results} == {(B, "succeeded")}
    assert len({r.custom_id for r in results}) == 60
    assert Counter(stage.vendor.posted)[A] <= 60


async def test_a_spread_job_takes_the_attempts_it_had_along_when_another_lane_takes_it_over(stage):
    await stage.begin(1, B, spread=True)
    tongue, here = stage.batch.tongue, A if (await counts(stage))[0] else B
    there = B if here == A else A
    (claimed,) = (await claim(tongue, [Ask(here, 1)], lease_ms=30_000)).jobs
    await admit(tongue, [Fare(claimed, 10, ("global",))])
    failed = Settlement(claimed.job_id, claimed.flow, claimed.token, "retry", "release", due="0", attempts=1)
    await settle(tongue, [failed], results_ttl_ms=1000)
    assert await move(tongue, claimed.flow, f"farebox:flow:0:b1:{there}", "spread", [claimed.job_id]) == 1
    overloaded = ProviderOverloadedError("v", "overloaded", status_code=529, own_body=True)
    stage.vendor.act = {A: raising(overloaded), B: raising(overloaded)}
    async with stage.process(max_attempts=2):
        await stage.finished(1, 30)
    assert Counter(stage.vendor.posted) == {there: 1, here: 2}, "one of two was left there, then anew here"
    assert [(r.outcome, r.attempts) for r in await stage.results()] == [("failed", 4)]


async def test_a_lane_takes_over_only_jobs_that_name_it(stage):
    await stage.begin(50, B, spread=True)
    balance = Balance(stage.batch.tongue, only_batch="")
    assert await balance.take_over({C: (0, 10)}) == 0
    await claim(stage.batch.tongue, [Ask(B, 100)], lease_ms=30_000)
    await claim(stage.batch.tongue, [Ask(B, 100)], lease_ms=30_000)
    assert await balance.take_over({B: (0, 10)}) > 0
    assert not balance.is_due([B]), "what it took it could not begin: it waits before it takes again"


def test_all_lanes_end_together_and_a_slow_one_begins_nothing_that_others_end_sooner():
    quick, middle, slow = Load(400, 8, 0, 0.1), Load(30, 8, 0, 1.0), Load(30, 8, 0, 5.0)
    end_s = soonest_s([quick, middle, slow])
    assert 5.0 < end_s < 6.0
    assert share(slow, quick, end_s) == 0, "it has enough for now"
    quick.waiting = 100
    end_s = soonest_s([quick, middle, slow])
    assert 1.0 < end_s < 5.0
    assert share(slow, quick, end_s) == slow.waiting, "none of them would be answered in time here"
    assert share(middle, slow, end_s) == share(quick, slow, end_s) == 0
    idle_slow = Load(0, 0, 8, 5.0)
    assert share(Load(800, 8, 0, 0.1), idle_slow, 4.9) == 0
    assert share(Load(800, 8, 0, 0.1), idle_slow, 5.1) == 8


def test_a_lane_whose_calls_nobody_knows_takes_no_more_than_its_free_slots_and_gives_half():
    unknown, quick = Load(20, 8, 0, None), Load(0, 0, 8, 0.1)
    assert share(quick, unknown, 1.0) == 0
    assert share(unknown, quick, soonest_s([unknown, quick])) <= 10
    assert share(Load(20, 8, 0, 1.0), Load(0, 0, 3, None), 1.0) == 3
    assert share(unknown, Load(0, 0, 8, 0.1, is_paused=True), 1.0) == 0


def test_a_paused_lane_gives_all_and_a_rate_bounds_what_a_lane_takes():
    paused = Load(50, 0, 8, 1.0, is_paused=True)
    limited = Load(0, 0, 100, 0.1, most_per_s=1.0)
    assert limited.per_s == 1.0
    assert share(paused, Load(0, 0, 100, 0.1), math.inf) == 50
    assert soonest_s([paused]) == math.inf


# --- pure -----------------------------------------------------------------------------------------------------------


def envelope(**fields):
    return JobEnvelope(t=None, f="complete", a=(Job(1, "c1", A, "chat", b"{}", **fields),), k={}, et=1)


def test_a_job_moves_forward_only_and_one_that_is_spread_anywhere_it_did_not_fail():
    one = envelope(fallbacks=(B, C))
    assert lanes_after(one, A) == (B, C)
    assert lanes_after(one, B) == (C,)
    assert lanes_after(moved(one, B, 1), A) == (C,)
    assert lanes_after(one, "d:four") == ()
    equal = envelope(fallbacks=(B, C), spread=True)
    assert lanes_after(equal, B) == (C, A)
    assert lanes_after(moved(moved(equal, A, 2), B, 1), C) == ()


def test_a_spread_job_begins_in_the_same_lane_whenever_it_is_submitted():
    jobs = [Job(1, f"c{n}", A, "chat", b"{}", fallbacks=(B,), spread=True) for n in range(20)]
    assert [first_lane(job) for job in jobs] == [first_lane(job) for job in jobs]
    assert {first_lane(job) for job in jobs} == {A, B}


def test_in_another_lane_a_job_is_asked_under_that_model_and_tier():
    job = Job(1, "c1", A, "chat", b"{}", tier="flex", fallbacks=("ollama:llama3:8b@flex", B))
    assert as_asked_in(job, f"{A}@flex") is job
    other = as_asked_in(job, "ollama:llama3:8b@flex")
    assert (other.model_ref, other.tier) == ("ollama:llama3:8b", "flex")
    assert as_asked_in(job, B).tier == "standard"
