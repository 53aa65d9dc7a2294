"""Processes that serve one batch each share what a lane has room for: who settles first does not claim it all again."""

import asyncio

import pytest
from tests.bus_support import LEASE, TTL, finished, scopes
from tests.shifted_time import become

from farebox.batch import Batch
from farebox.records import Job
from farebox_worker.bus.admit import Fare, admit
from farebox_worker.bus.claim import Ask, claim
from farebox_worker.bus.scripts import CLAIM
from farebox_worker.bus.settle import settle

LANE = "p:a"
CALLED_S = 0.1
PATIENT_S = 60

patiently = pytest.mark.usefixtures("_patient")


@pytest.fixture
def _patient():
    """Whoever is called has time enough to come, however slow this machine is."""
    true = CLAIM.text
    become(CLAIM, true.replace(f"CALLED_MS = {CALLED_S * 1000:.0f}\n", f"CALLED_MS = {PATIENT_S * 1000}\n"))
    assert CLAIM.text != true
    yield
    become(CLAIM, true)


@pytest.fixture
async def others(batch):
    """Batch `b1` of 200 jobs, and `b2`, whose jobs came later."""
    found = Batch(batch.redis, "b2")
    for one in (batch, found):
        await submit(one)
    return found


async def submit(batch, priority=5):
    await batch.open("test")
    await batch.submit([Job(1, f"{batch.batch_id}-{n}", LANE, "chat", b"{}") for n in range(200)], priority=priority)


async def take(batch, *, only=None, slots=4, most=4):
    """Claim and admit; with `only` as a process that serves that batch alone, "" as one that serves all."""
    only = batch.batch_id if only is None else only
    found = await claim(batch.tongue, [Ask(LANE, slots, most)], lease_ms=LEASE, only_batch=only)
    if found.jobs:
        await admit(batch.tongue, [Fare(one, 1, scopes(batch)) for one in found.jobs])
    return found


async def finish(batch, jobs):
    await settle(batch.tongue, [finished(one) for one in jobs], results_ttl_ms=TTL)


async def bells(batch, name):
    return await batch.tongue.redis.llen(batch.tongue.keys.batch_bell(name))


@patiently
async def test_who_settles_first_leaves_room_to_who_waits(batch, others):
    first = (await take(batch)).jobs
    assert len(first) == 4
    refused = await take(others)
    assert (refused.jobs, refused.due_in_s) == ([], pytest.approx(1, abs=0.1))
    await batch.tongue.redis.delete(batch.tongue.keys.batch_bell("b2"))
    await finish(batch, first[:2])
    left = await take(batch)
    assert (left.jobs, left.due_in_s) == ([], pytest.approx(PATIENT_S, abs=1))
    assert await bells(batch, "b2") == 1
    assert len((await take(others)).jobs) == 2


@patiently
async def test_turns_become_equal_shares(batch, others):
    running = {one: (await take(one, slots=64)).jobs for one in (batch, others)}
    calls = {one: len(jobs) for one, jobs in running.items()}
    assert list(calls.values()) == [4, 0]
    for _ in range(60):  # whoever runs the longest call settles it and claims at once, then the one who was called
        settling = max(running, key=lambda one: len(running[one]))
        await finish(batch, [running[settling].pop(0)])
        for one in (settling, *running):
            jobs = (await take(one, slots=64)).jobs
            running[one] += jobs
            calls[one] += len(jobs)
    assert sum(map(len, running.values())) == 4
    assert min(calls.values()) >= 0.4 * sum(calls.values())


async def test_who_was_called_and_is_gone_costs_a_moment_once(batch, others):
    first = (await take(batch)).jobs
    await take(others)
    await finish(batch, first)
    assert (await take(batch)).jobs == []
    await asyncio.sleep(CALLED_S * 1.1)
    again = (await take(batch)).jobs
    assert len(again) == 4
    await finish(batch, again)
    assert len((await take(batch)).jobs) == 4


@patiently
async def test_a_process_that_serves_all_gets_its_turn_and_gives_none(batch, others):
    first = (await take(batch)).jobs
    assert (await take(others, only="")).jobs == []
    await finish(batch, first[:1])
    assert (await take(batch)).jobs == []
    everybodys = (await take(batch, only="")).jobs
    assert [one.flow for one in everybodys] == [f"{batch.tongue.keys.prefix}flow:5:b2:{LANE}"]
    assert (await take(batch)).jobs == []  # none left, and it waits
    await finish(batch, first[1:])
    assert len((await take(batch, only="")).jobs) == 3  # of its batch too, which that serves as well


@patiently
async def test_it_waits_for_nobody_of_less_priority_or_without_work(batch):
    urgent, done = Batch(batch.redis, "b2"), Batch(batch.redis, "b3")
    await submit(batch)
    await submit(urgent, priority=9)
    await done.open("test")
    await done.submit([Job(1, "b3-0", LANE, "chat", b"{}")])
    first = (await take(urgent)).jobs
    assert [len((await take(one)).jobs) for one in (done, batch)] == [0, 0]
    await finish(batch, first)
    first = (await take(urgent)).jobs
    assert len(first) == 4
    await finish(batch, first[:1])
    assert len((await take(batch, only="", slots=1)).jobs) == 1
    await batch.tongue.redis.zrem(batch.tongue.keys.opened(LANE), f"{batch.tongue.keys.prefix}flow:5:b3:{LANE}")
    assert (await take(urgent)).jobs == []
    await finish(batch, first[1:])
    assert len((await take(batch)).jobs) == 0  # the urgent waits, and goes first
    assert len((await take(urgent)).jobs) == 3


async def test_without_a_limit_nobody_waits(batch, others):
    assert len((await take(batch, slots=8, most=0)).jobs) == 8
    assert len((await take(others, slots=8, most=0)).jobs) == 8
    assert await batch.tongue.redis.exists(f"{batch.tongue.keys.prefix}turns:{LANE}") == 0
