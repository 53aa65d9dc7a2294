"""Many flows of one priority share a claim: some jobs of each visit, and level over a few claims."""

from collections import Counter

from farebox.batch import Batch
from farebox.records import Job
from farebox_worker.bus.claim import Ask, claim

LANE = "p:a"
LEAST_SHARE = 16  # as in claim.lua


async def flows(redis, count, jobs):
    for number in range(count):
        batch = Batch(redis, f"b{number}")
        if not number:
            await batch.ledger.create()
        await batch.open()
        await batch.submit([Job(1, f"c{n}", LANE, "chat", b"{}") for n in range(jobs)])
    await redis.hset(f"farebox:lane:{LANE}", "target", 10_000)
    return batch.tongue


async def served(tongue, slots):
    return Counter(job.flow for job in (await claim(tongue, [Ask(LANE, slots)], lease_ms=30_000)).jobs)


async def test_a_claim_visits_few_of_many_flows_and_takes_some_jobs_of_each(redis):
    tongue = await flows(redis, 40, 20)
    assert set((await served(tongue, 64)).values()) == {LEAST_SHARE}


async def test_many_flows_are_level_after_a_round_of_claims(redis):
    tongue = await flows(redis, 40, 20)
    taken = sum([await served(tongue, 64) for _ in range(10)], Counter())
    assert set(taken.values()) == {LEAST_SHARE}
    assert len(taken) == 40


async def test_few_slots_are_never_given_to_one_flow_alone(redis):
    tongue = await flows(redis, 3, 20)
    assert len(await served(tongue, 4)) >= 2


async def test_the_sidings_of_a_batch_share_what_one_flow_gets(redis):
    tongue = await flows(redis, 2, 2000)
    for n in range(20):
        siding = f"farebox:flow:0:b0+tag+t{n}:{LANE}"
        ids = {f"farebox:s{n}-{i}": i for i in range(100)}
        await redis.mset({f"arq:job:{one}": b"x" for one in ids})
        await redis.zadd(siding, ids)
        await redis.sadd("farebox:flows:b0", siding)
        await redis.zadd(f"farebox:open:{LANE}", {siding: 9e14})
    taken = Counter()
    for _ in range(40):
        for flow, count in (await served(tongue, 64)).items():
            taken["b1" if ":b1:" in flow else "b0"] += count
    assert taken["b0"] < 3 * taken["b1"]
