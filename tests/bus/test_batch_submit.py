"""A submit sends one chunk while it makes the next: whatever ends it early, what was acknowledged counts, once."""

import asyncio

import pytest
from redis.asyncio import Redis
from tests.bus_support import jobs

from farebox.batch import CHUNK_JOBS, Batch
from farebox.errors import JobConflictError

MANY = 4 * CHUNK_JOBS + 7


def others():
    """The tasks that run beside this test's own."""
    return asyncio.all_tasks() - {asyncio.current_task()}


async def submitted(batch):
    return (await batch.progress()).submitted


async def test_chunks_keep_the_order_of_their_jobs(batch):
    assert (await batch.submit(jobs(MANY))).created == MANY
    [flow] = await batch.redis.smembers(batch.keys.flows(batch.batch_id))
    assert [job.decode() for job in await batch.redis.zrange(flow, 0, -1)] == [
        batch.job_id(job.custom_id) for job in jobs(MANY)
    ]


@pytest.mark.parametrize("good", [0, 10, CHUNK_JOBS, 2 * CHUNK_JOBS + 10])
async def test_a_source_that_raises_leaves_whole_chunks_behind_and_no_task(batch, good):
    def source():
        yield from jobs(good)
        raise RuntimeError("the file ended")

    before = others()
    with pytest.raises(RuntimeError, match="the file ended"):
        await batch.submit(source())
    assert others() == before
    assert await submitted(batch) == good // CHUNK_JOBS * CHUNK_JOBS
    again = await batch.submit(jobs(MANY))
    assert again.created + again.existing == await submitted(batch) == MANY


async def test_after_a_refused_chunk_nothing_more_is_sent(batch):
    await batch.submit([jobs(1)[0].__class__(1, "c0", "echo:echo", "chat", b'{"messages":[1]}')])
    before = others()
    with pytest.raises(JobConflictError):
        await batch.submit(jobs(MANY))
    assert others() == before
    assert await submitted(batch) == 1


@pytest.mark.parametrize("turns", [0, 1, 3, 8, 13, 17, 25, 40, 60])
async def test_a_submit_cancelled_at_any_moment_leaks_no_task_and_can_be_said_again(batch, turns):
    before = others()
    submit = asyncio.create_task(batch.submit(jobs(MANY)))
    for _ in range(turns):
        await asyncio.sleep(0)
    submit.cancel()
    await asyncio.gather(submit, return_exceptions=True)
    assert others() == before
    assert await submitted(batch) % CHUNK_JOBS in {0, MANY % CHUNK_JOBS}
    again = await batch.submit(jobs(MANY))
    assert again.created + again.existing == await submitted(batch) == MANY


@pytest.mark.parametrize("turns", [1, 9, 14, 18, 26, 41])
async def test_a_cancelled_submit_leaves_no_reply_unread_on_its_connection(redis, server, turns):
    if not server:
        pytest.skip("a connection is needed")
    async with Redis.from_url(server, single_connection_client=True) as one:
        batch = Batch(one, "b1")
        await batch.ledger.create()
        await batch.open("test")
        submit = asyncio.create_task(batch.submit(jobs(MANY)))
        for _ in range(turns):
            await asyncio.sleep(0)
        submit.cancel()
        await asyncio.gather(submit, return_exceptions=True)
        assert await one.ping() is True
        assert await one.echo("mine") == b"mine"
        assert (await batch.submit(jobs(MANY))).created + await submitted(batch) >= MANY
        assert await submitted(batch) == MANY
