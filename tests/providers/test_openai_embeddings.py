"""OpenAI's embeddings over real HTTP: what is sent, and what is made of answers."""

import json
from dataclasses import replace

import pytest
from tests.providers.adapter_contract import FACTS, KEY, FateContract, job, script
from tests.providers.openai_adapters import adapter, unreachable, vendor

from farebox.errors import InputError
from farebox_worker.providers.anthropic import AnthropicProvider

__all__ = ["adapter", "script", "unreachable", "vendor"]


def vectors(usage=None, count=1):
    data = [{"object": "embedding", "index": at, "embedding": [0.5, -0.5]} for at in range(count)]
    return {"object": "list", "data": data, "model": "m-1", "usage": usage or {"prompt_tokens": 8, "total_tokens": 8}}


class TestFate(FateContract):
    api = "embeddings"
    body = {"input": "Hello"}  # noqa: RUF012 - read only


async def test_vectors_come_back_as_they_were_sent_with_their_usage(adapter, script):
    script.says(200, vectors(count=2))
    prepared = adapter.prepare(job({"input": ["a", "b"]}, "embeddings"), FACTS)
    reply = await adapter.post(prepared, timeout_s=5)
    assert json.loads(reply.body) == vectors(count=2)
    assert (reply.usage.input_tokens, reply.usage.output_tokens, reply.finish) == (8, 0, "answered")
    assert script.requests[0][:2] == ("POST", "/v1/embeddings")


@pytest.mark.parametrize(
    ("usage", "tokens"), [({"prompt_tokens": 8}, 8), ({"total_tokens": 9}, 9), ({"prompt_tokens": 7, "x": None}, 7)]
)
async def test_whichever_count_a_server_tells_is_read(adapter, script, usage, tokens):
    script.says(200, vectors(usage))
    reply = await adapter.post(adapter.prepare(job({"input": "a"}, "embeddings"), FACTS), timeout_s=5)
    assert (reply.usage.input_tokens, reply.usage.output_tokens) == (tokens, 0)


@pytest.mark.parametrize("data", [None, [], "none"])
async def test_what_was_counted_without_vectors_is_paid_and_says_nothing(adapter, script, data):
    script.says(200, {"object": "list", "data": data, "usage": {"prompt_tokens": 8.0, "total_tokens": 8.0}})
    reply = await adapter.post(adapter.prepare(job({"input": "a"}, "embeddings"), FACTS), timeout_s=5)
    assert (reply.usage.input_tokens, reply.usage.output_tokens, reply.finish) == (8, 0, "")


async def test_nothing_is_added_but_the_model(vendor):
    body = {"input": ["a", "b"], "dimensions": 256, "encoding_format": "base64"}
    prepared = vendor.prepare(job(body, "embeddings", max_tokens=9), FACTS)
    assert json.loads(prepared.body) == body | {"model": "m-1"}
    assert (prepared.output_bound, prepared.capped_by_default, prepared.fees) == (0, False, ())


@pytest.mark.parametrize("given", ["é" * 9, ["a", "bc"], [1, 2, 3], [[1, 2], [3]]])
async def test_bytes_bound_texts_and_tokens(vendor, adapter, given):
    body = {"input": given}
    assert vendor.prepare(job(body, "embeddings"), FACTS).input_bound == len(
        vendor.prepare(job(body, "embeddings"), FACTS).body
    )
    assert adapter.prepare(job(body, "embeddings"), FACTS).input_bound > len(json.dumps(given, ensure_ascii=False))


async def test_other_input_than_text_is_bounded_by_the_context_window(adapter):
    body = {"input": [{"image": "https://x"}, {"text": "x"}]}
    assert adapter.prepare(job(body, "embeddings"), FACTS).input_bound == 2 * FACTS.context_window
    with pytest.raises(InputError, match="context_window"):
        adapter.prepare(job(body, "embeddings"), replace(FACTS, context_window=0))


@pytest.mark.parametrize(
    "body", [{}, {"input": None}, {"input": []}, {"input": {}}, {"input": 7}, {"input": [None]}, b"[1]", b"{"]
)
async def test_a_body_that_is_wrong_is_refused_before_it_is_sent(adapter, body):
    with pytest.raises(InputError):
        adapter.prepare(job(body, "embeddings"), FACTS)


async def test_there_is_no_flex_tier(vendor):
    with pytest.raises(InputError, match="flex"):
        vendor.prepare(job({"input": "a"}, "embeddings", tier="flex"), FACTS)


@pytest.mark.parametrize("api", ["responses", "embeddings"])
async def test_a_provider_of_messages_refuses_what_it_has_no_words_for(api):
    made = AnthropicProvider("anthropic", api_key=KEY)
    with pytest.raises(InputError, match=f"anthropic has no /v1/{api}.* OpenAI-compatible"):
        made.prepare(job({"input": "a"}, api), FACTS)
    await made.aclose()
