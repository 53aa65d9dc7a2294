"""What does not fit waits aside, and others of its flow go on: a big job, or one whose tag has no money left."""

import asyncio
import time
from random import Random

import pytest
from tests.bus_support import LANE, LEASE, TTL, enter, finished, scopes, take

from farebox.amend import drop
from farebox.batch import Batch
from farebox.records import Job
from farebox.status import read_status
from farebox_worker.bus.admit import Fare, admit
from farebox_worker.bus.expire import expire
from farebox_worker.bus.lapse import lapse
from farebox_worker.bus.settle import Settlement, settle
from farebox_worker.bus.sweep import sweep

TAG = "tag:alpha"
FLOW = f"farebox:flow:0:b1:{LANE}"
SIDING = f"farebox:flow:0:b1+global:{LANE}"
TAG_SIDING = f"farebox:flow:0:b1+tag+alpha:{LANE}"


def job(name, **more):
    return Job(1, name, LANE, "chat", b'{"messages":[]}', **more)


async def enter_sized(batch, claimed, *, big, small, tagged=()):
    """Admit at `big` those whose name begins with it, at `small` the others; `tagged` count under their tag, too."""
    fares = [Fare(one, big if b"big" in one.payload else small, scopes_of(batch, one, tagged)) for one in claimed]
    return [verdict.word for verdict in await admit(batch.tongue, fares)]


def scopes_of(batch, one, tagged):
    return (*scopes(batch), TAG) if any(name.encode() in one.payload for name in tagged) else scopes(batch)


async def names(redis, flow):
    return [identity.decode() for identity in await redis.zrange(flow, 0, -1)]


async def test_small_jobs_go_on_behind_a_big_one_that_waits_aside(batch, redis):
    await batch.ledger.set_limit("global", 100)
    await batch.submit([job("big"), *(job(f"c{n}") for n in range(20))])
    assert await enter_sized(batch, await take(batch, 4), big=101, small=5) == ["no_room", "ok", "ok", "ok"]
    assert await batch.parked() == [(SIDING, "global", 101)]
    assert await batch.waiting() == (1, 17, 3)
    words = [word for _ in range(6) for word in await enter_sized(batch, await take(batch, 4), big=101, small=5)]
    assert words.count("ok") == 17
    assert await take(batch) == [], "nothing is left but the big one"


@pytest.mark.parametrize("slots", [1, 4, 64])
async def test_less_is_left_at_the_end_than_the_smallest_waiting_hold(batch, slots):
    limit, random = 2000, Random(slots)
    await batch.ledger.set_limit("global", limit)
    holds = {batch.job_id(f"c{n}"): int(random.lognormvariate(3, 1)) + 1 for n in range(250)}
    await batch.submit(job(f"c{n}") for n in range(250))
    running = []
    while claimed := await take(batch, slots) or running:
        if claimed is running:
            ended = running.pop(0)
            await settle(batch.tongue, [finished(ended, amount=holds.pop(ended.job_id) // 2)], results_ttl_ms=TTL)
        else:
            verdicts = await admit(batch.tongue, [Fare(one, holds[one.job_id], scopes(batch)) for one in claimed])
            running += [one for one, verdict in zip(claimed, verdicts, strict=True) if verdict.word == "ok"]
    counted = await batch.ledger.scope()
    assert counted.held_nusd == 0
    assert limit - counted.spent_nusd < min(holds.values())
    assert len(await batch.parked()) >= 1


async def test_jobs_of_one_size_stay_where_they_are(batch, redis):
    await batch.ledger.set_limit("global", 25)
    await batch.submit(job(f"c{n}") for n in range(10))
    assert [v.word for v in await enter(batch, await take(batch, 6), 10)] == ["ok"] * 2 + ["no_room"] * 4
    assert await redis.smembers("farebox:flows:b1") == {FLOW.encode()}
    assert await batch.parked() == [(FLOW, "global", 10)]


async def test_a_tag_without_money_holds_up_nobody_else(batch, redis):
    await batch.ledger.set_limit(TAG, 0)
    await batch.submit([*(job(f"alpha{n}") for n in range(100)), job("other")])
    words = []
    while claimed := await take(batch, 16):
        words += await enter_sized(batch, claimed, big=0, small=5, tagged=["alpha"])
    assert words == ["no_room"] * 100 + ["ok"]
    assert await batch.waiting() == (100, 0, 1)
    assert await batch.parked() == [(TAG_SIDING, TAG, 5)]
    await batch.ledger.set_limit(TAG, 1000)
    back = await take(batch, 200)
    assert len(back) == 63
    assert await enter_sized(batch, back, big=0, small=5, tagged=["alpha"]) == ["ok"] * 63


async def test_a_siding_is_not_endless(batch, redis):
    """A batch whose tag has no money left parks as it is, in one step."""
    await batch.ledger.set_limit(TAG, 0)
    await batch.submit(job(f"alpha{n}") for n in range(20))
    others = {f"farebox:x{n}": n for n in range(9_998)}
    await redis.zadd(TAG_SIDING, others)
    words = await enter_sized(batch, await take(batch, 10), big=0, small=5, tagged=["alpha"])
    assert words == ["no_room"] * 10
    assert await redis.zcard(TAG_SIDING) == 10_000
    assert (FLOW, TAG, 5) in await batch.parked()
    assert await redis.zcard(FLOW) == 18
    assert await redis.zscore(f"farebox:open:{LANE}", FLOW) is None


async def test_whoever_waits_aside_for_30_s_is_not_passed_any_more(batch, redis):
    await batch.ledger.set_limit("global", 100)
    await batch.submit([job("c0"), job("big"), *(job(f"c{n}") for n in range(1, 20))])
    running = await take(batch, 5)
    assert await enter_sized(batch, running, big=100, small=1) == ["ok", "no_room", "ok", "ok", "ok"]
    await redis.hset("farebox:parking", SIDING, "global\t100\t1")
    await redis.hdel("farebox:ledger", "lapsed")
    await lapse(batch.tongue)
    assert await redis.get("farebox:starved:global") == SIDING.encode()
    assert await enter_sized(batch, await take(batch, 5), big=100, small=1) == ["no_room"] * 5
    done = [finished(running[n]) for n in (0, 2, 3, 4)]
    await settle(batch.tongue, done, results_ttl_ms=TTL)
    (big,) = [one for one in await take(batch, 30) if b"big" in one.payload]
    assert big.flow == SIDING
    assert await enter_sized(batch, [big], big=100, small=1) == ["ok"]
    assert not await redis.exists("farebox:starved:global")


async def test_who_comes_to_a_siding_that_was_reopened_does_not_close_it(batch, redis):
    await batch.ledger.set_limit("global", 100)
    await batch.submit([job("c0"), job("big"), job("c1"), job("bigger"), job("c2")])
    first = await take(batch, 3)
    assert await enter_sized(batch, first, big=100, small=1) == ["ok", "no_room", "ok"]
    late = await take(batch, 2)
    await settle(batch.tongue, [finished(first[0]), finished(first[2])], results_ttl_ms=TTL)
    assert await batch.parked() == [], "100 are free"
    fares = [Fare(one, 200 if b"bigger" in one.payload else 0, scopes(batch)) for one in late]
    assert [verdict.word for verdict in await admit(batch.tongue, fares)] == ["no_room", "ok"]
    assert await batch.parked() == [], "it may fit now"
    again = await take(batch)
    assert [one.payload.count(b"bigger") for one in again] == [0, 1]
    fares = [Fare(one, 200 if b"bigger" in one.payload else 100, scopes(batch)) for one in again]
    assert [verdict.word for verdict in await admit(batch.tongue, fares)] == ["ok", "no_room"]
    assert await batch.parked() == [(SIDING, "global", 200)]


async def test_a_worker_of_one_batch_serves_its_sidings(batch, redis):
    await batch.ledger.set_limit("global", 100)
    await batch.submit([job("c0"), job("big"), job("c1")])
    running = await take(batch, 3, only_batch="b1")
    assert await enter_sized(batch, running, big=100, small=1) == ["ok", "no_room", "ok"]
    assert await take(batch, only_batch="b1") == []
    await settle(batch.tongue, [finished(running[0]), finished(running[2])], results_ttl_ms=TTL)
    assert await take(batch, only_batch="other") == []
    assert [one.flow for one in await take(batch, only_batch="b1")] == [SIDING]


async def aside(batch, **more):
    await batch.ledger.set_limit("global", 100)
    await batch.submit([job("big", **more), job("c0")])
    await enter_sized(batch, await take(batch, 2), big=101, small=1)
    return batch.job_id("big")


async def test_a_job_aside_says_what_it_waits_for_and_can_be_cancelled(batch, redis):
    big = await aside(batch)
    status = await read_status(redis, batch.keys, "b1", big)
    assert str(status) == "parked: no room in the global limit for $0.000000101"
    assert await drop(batch, big, "big", SIDING)
    assert await batch.parked() == []
    assert not await redis.exists(SIDING)


async def test_a_job_aside_is_swept_with_its_batch(batch, redis):
    await aside(batch)
    assert await batch.cancel()
    assert await batch.parked() == []
    assert await sweep(batch.tongue, results_ttl_ms=TTL) == 1
    assert not await redis.exists(SIDING)


async def test_a_job_aside_expires(batch, redis):
    await aside(batch, deadline_ms=int(time.time() * 1000) + 10)
    await asyncio.sleep(0.02)
    assert await expire(batch.tongue, results_ttl_ms=TTL) == 1
    assert not await redis.exists(SIDING)


@pytest.mark.parametrize("kind", ["movable", "spread"])
async def test_a_job_aside_may_still_move_to_another_lane(batch, redis, kind):
    await batch.note_flow(FLOW, [kind])
    await aside(batch)
    assert SIDING.encode() in await redis.smembers(f"farebox:{kind}")


async def test_a_late_answer_to_a_job_aside_ends_it(batch, redis):
    await batch.ledger.set_limit("global", 100)
    await batch.submit([job("big"), job("c0")])
    (slow,) = await take(batch, 1, lease_ms=1)
    await enter(batch, [slow], 60)
    await asyncio.sleep(0.01)
    await redis.hdel("farebox:ledger", "lapsed", "grace")
    assert len(await lapse(batch.tongue)) == 1
    assert await enter_sized(batch, await take(batch, 2, lease_ms=LEASE), big=60, small=1) == ["no_room", "ok"]
    assert await names(redis, SIDING) == [batch.job_id("big")]
    assert await settle(batch.tongue, [finished(slow, amount=3)], results_ttl_ms=TTL) == ["done"]
    assert not await redis.exists(SIDING)
    assert await batch.parked() == []


async def test_a_job_aside_remembers_what_became_of_it_before(batch, redis):
    """Its place says what it needs, and no more whether it was tried."""
    await batch.ledger.set_limit("global", 100)
    await batch.submit([job("big"), job("c0")])
    (tried,) = await take(batch, 1)
    await enter(batch, [tried], 50)
    again = Settlement(tried.job_id, tried.flow, tried.token, "retry", "unconfirmed", attempts=1, why="timeout")
    await settle(batch.tongue, [again], results_ttl_ms=TTL)
    assert await enter_sized(batch, await take(batch, 2), big=60, small=1) == ["no_room", "ok"]
    await batch.ledger.set_limit("global", 200)
    (back,) = await take(batch)
    assert (back.flow, back.attempts, back.doubts) == (SIDING, 1, 1)


async def test_who_can_fit_no_more_keeps_nobody_waiting(batch, redis):
    """A flow that parked for one job is looked at again when no call in flight can make room for it any more."""
    await batch.ledger.set_limit("global", 100)
    await batch.submit([job("c0"), job("big"), job("c1")])
    running = await take(batch, 1)
    assert await enter(batch, running, 60)
    assert await enter_sized(batch, await take(batch, 1), big=70, small=1) == ["no_room"]
    assert await batch.parked() == [(FLOW, "global", 70)], "it may fit once the first one is cheap"
    await settle(batch.tongue, [finished(running[0], amount=50)], results_ttl_ms=TTL)
    assert await batch.parked() == [], "nothing is in flight, and 50 are free"
    assert await enter_sized(batch, await take(batch, 1), big=70, small=1) == ["no_room"]
    assert await batch.parked() == [(SIDING, "global", 70)]
    assert await enter_sized(batch, await take(batch, 1), big=70, small=1) == ["ok"]


async def test_empty_sidings_of_single_jobs_are_forgotten(redis):
    batch = Batch(redis, "default")
    await batch.ledger.create()
    await batch.open()
    await batch.ledger.set_limit(TAG, 0)
    await batch.submit([job("alpha")])
    await enter_sized(batch, await take(batch), big=0, small=5, tagged=["alpha"])
    siding = TAG_SIDING.replace("b1", "default").encode()
    await lapse(batch.tongue)
    assert siding in await redis.smembers("farebox:flows:default")
    assert await drop(batch, batch.job_id("alpha"), "alpha", siding.decode())
    await redis.hdel("farebox:ledger", "lapsed")
    await lapse(batch.tongue)
    assert await redis.smembers("farebox:flows:default") == {FLOW.replace("b1", "default").encode()}
