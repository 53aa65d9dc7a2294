"""Who waits learns what for: a status says where a job is and what holds it up, and the log is told in time."""

import asyncio
import logging
import time

import pytest
from tests.polling import until
from tests.producer.stand_in import KEYS

import farebox
from farebox import complaint
from farebox.records import job_id

MODEL = "openai:gpt-5-mini"
FLOW = KEYS.flow(0, "default", MODEL)


@pytest.fixture
async def handle(client):
    return await client.submit(MODEL, prompt="Hi", job_id="a")


async def heartbeat(redis, name="w1", *, lanes=(MODEL,), batch="", unserved="", away=""):
    await redis.zadd(KEYS.workers, {name: time.time() * 1000})
    said = {"lanes": "\n".join(lanes), "batch": batch, "unserved": unserved, "away": away}
    await redis.hset(KEYS.worker(name), mapping=said)


async def test_a_status_tells_where_a_job_is(handle, bus, redis):
    await heartbeat(redis)
    assert await handle.status() == farebox.JobStatus("waiting")
    await bus.run("a")
    assert await handle.status() == farebox.JobStatus("running")
    await bus.fail("a")
    assert await handle.status() == farebox.JobStatus("failed")
    await redis.delete(KEYS.result(job_id("farebox", "default", "a")))
    assert await handle.status() == farebox.JobStatus("gone")


async def test_only_what_has_ended_has_ended(handle, bus):
    assert not (await handle.status()).has_ended
    await bus.answer("a")
    assert (await handle.status()).has_ended
    assert str(await handle.status()) == "succeeded"


async def test_a_parked_job_names_the_limit_and_what_it_may_cost(handle, redis):
    await redis.hset(KEYS.parking, FLOW, "day:tag:nightly\t20000000\t1")
    assert str(await handle.status()) == "parked: no room in the daily limit of tag nightly for $0.02"


@pytest.mark.parametrize("paused", [KEYS.lane(MODEL), KEYS.provider("openai")])
async def test_a_paused_job_says_who_paused_its_model_or_provider_and_why(handle, redis, paused):
    await heartbeat(redis)
    said = {"paused_until": 10**16, "paused_why": "too dear", "paused_by": "operator"}
    await redis.hset(paused, mapping=said)
    assert str(await handle.status()) == f"paused: {MODEL} is paused by the operator until resumed (too dear)"
    await redis.hset(paused, "paused_until", 5)
    assert str(await handle.status()) == "waiting"


async def test_a_job_that_is_not_due_says_when_it_will_be(handle, redis):
    await redis.zadd(FLOW, {job_id("farebox", "default", "a"): 4_102_444_800_000})
    assert str(await handle.status()) == "later: due at 2100-01-01 00:00:00Z"


async def test_a_job_that_nobody_serves_says_so_and_why(handle, redis):
    assert str(await handle.status()) == "unserved: no worker runs"
    await heartbeat(redis, lanes=["openai:another"])
    assert str(await handle.status()) == f"unserved: no worker that runs serves {MODEL}"
    await heartbeat(redis, lanes=[], unserved=f"p:m\tno such provider\n{MODEL}\tOPENAI_API_KEY is not set")
    assert str(await handle.status()) == f"unserved: no worker serves {MODEL}: OPENAI_API_KEY is not set"
    await heartbeat(redis, "w2", batch="another")
    assert (await handle.status()).state == "unserved"
    await heartbeat(redis, "w3", batch="default")
    assert (await handle.status()).state == "waiting"
    await heartbeat(redis, "w3", batch="default", away=f"{MODEL}\tno route to host")
    await heartbeat(redis, lanes=[])
    assert str(await handle.status()) == f"unserved: no worker serves {MODEL}: no route to host"
    await heartbeat(redis)
    assert (await handle.status()).state == "waiting", "another one finds it"
    await heartbeat(redis, lanes=[])
    await redis.delete(KEYS.worker("w3"))  # it has died
    assert (await handle.status()).state == "unserved"


async def test_what_holds_up_one_of_equals_does_not_hold_up_a_job_of_all(client, redis):
    handle = await client.submit("p:a", prompt="Hi", fallbacks=["p:b"], spread=True)
    assert await redis.scard(KEYS.flows_to_move("spread")) == 1
    assert str(await handle.status()) == "waiting"


async def test_a_long_wait_is_explained_in_the_log_once_per_client(client, handle, bus, redis, monkeypatch, caplog):
    monkeypatch.setattr(complaint, "PATIENCE_S", 0.05)
    await heartbeat(redis)
    waits = [asyncio.create_task(handle.result(timeout=60)) for _ in range(3)]
    other = await client.submit("p:unserved", prompt="Ho", job_id="b")
    await asyncio.sleep(0.3)
    assert not caplog.records  # a turn that is long in coming is no trouble
    await redis.hset(KEYS.parking, FLOW, "global\t20000000\t1")
    with caplog.at_level(logging.WARNING, "farebox"):
        await until(lambda: caplog.records)
        waits.append(asyncio.create_task(other.result(timeout=60)))
        await asyncio.sleep(0.3)
    (record,) = caplog.records
    assert "'a'" in record.message
    assert "parked: no room in the global limit for $0.02" in record.message
    await bus.answer("a", "b")
    assert {(await wait).text for wait in waits} == {"yes"}


async def test_a_wait_that_ends_in_time_leaves_no_task(client, handle, bus, monkeypatch):
    monkeypatch.setattr(complaint, "PATIENCE_S", 0.01)
    await bus.answer("a")
    assert (await handle.result(timeout=30)).text == "yes"
    await until(lambda: all(task.get_name() != "farebox complaint" for task in asyncio.all_tasks()))
