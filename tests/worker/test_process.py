"""One worker process against a provider that does what the test says, without HTTP, on a fake and a real server."""

import asyncio
import contextlib
import dataclasses
import math
import signal
import tempfile
import time
import types
from functools import partial
from pathlib import Path

import pytest
from msgspec import structs
from redis.exceptions import ResponseError
from tests.polling import until
from tests.process_support import COST, HOLD, LANE, Shelf, Stage

from farebox.errors import (
    LedgerError,
    LedgerLostError,
    ProviderAuthError,
    ProviderConnectionError,
    ProviderOverloadedError,
    ProviderRateLimitError,
)
from farebox.records import Job
from farebox_worker.attempts import endings, sending
from farebox_worker.bus.claim import Ask, claim
from farebox_worker.bus.pause import read_pauses, resume
from farebox_worker.bus.settle import Settlement
from farebox_worker.dispatch import settler as settler_module
from farebox_worker.dispatch.doorbells import Doorbells
from farebox_worker.dispatch.settler import Settler
from farebox_worker.outage import Outage
from farebox_worker.prices.rates import PRETEND
from farebox_worker.process import housekeeping
from farebox_worker.process import process as process_module
from farebox_worker.providers.base import TokenUsage
from farebox_worker.routes import Route
from farebox_worker.server.embedded import start_server


async def test_jobs_are_answered_once_and_booked(stage):
    await stage.begin(20)
    async with stage.process():
        await stage.finished(20)
    assert sorted(job for job, _ in await stage.results()) == sorted(stage.batch.job_id(f"c{n}") for n in range(20))
    assert await stage.money() == (20 * COST, 0, 0)
    assert len(stage.provider.posted) == 20


async def test_a_burst_ends_when_nothing_is_left_though_a_claim_came_while_the_lane_was_full(stage):
    await stage.begin(3)
    now_s, _ = await stage.batch.redis.time()
    await stage.batch.redis.hset(stage.batch.keys.lane(LANE), mapping={"target": 1, "cut": now_s * 1000})
    async with stage.process(burst=True) as process:
        dispatch = process.dispatch
        ask = dispatch._claim

        async def slowly(asks):
            found = await ask(asks)
            while not found.jobs and dispatch.in_flight:  # noqa: ASYNC110 - the answer comes when it is true no more
                await asyncio.sleep(0.01)
            return found

        dispatch._claim = slowly
        await asyncio.wait_for(process.task, 10)
    assert (await stage.batch.progress()).succeeded == 3


async def test_a_first_signal_drains(stage):
    await stage.begin(6)
    go_on = asyncio.Event()
    stage.provider.act = lambda n: go_on.wait()
    async with stage.process(concurrency=2) as process:
        await until(lambda: len(stage.provider.posted) == 2)
        process.handle_sig(signal.SIGTERM)
        await asyncio.sleep(0.1)
        assert not process.task.done()
        go_on.set()
        await asyncio.wait_for(process.task, 5)
    assert await stage.money() == (2 * COST, 0, 0)
    assert await stage.batch.waiting() == (0, 4, 0)
    assert len(stage.provider.posted) == 2


async def test_a_second_signal_leaves_and_what_was_sent_stays_owed(stage):
    await stage.begin(6)
    stage.provider.act = lambda n: asyncio.Event().wait()
    async with stage.process(concurrency=2) as process:
        await until(lambda: len(stage.provider.posted) == 2)
        process.handle_sig(signal.SIGINT)
        process.handle_sig(signal.SIGINT)
        await asyncio.wait_for(process.task, 5)
    assert await stage.money() == (0, 0, 2 * HOLD)
    assert await stage.batch.waiting() == (0, 6, 0)


async def test_an_attempt_that_lost_its_lease_before_it_was_admitted_is_not_sent(stage):
    await stage.begin(2)
    eyes = stage.eyes()
    lost = []

    def steal(job):
        if not lost:
            lost.append(stage.batch.job_id(job.custom_id))
            eyes.set(f"arq:in-progress:{lost[0]}", "another's-token-" + "farebox:flow:0:b1:" + LANE)

    stage.provider.on_prepare = steal
    async with stage.process():
        await stage.finished(1)
        await asyncio.sleep(0.1)
    eyes.close()
    assert len(stage.provider.posted) == 1
    assert [job for job, _ in await stage.results()] != lost
    assert await stage.money() == (COST, 0, 0)


async def test_an_attempt_whose_lease_has_run_out_is_handed_back_unsent(stage):
    await stage.begin(1)
    [claimed] = (await claim(stage.batch.tongue, [Ask(LANE, 1)], lease_ms=1)).jobs
    route = Route(LANE, Shelf().resolve(LANE, tier="standard"), stage.provider)
    one = sending.prepare(claimed, "b1", route, deadline=time.monotonic() - 0.001)
    settlement, verdict = await sending.send(one, timeout_s=1, max_attempts=5)
    assert (settlement.action, settlement.money, verdict) == ("return", "release", None)
    assert not stage.provider.posted


async def test_an_attempt_that_lost_its_lease_while_it_connected_is_handed_back_unsent(stage):
    await stage.begin(1)
    [claimed] = (await claim(stage.batch.tongue, [Ask(LANE, 1)], lease_ms=30_000)).jobs
    route = Route(LANE, Shelf().resolve(LANE, tier="standard"), stage.provider)
    one = sending.prepare(claimed, "b1", route, deadline=math.inf)

    async def connect_too_long(_):
        one.deadline = 0.0
        raise ProviderConnectionError("sim", "sim could not be reached", sent=False)

    stage.provider.act = connect_too_long
    settlement, verdict = await sending.send(one, timeout_s=1, max_attempts=5)
    assert (settlement.action, settlement.money, verdict) == ("return", "release", None)


async def test_the_next_call_does_not_wait_for_the_settlement_of_the_last(stage, monkeypatch):
    settle = settler_module.settle

    async def once_both_were_called(*args, **options):
        await until(lambda: len(stage.provider.posted) == 2)
        return await settle(*args, **options)

    monkeypatch.setattr(settler_module, "settle", once_both_were_called)
    await stage.begin(2)
    async with stage.process(concurrency=1):
        await stage.finished(2)
    assert await stage.money() == (2 * COST, 0, 0)


async def test_wrong_credentials_stop_the_provider_here_and_hand_the_jobs_back(stage):
    await stage.begin(8)

    async def refuse(n):
        raise ProviderAuthError("sim", "no such key", status_code=401, own_body=True)

    stage.provider.act = refuse
    async with stage.process(concurrency=3) as process:
        await until(lambda: "sim" in process.routes.stopped)
        await until(lambda: process.in_flight == 0)
        await asyncio.sleep(0.1)
        assert not process.task.done()
    assert len(stage.provider.posted) <= 3
    assert await stage.money() == (0, 0, 0)
    assert await stage.batch.waiting() == (0, 8, 0)


async def test_a_rate_limit_pauses_the_lane_and_costs_no_attempt(stage):
    await stage.begin(3)

    async def limit(n):
        if n == 1:
            raise ProviderRateLimitError("sim", "slow down", retry_after=0.5, status_code=429, own_body=True)

    stage.provider.act = limit
    async with stage.process(concurrency=1):
        await stage.finished(3)
    first, second, *_ = stage.provider.posted
    assert second - first >= 0.45
    assert len(stage.provider.posted) == 4
    assert {result.attempts for _, result in await stage.results()} == {1}


async def test_the_first_bill_above_its_hold_pauses_the_lane_until_it_is_resumed(stage):
    await stage.begin(3)
    stage.provider.tokens_out = 1_000  # its cap was 10
    async with stage.process(concurrency=1) as process:
        await stage.finished(1)
        await until(lambda: not process.in_flight)
        (paused,) = (await read_pauses(stage.batch.redis, process.keys, [LANE])).values()
        assert not paused.ends_by_itself
        assert "at most $0.00003 was possible" in paused.why
        stage.provider.tokens_out = 2_000  # who resumed it has accepted that
        await resume(stage.batch.ledger.tongue, LANE)
        await stage.finished(3)
        assert len(stage.provider.posted) == 3
    assert (await stage.batch.ledger.scope()).overrun_nusd > 0


async def test_a_bill_without_a_hold_to_pass_pauses_nothing(stage, monkeypatch):
    real = Shelf.resolve

    def unpriced_in_its_tier(self, model_ref, *, tier):
        return dataclasses.replace(real(self, model_ref, tier=tier), price=None, prices={"standard": PRETEND})

    monkeypatch.setattr(Shelf, "resolve", unpriced_in_its_tier)
    stage.provider.served_tier = "default"
    await stage.begin(2)
    async with stage.process(concurrency=1) as process:
        await stage.finished(2)
        assert await read_pauses(stage.batch.redis, process.keys, [LANE]) == {}
    assert await stage.money() == (2 * COST, 0, 0)


async def test_a_process_too_short_for_its_cron_folds_the_journal_all_the_same(stage, monkeypatch):
    await stage.begin(3)
    async with stage.process():
        await stage.finished(3)
    monkeypatch.setattr(housekeeping, "fold", partial(housekeeping.fold, keep_rows=0))
    async with stage.process():
        await until(lambda: stage.batch.redis.exists(stage.batch.keys.checkpoint))
    assert await stage.batch.redis.xlen(stage.batch.keys.journal) == 0


async def test_what_was_settled_singly_before_the_ledger_was_lost_is_not_settled_again(monkeypatch):
    asked, acknowledged = [], []

    async def settle(tongue, group, *, results_ttl_ms):
        asked.append([one.job_id for one in group])
        if len(group) == 3:
            raise ResponseError("together they fail")
        if asked[-1] == ["b"] and asked.count(["b"]) == 1:
            raise LedgerLostError("gone")
        return ["done"] * len(group)

    monkeypatch.setattr(settler_module, "settle", settle)
    settler = Settler(None, Outage(), results_ttl_ms=1, on_settled=lambda one, word: acknowledged.append(one.job_id))
    for job in "abc":
        settler.put(Settlement(job, "f", job, "finish", "release"))
    with pytest.raises(LedgerLostError):
        await settler.run()
    going_on = asyncio.create_task(settler.run())
    await asyncio.wait_for(settler.flushed(), 10)
    going_on.cancel()
    assert acknowledged == ["a", "b", "c"]
    assert settler.pending == 0


async def test_a_payload_of_garbage_fails_visibly_and_kills_nobody(stage):
    await stage.begin(3)
    poisoned = [stage.batch.job_id("c0"), stage.batch.job_id("c1")]
    await stage.batch.redis.set(f"arq:job:{poisoned[0]}", b"\xc1\xff\x00 garbage")
    await stage.batch.redis.set(f"arq:job:{poisoned[1]}", b"\x80")
    async with stage.process() as process:
        await stage.finished(3)
        assert not process.task.done()
    outcomes = {job: result.error_code for job, result in await stage.results()}
    assert outcomes == {poisoned[0]: "undecodable", poisoned[1]: "undecodable", stage.batch.job_id("c2"): ""}
    assert await stage.money() == (COST, 0, 0)


async def test_an_adapter_that_breaks_leaves_the_money_owed_and_ends_after_two_doubts(stage):
    await stage.begin(1)

    async def break_down(n):
        raise RuntimeError("a bug")

    stage.provider.act = break_down
    async with stage.process():
        await stage.finished(1)
    [(_, result)] = await stage.results()
    assert result.error_code == "outcome_unknown"
    assert await stage.money() == (0, 0, 2 * HOLD)


async def test_an_idle_worker_picks_a_job_up_at_its_doorbell(stage):
    await stage.begin(1)
    async with stage.process():
        await stage.finished(1)
        await asyncio.sleep(0.3)
        submitted = time.monotonic()
        await stage.submit(1, 1)
        await until(lambda: len(stage.provider.posted) == 2, 2)
    assert stage.provider.posted[1] - submitted < 0.5


async def test_a_new_lane_is_heard_of(stage):
    await stage.begin()
    async with stage.process():
        await asyncio.sleep(0.3)
        await stage.submit(1)
        await stage.finished(1, 3)


async def test_a_lone_worker_with_a_short_lease_takes_over_from_the_dead(stage):
    await stage.begin(1)
    assert (await claim(stage.batch.tongue, [Ask(LANE, 1)], lease_ms=2500)).jobs
    async with stage.process(lease_s=1.0):
        await stage.finished(1, 8)


async def test_at_the_limit_jobs_wait_and_go_on_when_it_is_raised(stage):
    await stage.begin(5)
    await stage.batch.ledger.set_limit("global", 2 * HOLD)
    async with stage.process():
        await until(stage.batch.parked)
        await until(lambda: stage.processes[0].in_flight == 0)
        spent, held, _ = await stage.money()
        assert spent + held <= 2 * HOLD
        await stage.batch.ledger.set_limit("global", 10 * HOLD)
        await stage.finished(5, 3)


async def _flush(redis):
    await redis.flushall()


async def _replace(redis):
    await redis.hset("farebox:ledger", "epoch", "another")


async def _forget(redis):
    await redis.hset("farebox:ledger", "seq", 1)


@pytest.mark.parametrize("lose", [_flush, _replace, _forget])
async def test_a_lost_ledger_stops_the_sending(stage, lose):
    await stage.begin(50)
    stage.provider.act = lambda n: asyncio.sleep(0.02)
    async with stage.process(concurrency=1) as process:
        await until(lambda: len(stage.provider.posted) >= 3)
        await lose(stage.batch.redis)
        with pytest.raises(LedgerError):
            await asyncio.wait_for(process.task, 5)
        assert isinstance(process.failure, LedgerError)
        sent = len(stage.provider.posted)
        await asyncio.sleep(0.1)
    assert len(stage.provider.posted) == sent < 50


@pytest.mark.server
async def test_nothing_is_lost_when_the_server_dies_and_comes_back():
    with tempfile.TemporaryDirectory(prefix="fbp") as folder:
        server = start_server(Path(folder), appendfsync="always")
        stage = Stage(server.url)
        try:
            await stage.begin(60)
            stage.provider.act = lambda n: asyncio.sleep(0.03)
            async with stage.process(concurrency=4) as process:
                for reached in (8, 30):
                    await until(lambda reached=reached: len(stage.provider.posted) >= reached)
                    server.kill()
                    await asyncio.sleep(0.3)
                    server = start_server(Path(folder), appendfsync="always")
                await stage.finished(60, 20)
                await until(lambda: process.in_flight == 0)
            results = await stage.results()
            assert sorted(job for job, _ in results) == sorted(stage.batch.job_id(f"c{n}") for n in range(60))
            assert await stage.money() == (60 * COST, 0, 0)
            assert len(stage.provider.posted) == 60
        finally:
            await stage.batch.redis.aclose(close_connection_pool=True)
            server.kill()


async def test_a_stopped_provider_stays_stopped_for_lanes_that_come_later(stage):
    await stage.begin(1)

    async def refuse(_):
        raise ProviderAuthError("sim", "wrong key", status_code=401, own_body=True)

    stage.provider.act = refuse
    async with stage.process():
        await until(lambda: asyncio.sleep(0, bool(stage.provider.posted)))
        await stage.batch.submit([Job(1, "later", "sim:two", "chat", b"{}")])
        await asyncio.sleep(0.5)
        assert len(stage.provider.posted) == 1
        assert (await stage.batch.progress()).finished == 0


async def test_a_usage_no_counter_can_hold_is_booked_at_the_hold_and_spoils_no_other_job(stage):
    await stage.begin()
    honest = stage.provider.post

    async def lie_once(prepared, *, timeout_s):
        reply = await honest(prepared, timeout_s=timeout_s)
        is_liar = len(stage.provider.posted) == 2
        return structs.replace(reply, usage=TokenUsage(10**16, 3)) if is_liar else reply

    stage.provider.post = lie_once
    await stage.submit(4)
    async with stage.process():
        await stage.finished(4)
    assert await stage.money() == (3 * COST + HOLD, 0, 0)


async def test_a_retry_is_due_by_the_servers_clock(stage, monkeypatch):
    await stage.begin(1)
    ahead = types.SimpleNamespace(time=lambda: time.time() + 3600, monotonic=time.monotonic)
    for module in (sending, endings):
        monkeypatch.setattr(module, "time", ahead)

    async def fail_once(number):
        if number == 1:
            raise ProviderOverloadedError("sim", "try again", status_code=503, own_body=True)

    stage.provider.act = fail_once
    async with stage.process():
        await stage.finished(1)


async def test_a_lane_is_found_though_nobody_told_of_it(stage, monkeypatch):
    async def hear_nothing(self, on_message):
        await asyncio.Event().wait()

    monkeypatch.setattr(Doorbells, "hear_control", hear_nothing)
    monkeypatch.setattr("farebox_worker.process.process.HOUSEKEEPING_S", 0.1)
    await stage.begin()
    async with stage.process():
        await asyncio.sleep(0.3)
        await stage.batch.submit([Job(1, "new", "sim:two", "chat", b"{}")])
        await stage.finished(1)


async def test_a_loop_that_swallows_a_cancellation_is_ended_all_the_same():
    async def stubborn():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
        await asyncio.sleep(60)

    task = asyncio.create_task(stubborn())
    await asyncio.sleep(0)
    await asyncio.wait_for(process_module._end({task}), timeout=5)
    assert task.cancelled()
