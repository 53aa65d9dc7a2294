"""Batches: filled from any source within a window, sealed, read once and resumed, retried."""

import asyncio
import itertools
import re

import pytest
from tests.polling import until
from tests.producer.stand_in import KEYS

import farebox
from farebox import feed as feeds
from farebox.errors import InputError

MODEL = "openai:gpt-5-mini"


def items(count):
    return ({"custom_id": f"c{n}", "prompt": f"Say {n}"} for n in range(count))


def names(count, first=0):
    return [f"c{n}" for n in range(first, first + count)]


async def read(batch, after="", **options):
    return [answer async for answer in batch.results(after, **options)]


async def test_a_batch_is_filled_sealed_and_read_to_its_end(client, bus):
    batch = await client.submit_batch(items(7), name="b", model=MODEL, budget_usd=1.5, max_tokens=5, tags=["t"])
    assert (batch.batch_id, batch.created, batch.existing) == ("b", 7, 0)
    assert (await bus.job("c0", "b")).tags == ("t",)
    assert (await client.cost("batch:b")).limit_usd == 1.5
    reading = asyncio.create_task(read(batch))
    await bus.answer(*names(4), batch="b")
    await bus.fail(*names(3, 4), batch="b")
    answers = await asyncio.wait_for(reading, 30)
    assert [answer.job_id for answer in answers] == names(7)
    assert [answer.outcome for answer in answers] == ["succeeded"] * 4 + ["failed"] * 3
    progress = await batch.wait(timeout=30)
    assert (progress.total, progress.succeeded, progress.failed, progress.complete) == (7, 4, 3, True)


async def test_any_kind_of_source_fills_a_batch(client, bus):
    async def slowly():
        for n in range(3):
            await asyncio.sleep(0)
            yield {"prompt": f"Say {n}", "model": MODEL}

    assert (await client.submit_batch(slowly())).created == 3
    typed = [farebox.Request(model=MODEL, prompt="Hi", job_id="own"), farebox.Request(model=MODEL, prompt="Hi")]
    batch = await client.submit_batch(typed)
    assert await bus.job("own", batch.batch_id)
    assert await bus.job("line-2", batch.batch_id)
    empty = await client.submit_batch([])
    assert (await empty.wait(timeout=30)).total == 0
    assert await read(empty) == []


async def test_results_are_resumed_behind_any_of_them(client, bus):
    batch = await client.submit_batch(items(6), name="b", model=MODEL)
    await bus.answer(*names(4), batch="b")
    await bus.answer(*names(2, 4), batch="b")
    answers = await read(batch)
    for position, answer in enumerate(answers):
        rest = await read(client.batch("b"), answer.cursor)
        assert [one.job_id for one in rest] == names(5 - position, position + 1)


async def test_a_resumed_reader_skips_nothing_when_a_result_before_it_was_deleted(client, bus, redis):
    batch = await client.submit_batch(items(4), name="b", model=MODEL)
    await bus.answer(*names(4), batch="b")
    answers = await read(batch)
    identity = client.job("c0", batch="b")._id
    await redis.delete(KEYS.result(identity))
    assert [one.job_id for one in await read(batch, answers[1].cursor)] == names(2, 2)


async def test_results_that_are_read_for_good_are_deleted(client, bus, redis):
    batch = await client.submit_batch(items(3), name="b", model=MODEL)
    await bus.answer(*names(3), batch="b")
    assert len(await read(batch, deletes=True)) == 3
    assert await redis.keys("arq:result:*") == []
    assert await redis.xlen(KEYS.results("b")) == 0
    assert (await batch.wait(timeout=10)).succeeded == 3


async def test_submitting_again_under_the_same_name_brings_in_only_what_is_new(client, bus):
    await client.submit_batch(items(2), name="b", model=MODEL)
    await bus.answer("c0", batch="b")
    again = await client.submit_batch(items(3), name="b", model=MODEL)
    assert (again.created, again.existing) == (1, 2)
    assert (await again.progress()).total == 3


@pytest.mark.parametrize("wrong", [{"custom_id": "c1", "prompt": "another"}, {"custom_id": "c7", "temperature": 1}])
async def test_a_whole_batch_that_cannot_be_filled_further_is_whole_again(client, bus, wrong):
    whole = await client.submit_batch(items(2), name="b", model=MODEL)
    with pytest.raises(farebox.InputError):
        await client.submit_batch([*items(2), wrong], name="b", model=MODEL)
    for name in ("c0", "c1"):
        await bus.answer(name, batch="b")
    assert (await whole.wait(timeout=10)).complete


async def test_a_changed_item_is_refused_by_its_name(client):
    await client.submit_batch(items(2), name="b", model=MODEL)
    with pytest.raises(farebox.JobConflictError, match="c1"):
        await client.submit_batch([{"custom_id": "c1", "prompt": "other"}], name="b", model=MODEL)


async def test_a_bad_item_is_named_and_the_batch_can_be_submitted_again(client, bus):
    with pytest.raises(farebox.InputError, match=r"item 3 of batch 'b'.*prompt"):
        await client.submit_batch([*items(2), {"prompt": ""}], name="b", model=MODEL)
    assert (await client.submit_batch(items(3), name="b", model=MODEL)).created == 3


async def test_no_more_than_a_window_is_unfinished_and_the_source_is_not_read_ahead(client, bus, monkeypatch):
    monkeypatch.setattr(feeds, "CHUNK_JOBS", 10)
    taken = itertools.count()

    def source():
        for item in items(60):
            next(taken)
            yield item

    filling = asyncio.create_task(client.submit_batch(source(), name="b", model=MODEL, window_jobs=20))
    done = 0
    while done < 60:
        progress = None
        while progress is None or progress.submitted < min(done + 20, 60):
            await asyncio.sleep(0.01)
            progress = await client.batch("b").progress() if await bus.redis.exists(KEYS.batch("b")) else None
        assert progress.submitted - progress.finished <= 20
        await bus.answer(*names(10, done), batch="b")
        done += 10
    batch = await asyncio.wait_for(filling, 30)
    assert next(taken) == 60
    assert (await batch.wait(timeout=30)).succeeded == 60


async def test_the_window_counts_bytes_too(client, bus, monkeypatch):
    monkeypatch.setattr(feeds, "CHUNK_JOBS", 1)
    filling = asyncio.create_task(client.submit_batch(items(2), name="b", model=MODEL, window_bytes=10))
    await until(lambda: bus.job("c0", "b"))
    await asyncio.sleep(0.05)
    assert await bus.job("c1", "b") is None
    await bus.answer("c0", batch="b")
    assert (await asyncio.wait_for(filling, 30)).created == 2


async def test_a_full_server_is_waited_for_while_something_may_make_room(client, bus, redis, monkeypatch):
    monkeypatch.setattr(feeds, "CHUNK_JOBS", 2)
    used = [10]

    async def info(section):
        return {"maxmemory": 100, "used_memory": used[0]}

    monkeypatch.setattr(redis, "info", info)

    def source():
        for n, item in enumerate(items(4)):
            if n == 2:
                used[0] = 90
                client._link.batch("b")._room_checked = 0
            yield item

    filling = asyncio.create_task(client.submit_batch(source(), name="b", model=MODEL))
    await until(lambda: used[0] != 10)
    await asyncio.sleep(0.05)
    assert not filling.done()
    await bus.answer("c0", "c1", batch="b")
    with pytest.raises(farebox.ServerFullError):
        await asyncio.wait_for(filling, 30)


async def test_waiting_for_a_batch_can_time_out_and_leaves_it_alone(client):
    batch = await client.submit_batch(items(1), name="b", model=MODEL)
    with pytest.raises(TimeoutError, match="'b'"):
        await batch.wait(timeout=0.05)
    assert not (await batch.progress()).cancelled


async def test_a_reader_ends_when_the_batch_is_sealed_after_its_last_result(client, bus):
    feed = await client.begin_batch(name="b", model=MODEL)
    feed.take({"custom_id": "c0", "prompt": "Hi"})
    await feed.flush()
    reading = asyncio.create_task(read(client.batch("b")))
    await bus.answer("c0", batch="b")
    await asyncio.sleep(0.05)
    assert not reading.done()
    await feed.seal()
    assert [one.job_id for one in await asyncio.wait_for(reading, 30)] == ["c0"]


async def test_failed_jobs_are_asked_again_with_the_body_they_had(client, bus, redis):
    batch = await client.submit_batch(items(3), name="b", model=MODEL, priority=4, max_tokens=7)
    before = await bus.job("c1", "b")
    await bus.answer("c0", batch="b")
    await bus.fail("c1", "c2", batch="b")
    first = await read(batch)
    assert await batch.retry_failed() == 2
    assert await batch.retry_failed() == 0
    assert await bus.job("c1", "b") == before
    progress = await batch.progress()
    assert (progress.failed, progress.succeeded, progress.complete) == (0, 1, False)
    flow = KEYS.flow(4, "b", MODEL)
    assert await redis.zscore(KEYS.opened(MODEL), flow) is not None
    await bus.answer("c1", batch="b", text="at last")
    await bus.fail("c2", batch="b", code="again")
    assert (await batch.progress()).complete
    rest = await read(batch, first[-1].cursor)
    assert [(one.job_id, one.outcome) for one in rest] == [("c1", "succeeded"), ("c2", "failed")]
    assert rest[1].error.code == "again"
    fresh = await read(batch)
    assert [(one.job_id, one.outcome) for one in fresh] == [("c0", "succeeded"), ("c1", "succeeded"), ("c2", "failed")]


async def test_two_who_retry_at_once_retry_once(client, bus):
    batch = await client.submit_batch(items(20), name="b", model=MODEL)
    await bus.fail(*names(20), batch="b")
    assert sum(await asyncio.gather(*(batch.retry_failed() for _ in range(5)))) == 20
    progress = await batch.progress()
    assert (progress.failed, progress.submitted) == (0, 20)


async def test_a_cancelled_batch_is_not_retried_and_takes_no_jobs(client, bus):
    batch = await client.submit_batch(items(2), name="b", model=MODEL)
    await bus.fail("c0", batch="b")
    assert (await batch.cancel(), await batch.cancel()) == (True, False)
    with pytest.raises(farebox.BatchClosedError):
        await batch.retry_failed()
    with pytest.raises(farebox.InputError, match="cancelled"):
        await client.submit_batch(items(3), name="b", model=MODEL)


async def test_the_batch_of_single_jobs_is_not_cancelled(client, bus):
    await client.submit(MODEL, messages=[{"role": "user", "content": "hi"}], max_tokens=5)
    with pytest.raises(farebox.InputError, match="single jobs"):
        await client.batch("default").cancel()
    assert not (await client.batch("default").progress()).cancelled


async def test_a_batch_that_has_ended_is_not_cancelled_any_more_and_takes_further_jobs(client, bus):
    batch = await client.submit_batch(items(1), name="b", model=MODEL)
    await bus.fail("c0", batch="b")
    assert (await batch.cancel(), await batch.cancel(now=True)) == (False, False)
    assert not (await batch.progress()).cancelled
    assert await batch.retry_failed() == 1
    assert (await client.submit_batch(items(2), name="b", model=MODEL)).created == 1


async def test_the_last_job_that_is_cancelled_begins_the_retention(client, bus, redis):
    await client.submit_batch(items(2), name="b", model=MODEL)
    await bus.answer("c0", batch="b")
    assert await redis.pttl(KEYS.batch("b")) == -1
    assert await client.job("c1", batch="b").cancel()
    assert await redis.pttl(KEYS.batch("b")) > 0
    assert await redis.pttl(f"{KEYS.prefix}ids:b") > 0


async def test_a_batch_that_is_not_there_is_named(client):
    for act in (client.batch("nowhere").progress, client.batch("nowhere").wait):
        with pytest.raises(farebox.InputError, match="nowhere"):
            await act()
    with pytest.raises(farebox.InputError, match="batch id"):
        client.batch("no where")
    with pytest.raises(farebox.InputError, match="budget_usd"):
        await client.submit_batch(items(1), model=MODEL, budget_usd=-1)


@pytest.mark.parametrize("cursor", ["abc", "5", "0-0", "0-0/1", "123-0", "123-0/", "1-2/x", "9" * 30 + "-0/1"])
async def test_what_is_no_cursor_is_refused_by_name(client, cursor):
    batch = await client.submit_batch([{"model": MODEL, "prompt": "Hi"}])
    with pytest.raises(InputError, match=re.escape(repr(cursor))):
        await read(batch, cursor)
