"""Reuse: an identical request gets the stored answer at no cost, and says so; nothing else does."""

import pytest
from tests.producer.stand_in import KEYS

import farebox
from farebox.records import content_digest, job_id
from farebox.reuse import ReusingBatch

MODEL = "openai:gpt-5-mini"
ASK = {"prompt": "Is 91 a prime number?", "max_tokens": 5, "reuse": "content"}


@pytest.fixture
async def first(client, bus):
    """A job that was asked with reuse, and answered for 1,000 nano-dollars."""
    handle = await client.submit(MODEL, job_id="first", **ASK)
    await bus.answer("first", text="no", input_tokens=7, output_tokens=1)
    return handle


async def test_an_identical_request_gets_the_stored_answer_at_once_and_for_nothing(client, bus, first):
    again = await client.submit(MODEL, job_id="again", tags=["other"], priority=5, **ASK)
    answer = await again.result(timeout=5)
    assert (answer.text, answer.cost_nusd, answer.saved_nusd, answer.usage.total_tokens) == ("no", 0, 1000, 8)
    assert (answer.is_reused, answer.reused_from) == (True, job_id("farebox", "default", "first"))
    assert (answer.job_id, answer.finish, answer.attempts, again.is_new) == ("again", "answered", 0, True)
    assert not (await first.result(timeout=5)).is_reused
    assert await bus.job("again") is None, "nothing waits for a worker"
    assert (await again.status()).state == "succeeded"


async def test_no_money_moves_and_the_batch_counts_what_was_reused(client, redis, first):
    before = await client.cost()
    items = [{"prompt": ASK["prompt"], "custom_id": f"c{n}"} for n in range(3)] + [{"prompt": "Another?"}]
    batch = await client.submit_batch(items, name="b", model=MODEL, max_tokens=5, reuse="content")
    assert (batch.created, batch.existing, batch.reused) == (4, 0, 3)
    progress = await batch.progress()
    assert (progress.submitted, progress.succeeded, progress.reused, progress.finishes) == (4, 3, 3, {"answered": 3})
    assert await client.cost() == before
    assert await redis.xlen("farebox:journal") == 0


async def test_submitting_a_reused_job_again_is_submitting_it_once(client, first):
    ask = ASK | {"job_id": "again"}
    assert (await client.submit(MODEL, **ask)).is_new
    assert not (await client.submit(MODEL, **ask)).is_new
    with pytest.raises(farebox.JobConflictError, match="again"):
        await client.submit(MODEL, **ask | {"prompt": "Is 97?"})
    assert (await client.batch("default").progress()).submitted == 2


@pytest.mark.parametrize(
    "change",
    [{"prompt": "Is 97?"}, {"max_tokens": 6}, {"tier": "flex"}, {"temperature": 0.5}, {"drop_params": ["seed"]}],
)
async def test_anything_else_is_asked(client, bus, first, change):
    await client.submit(MODEL, job_id="other", **ASK | change)
    assert await bus.job("other")
    await client.submit("openai:gpt-5", job_id="model", **ASK)
    assert await bus.job("model")


async def test_who_does_not_say_reuse_gets_an_answer_of_its_own_and_leaves_it_to_others(client, bus, first):
    await client.submit(MODEL, job_id="own", prompt=ASK["prompt"], max_tokens=5)
    assert await bus.job("own")
    await client.submit(MODEL, job_id="unsaid", prompt="New?", max_tokens=5)
    await bus.answer("unsaid", text="new")
    again = await client.submit(MODEL, job_id="later", **ASK | {"prompt": "New?"})
    assert await bus.job("later") is None
    assert (await again.result(timeout=5)).reused_from == job_id("farebox", "default", "unsaid")
    assert (await (await client.submit(MODEL, job_id="as before", **ASK)).result(timeout=5)).reused_from == job_id(
        "farebox", "default", "first"
    )


async def test_the_jobs_of_a_batch_that_do_not_say_reuse_leave_no_answer(client, bus):
    await client.submit_batch([{"prompt": "New?", "custom_id": "unsaid"}], name="b", model=MODEL, max_tokens=5)
    await bus.answer("unsaid", batch="b")
    await client.submit(MODEL, job_id="later", **ASK | {"prompt": "New?"})
    assert await bus.job("later")


async def test_a_failure_is_never_reused_and_the_next_success_is(client, bus):
    await client.submit(MODEL, job_id="bad", **ASK)
    await bus.fail("bad")
    await client.submit(MODEL, job_id="good", **ASK)
    await bus.answer("good")
    assert (await (await client.submit(MODEL, job_id="third", **ASK)).result(timeout=5)).is_reused


async def test_identical_requests_that_run_together_are_both_sent_and_the_first_leaves_the_answer(client, bus):
    await client.submit(MODEL, job_id="one", **ASK)
    await client.submit(MODEL, job_id="two", **ASK)
    assert await bus.job("one")
    assert await bus.job("two")
    await bus.answer("one", text="the first")
    answer = await (await client.submit(MODEL, job_id="three", **ASK)).result(timeout=5)
    assert (answer.text, answer.reused_from) == ("the first", job_id("farebox", "default", "one"))


async def test_an_answer_that_is_gone_is_asked_again(client, bus, redis, first):
    await redis.delete(KEYS.result(job_id("farebox", "default", "first")))
    await client.submit(MODEL, job_id="again", **ASK)
    await bus.answer("again", text="anew")
    assert (await (await client.submit(MODEL, job_id="third", **ASK)).result(timeout=5)).text == "anew"


async def test_another_model_s_answer_is_not_this_model_s(client, bus, redis, first):
    """A job may be answered by a fallback: whoever asks for the first model again wants that one."""
    await client.submit(MODEL, job_id="moved", **ASK | {"prompt": "Moved?"})
    envelope = await bus.job("moved")
    await redis.set(KEYS.content(content_digest(envelope)), job_id("farebox", "default", "elsewhere"))
    await client.submit("openai:gpt-5", job_id="elsewhere", prompt="Moved?", max_tokens=5)
    await bus.answer("elsewhere")
    await client.submit(MODEL, job_id="again", **ASK | {"prompt": "Moved?"})
    assert await bus.job("again")


async def test_a_chain_of_reuse_names_the_job_that_was_paid(client, redis, first):
    await client.submit(MODEL, job_id="second", **ASK)
    word = KEYS.content(content_digest(farebox.Job(1, "", MODEL, "chat", b"", 5)))
    for key in await redis.keys(KEYS.content("*")):
        assert 0 < await redis.pttl(key) <= 7 * 86_400_000
        assert key != word
        await redis.set(key, job_id("farebox", "default", "second"))
    answer = await (await client.submit(MODEL, job_id="third", **ASK)).result(timeout=5)
    assert (answer.reused_from, answer.saved_nusd) == (job_id("farebox", "default", "first"), 1000)


async def test_what_is_acknowledged_stays_to_be_reused(client, bus, redis, first):
    batch = ReusingBatch(redis, "default")
    await batch.acknowledge(await batch.read())
    assert await batch.read() == []
    assert (await (await client.submit(MODEL, job_id="again", **ASK)).result(timeout=5)).is_reused


async def test_a_sealed_or_cancelled_batch_takes_none_and_a_complete_one_retires(client, redis, first):
    items = [{"prompt": ASK["prompt"]}]
    batch = await client.submit_batch(items, name="b", model=MODEL, max_tokens=5, reuse="content")
    assert (await batch.wait(timeout=5)).complete
    assert await redis.pttl(KEYS.batch("b")) > 0
    with pytest.raises(farebox.BatchClosedError, match="sealed"):
        await client.submit(MODEL, job_id="more", batch="b", **ASK)
    await (await client.submit_batch([{"prompt": "another"}], name="c", model=MODEL)).cancel()
    with pytest.raises(farebox.BatchClosedError, match="cancelled"):
        await client.submit(MODEL, job_id="more", batch="c", **ASK)


async def test_another_word_than_content_is_refused(client):
    with pytest.raises(farebox.InputError, match="content"):
        await client.submit(MODEL, prompt="Hi", reuse=True)


async def test_an_answer_with_nothing_in_it_is_not_reused(client, bus):
    await client.submit(MODEL, job_id="first", **ASK)
    await bus.answer("first", finish="")
    await client.submit(MODEL, job_id="again", **ASK)
    assert await bus.job("again")
