"""The Anthropic adapter over real HTTP: what it sends, what it makes of answers, and what of failures."""

import json

import pytest
from tests.providers.adapter_contract import FACTS, KEY, HttpAdapterContract, chat, job, script

from farebox.errors import InputError, ProviderAccountError, ProviderError, ProviderOverloadedError, UntranslatableError
from farebox_worker.providers.anthropic import AnthropicProvider
from farebox_worker.providers.base import Facts, PromptMessage

__all__ = ["script"]

TOOL = {"name": "f", "input_schema": {"type": "object"}}


def message(stop_reason="end_turn", content=None, usage=None, **fields):
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "m-1-2026",
        "content": [{"type": "text", "text": "Hi there"}] if content is None else content,
        "stop_reason": stop_reason,
        "stop_sequence": None,
        "usage": usage or {"input_tokens": 10, "output_tokens": 5},
        **fields,
    }


def blocks(*content):
    return chat(list(content))


@pytest.fixture
async def adapter(script):
    made = AnthropicProvider("p", api_key=KEY, base_url=script.url)
    yield made
    await made.aclose()


@pytest.fixture
async def unreachable():
    made = AnthropicProvider("p", api_key=KEY, base_url="http://127.0.0.1:1")
    yield made
    await made.aclose()


@pytest.fixture
async def vendor():
    made = AnthropicProvider("anthropic", api_key=KEY)
    yield made
    await made.aclose()


@pytest.fixture
def answer():
    return message()


@pytest.fixture
def reply_to(adapter, script):
    async def reply_to(answer, api="messages"):
        script.says(200, answer)
        return await adapter.post(adapter.prepare(job(chat(), api=api), FACTS), timeout_s=5)

    return reply_to


class TestContract(HttpAdapterContract):
    own_error = {"type": "error", "error": {"type": "some_error", "message": "so it is"}}  # noqa: RUF012 - read only


async def test_a_messages_body_passes_through_with_model_cap_and_tier(vendor):
    sent = json.loads(vendor.prepare(job(chat(system="Be brief", top_k=3), api="messages"), FACTS).body)
    assert sent == chat(system="Be brief", top_k=3, model="m-1", max_tokens=500, service_tier="standard_only")


async def test_the_tier_is_sent_to_the_vendor_only(adapter):
    sent = json.loads(adapter.prepare(job(chat(service_tier="auto"), api="messages"), FACTS).body)
    assert "service_tier" not in sent


async def test_a_cap_of_zero_is_kept_for_it_warms_a_cache(vendor):
    assert vendor.prepare(job(chat(max_tokens=0), api="messages"), FACTS).output_bound == 0


@pytest.mark.parametrize("fields", [{"speed": "fast"}, {"inference_geo": "mars"}])
async def test_what_has_no_known_price_is_refused_by_name(vendor, fields):
    with pytest.raises(InputError, match=next(iter(fields))):
        vendor.prepare(job(chat(**fields), api="messages"), FACTS)


async def test_it_has_no_flex_tier(vendor):
    with pytest.raises(InputError, match="flex"):
        vendor.prepare(job(chat(), tier="flex"), FACTS)


@pytest.mark.parametrize("api", ["chat", "messages"])
async def test_temperature_works_by_way_of_the_older_api_version(adapter, script, api):
    script.says(200, message())
    for body in (chat(temperature=0.0), chat()):
        await adapter.post(adapter.prepare(job(body, api=api), FACTS), timeout_s=5)
    (_, path, old, body), (*_, new, _) = script.requests
    assert path == "/v1/messages"
    assert old["anthropic-version"] == "2023-06-01"
    assert json.loads(body)["temperature"] == 0.0
    assert new["anthropic-version"] > "2026"


async def test_the_key_goes_out_as_bearer_and_to_other_servers_in_the_older_header_too(adapter, script):
    script.says(200, message())
    await adapter.post(adapter.prepare(job(chat()), FACTS), timeout_s=5)
    headers = script.requests[0][2]
    assert headers["authorization"] == f"Bearer {KEY}"
    assert headers["x-api-key"] == KEY


async def test_a_long_answer_may_be_asked_for_without_streaming(adapter, script):
    script.says(200, message())
    prepared = adapter.prepare(job(chat(max_tokens=64_000)), Facts("m-1", 200_000, 64_000, 8_192))
    assert (await adapter.post(prepared, timeout_s=5)).finish == "answered"


async def test_a_parameter_it_cannot_say_is_refused_or_dropped_on_request(vendor):
    body = chat(seed=7, logprobs=True)
    with pytest.raises(UntranslatableError, match="seed, logprobs") as caught:
        vendor.prepare(job(body), FACTS)
    assert caught.value.parameters == ["seed", "logprobs"]
    assert not caught.value.sent
    sent = json.loads(vendor.prepare(job(body, drop_params=("seed", "logprobs")), FACTS).body)
    assert sent == chat(model="m-1", max_tokens=500, service_tier="standard_only")


async def test_text_that_normalising_lengthens_is_bounded_by_its_longer_form(vendor):
    prepared = vendor.prepare(job(chat("\ufdfa" * 10)), FACTS)
    assert prepared.input_bound >= 10 * 33


@pytest.mark.parametrize("api", ["chat", "messages"])
async def test_tools_add_the_hidden_prompt_to_the_bound(vendor, api):
    tool = TOOL if api == "messages" else {"type": "function", "function": {"name": "f"}}
    prepared = vendor.prepare(job(chat(tools=[tool]), api=api), FACTS)
    assert prepared.input_bound == len(prepared.body) + 1024


@pytest.mark.parametrize(
    "body",
    [
        blocks({"type": "image", "source": {"type": "url", "url": "https://x/y.png"}}),
        blocks({"type": "document", "source": {}}),
        blocks({"type": "thinking", "thinking": "x", "signature": "y"}),
        blocks({"type": "tool_result", "tool_use_id": "1", "content": [{"type": "image", "source": {}}]}),
        chat(tools=[{"type": "bash_20250124", "name": "bash"}]),
        chat(context_management={"edits": []}),
    ],
)
async def test_what_bytes_do_not_bound_is_bounded_by_the_context_window(vendor, body):
    assert vendor.prepare(job(body, api="messages"), FACTS).input_bound == 100_000
    with pytest.raises(InputError, match="context_window"):
        vendor.prepare(job(body, api="messages"), Facts("m-1", 0, 1_000, 500))


async def test_an_image_in_a_chat_body_is_bounded_by_the_context_window_too(vendor):
    body = chat([{"type": "image_url", "image_url": {"url": "https://x/y.png"}}])
    assert vendor.prepare(job(body), FACTS).input_bound == 100_000


async def test_text_and_tool_results_are_bounded_by_their_bytes(vendor):
    body = blocks({"type": "tool_result", "tool_use_id": "1", "content": [{"type": "text", "text": "x"}]})
    prepared = vendor.prepare(job(body, api="messages"), FACTS)
    assert prepared.input_bound == len(prepared.body)


@pytest.mark.parametrize(
    ("stop_reason", "expected"),
    [
        ("end_turn", "answered"),
        ("stop_sequence", "answered"),
        ("max_tokens", "truncated"),
        ("model_context_window_exceeded", "truncated"),
        ("pause_turn", "truncated"),
        ("tool_use", "tool_call"),
        ("refusal", "refused"),
    ],
)
@pytest.mark.parametrize("api", ["chat", "messages"])
async def test_every_way_to_finish_is_told_apart(reply_to, stop_reason, expected, api):
    assert (await reply_to(message(stop_reason), api)).finish == expected


async def test_usage_counts_are_taken_as_they_are_and_the_tier_is_told(reply_to):
    usage = {
        "input_tokens": 3,
        "output_tokens": 5,
        "cache_read_input_tokens": 4,
        "cache_creation_input_tokens": 2,
        "service_tier": "standard",
    }
    reply = await reply_to(message(usage=usage))
    used = reply.usage
    assert (used.input_tokens, used.output_tokens, used.cache_read_tokens, used.cache_write_tokens) == (3, 5, 4, 2)
    assert reply.served_tier == "standard"


async def test_a_messages_job_gets_the_vendors_own_bytes(reply_to):
    reply = await reply_to(message())
    assert reply.body == reply.original == json.dumps(message()).encode()


@pytest.mark.parametrize("content", [None, "text", [None], ...])
@pytest.mark.parametrize("api", ["chat", "messages"])
async def test_what_was_counted_without_content_is_paid_and_says_nothing(reply_to, content, api):
    counted = message(usage={"input_tokens": 10.0, "output_tokens": 5.0}) | {"content": content}
    if content is ...:
        del counted["content"]
    reply = await reply_to(counted, api)
    assert (reply.usage.input_tokens, reply.usage.output_tokens) == (10, 5)
    assert (reply.finish, json.loads(reply.body)) == ("", counted)


async def test_neither_content_nor_a_usage_is_no_answer(reply_to):
    with pytest.raises(ProviderError, match="something else than was asked for"):
        await reply_to(message() | {"content": None, "usage": None})


@pytest.mark.parametrize("usage", [{"input_tokens": "many"}, {"input_tokens": 10, "output_tokens": -5}])
async def test_an_answer_whose_usage_cannot_be_read_is_still_an_answer(reply_to, usage):
    reply = await reply_to(message(usage=usage))
    assert (reply.usage, reply.finish) == (None, "answered")


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, {"type": "invalid_request_error", "message": "Your credit balance is too low"}),
        (400, {"type": "invalid_request_error", "message": "You have reached your specified API usage limits."}),
        (429, {"type": "rate_limit_error", "message": "x", "details": {"error_code": "enforced_spend_limit_reached"}}),
        (402, {"type": "billing_error", "message": "x"}),
    ],
)
async def test_an_account_that_cannot_pay_is_told_from_a_bad_request(adapter, script, status, error):
    script.says(status, {"type": "error", "error": error})
    with pytest.raises(ProviderAccountError) as caught:
        await adapter.post(adapter.prepare(job(chat()), FACTS), timeout_s=5)
    assert caught.value.own_body


async def test_discovery_brings_limits_page_by_page(adapter, script):
    model = {"type": "model", "id": "m-1", "display_name": "M One", "max_input_tokens": 200_000, "max_tokens": 64_000}
    script.says(200, {"data": [model], "has_more": False})
    (info,) = await adapter.list_models()
    assert (info.model_ref, info.display_name) == ("p:m-1", "M One")
    assert (info.context_window, info.max_output_tokens, info.input_cost_per_mtok) == (200_000, 64_000, 0.0)


async def test_a_list_of_models_without_end_is_given_up(adapter, script):
    script.says(200, {"data": [{"id": "m-1"}], "has_more": True, "last_id": "m-1"})
    await adapter.list_models()
    assert len(script.requests) == 10


def events(*data):
    return "".join(f"event: {one['type']}\ndata: {json.dumps(one)}\n\n" for one in data).encode()


async def test_a_stream_comes_in_pieces_and_ends_with_the_usage(adapter, script):
    start = message(None, content=[], usage={"input_tokens": 10, "output_tokens": 1})
    delta = {"type": "content_block_delta", "index": 0}
    end = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 5}}
    said = events(
        {"type": "message_start", "message": start},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        delta | {"delta": {"type": "text_delta", "text": "Hi"}},
        delta | {"delta": {"type": "text_delta", "text": " there"}},
        {"type": "content_block_stop", "index": 0},
        end,
        {"type": "message_stop"},
    )
    script.says(200, said, content_type="text/event-stream")
    chunks = [chunk async for chunk in adapter.stream([PromptMessage("user", "Hello")], "m-1", temperature=0.5)]
    assert "".join(chunk.text for chunk in chunks) == "Hi there"
    assert [chunk.is_final for chunk in chunks] == [False, False, True]
    assert (chunks[-1].usage.input_tokens, chunks[-1].usage.output_tokens) == (10, 5)
    _, _, headers, body = script.requests[0]
    assert json.loads(body)["stream"] is True
    assert headers["anthropic-version"] == "2023-06-01"


async def test_an_error_in_the_midst_of_a_stream_is_a_provider_error(adapter, script):
    error = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    script.says(200, events(error), content_type="text/event-stream")
    with pytest.raises(ProviderOverloadedError):
        [chunk async for chunk in adapter.stream([PromptMessage("user", "Hello")], "m-1")]
