"""OpenAI's responses over real HTTP: what is sent, what is made of answers, and what of failures within them."""

import json

import pytest
from tests.providers.adapter_contract import FACTS, KEY, FateContract, job, script
from tests.providers.openai_adapters import adapter, unreachable, vendor

from farebox.errors import InputError, ProviderOverloadedError, ProviderRateLimitError, ProviderRequestError
from farebox_worker.attempts.failures import judge

__all__ = ["adapter", "script", "unreachable", "vendor"]

SAID = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Hi there"}]}
REFUSED = {"type": "message", "role": "assistant", "content": [{"type": "refusal", "refusal": "I cannot"}]}
CALLED = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}


def response(*output, status="completed", usage=None, **fields):
    return {
        "id": "resp_1",
        "object": "response",
        "status": status,
        "model": "m-1-2026",
        "output": list(output) or [{"type": "reasoning", "summary": []}, SAID],
        "usage": usage or {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15},
        **fields,
    }


def asked(text="Hello", **fields):
    return {"input": text, **fields}


@pytest.fixture
def reply_to(adapter, script):
    async def reply_to(answer, **fields):
        script.says(200, answer)
        return await adapter.post(adapter.prepare(job(asked(**fields), "responses"), FACTS), timeout_s=5)

    return reply_to


class TestFate(FateContract):
    api = "responses"
    body = asked()


async def test_an_answer_comes_back_as_it_was_sent_with_its_usage(reply_to, script):
    answer = response(service_tier="default")
    reply = await reply_to(answer)
    assert json.loads(reply.body) == answer
    assert (reply.usage.input_tokens, reply.usage.output_tokens, reply.served_tier) == (10, 5, "default")
    assert reply.finish == "answered"
    assert script.requests[0][:2] == ("POST", "/v1/responses")


@pytest.mark.parametrize(
    ("fields", "of_job", "bound", "by_default"),
    [
        ({}, None, 500, True),
        ({}, 70, 70, False),
        ({"max_output_tokens": 60}, 70, 60, False),
        ({"max_output_tokens": 9_999}, None, 1_000, False),
        ({"max_output_tokens": None}, None, 500, True),
    ],
)
async def test_every_request_carries_a_cap_and_the_bound_is_that_cap(adapter, fields, of_job, bound, by_default):
    prepared = adapter.prepare(job(asked(**fields), "responses", max_tokens=of_job), FACTS)
    assert json.loads(prepared.body)["max_output_tokens"] == bound
    assert (prepared.output_bound, prepared.capped_by_default) == (bound, by_default)


async def test_a_cap_below_what_the_vendor_takes_is_refused_before_it_is_sent(vendor, adapter):
    with pytest.raises(InputError, match="below 16"):
        vendor.prepare(job(asked(max_output_tokens=15), "responses"), FACTS)
    assert adapter.prepare(job(asked(max_output_tokens=15), "responses"), FACTS).output_bound == 15


async def test_the_vendor_gets_the_tier_by_name_and_all_else_untouched(vendor):
    body = asked(store=False, service_tier="auto", reasoning={"effort": "low"}, metadata={"a": "1.0"})
    sent = json.loads(vendor.prepare(job(body, "responses"), FACTS).body)
    assert sent == body | {"model": "m-1", "max_output_tokens": 500, "service_tier": "default"}
    assert json.loads(vendor.prepare(job(body, "responses", tier="flex"), FACTS).body)["service_tier"] == "flex"


@pytest.mark.parametrize(
    "fields",
    [
        {"stream": True},
        {"background": True},
        {"service_tier": "priority"},
        {"reasoning": {"mode": "pro"}},
        {"max_output_tokens": "many"},
        {"max_tool_calls": -1},
        {"tools": "all"},
    ],
)
async def test_what_has_no_bounded_price_or_no_whole_answer_is_refused_by_name(adapter, fields):
    with pytest.raises(InputError, match=next(iter(fields))):
        adapter.prepare(job(asked(**fields), "responses"), FACTS)


@pytest.mark.parametrize(
    "body", [{}, asked(max_output_tokens=-1), {"input": None}, {"input": {}}, {"input": [7]}, b"[1]", b"{"]
)
async def test_a_body_that_is_wrong_is_refused_before_it_is_sent(adapter, body):
    with pytest.raises(InputError):
        adapter.prepare(job(body, "responses"), FACTS)


@pytest.mark.parametrize("text", ["Hello", "é€😀 日本語", 'quote " and \\ and \n', "\ufdfa" * 50])
@pytest.mark.parametrize("ascii_only", [True, False])
async def test_the_input_bound_covers_every_byte_of_the_text(adapter, text, ascii_only):
    raw = json.dumps(asked(text, instructions=text), ensure_ascii=ascii_only).encode()
    prepared = adapter.prepare(job(raw, "responses"), FACTS)
    assert prepared.input_bound >= len(prepared.body) >= 2 * len(text.encode())
    assert json.loads(prepared.body)["input"] == text


@pytest.mark.parametrize(
    ("item", "is_bounded"),
    [
        ({"role": "user", "content": "x"}, True),
        ({"type": "message", "role": "user", "content": [{"type": "input_text", "text": "x"}]}, True),
        ({"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "x"}]}, True),
        (CALLED, True),
        ({"type": "function_call_output", "call_id": "c", "output": "x"}, True),
        ({"type": "function_call_output", "call_id": "c", "output": [{"type": "input_text", "text": "x"}]}, True),
        ({"type": "function_call_output", "call_id": "c", "output": [{"type": "input_file", "file_id": "f"}]}, False),
        ({"type": "custom_tool_call", "call_id": "c", "name": "f", "input": "x"}, True),
        ({"type": "reasoning", "encrypted_content": "x"}, False),
        ({"type": "item_reference", "id": "x"}, False),
        ({"type": "computer_call_output", "output": {}}, False),
        ({"type": "of_tomorrow"}, False),
    ],
)
async def test_what_bytes_do_not_bound_is_bounded_by_the_context_window(vendor, item, is_bounded):
    prepared = vendor.prepare(job({"input": [item]}, "responses"), FACTS)
    assert prepared.input_bound == (len(prepared.body) if is_bounded else FACTS.context_window)


@pytest.mark.parametrize(
    ("answer", "finish"),
    [
        (response(), "answered"),
        (response(SAID, CALLED), "tool_call"),
        (response({"type": "custom_tool_call"}), "tool_call"),
        (response({"type": "web_search_call"}, SAID), "answered"),
        (response(REFUSED), "refused"),
        (response(status="incomplete", incomplete_details={"reason": "max_output_tokens"}), "truncated"),
        (response(status="incomplete", incomplete_details={"reason": "content_filter"}), "filtered"),
        (response(status="incomplete"), "truncated"),
    ],
)
async def test_every_way_to_finish_is_told_apart(reply_to, answer, finish):
    assert (await reply_to(answer)).finish == finish


@pytest.mark.parametrize(
    ("details", "counts"),
    [
        (None, (10, 5, 0, 0, 0)),
        ({"cached_tokens": 4, "cache_write_tokens": 3}, (3, 5, 4, 3, 0)),
        (
            {"cached_tokens": 4, "cache_write_tokens": 3, "cache_write_tokens_details": {"ttl_12h_tokens": 2}},
            (3, 5, 4, 3, 2),
        ),
    ],
)
async def test_usage_counts_are_disjoint(reply_to, details, counts):
    usage = {"input_tokens": 10, "output_tokens": 5, "input_tokens_details": details}
    used = (await reply_to(response(usage=usage))).usage
    kept = used.cache_write_1h_tokens
    assert (used.input_tokens, used.output_tokens, used.cache_read_tokens, used.cache_write_tokens, kept) == counts


async def test_searches_are_booked_as_told_and_at_their_most_when_not(reply_to):
    tools = {"tools": [{"type": "web_search"}, {"type": "file_search"}], "max_tool_calls": 4}
    told = await reply_to(response(tool_usage={"web_search": {"num_requests": 1}}), **tools)
    assert told.usage.fees == (("web_search", 1), ("file_search", 4))
    assert (await reply_to(response(), **tools)).usage.fees == (("web_search", 4), ("file_search", 4))


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("server_error", ProviderOverloadedError),
        ("rate_limit_exceeded", ProviderRateLimitError),
        ("invalid_prompt", ProviderRequestError),
        (None, ProviderOverloadedError),
    ],
)
@pytest.mark.parametrize("usage", [None, {"input_tokens": 10, "output_tokens": 0}])
async def test_a_failure_within_a_200_is_a_failure_and_only_without_a_usage_it_was_not_billed(
    reply_to, code, expected, usage
):
    failed = response(status="failed", error={"code": code, "message": f"not with {KEY}"}) | {"usage": usage}
    with pytest.raises(expected) as caught:
        await reply_to(failed)
    assert caught.value.own_body == (usage is None)
    assert KEY not in str(caught.value) + caught.value.body.decode()
    verdict = judge(caught.value, attempts=1, doubts=0, max_attempts=5)
    assert verdict.money == ("release" if usage is None else "unconfirmed")


@pytest.mark.parametrize("output", [None, [], "none"])
async def test_what_was_counted_without_output_is_paid_and_says_nothing(reply_to, output):
    reply = await reply_to(response() | {"output": output})
    assert (reply.usage.input_tokens, reply.usage.output_tokens, reply.finish) == (10, 5, "")


@pytest.mark.parametrize("status", ["queued", "in_progress", "cancelled"])
async def test_an_answer_that_is_still_to_come_is_none(reply_to, status):
    with pytest.raises(Exception, match="something else than was asked for"):
        await reply_to(response(status=status))
