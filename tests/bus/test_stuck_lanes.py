"""Lanes that could stand still and do not: a call that hangs, a probe whose worker died, a greedy neighbour."""

import pytest
from tests.bus.test_pace import LANE, OTHER, PROVIDER, claims, end, enter, fill, pass_s, returned, state
from tests.bus_support import FIRST_TARGET, LEASE, TTL
from tests.shifted_time import shifted_time

from farebox_worker.bus.lapse import lapse
from farebox_worker.bus.pace import Rates, tune
from farebox_worker.bus.pause import pause
from farebox_worker.bus.settle import settle

BIG, SMALL = 900, 50  # tokens, of 980 that may be taken per minute


@pytest.fixture(autouse=True)
def _moved():
    with shifted_time():
        yield


async def cut_to(redis, target):
    now_s, _ = await redis.time()
    await redis.hset("farebox:lane:p:a", mapping={"cut": now_s * 1000, "ceiling": target, "target": target})


# --- a call that hangs ----------------------------------------------------------------------------------------------


async def test_a_call_that_hangs_does_not_hold_a_lane_of_one_call_until_it_times_out(batch, redis):
    await fill(batch)
    await cut_to(redis, 1)
    hanging = (await claims(batch)).jobs
    assert len(hanging) == 1
    assert (await claims(batch)).jobs == []
    await pass_s(redis, 31)
    beside = await claims(batch)
    assert len(beside.jobs) == 1, "one more goes beside it"
    assert (await claims(batch)).due_in_s == pytest.approx(30, abs=2), "and the next one as much later"


async def test_silence_lets_a_few_calls_in_and_no_more(batch, redis):
    await fill(batch)
    await cut_to(redis, 1)
    in_flight = 0
    for _ in range(20):
        in_flight += len((await claims(batch)).jobs)
        await pass_s(redis, 31)
    assert in_flight == 8


async def test_a_refusal_beside_a_long_call_brings_the_target_down_to_one_again(batch, redis):
    await fill(batch)
    await cut_to(redis, 1)
    (long,) = (await claims(batch)).jobs
    await enter(batch, [long])
    assert (await claims(batch)).jobs == []
    await pass_s(redis, 31)
    (tried,) = (await claims(batch)).jobs
    await enter(batch, [tried])
    await settle(batch.tongue, [returned(tried, "cut:50")], results_ttl_ms=TTL)
    assert await state(redis, "target") == 1
    await pass_s(redis, 20)
    assert (await claims(batch)).jobs == [], "the refusal was heard: the silence begins anew"


async def test_a_lane_whose_calls_come_back_is_not_silent(batch, redis):
    await fill(batch)
    await cut_to(redis, 4)
    found = (await claims(batch)).jobs
    await enter(batch, found)
    await claims(batch)
    for one in found[:3]:
        await pass_s(redis, 20)
        await end(batch, [one])
        again = (await claims(batch)).jobs
        assert len(again) <= 2
        await enter(batch, again)
    assert await state(redis, "target") <= 6


# --- a probe whose worker died --------------------------------------------------------------------------------------


async def test_when_the_worker_of_a_probe_is_killed_exactly_one_other_probe_follows(batch, redis):
    for lane in (LANE, OTHER):
        await fill(batch, lane=lane)
    await pause(batch.tongue, provider=PROVIDER, seconds=300, why="account")
    await pass_s(redis, 301)
    (probe,) = (await claims(batch, lanes=(LANE, OTHER))).jobs
    await enter(batch, [probe])
    waiting = await claims(batch, lanes=(LANE, OTHER))
    assert waiting.jobs == []
    assert waiting.due_in_s is not None, "somebody looks again"
    await pass_s(redis, LEASE / 1000 + 1)
    assert (await claims(batch, lanes=(OTHER,))).jobs == [], "nobody probes before the lease is seen to have lapsed"
    assert [one.job_id for one in await lapse(batch.tongue)] == [probe.job_id]
    (second,) = (await claims(batch, lanes=(LANE, OTHER))).jobs
    assert (await claims(batch, lanes=(LANE, OTHER))).jobs == [], "one, whoever asks"
    await enter(batch, [second])
    await end(batch, [probe])
    assert (await claims(batch, lanes=(LANE, OTHER))).jobs == [], "the dead one's late answer is of before"
    await end(batch, [second])
    assert len((await claims(batch, lanes=(LANE, OTHER))).jobs) > FIRST_TARGET / 2


# --- a neighbour that takes all tokens ------------------------------------------------------------------------------


async def minute_of_small_jobs(batch, redis, *, with_big=True, seconds=60):
    """Let a second pass many times; what is claimed is admitted and answered. Returns how many big and small ran."""
    ran = {LANE: 0, OTHER: 0}
    for _ in range(seconds):
        await pass_s(redis, 1)
        for lane, tokens in ((OTHER, SMALL), (LANE, BIG))[: 1 + with_big]:
            found = (await claims(batch, 4, lanes=(lane,))).jobs
            words = await enter(batch, found, tokens=tokens)
            admitted = [job for job, word in zip(found, words, strict=True) if word == "ok"]
            await end(batch, admitted)
            ran[lane] += len(admitted)
    return ran


async def test_a_lane_that_needs_nearly_all_tokens_of_its_provider_is_not_starved(batch, redis):
    await tune(batch.tongue, providers={PROVIDER: Rates(tpm=1000)})
    await fill(batch, lane=LANE)
    await fill(batch, lane=OTHER)
    await minute_of_small_jobs(batch, redis, with_big=False)
    ran = await minute_of_small_jobs(batch, redis, seconds=300)
    assert ran[LANE] >= 2, "it is admitted again and again"
    assert ran[OTHER] >= 20, "and its neighbour too"


async def test_tokens_that_are_kept_for_a_lane_nobody_serves_any_more_are_given_free(batch, redis):
    await tune(batch.tongue, providers={PROVIDER: Rates(tpm=1000)})
    await fill(batch, lane=LANE)
    await fill(batch, lane=OTHER)
    await minute_of_small_jobs(batch, redis, with_big=False)
    while await redis.hget("farebox:provider:p", "starved") is None:
        await minute_of_small_jobs(batch, redis, seconds=1)
    assert (await claims(batch, lanes=(OTHER,))).jobs == []
    ran = await minute_of_small_jobs(batch, redis, with_big=False, seconds=100)
    assert ran[OTHER] > 0


# --- many parked flows ----------------------------------------------------------------------------------------------

FLOWS = 1000
LAPSES = 50  # by then every flow was looked at


async def park(batch, redis):
    """Let the flows of 1,000 batches wait for one limit, which leaves room for none; the last one waits for long."""
    await batch.ledger.set_limit("global", 100)
    parked, needs = {}, {}
    for n in range(FLOWS):
        flow = batch.keys.flow(0, f"other{n}", LANE)
        needs[flow] = 200 if n else 90
        parked[flow] = f"global\t{needs[flow]}\t{1 if n == 0 else 10**15}"
        await redis.zadd(flow, {f"job{n}": 1})
    await redis.hset(batch.keys.parking, mapping=parked)
    await redis.zadd(f"{batch.keys.prefix}parked:global", needs)
    await redis.hset(f"{batch.keys.prefix}scope:global", "held", 50)


async def next_second(batch, redis):
    await redis.hdel("farebox:ledger", "lapsed")
    return await lapse(batch.tongue)


async def test_parked_flows_are_looked_at_in_turn_and_few_in_one_second(batch, redis, server):
    await park(batch, redis)
    starved = f"{batch.keys.prefix}starved:global"
    for _ in range(LAPSES):
        if await redis.exists(starved):
            break
        await next_second(batch, redis)
    assert await redis.get(starved) == batch.keys.flow(0, "other0", LANE).encode()
    if server:  # a fake one does not count commands
        await redis.config_resetstat()
        for _ in range(LAPSES):
            await next_second(batch, redis)
        asked = (await redis.info("commandstats"))["cmdstat_exists"]["calls"]
        assert 2 * FLOWS <= asked <= LAPSES * 150, "all of them in turn"
