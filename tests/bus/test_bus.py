"""The six verbs, one promise a test, on a fake and on a real server."""

import asyncio

import pytest
from msgspec import structs
from redis.exceptions import ResponseError
from tests.bus_support import LANE, LEASE, TTL, enter, finished, jobs, scopes, take

from farebox.batch import Batch
from farebox.errors import BatchClosedError, InputError, JobConflictError, LedgerLostError, NoLedgerError
from farebox.records import Job
from farebox.scripts import REOPEN
from farebox_worker.bus.admit import Fare, admit
from farebox_worker.bus.claim import Ask, claim, new_name
from farebox_worker.bus.lapse import lapse
from farebox_worker.bus.renew import renew
from farebox_worker.bus.settle import Settlement, settle
from farebox_worker.bus.sweep import sweep
from farebox_worker.routes import Routes


async def test_a_job_submitted_twice_is_submitted_once(batch):
    assert (await batch.submit(jobs(3))).created == 3
    again = await batch.submit(jobs(5))
    assert (again.created, again.existing) == (2, 3)
    assert len(await take(batch)) == 5


async def test_the_same_id_with_another_body_is_refused_by_name(batch):
    await batch.submit(jobs(3))
    other = Job(1, "c1", LANE, "chat", b'{"messages":[1]}')
    with pytest.raises(JobConflictError) as caught:
        await batch.submit([*jobs(1, 7), other])
    assert caught.value.job_ids == [batch.job_id("c1")]
    assert len(await take(batch)) == 3


async def test_without_a_ledger_nothing_is_submitted_or_claimed(redis):
    batch = Batch(redis, "b1")
    with pytest.raises(NoLedgerError):
        await batch.open()
    with pytest.raises(NoLedgerError):
        await take(batch)
    assert await redis.keys("*") == []


async def test_an_older_ledger_is_refused_before_anything_is_written(batch, redis):
    await batch.submit(jobs(1))
    await redis.hset("farebox:ledger", "seq", 0)
    with pytest.raises(LedgerLostError):
        await take(batch)
    assert await redis.keys("arq:in-progress:*") == []


async def test_another_epoch_is_refused(batch, redis):
    await redis.hset("farebox:ledger", "epoch", "other")
    with pytest.raises(LedgerLostError, match="other"):
        await take(batch)


async def test_claims_come_in_order_and_never_twice(batch):
    await batch.submit(jobs(10))
    first, second = await take(batch, 4), await take(batch, 10)
    taken = [job.payload for job in first + second]
    assert len(set(taken)) == 10
    assert [b"c%d" % n in payload for n, payload in enumerate(taken)] == [True] * 10


async def test_a_claim_asked_again_gives_the_same_jobs(batch):
    await batch.submit(jobs(6))
    first = await take(batch, 3, name="abcdefghijk")
    again = await take(batch, 3, name="abcdefghijk")
    assert [(job.job_id, job.token, job.payload) for job in first] == [(j.job_id, j.token, j.payload) for j in again]
    assert len(await take(batch)) == 3


async def test_the_marks_of_a_long_claim_are_in_texts_of_64(batch, redis):
    await batch.submit(jobs(130))
    await redis.hset(f"farebox:lane:{LANE}", "target", 200)
    claimed = await take(batch, 130, name="abcdefghijk")
    assert len({job.token for job in claimed}) == 130
    assert all(len(job.token) == 16 for job in claimed)
    await enter(batch, claimed, 10)
    settlements = [finished(job, amount=3) for job in claimed]
    assert await settle(batch.tongue, settlements, results_ttl_ms=TTL) == ["done"] * 130
    assert await settle(batch.tongue, settlements, results_ttl_ms=TTL) == ["repeat"] * 130
    marks = [await redis.get(f"farebox:marks:abcdefghijk{digit}") for digit in "012"]
    assert [len(text.split()) for text in marks] == [64, 64, 2]
    assert (await batch.ledger.scope()).spent_nusd == 390


async def test_large_payloads_that_the_answer_has_no_room_for_are_not_read(batch, redis, server):
    if not server:
        pytest.skip("only a server counts what it reads")
    body = b'{"messages":["' + b"x" * 500_000 + b'"]}'
    await batch.submit(Job(1, f"c{n}", LANE, "chat", body) for n in range(40))
    before = (await redis.info("stats"))["keyspace_hits"]
    assert len(await take(batch, 40)) == 7  # of 4 MB
    assert (await redis.info("stats"))["keyspace_hits"] - before < 40


async def test_a_group_of_unlike_attempts_ends_each_its_own_way(batch, redis):
    await batch.submit(jobs(4))
    done, failing, again, back = claimed = await take(batch)
    await enter(batch, claimed, 10)
    failure = structs.replace(finished(failing, amount=0), money="release", outcome="failed")
    retry = Settlement(again.job_id, again.flow, again.token, "retry", "release", due="0", attempts=2)
    handed = Settlement(back.job_id, back.flow, back.token, "return", "release", due=back.score)
    group = [finished(done, amount=3), failure, retry, handed]
    assert await settle(batch.tongue, group, results_ttl_ms=TTL) == ["done"] * 4
    assert await redis.hmget("farebox:batch:b1", "succeeded", "failed") == [b"1", b"1"]
    assert await redis.hmget("farebox:scope:global", "spent", "held", "calls") == [b"3", b"0", b"1"]
    left = {job.job_id: (job.attempts, job.score) for job in await take(batch)}
    assert left[again.job_id][0] == 2
    assert left[back.job_id] == (0, back.score)
    assert len(left) == 2


async def test_an_admit_keeps_the_invariant_and_parks_what_has_no_room(batch):
    await batch.submit(jobs(5))
    await batch.ledger.set_limit("global", 250)
    verdicts = await enter(batch, await take(batch), 100)
    assert [verdict.word for verdict in verdicts] == ["ok", "ok", "no_room", "no_room", "no_room"]
    assert (verdicts[2].scope, verdicts[2].need_nusd) == ("global", 100)
    assert (await batch.ledger.scope()).held_nusd == 200
    assert [(scope, need) for _, scope, need in await batch.parked()] == [("global", 100)]
    assert await take(batch) == []
    assert await batch.waiting() == (3, 0, 2)


async def test_an_admit_sent_again_holds_once(batch):
    await batch.submit(jobs(1))
    claimed = await take(batch)
    await enter(batch, claimed, 70)
    assert [verdict.word for verdict in await enter(batch, claimed, 70)] == ["ok"]
    assert (await batch.ledger.scope()).held_nusd == 70


async def test_freed_money_reopens_what_fits_and_rings(batch, redis):
    await batch.submit(jobs(4))
    await batch.ledger.set_limit("global", 101)
    claimed = await take(batch)
    assert await enter(batch, claimed[:1], 1)
    await enter(batch, claimed[1:], 100)
    await redis.delete("farebox:bell:lane:" + LANE)
    assert await settle(batch.tongue, [finished(claimed[1], amount=5)], results_ttl_ms=TTL) == ["done"]
    assert await batch.parked() != []  # 95 free, 100 needed
    await batch.ledger.set_limit("global", 106)
    assert await batch.parked() == []
    assert await redis.llen("farebox:bell:lane:" + LANE) == 1
    assert [job.job_id for job in await take(batch)] == [job.job_id for job in claimed[2:]]


async def test_a_settle_books_every_scope_and_finishes_the_job(batch, redis):
    await batch.submit(jobs(2))
    await batch.seal(2)
    claimed = await take(batch)
    await enter(batch, claimed, 100)
    await settle(batch.tongue, [finished(job, amount=30) for job in claimed], results_ttl_ms=TTL)
    for name in scopes(batch):
        scope = await batch.ledger.scope(name)
        assert (scope.spent_nusd, scope.held_nusd, scope.calls, scope.input_tokens) == (60, 0, 2, 6)
    progress = await batch.progress()
    assert (progress.succeeded, progress.complete, progress.finishes) == (2, True, {"answered": 2})
    [entry] = await batch.read()
    assert [job for job, _ in entry.results] == [job.job_id for job in claimed]
    assert await redis.keys("arq:job:*") == await redis.keys("arq:in-progress:*") == []
    assert await redis.zcard(claimed[0].flow) == 0
    assert await redis.ttl("farebox:batch:b1") > 0
    await batch.acknowledge([entry])
    assert await batch.read() == []
    assert await redis.keys("arq:result:*") == []


async def test_a_settle_sent_again_changes_nothing(batch):
    await batch.submit(jobs(1))
    claimed = await take(batch)
    await enter(batch, claimed, 100)
    settlement = finished(claimed[0], amount=30)
    await settle(batch.tongue, [settlement], results_ttl_ms=TTL)
    assert await settle(batch.tongue, [settlement], results_ttl_ms=TTL) == ["repeat"]
    assert (await batch.ledger.scope()).spent_nusd == 30
    assert (await batch.progress()).succeeded == 1


async def test_a_dead_worker_leaves_its_hold_unconfirmed_and_its_job_due(batch):
    await batch.submit(jobs(2))
    claimed = await take(batch, lease_ms=1)
    await enter(batch, claimed[:1], 100)
    await asyncio.sleep(0.01)
    assert {(end.job_id, end.hold_nusd) for end in await lapse(batch.tongue)} == {
        (claimed[0].job_id, 100),
        (claimed[1].job_id, None),
    }
    scope = await batch.ledger.scope()
    assert (scope.held_nusd, scope.unconfirmed_nusd) == (0, 100)
    [owed] = await batch.ledger.unconfirmed()
    assert (owed.amount_nusd, owed.job_id, owed.why) == (100, claimed[0].job_id, "worker died")
    again = {job.job_id: job for job in await take(batch)}
    assert (again[claimed[0].job_id].attempts, again[claimed[0].job_id].doubts) == (1, 1)
    assert (again[claimed[1].job_id].attempts, again[claimed[1].job_id].claims) == (0, 1)


async def test_a_late_settle_replaces_what_was_unconfirmed(batch):
    await batch.submit(jobs(1))
    [claimed] = await take(batch, lease_ms=1)
    await enter(batch, [claimed], 100)
    await asyncio.sleep(0.01)
    await lapse(batch.tongue)
    [second] = await take(batch)
    await enter(batch, [second], 100)
    assert await settle(batch.tongue, [finished(claimed, amount=40)], results_ttl_ms=TTL) == ["done"]
    scope = await batch.ledger.scope()
    assert (scope.spent_nusd, scope.held_nusd, scope.unconfirmed_nusd) == (40, 100, 0)
    assert await settle(batch.tongue, [finished(second, amount=50)], results_ttl_ms=TTL) == ["money"]
    scope = await batch.ledger.scope()
    assert (scope.spent_nusd, scope.held_nusd, (await batch.progress()).succeeded) == (90, 0, 1)


async def test_a_stale_failure_touches_money_only(batch):
    await batch.submit(jobs(1))
    [claimed] = await take(batch, lease_ms=1)
    await enter(batch, [claimed], 100)
    await asyncio.sleep(0.01)
    await lapse(batch.tongue)
    late = finished(claimed, outcome="failed", money="release")
    assert await settle(batch.tongue, [late], results_ttl_ms=TTL) == ["money"]
    assert (await batch.ledger.scope()).used_nusd == 0
    assert len(await take(batch)) == 1


async def test_an_attempt_the_ledger_does_not_know_is_booked(batch, redis):
    await batch.submit(jobs(1))
    [claimed] = await take(batch)
    await enter(batch, [claimed], 100)
    await redis.hdel("farebox:holds", claimed.token)
    stray = finished(claimed, amount=25)
    stray = Settlement(**{name: getattr(stray, name) for name in stray.__slots__} | {"scopes": scopes(batch)})
    await settle(batch.tongue, [stray], results_ttl_ms=TTL)
    assert (await batch.ledger.scope("model:echo:echo")).spent_nusd == 25


async def test_a_retry_is_due_later_and_counts_its_attempt(batch):
    await batch.submit(jobs(1))
    [claimed] = await take(batch)
    await enter(batch, [claimed], 100)
    again = Settlement(claimed.job_id, claimed.flow, claimed.token, "retry", "release", due="800", attempts=1)
    await settle(batch.tongue, [again], results_ttl_ms=TTL)
    waiting = await claim(batch.tongue, [Ask(LANE, 5)], lease_ms=LEASE)
    assert waiting.jobs == []
    assert 0 < waiting.due_in_s <= 0.8
    await asyncio.sleep(waiting.due_in_s + 0.01)
    [second] = await take(batch)
    assert second.attempts == 1


async def test_a_returned_job_regains_its_place(batch):
    await batch.submit(jobs(4))
    first, second = await take(batch, 2)
    back = [Settlement(j.job_id, j.flow, j.token, "return", "release", due=j.score) for j in (second, first)]
    await settle(batch.tongue, back, results_ttl_ms=TTL)
    assert [job.job_id for job in (await take(batch, 2))] == [first.job_id, second.job_id]


async def test_a_renewed_lease_does_not_lapse_and_a_lost_one_is_told(batch, redis):
    await batch.submit(jobs(2))
    one, two = await take(batch, lease_ms=50)
    await redis.set(f"arq:in-progress:{two.job_id}", "x" * 16 + two.flow)
    assert await renew(batch.tongue, [one, two], lease_ms=LEASE) == [two]
    await asyncio.sleep(0.06)
    assert [end.job_id for end in await lapse(batch.tongue)] == [two.job_id]


async def test_nothing_lapses_for_one_lease_after_the_server_was_away(batch, redis):
    await batch.submit(jobs(1))
    await take(batch, lease_ms=1)
    clock = int(await redis.hget("farebox:ledger", "clock"))
    await redis.hset("farebox:ledger", "clock", clock - 20_000)
    await asyncio.sleep(0.01)
    assert await lapse(batch.tongue) == []
    assert await take(batch) == []
    assert len(await lapse(batch.tongue, dead=True)) == 1


async def test_a_small_batch_behind_a_big_one_gets_half(batch, redis):
    await batch.submit(jobs(500))
    assert len(await take(batch, 50)) == 50
    small = Batch(redis, "small")
    await small.ledger.create()
    await small.open()
    await small.submit(jobs(40))
    mixed = [job.flow for job in await take(batch, 14)]
    assert mixed.count(f"farebox:flow:0:small:{LANE}") == 7


def test_no_token_looks_like_an_option_of_a_command():
    assert {(len(name), name.startswith("-")) for name in (new_name() for _ in range(1000))} == {(11, False)}


async def test_a_higher_priority_goes_first(batch):
    await batch.submit(jobs(5))
    await batch.submit(jobs(5, 5), priority=9)
    assert [job.flow[13] for job in await take(batch, 7)] == ["9"] * 5 + ["0"] * 2


async def test_a_worker_of_one_batch_takes_nothing_else(batch, redis):
    other = Batch(redis, "other")
    await other.ledger.create()
    await other.open()
    await other.submit(jobs(3))
    await batch.submit(jobs(2))
    assert len(await take(batch, 10, only_batch="b1")) == 2


async def test_a_cancelled_batch_is_not_claimed_not_admitted_and_swept(batch, redis):
    await batch.submit(jobs(5))
    await batch.seal(5)
    claimed = await take(batch, 2)
    await enter(batch, claimed[:1], 10)
    assert await batch.cancel()
    assert await take(batch) == []
    assert [verdict.word for verdict in await enter(batch, claimed[1:], 10)] == ["cancelled"]
    assert await sweep(batch.tongue, results_ttl_ms=TTL) == 3
    done = [finished(claimed[0], amount=1), finished(claimed[1], outcome="cancelled", money="release")]
    await settle(batch.tongue, done, results_ttl_ms=TTL)
    progress = await batch.progress()
    assert (progress.succeeded, progress.cancelled_jobs, progress.complete) == (1, 4, True)
    with pytest.raises(BatchClosedError):
        await batch.submit(jobs(1, 9))


async def test_a_cancelled_batch_that_is_reopened_goes_on_with_what_waits(batch, monkeypatch):
    await batch.submit(jobs(5))
    running = await take(batch, 1)
    await enter(batch, running, 10)
    assert not await batch.reopen(), "it is not cancelled"
    await batch.cancel(now=True)
    asked = batch.tongue.say

    async def say(*words):
        await asked(REOPEN, batch.batch_id)  # between what the sweep reads and what it writes
        return await asked(*words)

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(batch.tongue, "say", say)
        assert await sweep(batch.tongue, results_ttl_ms=TTL) == 0
    assert not await batch.redis.hexists(batch.keys.batch(batch.batch_id), "aborted")
    assert len(await take(batch)) == 4
    assert await sweep(batch.tongue, results_ttl_ms=TTL) == 0
    assert (await batch.submit(jobs(1, 9))).created == 1


async def test_a_sealed_batch_takes_nothing_new_until_it_is_opened_again(batch):
    await batch.submit(jobs(1))
    await batch.seal(1)
    with pytest.raises(BatchClosedError, match="sealed"):
        await batch.submit(jobs(1, 1))
    await batch.open()
    assert (await batch.submit(jobs(2))).created == 1


async def test_a_hundred_admits_at_once_pass_exactly_five(batch, redis):
    await batch.submit(jobs(100))
    await batch.ledger.set_limit("batch:b1", 509)
    claimed = await take(batch, 100)
    verdicts = await asyncio.gather(*(enter(batch, [job], 100) for job in claimed))
    assert sum(verdict.word == "ok" for [verdict] in verdicts) == 5


@pytest.mark.parametrize(("is_charge", "spent"), [(True, 100), (False, 0)])
async def test_an_operator_releases_or_charges_what_is_unconfirmed(batch, is_charge, spent):
    await batch.submit(jobs(2))
    await batch.ledger.set_limit("global", 150)
    claimed = await take(batch, lease_ms=1)
    await enter(batch, claimed[:1], 100)
    await asyncio.sleep(0.01)
    await lapse(batch.tongue)
    [owed] = await batch.ledger.unconfirmed()
    assert await batch.ledger.confirm([owed.token, "unknown"], is_charge=is_charge) == (1, 100)
    scope = await batch.ledger.scope("model:echo:echo")
    assert (scope.spent_nusd, scope.unconfirmed_nusd) == (spent, 0)
    assert await batch.ledger.unconfirmed() == []
    late = structs.replace(finished(claimed[0], amount=40), scopes=scopes(batch))
    assert await settle(batch.tongue, [late], results_ttl_ms=TTL) == ["repeat" if is_charge else "done"]
    assert (await batch.ledger.scope("model:echo:echo")).spent_nusd == (100 if is_charge else 40)


async def test_what_an_operator_charged_is_not_booked_again_by_who_comes_an_hour_late(batch, redis):
    await batch.submit(jobs(2))
    late, other = await take(batch)
    await enter(batch, [late, other], 100)
    await lapse(batch.tongue, dead=True)
    await batch.ledger.confirm([late.token], is_charge=True)
    await settle(batch.tongue, [finished(other, amount=40)], results_ttl_ms=TTL)  # of the same claim
    assert await redis.ttl(f"farebox:marks:{late.token[:12]}") > 3_600
    assert await settle(batch.tongue, [finished(late, amount=40)], results_ttl_ms=TTL) == ["repeat"]
    assert (await batch.ledger.scope()).spent_nusd == 140


async def test_a_batchs_lanes_are_those_in_which_work_is_left_for_workers(batch):
    await batch.submit(jobs(1))
    await batch.submit(jobs(1, 1, lane="echo:other"))
    await batch.submit(jobs(1, 2, lane="echo:third"))
    assert await batch.lanes() == {LANE, "echo:other", "echo:third"}
    [done] = await take(batch)
    await enter(batch, [done], 100)
    await settle(batch.tongue, [finished(done)], results_ttl_ms=TTL)
    await batch.ledger.set_limit("global", 1)
    [big] = (await claim(batch.tongue, [Ask("echo:other", 1)], lease_ms=LEASE)).jobs
    assert (await enter(batch, [big], 100))[0].word == "no_room"
    assert await batch.lanes() == {"echo:third"}
    assert await batch.lanes(even_parked=True) == {"echo:other", "echo:third"}


async def test_a_cancelled_batch_that_was_never_sealed_is_complete_once_swept(batch):
    await batch.submit(jobs(2))
    await batch.cancel()
    assert not (await batch.progress()).complete
    await sweep(batch.tongue, results_ttl_ms=TTL)
    assert (await batch.progress()).complete


async def test_a_claim_over_many_lanes_takes_no_more_than_one_script_may_admit(batch):
    lanes = [f"echo:m{n}" for n in range(6)]
    for lane in lanes:
        await batch.submit([Job(1, f"{lane}-{n}", lane, "chat", b"{}") for n in range(256)])
        await batch.redis.hset(batch.keys.lane(lane), "target", 256)
    asks = [Ask(lane, 256) for lane in lanes]
    for left in range(5, -1, -1):
        claims = await claim(batch.tongue, asks, lease_ms=LEASE)
        assert len(claims.jobs) == 256
        assert claims.due_in_s == 0, "there may be more at once"
        assert {verdict.word for verdict in await enter(batch, claims.jobs, 1)} == {"ok"}
        assert await batch.redis.hlen(batch.keys.holds) == (6 - left) * 256
    assert not (await claim(batch.tongue, asks, lease_ms=LEASE)).jobs


async def test_thousands_of_tags_are_admitted_and_settled_at_once(batch):
    await batch.ledger.set_limit("tag:0-0", 1_000)
    await batch.submit(jobs(64))
    claimed = await take(batch, 64)
    many = [(*scopes(batch), *(f"tag:{n}-{k}" for k in range(140))) for n in range(64)]
    fares = [Fare(job, 10, named) for job, named in zip(claimed, many, strict=True)]
    assert {verdict.word for verdict in await admit(batch.tongue, fares)} == {"ok"}
    group = [structs.replace(finished(job, amount=7), scopes=named) for job, named in zip(claimed, many, strict=True)]
    assert set(await settle(batch.tongue, group, results_ttl_ms=TTL)) == {"done"}
    assert (await batch.ledger.scope("tag:63-139")).spent_nusd == 7


async def test_a_late_answer_wakes_the_flow_that_parked_for_its_job(batch):
    await batch.ledger.set_limit("global", 120)
    await batch.submit(jobs(1))
    first = await take(batch)
    await enter(batch, first, 100)
    await lapse(batch.tongue, dead=True)
    assert (await enter(batch, await take(batch), 100))[0].word == "no_room"
    await batch.submit(jobs(1, 1))
    await settle(batch.tongue, [finished(first[0], amount=90)], results_ttl_ms=TTL)
    [small] = await take(batch)
    assert (await enter(batch, [small], 30))[0].word == "ok"


async def test_a_settle_that_fails_before_money_moved_can_be_sent_again(batch, redis):
    await batch.submit(jobs(2))
    good, bad = await take(batch)
    await enter(batch, [good, bad], 100)
    record = await redis.hget("farebox:holds", bad.token)
    await redis.hset("farebox:holds", bad.token, "no record")
    group = [finished(good, amount=30), finished(bad, amount=40)]
    with pytest.raises(ResponseError):
        await settle(batch.tongue, group, results_ttl_ms=TTL)
    assert await settle(batch.tongue, group[:1], results_ttl_ms=TTL) == ["done"]
    await redis.hset("farebox:holds", bad.token, record)
    assert await settle(batch.tongue, group, results_ttl_ms=TTL) == ["repeat", "done"]
    scope = await batch.ledger.scope()
    assert (scope.spent_nusd, scope.held_nusd) == (70, 0)


@pytest.mark.parametrize("model", ["echo:a\tb", "echo:a\nb", "echo:\x00"])
async def test_a_model_that_would_garble_records_is_refused(batch, model):
    with pytest.raises(InputError, match="control characters"):
        await batch.submit(jobs(1, lane=model))
    with pytest.raises(InputError, match="control characters"):
        Routes(None, None, None).lay(model)
