"""A ledger that lost writes refuses everybody until it is adopted; what workers know of it is put back first."""

import asyncio
import logging

import pytest
from msgspec import structs
from tests.bus_support import LEASE, TTL, enter, finished, jobs, scopes, take
from tests.polling import until
from tests.process_support import COST, HOLD

from farebox.batch import Batch
from farebox.errors import LedgerError, LedgerLostError, NoLedgerError
from farebox.keys import Keys
from farebox.scripts import CREATE, Tongue
from farebox_worker import outage as outage_module
from farebox_worker.bus.claim import Ask, claim
from farebox_worker.bus.lapse import lapse
from farebox_worker.bus.reassert import Known, Remains, reassert
from farebox_worker.bus.renew import renew
from farebox_worker.bus.settle import Settlement, settle
from farebox_worker.dispatch import settler as settler_module
from farebox_worker.dispatch.recent import KEPT_BYTES, OVERHEAD_BYTES, Recent
from farebox_worker.process import pulse as pulse_module

COUNTERS = ("spent_nusd", "held_nusd", "unconfirmed_nusd")


def remains(batch):
    return Remains(batch.redis, batch.keys)


def newcomer(batch):
    return Batch(batch.redis, batch.batch_id)


def knows(claimed, hold=100, why=""):
    everything = ("global", "batch:b1", "provider:echo", "model:echo:echo")
    return Known(claimed.job_id, claimed.flow, claimed.token, hold, everything, why)


async def money(batch, name="global"):
    scope = await batch.ledger.scope(name)
    return tuple(getattr(scope, field) for field in COUNTERS)


async def running(batch, count=1, hold=100, lease_ms=LEASE):
    """So many jobs, submitted, claimed and admitted."""
    await batch.submit(jobs(count))
    claimed = await take(batch, count, lease_ms=lease_ms)
    await enter(batch, claimed, hold)
    return claimed


async def snapshot(redis):
    """Everything on the server, and a function that brings it back."""
    seq, before = "", None
    while seq != before:  # a process may be at work
        before = await redis.hget("farebox:ledger", "seq")
        keys = await redis.keys("*")
        async with redis.pipeline(transaction=True) as pipe:
            for key in keys:
                pipe.dump(key)
                pipe.pttl(key)
            pipe.hget("farebox:ledger", "seq")
            *found, seq = await pipe.execute()
    kept = {key: found[2 * i : 2 * i + 2] for i, key in enumerate(keys) if found[2 * i]}

    async def restore():
        async with redis.pipeline(transaction=True) as pipe:
            pipe.flushall()
            for key, (value, ttl) in kept.items():
                pipe.restore(key, max(0, ttl), value)
            await pipe.execute()

    return restore


# --- detection -------------------------------------------------------------------------------------------------------


async def test_an_older_ledger_is_marked_and_refuses_newcomers_too(batch, redis):
    await batch.submit(jobs(2))
    await redis.hset("farebox:ledger", "seq", 0)
    with pytest.raises(LedgerLostError, match="seq 0 where"):
        await take(batch)
    fresh = newcomer(batch)
    with pytest.raises(LedgerLostError, match="farebox ledger adopt"):
        await fresh.open()
    with pytest.raises(LedgerLostError):
        await fresh.submit(jobs(1, 5))
    fresh.tongue.epoch = batch.tongue.epoch  # as one that met it before it was marked
    with pytest.raises(LedgerLostError):
        await claim(fresh.tongue, [Ask("echo:echo", 1)], lease_ms=LEASE)
    assert await redis.keys("arq:in-progress:*") == []


async def test_an_emptied_server_is_marked_and_a_ledger_made_there_refuses_too(batch, redis):
    await batch.submit(jobs(1))
    await redis.flushall()
    with pytest.raises(NoLedgerError, match="gone from this server"):
        await take(batch)
    fresh = newcomer(batch)
    with pytest.raises(NoLedgerError, match="gone from this server"):
        await fresh.open()
    await fresh.ledger.create()
    with pytest.raises(LedgerLostError, match="nothing where epoch"):
        await fresh.ledger.set_limit("global", 5)


async def test_a_ledger_of_another_epoch_is_left_unmarked(batch, redis):
    await batch.submit(jobs(1))
    await redis.hset("farebox:ledger", "epoch", "another")
    with pytest.raises(LedgerLostError, match="another"):
        await take(batch)
    with pytest.raises(LedgerLostError, match="another"):
        await batch.open()  # it does not take the other one for its own
    assert await take(newcomer(batch))


async def test_answers_in_any_order_prove_nothing(batch, redis):
    await batch.submit(jobs(50))
    others = [newcomer(batch) for _ in range(4)]
    await asyncio.gather(*(take(other, 1) for other in [batch, *others] * 20))
    assert not await redis.hexists("farebox:ledger", "lost")


async def test_a_ledger_made_anew_by_the_same_hands_is_no_loss(batch, redis):
    await batch.submit(jobs(3))
    await redis.flushall()
    await batch.ledger.create()
    await batch.open()
    await batch.submit(jobs(1))
    assert await take(batch)


# --- reassert --------------------------------------------------------------------------------------------------------


async def test_a_hold_that_survived_is_not_put_back_twice(batch, redis):
    claimed = await running(batch, 3)
    assert await reassert(remains(batch), [knows(one) for one in claimed], lease_ms=LEASE) == []
    assert await money(batch) == (0, 300, 0)
    assert not await redis.hexists("farebox:ledger", "lost")


async def test_a_hold_is_put_back_on_an_emptied_server_and_can_be_settled(batch, redis):
    [one] = await running(batch)
    await redis.flushall()
    for expected in ([knows(one)], [], []):
        assert await reassert(remains(batch), [knows(one)], lease_ms=LEASE) == expected
    for name in scopes(batch):
        assert await money(batch, name) == (0, 100, 0)
    with pytest.raises(NoLedgerError):
        await newcomer(batch).open()
    assert await settle(remains(batch), [finished(one, amount=30)], results_ttl_ms=TTL) == ["money"]
    assert await money(batch) == (30, 0, 0)
    assert await reassert(remains(batch), [knows(one)], lease_ms=LEASE) == []
    assert await money(batch) == (30, 0, 0)


async def test_what_is_unconfirmed_or_settled_stays_so(batch):
    dead, done = await running(batch, 2, lease_ms=1)
    await settle(batch.tongue, [finished(done, amount=30)], results_ttl_ms=TTL)
    await asyncio.sleep(0.01)
    await lapse(batch.tongue, dead=True)
    assert await reassert(remains(batch), [knows(dead), knows(done)], lease_ms=LEASE) == []
    assert await money(batch) == (30, 0, 100)


async def test_what_an_operator_released_while_it_ran_proves_no_loss(batch, redis):
    [claimed] = await running(batch)
    await lapse(batch.tongue, dead=True)  # its worker was cut off, but lives
    await batch.ledger.confirm([claimed.token], is_charge=False)
    assert await reassert(batch.tongue, [knows(claimed)], lease_ms=LEASE) == []
    assert not await redis.hexists("farebox:ledger", "lost")
    late = structs.replace(finished(claimed, amount=40), scopes=scopes(batch))
    assert await settle(batch.tongue, [late], results_ttl_ms=TTL) == ["done"]
    assert await money(batch) == (40, 0, 0)


async def test_a_hold_whose_worker_dies_afterwards_becomes_unconfirmed_once_adopted(batch, redis):
    await batch.submit(jobs(1))
    restore = await snapshot(redis)
    [one] = await take(batch)
    await enter(batch, [one], 100)
    await restore()
    with pytest.raises(LedgerLostError):
        await lapse(batch.tongue)
    assert await reassert(remains(batch), [knows(one)], lease_ms=0) == [knows(one)]
    fresh = newcomer(batch)
    assert await fresh.ledger.adopt(batch.tongue.epoch)
    assert await lapse(fresh.tongue) == [], "who lives has one lease more to come and say so"
    await redis.hset("farebox:ledger", "grace", 0)
    await redis.hdel("farebox:ledger", "lapsed")
    assert [(end.job_id, end.hold_nusd) for end in await lapse(fresh.tongue)] == [(one.job_id, 100)]
    assert await money(fresh) == (0, 0, 100)
    assert [job.job_id for job in await take(fresh)] == [one.job_id]
    with pytest.raises(LedgerLostError):
        await take(batch)  # it knew the old epoch


async def test_two_attempts_at_a_job_are_both_counted_and_no_hold_is_orphaned(batch, redis):
    [one] = await running(batch)
    other = Known(one.job_id, one.flow, "another-claim001", 70, scopes(batch))
    await redis.flushall()
    assert await reassert(remains(batch), [knows(one), other], lease_ms=LEASE) == [knows(one), other]
    assert await money(batch) == (0, 100, 70)
    assert await redis.hlen("farebox:holds") == 1
    assert (await redis.get(f"arq:in-progress:{one.job_id}"))[:16] == one.token.encode()


async def test_whoever_speaks_to_remains_can_neither_claim_nor_admit(batch):
    await batch.submit(jobs(1))
    with pytest.raises(LedgerLostError, match="claim is refused"):
        await claim(remains(batch), [Ask("echo:echo", 1)], lease_ms=LEASE)


async def test_a_hold_that_is_nowhere_proves_the_loss_though_the_seq_caught_up(batch, redis):
    [one] = await running(batch)
    await redis.hdel("farebox:holds", one.token)
    assert await reassert(batch.tongue, [knows(one)], lease_ms=LEASE) == [knows(one)]
    with pytest.raises(LedgerLostError, match="1 running calls were gone"):
        await take(newcomer(batch))


# --- replay ----------------------------------------------------------------------------------------------------------


async def test_a_settle_that_was_lost_is_booked_again_and_finishes_its_job(batch, redis):
    early, late = await running(batch, 2)
    await settle(batch.tongue, [finished(early, amount=10)], results_ttl_ms=TTL)
    restore = await snapshot(redis)
    await settle(batch.tongue, [finished(late, amount=20)], results_ttl_ms=TTL)
    await restore()
    group = [finished(early, amount=10), finished(late, amount=20)]
    assert await settle(remains(batch), group, results_ttl_ms=TTL) == ["repeat", "done"]
    assert await money(batch) == (30, 0, 0)
    assert await newcomer(batch).ledger.adopt(batch.tongue.epoch)
    assert await take(newcomer(batch)) == []
    assert (await newcomer(batch).progress()).succeeded == 2


async def test_a_lost_settle_of_unknown_outcome_is_owed_again(batch, redis):
    await batch.submit(jobs(1))
    restore = await snapshot(redis)
    [one] = await take(batch)
    await enter(batch, [one], 100)
    end = Settlement(one.job_id, one.flow, one.token, "retry", "unconfirmed", why="timeout", scopes=scopes(batch))
    await settle(batch.tongue, [end], results_ttl_ms=TTL)
    await restore()
    await reassert(remains(batch), [knows(one, why="timeout")], lease_ms=LEASE)
    for _ in range(2):
        await settle(remains(batch), [end], results_ttl_ms=TTL)
        assert await money(batch) == (0, 0, 100)


def test_what_is_kept_of_recent_settles_is_bounded(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr("farebox_worker.dispatch.recent.time.monotonic", lambda: clock[0])
    recent = Recent()

    def add(token, size=0):
        recent.add(Settlement("j", "f", token, "finish", "actual", result=bytes(size)), 5)

    add("a")
    clock[0] = 104.0
    add("b")
    assert [one.settlement.token for one in recent.before(104.0)] == ["a", "b"]
    clock[0] = 500.0  # the server was away: what counts is when it was last heard of
    assert [one.settlement.token for one in recent.before(106.0)] == ["b"]
    for n in range(12):
        add(str(n), 1_000_000)
    kept = recent.before(500.0)
    assert sum(one.size for one in kept) <= KEPT_BYTES
    assert [one.settlement.token for one in kept] == [str(n) for n in range(12 - len(kept), 12)]
    assert len(kept) == KEPT_BYTES // (1_000_000 + OVERHEAD_BYTES)
    add("larger than all that is kept", KEPT_BYTES)
    add("after it")
    assert [one.settlement.token for one in recent.before(500.0)] == ["after it"]


# --- adopt -----------------------------------------------------------------------------------------------------------


async def test_of_two_operators_one_adopts(batch, redis):
    epoch = await batch.ledger.epoch()
    first, second = newcomer(batch).ledger, newcomer(batch).ledger
    assert await first.adopt(epoch, limit_nusd=7, sets_limit=True)
    assert not await second.adopt(epoch, limit_nusd=9, sets_limit=True)
    assert (await batch.ledger.scope()).limit_nusd == 7
    assert await redis.hget("farebox:ledger", "epoch") == first.tongue.epoch.encode()


async def test_an_emptied_server_is_adopted_with_what_was_put_back(batch, redis):
    [one] = await running(batch)
    await redis.flushall()
    with pytest.raises(NoLedgerError):
        await lapse(batch.tongue)
    await reassert(remains(batch), [knows(one)], lease_ms=LEASE)
    ledger = newcomer(batch).ledger
    assert await ledger.identity() == ("", f"nothing where epoch {batch.tongue.epoch} at seq {batch.tongue.seq} was")
    assert await ledger.adopt("", limit_nusd=500, sets_limit=True)
    assert await ledger.identity() == (ledger.tongue.epoch, "")
    scope = await ledger.scope()
    assert (scope.limit_nusd, scope.held_nusd) == (500, 100)
    assert [end.hold_nusd for end in await lapse(ledger.tongue, dead=True)] == [100]
    fresh = newcomer(batch)
    await fresh.open()
    await fresh.submit(jobs(1, 7))
    assert await take(fresh)


async def test_a_tongue_that_never_met_a_ledger_marks_nothing(redis):
    tongue = Tongue(redis, Keys())
    with pytest.raises(NoLedgerError, match="farebox budget set"):
        await tongue.say(CREATE)
    assert await redis.keys("*") == []


# --- a process -------------------------------------------------------------------------------------------------------


async def test_a_process_puts_back_what_runs_settles_it_and_says_so_once(stage, caplog):
    await stage.begin(10)
    go_on = asyncio.Event()

    async def wait_from_the_third_on(number):
        if number > 2:
            await go_on.wait()

    stage.provider.act = wait_from_the_third_on
    async with stage.process(concurrency=3, lease_s=3.0) as process:
        await until(lambda: len(stage.provider.posted) == 5)
        await until(lambda: process.dispatch.complete == 2)
        await stage.batch.redis.flushall()
        await until(lambda: stage.batch.redis.hlen("farebox:holds"))
        await until(lambda: has_money(stage, (2 * COST, 3 * HOLD, 0)))
        assert not process.task.done()
        go_on.set()
        with pytest.raises(NoLedgerError, match="gone from this server"):
            await asyncio.wait_for(process.task, 10)
        assert len(stage.provider.posted) == 5
    assert await stage.money() == (5 * COST, 0, 0)
    said = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(said) == 2
    assert "3 calls that are on their way" in said[0]
    assert "3 calls were put back" in said[1]
    assert "of 2 settled in the last seconds 2 were new" in said[1]


async def has_money(stage, expected):
    return await stage.money() == expected


async def test_a_process_finishes_the_jobs_of_an_old_backup_and_nobody_pays_again(stage):
    await stage.begin(12)
    redis = stage.batch.redis
    go_on = asyncio.Event()
    stage.provider.act = lambda n: go_on.wait() if n in {3, 4} else asyncio.sleep(0.02)
    async with stage.process(concurrency=2) as process:
        await until(lambda: process.dispatch.complete == 2 and len(stage.provider.posted) == 4)
        restore = await snapshot(redis)
        go_on.set()
        await until(lambda: process.dispatch.complete >= 6)
        await restore()
        with pytest.raises(LedgerLostError, match=r"seq \d+ where \d+ was"):
            await asyncio.wait_for(process.task, 10)
    sent = len(stage.provider.posted)
    assert await stage.money() == (sent * COST, 0, 0)
    fresh = Batch(redis, "b1")
    with pytest.raises(LedgerLostError):
        await fresh.submit(jobs(1))
    assert await fresh.ledger.adopt((await fresh.ledger.identity())[0])
    async with stage.process():
        await stage.finished(12)
    assert len(stage.provider.posted) == 12
    assert await stage.money() == (12 * COST, 0, 0)
    assert len(await stage.results()) == 12


async def test_a_process_that_meets_an_adopted_ledger_still_books_what_it_spent(stage):
    await stage.begin(3)
    go_on = asyncio.Event()
    stage.provider.act = lambda n: go_on.wait()
    async with stage.process(concurrency=1) as process:
        await until(lambda: len(stage.provider.posted) == 1)
        ledger = Batch(stage.batch.redis, "b1").ledger
        assert await ledger.adopt((await ledger.identity())[0])
        await until(lambda: process.failure)
        go_on.set()
        with pytest.raises(LedgerLostError, match="epoch"):
            await asyncio.wait_for(process.task, 10)
    assert await stage.money() == (COST, 0, 0)
    assert (await ledger.identity())[1] == "", "the adopted ledger is well"


async def test_a_worker_that_begins_on_a_lost_ledger_sends_nothing(stage):
    await stage.begin(3)
    await stage.batch.redis.hset("farebox:ledger", "lost", "why")
    async with stage.process() as process:
        with pytest.raises(LedgerError):
            await asyncio.wait_for(process.task, 10)
    assert not stage.provider.posted


async def test_a_renewal_finds_that_a_hold_is_nowhere(stage):
    await stage.begin(1)
    go_on = asyncio.Event()
    stage.provider.act = lambda n: go_on.wait()
    redis = stage.batch.redis
    async with stage.process(lease_s=3.0) as process:
        await until(lambda: len(stage.provider.posted) == 1)
        job = stage.batch.job_id("c0")
        async with redis.pipeline(transaction=True) as pipe:  # another worker's verbs have brought the seq up again
            for key in ("farebox:holds", f"arq:in-progress:{job}", "farebox:leases:sim:one", "farebox:scope:global"):
                pipe.delete(key)
            await pipe.execute()
        await until(lambda: process.failure)
        go_on.set()
        with pytest.raises(LedgerLostError, match="does not know 1 running calls"):
            await asyncio.wait_for(process.task, 10)
    assert await stage.money() == (COST, 0, 0)
    with pytest.raises(LedgerLostError, match="running calls were gone"):
        await Batch(redis, "b1").submit(jobs(1))


@pytest.mark.parametrize("when", ["before", "meanwhile"])
async def test_a_renewal_never_undoes_a_halt(stage, monkeypatch, when):
    await stage.begin(1)
    stage.provider.act = lambda n: asyncio.Event().wait()
    async with stage.process() as process:
        await until(lambda: len(stage.provider.posted) == 1)
        (attempt,) = process.dispatch.running.values()

        async def renewed(*args, **options):
            lost = await renew(*args, **options)
            process.dispatch.halt()
            return lost

        if when == "before":
            process.dispatch.halt()
        else:
            monkeypatch.setattr(pulse_module, "renew", renewed)
        await process._pulse._renew()
        assert attempt.deadline == 0.0, "what is not sent yet never is"


async def test_a_settle_whose_acknowledgement_never_came_proves_no_loss(stage, monkeypatch):
    await stage.begin(1)
    real, is_cut_off = settler_module.settle, asyncio.Event()

    async def settle_without_an_answer(*args, **options):
        words = await real(*args, **options)
        if not is_cut_off.is_set():
            is_cut_off.set()
            raise ConnectionError
        return words

    monkeypatch.setattr(settler_module, "settle", settle_without_an_answer)
    monkeypatch.setattr(outage_module, "FIRST_WAIT_S", 3.0)
    async with stage.process(lease_s=0.9) as process:
        await asyncio.wait_for(is_cut_off.wait(), 10)
        marks = await stage.batch.redis.keys("farebox:marks:*")
        assert await stage.batch.redis.delete(*marks) == 1  # ten minutes later
        (attempt,) = process.dispatch.running.values()
        await until(lambda: attempt.deadline == 0.0)  # a renewal has seen that its lease is gone
        assert not await stage.batch.redis.hexists("farebox:ledger", "lost")
        assert process.failure is None
