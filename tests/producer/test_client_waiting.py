"""Waiting: by notification, on one connection for everybody, through outages; nothing is missed, nobody forgotten."""

import asyncio

import pytest
from redis.asyncio import Redis
from tests.conftest import server_binary
from tests.polling import until
from tests.producer.stand_in import KEYS, StandIn, connections

import farebox
from farebox import waiting as waiting_module
from farebox.ledger import Ledger
from farebox.records import job_id

MODEL = "openai:gpt-5-mini"
real_only = pytest.mark.skipif(server_binary() is None, reason="no server to test on")


@pytest.fixture
async def guest(real_server):
    """A client by URL on a real server, and a bus beside it."""
    async with Redis.from_url(real_server) as redis:
        await redis.flushall()
        await Ledger(redis).create()
        async with farebox.Client(real_server) as client:
            yield client, StandIn(redis)


def blocked(clients):
    return [one for one in clients if one["cmd"] == "xread"]


async def is_blocked(redis):
    return bool(blocked(await redis.client_list()))


async def test_a_result_that_was_there_before_is_found_at_once(client, redis):
    handle = await client.submit(MODEL, prompt="Hi", job_id="a")
    await StandIn(redis).answer("a")
    assert (await handle.result(timeout=10)).text == "yes"
    assert (await handle.result(timeout=10)).text == "yes"


async def test_many_who_wait_for_many_jobs_of_several_batches_are_all_told(client, redis):
    bus = StandIn(redis)
    handles = [await client.submit(MODEL, prompt="Hi", job_id=f"j{n}", batch=f"b{n % 3}") for n in range(60)]
    twice = [asyncio.create_task(handle.result(timeout=60)) for handle in handles for _ in range(2)]
    await asyncio.sleep(0.05)
    for n in range(3):
        await bus.answer(*(f"j{k}" for k in range(60) if k % 3 == n), batch=f"b{n}")
    answers = await asyncio.gather(*twice)
    assert [answer.job_id for answer in answers] == [f"j{n}" for n in range(60) for _ in range(2)]


async def test_who_begins_to_wait_in_another_batch_is_heard_too(client, redis):
    bus = StandIn(redis)
    await client.submit(MODEL, prompt="Hi", job_id="a", batch="first")
    first = asyncio.create_task(client.job("a", batch="first").result(timeout=60))
    await asyncio.sleep(0.05)
    await client.submit(MODEL, prompt="Hi", job_id="a", batch="second")
    second = asyncio.create_task(client.job("a", batch="second").result(timeout=60))
    await asyncio.sleep(0.05)
    await bus.answer("a", batch="second")
    assert (await second).batch_id == "second"
    assert not first.done()
    await bus.answer("a", batch="first")
    assert (await first).batch_id == "first"


async def test_who_begins_to_wait_while_others_are_looked_up_is_heard_too(client, redis, monkeypatch):
    bus, more = StandIn(redis), []
    for batch in ("first", "second"):
        await client.submit(MODEL, prompt="Hi", job_id="a", batch=batch)
    look = client._link.waiting._end_of

    async def look_and_be_joined(batch_id):
        if not more:
            more.append(asyncio.create_task(client.job("a", batch="second").result(timeout=60)))
            await asyncio.sleep(0.01)
        return await look(batch_id)

    monkeypatch.setattr(client._link.waiting, "_end_of", look_and_be_joined)
    first = asyncio.create_task(client.job("a", batch="first").result(timeout=60))
    await asyncio.sleep(0.05)
    await bus.answer("a", batch="second")
    assert (await more[0]).batch_id == "second"
    await bus.answer("a", batch="first")
    assert (await first).batch_id == "first"


async def test_who_gave_up_is_forgotten(client):
    handle = await client.submit(MODEL, prompt="Hi", job_id="a")
    with pytest.raises(TimeoutError):
        await handle.result(timeout=0.02)
    assert [post.jobs for post in client._link.waiting._posts.values()] in ([], [{}])


async def test_a_client_that_is_closed_tells_who_still_waits(redis):
    await Ledger(redis).create()
    client = farebox.Client(redis=redis)
    handle = await client.submit(MODEL, prompt="Hi", job_id="a")
    waiting = asyncio.create_task(handle.result())
    await asyncio.sleep(0.02)
    await client.aclose()
    await client.aclose()
    with pytest.raises(farebox.FareboxError, match="closed"):
        await waiting


async def test_what_went_by_unheard_is_found_by_looking_again(client, redis, monkeypatch):
    monkeypatch.setattr(waiting_module, "HEAL_S", 0.0)
    monkeypatch.setattr(waiting_module, "BLOCK_MS", 50)
    handle = await client.submit(MODEL, prompt="Hi", job_id="a")
    waiting = asyncio.create_task(handle.result(timeout=60))
    await asyncio.sleep(0.05)
    await redis.delete(KEYS.job(job_id("farebox", "default", "a")))
    with pytest.raises(farebox.ResultGoneError):
        await waiting


async def test_what_redis_refuses_is_told_to_who_waits(client, redis):
    handle = await client.submit(MODEL, prompt="Hi", job_id="a")
    await redis.set(KEYS.results("default"), "no stream")
    with pytest.raises(farebox.ServerError, match="WRONGTYPE"):
        await handle.result(timeout=60)


@real_only
@pytest.mark.server
async def test_ten_thousand_who_wait_cost_one_connection(guest):
    client, bus = guest
    names = [f"j{n}" for n in range(10_000)]
    items = ({"custom_id": name, "prompt": "Hi"} for name in names)
    await client.submit_batch(items, name="b", model=MODEL, window_jobs=len(names))
    before = connections(client._redis)
    waiting = [asyncio.create_task(client.job(name, batch="b").result()) for name in names]

    async def all_are_checked():
        posts = client._link.waiting._posts.values()
        return blocked(await bus.redis.client_list()) and not any(post.unchecked for post in posts)

    await until(all_are_checked)
    assert len(blocked(await bus.redis.client_list())) == 1
    assert connections(client._redis) <= before + 1
    await bus.redis.delete(*(KEYS.job(job_id("farebox", "b", name)) for name in names[:9_000]))
    client._link.waiting._look_again()  # as it does every minute: these will never end here
    client._link.waiting._wake.set()
    gone = await asyncio.gather(*waiting[:9_000], return_exceptions=True)
    assert {type(error) for error in gone} == {farebox.ResultGoneError}
    await bus.answer(*names[9_000:], batch="b")
    assert [answer.job_id for answer in await asyncio.gather(*waiting[9_000:])] == names[9_000:]


@real_only
@pytest.mark.server
async def test_whoever_gives_up_does_so_in_time_whatever_the_connection_is_at(guest):
    client, bus = guest
    handles = [await client.submit(MODEL, prompt="Hi", job_id=f"j{n}") for n in range(20)]
    patient = asyncio.create_task(client.job("j0").result(timeout=60))
    for turn in range(5):  # redis-py can swallow a cancellation: nobody's timeout may hang on it
        hasty = [handle.result(timeout=0.001 * (n + turn)) for n, handle in enumerate(handles)]
        ended = await asyncio.wait_for(asyncio.gather(*hasty, return_exceptions=True), 30)
        assert {type(error) for error in ended} == {TimeoutError}
    await bus.answer("j0")
    assert (await patient).job_id == "j0"


@real_only
@pytest.mark.server
async def test_a_lost_connection_is_made_again_and_misses_nothing(guest):
    client, bus = guest
    handles = [await client.submit(MODEL, prompt="Hi", job_id=f"j{n}") for n in range(20)]
    waiting = [asyncio.create_task(handle.result(timeout=60)) for handle in handles]
    for n in range(20):
        if n % 4 == 0:
            await until(lambda: is_blocked(bus.redis))
            await bus.redis.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        await bus.answer(f"j{n}")
    assert [answer.job_id for answer in await asyncio.gather(*waiting)] == [f"j{n}" for n in range(20)]


@real_only
@pytest.mark.server
async def test_a_server_that_is_demoted_under_who_waits_is_waited_for(guest):
    client, bus = guest
    handle = await client.submit(MODEL, prompt="Hi", job_id="a")
    waiting = asyncio.create_task(handle.result(timeout=60))
    await until(lambda: is_blocked(bus.redis))
    for one in blocked(await bus.redis.client_list()):
        assert await bus.redis.client_unblock(int(one["id"]), error=True)  # with the words of a demotion
    await bus.answer("a")
    assert (await waiting).text == "yes"


@real_only
@pytest.mark.server
async def test_a_server_that_forgot_everything_leaves_nobody_waiting(guest):
    client, bus = guest
    handle = await client.submit(MODEL, prompt="Hi", job_id="a")
    waiting = asyncio.create_task(handle.result(timeout=60))

    async def is_blocked():
        return bool(blocked(await bus.redis.client_list()))

    await until(is_blocked)
    await bus.redis.flushall()
    await bus.redis.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    with pytest.raises(farebox.ResultGoneError):
        await waiting


@real_only
@pytest.mark.server
async def test_calls_are_sent_again_after_a_lost_connection(guest):
    client, bus = guest
    for n in range(5):
        await bus.redis.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        assert (await client.submit(MODEL, prompt="Hi", job_id=f"j{n}")).job_id == f"j{n}"
    assert await bus.redis.hget(KEYS.batch("default"), "submitted") == b"5"


async def test_whatever_breaks_while_it_waits_is_told_to_who_waits(client, monkeypatch):
    async def broken(*_, **__):
        raise TypeError("odd")

    handle = await client.submit(MODEL, prompt="Hi", job_id="a")
    monkeypatch.setattr(waiting_module, "read_streams", broken)
    with pytest.raises(farebox.ServerError, match="odd"):
        await handle.result(timeout=30)
