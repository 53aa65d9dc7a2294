"""Single jobs: submitted once whatever is repeated, found again, awaited, cancelled; and what is refused."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from tests.producer.stand_in import KEYS, StandIn

import farebox
from farebox.ledger import Ledger
from farebox.records import job_id

MODEL = "openai:gpt-5-mini"


async def test_a_job_says_what_was_asked_and_its_result_what_came(client, bus):
    handle = await client.submit(MODEL, prompt="Is 91 prime?", max_tokens=5, job_id="a", tags=["t"], temperature=0)
    job = await bus.job("a")
    assert (job.model_ref, job.max_tokens, job.tags, job.api) == (MODEL, 5, ("t",), "chat")
    assert job.body == b'{"messages":[{"role":"user","content":"Is 91 prime?"}],"temperature":0}'
    assert handle.is_new
    await bus.answer("a", text="No.", cost_nusd=2_500_000, input_tokens=7, output_tokens=2)
    answer = await handle.result(timeout=10)
    assert (answer.text, answer.cost_usd, answer.usage.total_tokens) == ("No.", 0.0025, 9)
    assert (answer.job_id, answer.batch_id, answer.outcome, answer.error) == ("a", "default", "succeeded", None)


async def test_the_same_job_id_is_the_same_job(client, bus, redis):
    first = await client.submit(MODEL, prompt="Hi", job_id="a")
    again = await client.submit(MODEL, prompt="Hi", job_id="a", priority=3, deadline=timedelta(hours=1), tags=["x"])
    assert (first.is_new, again.is_new) == (True, False)
    await bus.answer("a")
    third = await client.submit(MODEL, prompt="Hi", job_id="a")
    assert (third.is_new, (await third.result(10)).text) == (False, "yes")
    assert await redis.hget(KEYS.batch("default"), "submitted") == b"1"


@pytest.mark.parametrize("other", [{"prompt": "Ho"}, {"prompt": "Hi", "max_tokens": 3}, {"prompt": "Hi", "top_p": 1}])
async def test_another_body_under_a_job_id_is_refused_by_name(client, other):
    await client.submit(MODEL, prompt="Hi", job_id="order-7")
    with pytest.raises(farebox.JobConflictError, match="order-7") as caught:
        await client.submit(MODEL, job_id="order-7", **other)
    assert caught.value.job_ids == ["order-7"]


async def test_jobs_without_an_id_are_different_jobs(client):
    handles = [await client.submit(MODEL, prompt="Hi") for _ in range(3)]
    assert len({handle.job_id for handle in handles}) == 3


async def test_any_process_finds_a_job_by_its_id(client, bus, redis):
    await client.submit(MODEL, prompt="Hi", job_id="a", batch="mine")
    async with farebox.Client(redis=redis) as other:
        waiting = asyncio.create_task(other.job("a", batch="mine").result(timeout=30))
        await bus.answer("a", batch="mine")
        assert (await waiting).text == "yes"


async def test_a_job_that_failed_is_a_result_with_an_error_and_its_text_raises(client, bus):
    handle = await client.submit(MODEL, prompt="Hi", job_id="a")
    await bus.fail("a", code="context_length", message="too long", cost_nusd=5_000_000)
    answer = await handle.result(10)
    assert (answer.error.code, answer.error.status_code) == ("context_length", 400)
    with pytest.raises(farebox.JobFailedError, match=r"'a'.*2 attempts.*context_length.*too long") as caught:
        _ = answer.text
    assert (caught.value.code, caught.value.attempts, caught.value.cost_usd) == ("context_length", 2, 0.005)
    with pytest.raises(farebox.JobFailedError):
        answer.raise_for_error()


async def test_a_timeout_leaves_the_job_alone(client, bus):
    handle = await client.submit(MODEL, prompt="Hi", job_id="a")
    for seconds in (0, 0.05):
        with pytest.raises(TimeoutError, match="'a'"):
            await handle.result(timeout=seconds)
    assert not (await handle.status()).has_ended
    await bus.answer("a")
    assert (await handle.result(timeout=0)).text == "yes"


async def test_a_waiting_job_is_cancelled_and_everybody_who_waits_is_told(client, bus, redis):
    handle = await client.submit(MODEL, prompt="Hi", job_id="a")
    other = await client.submit(MODEL, prompt="Ho", job_id="b")
    waiting = asyncio.create_task(client.job("a").result(timeout=30))
    await asyncio.sleep(0)
    assert await handle.cancel()
    assert not await handle.cancel()
    assert (await waiting).error.code == "cancelled"
    assert ((await handle.status()).state, (await other.status()).state) == ("cancelled", "unserved")
    assert await bus.job("a") is None
    assert await redis.hget(KEYS.batch("default"), "cancelled_jobs") == b"1"
    assert await redis.pttl(KEYS.result(job_id("farebox", "default", "a"))) > 0


async def test_a_running_or_finished_job_is_not_cancelled(client, bus):
    handle = await client.submit(MODEL, prompt="Hi", job_id="a")
    await bus.run("a")
    assert not await handle.cancel()
    await bus.answer("a")
    assert not await handle.cancel()
    assert (await handle.result(10)).text == "yes"


async def test_a_parked_flow_is_looked_at_again_when_a_job_of_it_is_cancelled(client, redis):
    handle = await client.submit(MODEL, prompt="Hi", job_id="a")
    await client.submit(MODEL, prompt="Ho", job_id="b")
    flow = KEYS.flow(0, "default", MODEL)
    await redis.hset(KEYS.parking, flow, "global\t5\t1")
    await redis.zrem(KEYS.opened(MODEL), flow)
    await handle.cancel()
    assert not await redis.hexists(KEYS.parking, flow)
    assert await redis.zscore(KEYS.opened(MODEL), flow) is not None


async def test_a_result_that_is_gone_is_said_to_be_gone_and_the_job_is_not_paid_again(client, bus, redis):
    handle = await client.submit(MODEL, prompt="Hi", job_id="a")
    await bus.answer("a")
    await redis.delete(KEYS.result(job_id("farebox", "default", "a")))
    with pytest.raises(farebox.ResultGoneError, match="'a'"):
        await handle.result(timeout=30)
    assert not (await client.submit(MODEL, prompt="Hi", job_id="a")).is_new
    with pytest.raises(farebox.ResultGoneError, match="'never'"):
        await client.job("never").result(timeout=30)


async def test_deadline_priority_and_not_before_reach_the_bus(client, bus, redis):
    deadline = datetime(2100, 1, 1, tzinfo=UTC)
    await client.submit(MODEL, prompt="Hi", job_id="a", deadline=deadline, not_before=deadline, priority=9)
    assert (await bus.job("a")).deadline_ms == 4_102_444_800_000
    flow = KEYS.flow(9, "default", MODEL)
    assert await redis.zscore(flow, job_id("farebox", "default", "a")) == 4_102_444_800_000


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({}, "messages"),
        ({"prompt": "Hi", "messages": [{"role": "user", "content": "Hi"}]}, "one of them"),
        ({"prompt": " "}, "empty"),
        ({"messages": []}, "at least one"),
        ({"messages": "Hi"}, "list"),
        ({"prompt": "Hi", "stream": True}, "stream"),
        ({"prompt": "Hi", "max_tokens": 0}, "max_tokens"),
        ({"prompt": "Hi", "n": 0}, "n must be"),
        ({"prompt": "Hi", "tags": "nightly"}, "list of texts"),
        ({"prompt": "Hi", "tags": ["a,b"]}, "tag"),
        ({"prompt": "Hi", "priority": 10}, "0 to 9"),
        ({"prompt": "Hi", "deadline": datetime(2100, 1, 1)}, "time zone"),  # noqa: DTZ001 - that is the point
        ({"prompt": "Hi", "deadline": 60}, "timedelta"),
        ({"prompt": "Hi", "max_tokens": "50"}, "max_tokens must be a whole number"),
        ({"prompt": "Hi", "job_id": ""}, "job id"),
        ({"prompt": "Hi", "batch": "a b"}, "batch id"),
        ({"prompt": "Hi", "user": int}, "JSON"),
        ({"prompt": "Hi", "response_schema": list[int]}, "no object"),
        ({"prompt": "x" * 8_000_001}, "bytes"),
    ],
    ids=str,
)
async def test_what_cannot_be_a_job_is_refused_with_a_sentence(client, redis, asked, said):
    with pytest.raises(farebox.InputError, match=said):
        await client.submit(MODEL, **asked)
    assert await redis.keys("arq:job:*") == []


async def test_a_model_needs_its_provider(client):
    with pytest.raises(farebox.InputError, match="provider:model"):
        await client.submit("gpt-5-mini", prompt="Hi")


async def test_without_a_ledger_nothing_is_submitted(redis):
    async with farebox.Client(redis=redis) as client:
        with pytest.raises(farebox.NoLedgerError, match="budget set"):
            await client.submit(MODEL, prompt="Hi")
    assert await redis.keys("*") == []


async def test_a_sealed_batch_takes_no_single_jobs_and_stays_sealed(client):
    batch = await client.submit_batch([{"prompt": "Hi"}], name="done", model=MODEL)
    with pytest.raises(farebox.BatchClosedError, match="sealed"):
        await client.submit(MODEL, prompt="Ho", batch="done")
    assert (await batch.progress()).total == 1


async def test_a_batch_that_was_forgotten_is_made_again(client, redis):
    await client.submit(MODEL, prompt="Hi", batch="b")
    await redis.delete(KEYS.batch("b"), f"{KEYS.prefix}ids:b")
    assert (await client.submit(MODEL, prompt="Hi", batch="b")).is_new


async def test_jobs_that_ended_long_ago_are_forgotten_and_others_are_not(redis):
    await Ledger(redis).create()
    bus = StandIn(redis)
    old = job_id("farebox", "default", "old")
    await redis.xadd(KEYS.results("default"), {old: "succeeded"}, id="1-0")
    await redis.hset(f"{KEYS.prefix}ids:default", old.removeprefix(KEYS.prefix), "digest")
    async with farebox.Client(redis=redis) as first:
        await first.submit(MODEL, prompt="Hi", job_id="new")
        await bus.answer("new")
    async with farebox.Client(redis=redis) as client:
        await client.submit(MODEL, prompt="Hi", job_id="newer")
        assert not (await client.submit(MODEL, prompt="Hi", job_id="new")).is_new
    assert await redis.hlen(f"{KEYS.prefix}ids:default") == 2
    assert await redis.xlen(KEYS.results("default")) == 1


async def test_a_result_that_cannot_be_read_is_said_to_be_so(client, bus, redis):
    handle = await client.submit(MODEL, prompt="Hi", job_id="a")
    await bus.answer("a")
    await redis.set(KEYS.result(job_id("farebox", "default", "a")), b"rubbish")
    with pytest.raises(farebox.ServerError, match="cannot be read"):
        await handle.result(timeout=30)


async def test_cost_is_what_the_ledger_counts(client, redis):
    await redis.hset(KEYS.scope("tag:t"), mapping={"spent": 2_000_000_000, "held": 1, "unconfirmed": 500_000_000})
    cost = await client.cost("tag:t")
    assert (cost.spent_usd, cost.held_nusd, cost.unconfirmed_usd, cost.limit_usd) == (2.0, 1, 0.5, None)
    await Ledger(redis).set_limit("global", 5_000_000_000)
    assert (await client.cost()).limit_usd == 5.0


def test_a_client_without_an_address_says_what_to_do(monkeypatch):
    monkeypatch.delenv("FAREBOX_REDIS_URL", raising=False)
    for kind in (farebox.Client, farebox.SyncClient):
        with pytest.raises(farebox.ConfigError, match="FAREBOX_REDIS_URL"):
            kind()


@pytest.mark.parametrize("url", ["redis://:secret@127.0.0.1:1/0", "unix:///nowhere/at/all"])
async def test_a_server_that_is_not_there_is_named_without_its_password(monkeypatch, url):
    monkeypatch.setenv("FAREBOX_REDIS_URL", url)
    with pytest.raises(farebox.ServerError, match="cannot reach") as caught:
        async with farebox.Client():
            pass
    assert "secret" not in str(caught.value)


async def test_what_redis_refuses_is_an_error_of_ours(client, redis):
    await redis.set(KEYS.batch("odd"), "no hash")
    with pytest.raises(farebox.ServerError, match="WRONGTYPE"):
        await client.submit(MODEL, prompt="Hi", batch="odd")


async def test_a_full_server_takes_no_jobs(client, redis, monkeypatch):
    async def info(section):
        return {"maxmemory": 100, "used_memory": 71}

    monkeypatch.setattr(redis, "info", info)
    with pytest.raises(farebox.ServerFullError, match="71%"):
        await client.submit(MODEL, prompt="Hi")
