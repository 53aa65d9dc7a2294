"""The OpenAI adapter over real HTTP: what it sends, what it makes of answers, and what of failures."""

import json
from asyncio import CancelledError

import aiohttp
import pytest
from tests.providers.adapter_contract import FACTS, KEY, HttpAdapterContract, chat, job, script
from tests.providers.openai_adapters import adapter, unreachable, vendor

from farebox.errors import (
    InputError,
    ProviderAccountError,
    ProviderError,
    ProviderOverloadedError,
    ProviderRateLimitError,
    ProviderRequestError,
)
from farebox_worker.attempts.failures import judge
from farebox_worker.providers import fate
from farebox_worker.providers.base import Facts, PromptMessage
from farebox_worker.providers.openai import OpenAIProvider

__all__ = ["adapter", "script", "unreachable", "vendor"]

IMAGE = [{"type": "image_url", "image_url": {"url": "https://example.com/cat.png"}}]
TOOL = {"type": "function", "function": {"name": "f"}}


def completion(message=None, finish="stop", usage=None, **fields):
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "m-1-2026",
        "choices": [
            {"index": 0, "message": message or {"role": "assistant", "content": "Hi there"}, "finish_reason": finish}
        ],
        "usage": usage or {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
        **fields,
    }


@pytest.fixture
def answer():
    return completion()


@pytest.fixture
def reply_to(adapter, script):
    async def reply_to(answer, api="chat"):
        script.says(200, answer)
        body = chat() if api == "chat" else chat(max_tokens=9)
        return await adapter.post(adapter.prepare(job(body, api=api), FACTS), timeout_s=5)

    return reply_to


class TestContract(HttpAdapterContract):
    pass


async def test_the_vendor_gets_its_own_cap_field_and_the_standard_tier_by_name(vendor):
    sent = json.loads(vendor.prepare(job(chat(max_tokens=7, service_tier="auto")), FACTS).body)
    assert sent == chat(model="m-1", max_completion_tokens=7, service_tier="default")


async def test_the_flex_tier_is_sent_to_the_vendor_for_a_flex_job(vendor):
    sent = json.loads(vendor.prepare(job(chat(), tier="flex"), FACTS).body)
    assert sent["service_tier"] == "flex"


async def test_other_servers_get_max_tokens_and_no_tier(adapter):
    sent = json.loads(adapter.prepare(job(chat(max_completion_tokens=7, service_tier="default")), FACTS).body)
    assert sent == chat(model="m-1", max_tokens=7)


async def test_other_servers_have_no_flex_tier(adapter):
    with pytest.raises(InputError, match="flex"):
        adapter.prepare(job(chat(), tier="flex"), FACTS)


async def test_a_configured_cap_field_wins(script):
    made = OpenAIProvider("p", api_key=KEY, base_url=script.url, cap_field="max_completion_tokens")
    assert json.loads(made.prepare(job(chat(max_tokens=7)), FACTS).body)["max_completion_tokens"] == 7
    await made.aclose()


@pytest.mark.parametrize("url", ["https://eu.api.openai.com/v1", "https://api.openai.com/v1"])
async def test_the_vendors_regions_are_the_vendor(url):
    made = OpenAIProvider("p", api_key=KEY, base_url=url)
    assert "service_tier" in json.loads(made.prepare(job(chat()), FACTS).body)
    await made.aclose()


@pytest.mark.parametrize(
    "fields",
    [
        {"service_tier": "priority"},
        {"modalities": ["text", "audio"]},
        {"n": 0},
        {"n": "2"},
    ],
)
async def test_what_has_no_bounded_price_is_refused_by_name(vendor, fields):
    with pytest.raises(InputError, match=next(iter(fields))):
        vendor.prepare(job(chat(**fields)), FACTS)


async def test_every_choice_and_a_rejected_prediction_count_as_output(vendor):
    prediction = {"type": "content", "content": "abc"}
    assert vendor.prepare(job(chat(max_tokens=10, n=3)), FACTS).output_bound == 30
    assert vendor.prepare(job(chat(max_tokens=10, prediction=prediction)), FACTS).output_bound > 10


async def test_tools_add_the_hidden_prompt_to_the_bound(vendor):
    prepared = vendor.prepare(job(chat(tools=[TOOL])), FACTS)
    assert prepared.input_bound == len(prepared.body) + 1024


@pytest.mark.parametrize(
    "body",
    [
        chat(IMAGE),
        chat([{"type": "input_audio", "input_audio": {}}]),
        chat([{"type": "file", "file": {"file_id": "f"}}]),
        chat([{"image_url": {"url": "x"}}]),
        chat(prediction={"type": "content", "content": "x"}),
        chat(web_search_options={}),
        {"messages": [{"role": "assistant", "audio": {"id": "a"}}]},
    ],
)
async def test_what_bytes_do_not_bound_is_bounded_by_the_context_window(vendor, body):
    assert vendor.prepare(job(body), FACTS).input_bound == 100_000
    with pytest.raises(InputError, match="context_window"):
        vendor.prepare(job(body), Facts("m-1", 0, 1_000, 500))


async def test_text_parts_are_bounded_by_their_bytes(vendor):
    prepared = vendor.prepare(job(chat([{"type": "text", "text": "x"}])), FACTS)
    assert prepared.input_bound == len(prepared.body)


async def test_what_a_body_says_passes_through_to_the_byte(vendor):
    raw = b'{"messages": [{"role":"user", "content" : "x"}], "temperature": 0.10, "vendor_field": {"a": 1.0e3}}'
    body = vendor.prepare(job(raw), FACTS).body
    assert b'[{"role":"user", "content" : "x"}]' in body
    assert b'"temperature":0.10' in body
    assert b'{"a": 1.0e3}' in body


async def test_the_request_goes_out_with_the_key_and_the_prepared_bytes(adapter, script, answer):
    script.says(200, answer)
    prepared = adapter.prepare(job(chat()), FACTS)
    await adapter.post(prepared, timeout_s=5)
    method, path, headers, body = script.requests[0]
    assert (method, path, body) == ("POST", "/v1/chat/completions", prepared.body)
    assert headers["authorization"] == f"Bearer {KEY}"
    assert headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("message", "finish", "expected"),
    [
        (None, "stop", "answered"),
        (None, "length", "truncated"),
        (None, "content_filter", "filtered"),
        ({"content": None, "tool_calls": [{"id": "1"}]}, "tool_calls", "tool_call"),
        ({"content": None, "tool_calls": [{"id": "1"}]}, "stop", "tool_call"),
        ({"content": None, "function_call": {}}, "function_call", "tool_call"),
        ({"content": None, "refusal": "I cannot"}, "stop", "refused"),
        (None, None, "answered"),
    ],
)
async def test_every_way_to_finish_is_told_apart(reply_to, message, finish, expected):
    assert (await reply_to(completion(message, finish))).finish == expected


@pytest.mark.parametrize(
    ("usage", "counts"),
    [
        ({"prompt_tokens": 10, "completion_tokens": 5}, (10, 5, 0, 0)),
        ({"prompt_tokens": 10, "completion_tokens": 5, "prompt_tokens_details": None}, (10, 5, 0, 0)),
        (
            {
                "prompt_tokens": 10,
                "completion_tokens": 5,
                "prompt_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 3, "audio_tokens": 0},
            },
            (3, 5, 4, 3),
        ),
        ({"prompt_tokens": 10, "completion_tokens": 5, "prompt_cache_hit_tokens": 4}, (6, 5, 4, 0)),
        ({"prompt_tokens": 3, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 9}}, (0, 5, 3, 0)),
        (  # xAI and Gemini count reasoning beside the completion
            {
                "prompt_tokens": 32,
                "completion_tokens": 9,
                "total_tokens": 135,
                "completion_tokens_details": {"reasoning_tokens": 94},
            },
            (32, 103, 0, 0),
        ),
        ({"prompt_tokens": 21, "completion_tokens": 0, "total_tokens": 81}, (21, 60, 0, 0)),
        (
            {"prompt_tokens": 32, "completion_tokens": 9, "completion_tokens_details": {"reasoning_tokens": 94}},
            (32, 103, 0, 0),
        ),
        (  # OpenAI counts it within
            {
                "prompt_tokens": 32,
                "completion_tokens": 100,
                "total_tokens": 132,
                "completion_tokens_details": {"reasoning_tokens": 94},
            },
            (32, 100, 0, 0),
        ),
        ({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 3}, (10, 5, 0, 0)),
    ],
)
async def test_usage_counts_are_disjoint(reply_to, usage, counts):
    used = (await reply_to(completion(usage=usage))).usage
    assert (used.input_tokens, used.output_tokens, used.cache_read_tokens, used.cache_write_tokens) == counts


@pytest.mark.parametrize(
    "usage", [{"prompt_tokens": "ten"}, {"prompt_tokens": 10}, {"prompt_tokens": 10, "completion_tokens": -5}, "none"]
)
async def test_an_answer_whose_usage_cannot_be_read_is_still_an_answer(reply_to, usage):
    reply = await reply_to(completion(usage=usage))
    assert (reply.usage, reply.finish) == (None, "answered")


@pytest.mark.parametrize("choices", [None, [], "none", [None], {}, ...])
@pytest.mark.parametrize("api", ["chat", "messages"])
async def test_what_was_counted_without_a_choice_is_paid_and_says_nothing(reply_to, choices, api):
    counted = completion(choices=choices, service_tier="default")
    if choices is ...:
        del counted["choices"]
    reply = await reply_to(counted, api)
    assert (reply.usage.input_tokens, reply.usage.output_tokens) == (10, 5)
    assert (reply.finish, json.loads(reply.body), reply.served_tier) == ("", counted, "default")


@pytest.mark.parametrize("usage", [None, {}, "none", {"prompt_tokens": 10}])
@pytest.mark.parametrize("choices", [None, []])
async def test_neither_a_choice_nor_a_usage_is_no_answer(reply_to, choices, usage):
    with pytest.raises(ProviderError, match="something else than was asked for") as caught:
        await reply_to(completion(choices=choices) | {"usage": usage})
    assert judge(caught.value, attempts=1, doubts=0, max_attempts=5).money == "unconfirmed"


@pytest.mark.parametrize(
    ("code", "expected", "action", "money"),
    [
        (503, ProviderOverloadedError, "retry", "release"),
        (502, ProviderOverloadedError, "retry", "unconfirmed"),  # what a proxy says of a server that may have begun
        (400, ProviderRequestError, "fail", "release"),
        ("content_filter", ProviderRequestError, "fail", "release"),
    ],
)
@pytest.mark.parametrize("usage", [None, {"prompt_tokens": 10, "completion_tokens": 3}])
@pytest.mark.parametrize("is_choice", [True, False])
async def test_a_failure_within_a_200_is_a_failure_and_with_a_usage_it_may_be_billed(
    reply_to, code, expected, action, money, usage, is_choice
):
    failed = {"error": {"code": code, "message": f"the model went away, said {KEY}"}}
    choice = {"index": 0, "message": {"role": "assistant", "content": ""}, "finish_reason": "error"}
    with pytest.raises(expected) as caught:
        await reply_to({"choices": [choice | failed], "usage": usage} if is_choice else failed | {"usage": usage})
    assert KEY not in str(caught.value) + caught.value.body.decode()
    verdict = judge(caught.value, attempts=1, doubts=0, max_attempts=5)
    assert (verdict.action, verdict.money) == (action, "unconfirmed" if usage else money)


async def test_a_rate_limit_within_a_200_is_one(reply_to):
    with pytest.raises(ProviderRateLimitError) as caught:
        await reply_to({"error": {"code": 429, "message": "slow down"}})
    assert judge(caught.value, attempts=1, doubts=0, max_attempts=5).money == "release"


async def test_what_other_choices_answer_is_an_answer(reply_to):
    both = completion()
    both["choices"].append({"index": 1, "error": {"code": 502, "message": "gone"}, "finish_reason": "error"})
    assert (await reply_to(both)).finish == "answered"


async def test_whole_floats_are_counts(reply_to):
    used = (await reply_to(completion(usage={"prompt_tokens": 10.0, "completion_tokens": 5.0}))).usage
    assert (used.input_tokens, used.output_tokens) == (10, 5)


async def test_the_tier_that_served_is_told(reply_to):
    assert (await reply_to(completion(service_tier="flex"))).served_tier == "flex"


@pytest.mark.parametrize("tier", [7, {"name": "flex"}, ["flex"]])
async def test_an_answer_with_an_odd_tier_is_paid_and_not_asked_for_again(reply_to, tier):
    reply = await reply_to(completion(service_tier=tier))
    assert (reply.usage.total_tokens, reply.served_tier) == (15, "")


async def test_a_messages_job_gets_its_answer_as_a_message(reply_to):
    reply = await reply_to(completion(), api="messages")
    body = json.loads(reply.body)
    assert body["type"] == "message"
    assert body["content"] == [{"type": "text", "text": "Hi there"}]
    assert json.loads(reply.original)["object"] == "chat.completion"


@pytest.mark.parametrize("code", ["insufficient_quota", "credit_balance_exhausted", "project_spend_limit_exceeded"])
@pytest.mark.parametrize("field", ["code", "type"])
async def test_an_account_that_cannot_pay_is_no_rate_limit(adapter, script, code, field):
    script.says(429, {"error": {"message": "quota", "type": "x", field: code}})
    with pytest.raises(ProviderAccountError):
        await adapter.post(adapter.prepare(job(chat()), FACTS), timeout_s=5)


async def test_a_users_words_in_an_error_do_not_pause_the_account(adapter, script):
    script.says(400, {"error": {"message": "invalid value: 'my credit balance'", "type": "invalid_request_error"}})
    with pytest.raises(Exception, match="credit balance") as caught:
        await adapter.post(adapter.prepare(job(chat()), FACTS), timeout_s=5)
    assert not isinstance(caught.value, ProviderAccountError)


@pytest.mark.parametrize(
    "body",
    [
        {"object": "error", "message": "too long", "code": 400},
        {"error": "too long"},
        [{"error": {"message": "too long", "status": "INVALID_ARGUMENT", "code": 400}}],
        {"detail": "too long"},
        {"detail": [{"loc": ["body"], "msg": "too long"}]},
    ],
)
async def test_the_errors_of_older_servers_are_their_own_words_too(adapter, script, body):
    script.says(400, body)
    with pytest.raises(Exception, match="too long") as caught:
        await adapter.post(adapter.prepare(job(chat()), FACTS), timeout_s=5)
    assert caught.value.own_body


async def test_a_redirect_says_where_it_leads_so_that_base_url_can_be_corrected(adapter, script):
    script.says(307, b"", location="https://elsewhere.example/v1/chat/completions")
    with pytest.raises(ProviderRequestError, match=r"redirects to https://elsewhere\.example/v1/.*base_url"):
        await adapter.post(adapter.prepare(job(chat()), FACTS), timeout_s=5)


@pytest.mark.parametrize("wrapped", [True, False])
async def test_discovery_takes_the_limits_that_servers_tell(adapter, script, wrapped):
    models = [
        {"id": "a"},
        {"id": "b:8b", "max_model_len": 32768},
        {"id": "c", "context_window": 9, "max_completion_tokens": 5},
    ]
    script.says(200, {"object": "list", "data": models} if wrapped else models)
    found = await adapter.list_models()
    limits = [(info.model_ref, info.context_window, info.max_output_tokens) for info in found]
    assert limits == [("p:a", 0, 0), ("p:b:8b", 32768, 0), ("p:c", 9, 5)]
    assert all(info.is_local for info in found)  # it runs on 127.0.0.1
    assert script.requests[0][1] == "/v1/models"


async def test_a_stream_comes_in_pieces_and_ends_with_the_usage(adapter, script):
    pieces = [
        {"choices": [{"index": 0, "delta": {"content": "Hi"}}]},
        {"choices": [{"index": 0, "delta": {"content": " there"}, "finish_reason": "stop"}]},
        {"choices": [], "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}},
    ]
    sse = "".join(f"data: {json.dumps({'id': 'x', 'object': 'chat.completion.chunk', **p})}\n\n" for p in pieces)
    script.says(200, (sse + "data: [DONE]\n\n").encode(), content_type="text/event-stream")
    chunks = [chunk async for chunk in adapter.stream([PromptMessage("user", "Hello")], "m-1", max_tokens=9)]
    assert "".join(chunk.text for chunk in chunks) == "Hi there"
    assert [chunk.is_final for chunk in chunks] == [False, False, True]
    assert chunks[-1].usage.total_tokens == 15
    sent = json.loads(script.requests[0][3])
    assert (sent["stream"], sent["stream_options"], sent["max_tokens"]) == (True, {"include_usage": True}, 9)


async def test_json_may_be_asked_for(adapter, script, answer):
    script.says(200, answer)
    await adapter.send([PromptMessage("user", "Hello")], "m-1", response_format="json", tools=[TOOL], temperature=0.0)
    sent = json.loads(script.requests[0][3])
    assert (sent["response_format"], sent["tools"], sent["temperature"]) == ({"type": "json_object"}, [TOOL], 0.0)


async def test_cookies_are_not_kept(script, answer):
    named = OpenAIProvider("p", api_key=KEY, base_url=script.url.replace("127.0.0.1", "localhost"))  # IPs have none
    script.says(200, answer, set_cookie="lb=1; Path=/")
    for _ in range(2):
        await named.post(named.prepare(job(chat()), FACTS), timeout_s=5)
    assert "cookie" not in script.requests[1][2]
    await named.aclose()


def test_only_what_caused_a_failure_tells_whether_it_was_sent():
    error = aiohttp.ServerDisconnectedError()
    error.__context__ = ConnectionRefusedError()  # another call's failure, being handled when this one was made
    assert fate.lost("p", error, timeout_s=1, scrub=fate.Scrubber(KEY)).sent


def test_a_connection_that_took_too_long_is_said_to_be_that():
    error = aiohttp.ConnectionTimeoutError("Connection timeout to host http://x")
    error.__cause__ = TimeoutError()
    error.__cause__.__cause__ = CancelledError()
    lost = fate.lost("p", error, timeout_s=1, scrub=fate.Scrubber(KEY))
    assert str(lost) == "p could not be reached: ConnectionTimeoutError: Connection timeout to host http://x"
    assert not lost.sent
