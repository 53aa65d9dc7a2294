"""The echo provider says the last user message back, honours its cap, and counts."""

import json
import time

import pytest
from tests.providers.adapter_contract import FACTS, AdapterContract, chat, job

from farebox.errors import InputError
from farebox.said import said_embeddings
from farebox_worker.providers import PromptMessage
from farebox_worker.providers.echo import EchoProvider


@pytest.fixture
def adapter():
    return EchoProvider()


@pytest.fixture
def say(adapter):
    async def say(body, api="chat", **fields):
        return await adapter.post(adapter.prepare(job(body, api=api, **fields), FACTS), timeout_s=1)

    return say


class TestContract(AdapterContract):
    pass


async def test_it_says_the_last_user_message_back(say):
    messages = [{"role": "system", "content": "s"}, *({"role": "user", "content": text} for text in "ab")]
    reply = await say({"messages": [*messages, {"role": "assistant", "content": "c"}]})
    body = json.loads(reply.body)
    assert body["choices"][0]["message"]["content"] == "b"
    assert (body["object"], body["model"], reply.finish) == ("chat.completion", "m-1", "answered")


async def test_it_speaks_both_formats(say):
    body = json.loads((await say(chat("Hello"), api="messages")).body)
    assert (body["type"], body["content"], body["stop_reason"]) == (
        "message",
        [{"type": "text", "text": "Hello"}],
        "end_turn",
    )


async def test_it_speaks_responses(say):
    items = [{"role": "user", "content": [{"type": "input_text", "text": "Hello"}]}]
    for given in ("Hello", items):
        body = json.loads((await say({"input": given}, api="responses")).body)
        assert (body["object"], body["status"]) == ("response", "completed")
        assert body["output"][0]["content"] == [{"text": "Hello", "type": "output_text"}]
    cut = await say({"input": "x" * 100, "max_output_tokens": 5}, api="responses")
    body = json.loads(cut.body)
    assert (body["status"], body["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert (cut.finish, cut.usage.output_tokens) == ("truncated", 5)


async def test_it_makes_vectors_that_are_the_same_for_the_same_text(say):
    one, both = [await say({"input": given}, api="embeddings") for given in ("a", ["a", "b"])]
    (first,), (again, other) = [json.loads(reply.body)["data"] for reply in (one, both)]
    assert first["embedding"] == again["embedding"] != other["embedding"]
    assert sum(value * value for value in first["embedding"]) == pytest.approx(1)
    assert (one.usage.output_tokens, one.finish) == (0, "answered")


async def test_vectors_come_in_the_size_and_the_form_that_is_asked(say):
    short = await say({"input": [1, 2, 3], "dimensions": 4}, api="embeddings")
    packed = await say({"input": [[1, 2, 3]], "dimensions": 4, "encoding_format": "base64"}, api="embeddings")
    assert len(json.loads(short.body)["data"]) == 1
    assert said_embeddings(packed.body) == [pytest.approx(json.loads(short.body)["data"][0]["embedding"])]


@pytest.mark.parametrize(("api", "body"), [("chat", {"input": "x"}), ("responses", chat()), ("embeddings", chat())])
async def test_a_body_of_another_format_is_refused(say, api, body):
    with pytest.raises(InputError, match="it has no"):
        await say(body, api=api)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ([{"type": "text", "text": "a"}, {"type": "image_url"}, {"type": "text", "text": "b"}], "ab"),
        (None, ""),
        (7, "7"),
    ],
)
async def test_any_content_gets_an_answer(say, content, text):
    assert json.loads((await say(chat(content))).body)["choices"][0]["message"]["content"] == text


async def test_a_long_answer_is_cut_at_the_cap(say):
    reply = await say(chat("x" * 100, max_tokens=5))
    choice = json.loads(reply.body)["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("x" * 20, "length")
    assert (reply.finish, reply.usage.output_tokens) == ("truncated", 5)


async def test_usage_stays_within_the_bounds_and_is_the_same_in_the_body(adapter):
    prepared = adapter.prepare(job(chat("y" * 999, n=3, max_tokens=50)), FACTS)
    reply = await adapter.post(prepared, timeout_s=1)
    assert 1 <= reply.usage.input_tokens <= prepared.input_bound
    assert 1 <= reply.usage.output_tokens <= prepared.output_bound
    body = json.loads(reply.body)
    assert len(body["choices"]) == 3
    assert body["usage"]["completion_tokens"] == reply.usage.output_tokens == 150
    assert body["usage"]["total_tokens"] == reply.usage.total_tokens


@pytest.mark.parametrize("kind", ["json_object", "json_schema"])
async def test_json_is_answered_in_json(say, kind):
    asked = {"response_format": {"type": kind}}
    assert json.loads(json.loads((await say(chat('say "hi"', **asked))).body)["choices"][0]["message"]["content"]) == {
        "echo": 'say "hi"'
    }
    assert json.loads((await say(chat("[1]", **asked))).body)["choices"][0]["message"]["content"] == "[1]"


async def test_json_is_answered_in_json_to_messages_too(say):
    reply = await say(chat("hi", output_config={"format": {"type": "json_schema", "schema": {}}}), api="messages")
    assert json.loads(json.loads(reply.body)["content"][0]["text"]) == {"echo": "hi"}


async def test_people_can_send_and_stream(adapter):
    response = await adapter.send([PromptMessage("user", "Hello out there")], "echo")
    assert (response.content, response.finish_reason) == ("Hello out there", "answered")
    chunks = [chunk async for chunk in adapter.stream([PromptMessage("user", "Hello out there")], "echo")]
    assert "".join(chunk.text for chunk in chunks) == "Hello out there"
    assert chunks[-1].is_final
    assert chunks[-1].usage == response.usage


async def test_its_price_is_marked_as_a_pretence(adapter):
    (info,) = await adapter.list_models()
    assert info.model_ref == "echo:echo"
    assert (info.input_cost_per_mtok, info.output_cost_per_mtok) == (1.0, 2.0)
    assert "pretend price" in info.display_name
    assert await adapter.health_check()


async def test_it_is_cheap(adapter):
    one, times = job(chat("x" * 1000)), []
    for _ in range(20):
        started = time.perf_counter()
        for _ in range(50):
            await adapter.post(adapter.prepare(one, FACTS), timeout_s=1)
        times.append((time.perf_counter() - started) / 50)
    assert min(times) < 100e-6  # about 15 us on a quiet machine; the least of 20 rounds, for loaded ones
