"""The hold is a true worst case: no request within its bounds is ever billed more, by anybody's book.

Two judges: genai-prices bills random usages of every model it lists, by its own code; and the real adapters bound
realistic bodies and read random usages of them.
"""

import functools
import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from genai_prices import Usage, calc_price
from genai_prices.data_snapshot import get_snapshot
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Raw, structs
from tests.providers.adapter_contract import FACTS, KEY, chat, job

from farebox.errors import InputError
from farebox.money import nusd_from_usd
from farebox.records import decode_result, encode_job
from farebox_worker.attempts import endings, sending
from farebox_worker.attempts.attempt import UNPRICED
from farebox_worker.bus.claim import Claimed
from farebox_worker.prices.catalogue import Catalogue
from farebox_worker.prices.rates import PRETEND
from farebox_worker.prices.table import FREE, PriceTable, compile_price, fee_problem
from farebox_worker.providers import openai_usage
from farebox_worker.providers.anthropic import AnthropicProvider
from farebox_worker.providers.base import Facts, Fee, Reply, TokenUsage
from farebox_worker.providers.openai import OpenAIProvider
from farebox_worker.routes import Route
from farebox_worker.settings import ModelSettings, ProviderSettings, Settings

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
NOWHERE = "http://127.0.0.1:1/v1"  # an address no vendor has: the provider's id says whose prices hold
CONTEXTS = {
    "standard": None,
    "flex": {"service_tier": "flex"},
    "priority": {"service_tier": "priority"},
    "batch": {"processing": "batch"},
}


def every_price():
    """Every price of every vendor in the table, in every tier that has one."""
    for vendor in get_snapshot().providers:
        for model in vendor.models:
            for tier in CONTEXTS:
                if price := compile_price("openai", vendor.id, model.id, NOWHERE, tier, now=NOW):
                    yield vendor.id, model.id, tier, price


LISTED = list(every_price())
counts = st.one_of(st.integers(0, 3_000), st.integers(0, 3_000_000))


@st.composite
def usages(draw):
    """Any usage, its parts being parts of their wholes."""
    text_in, text_out, read, written = (draw(counts) for _ in range(4))
    return TokenUsage(
        text_in,
        text_out,
        read,
        written,
        cache_write_1h_tokens=draw(st.integers(0, written)),
        media_input_tokens=draw(st.integers(0, text_in)),
        media_output_tokens=draw(st.integers(0, text_out)),
        is_regional=draw(st.booleans()),
    )


def total_in(usage):
    return usage.input_tokens + usage.cache_read_tokens + usage.cache_write_tokens


def bill_nusd(vendor, model, tier, usage, *, reasoning=0, searches=0):
    """What genai-prices bills for a usage, by its own reading of its own table."""
    has = get_keys(vendor, model, tier)
    more = {}
    if "input_audio_mtok" in has:
        more["input_audio_tokens"] = usage.media_input_tokens
    if "output_audio_mtok" in has:
        more["output_audio_tokens"] = usage.media_output_tokens
    if "cache_write_1h_mtok" in has:
        more["cache_write_1h_tokens"] = usage.cache_write_1h_tokens
    if "cache_audio_read_mtok" in has:
        more["cache_audio_read_tokens"] = 0
    if "web_searches_kcount" in has:
        more["web_searches"] = searches
    billed = Usage(
        input_tokens=total_in(usage),
        output_tokens=usage.output_tokens,
        cache_read_tokens=usage.cache_read_tokens,
        cache_write_tokens=usage.cache_write_tokens,
        output_reasoning_tokens=min(reasoning, usage.output_tokens - usage.media_output_tokens),
        **more,
    )
    context = CONTEXTS[tier]
    price = calc_price(billed, model, provider_id=vendor, genai_request_timestamp=NOW, price_context=context)
    return nusd_from_usd(price.total_price)


def get_keys(vendor, model, tier):
    found = next(one for one in get_snapshot().providers if one.id == vendor).find_model(model)
    return {key for key, value in found.get_prices(NOW, CONTEXTS[tier]).__dict__.items() if value is not None}


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(LISTED), usages(), counts, counts, counts, st.integers(0, 5))
def test_no_bill_of_any_listed_model_passes_its_hold_nor_its_booking(
    listed, usage, spare_in, spare_out, thought, found
):
    vendor, model, tier, price = listed
    usage = structs.replace(usage, fees=(("web_search", found),))
    bill = bill_nusd(vendor, model, tier, usage, reasoning=thought, searches=found)
    booked = price.cost_nusd(usage)
    hold = price.worst_nusd(total_in(usage) + spare_in, usage.output_tokens + spare_out, [Fee("web_search", found)])
    assert bill <= booked <= hold


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([listed for listed in LISTED if listed[2] in {"standard", "priority"}]), usages())
def test_a_tier_that_was_not_to_be_had_costs_no_more_than_the_one_held_for(listed, usage):
    vendor, model, _, held = listed
    served = compile_price("openai", vendor, model, NOWHERE, "standard", now=NOW)
    assert served.cost_nusd(usage) <= held.worst_nusd(total_in(usage), usage.output_tokens)


def test_every_vendor_that_lists_tokens_and_every_kind_of_rate_is_among_the_judged():
    assert len(LISTED) > 1_900
    assert len({vendor for vendor, *_ in LISTED}) >= 35
    assert {tier for _, _, tier, _ in LISTED} == set(CONTEXTS)
    prices = [price for *_, price in LISTED]
    assert any(price.tiers for price in prices)
    assert any(price.media_input_pusd for price in prices)
    assert any(price.fees for price in prices)
    assert any(price.request_pusd for price in prices)
    assert any(price.regional_percent for price in prices)


# What a request can use at most, by the adapters themselves


def test_models_of_embeddings_are_priced_by_their_input_and_nothing_else_without_an_output_rate_is():
    priced = {model for _, model, tier, price in LISTED if tier == "standard" and not price.output_pusd}
    assert {"text-embedding-3-small", "voyage-3.5", "gemini-embedding-001"} <= priced
    assert compile_price("openai", "azure", "davinci", NOWHERE, now=NOW) is None
    assert compile_price("openai", "typesafe", "jev-1.14.0", NOWHERE, now=NOW) is None


@functools.cache
def openai_adapter():
    return OpenAIProvider("openai", api_key=KEY)


@functools.cache
def anthropic_adapter():
    return AnthropicProvider("anthropic", api_key=KEY)


words = st.text(max_size=200)


def prepared_of(body, api="chat", facts=FACTS):
    adapter = anthropic_adapter() if api == "messages" else openai_adapter()
    return adapter.prepare(job(body, api), facts)


@settings(max_examples=200, deadline=None)
@given(words, st.integers(1, 400), st.integers(1, 4), st.booleans(), st.data())
async def test_no_usage_an_openai_answer_can_tell_costs_more_than_its_hold(text, cap, n, is_long, data):
    facts = Facts("gpt-6.1-sol", 1_050_000, 128_000, 8_192)
    body = chat(text, max_completion_tokens=cap, n=n, tools=[{"type": "function", "function": {"name": "f"}}])
    adapter = openai_adapter()
    prepared = adapter.prepare(job(body | ({"prompt_cache_options": {"ttl": "12h"}} if is_long else {})), facts)
    prompt = data.draw(st.integers(0, prepared.input_bound))
    cached = data.draw(st.integers(0, prompt))
    written = data.draw(st.integers(0, prompt - cached))
    usage = {
        "prompt_tokens": prompt,
        "completion_tokens": data.draw(st.integers(0, prepared.output_bound)),
        "prompt_tokens_details": {
            "cached_tokens": cached,
            "cache_write_tokens": written,
            "audio_tokens": data.draw(st.integers(0, prompt)),
        },
    }
    read = openai_usage.read(Raw(json.dumps(usage).encode()), prepared)
    price = compile_price("openai", "openai", "gpt-6.1-sol", now=NOW)
    assert read.cache_write_1h_tokens == (read.cache_write_tokens if is_long else 0)
    assert price.cost_nusd(read) <= price.worst_nusd(prepared.input_bound, prepared.output_bound, prepared.fees)


@settings(max_examples=200, deadline=None)
@given(words, st.integers(16, 400), st.none() | st.integers(0, 5), st.booleans(), st.data())
async def test_no_usage_a_response_can_tell_costs_more_than_its_hold(text, cap, calls, is_long, data):
    tools = [{"type": "web_search"}] if calls is not None else [{"type": "function", "name": "f"}]
    body = {"input": text, "max_output_tokens": cap, "tools": tools, "max_tool_calls": calls}
    body |= {"prompt_cache_options": {"ttl": "12h"}} if is_long else {}
    prepared = prepared_of(body, "responses", Facts("gpt-6.1-sol", 1_050_000, 128_000, 8_192))
    prompt = data.draw(st.integers(0, prepared.input_bound))
    cached = data.draw(st.integers(0, prompt))
    usage = {
        "input_tokens": prompt,
        "input_tokens_details": {
            "cached_tokens": cached,
            "cache_write_tokens": data.draw(st.integers(0, prompt - cached)),
        },
        "output_tokens": data.draw(st.integers(0, prepared.output_bound)),
    }
    searches = data.draw(st.integers(0, calls)) if calls else 0
    read = openai_usage.read(Raw(json.dumps(usage).encode()), prepared, searches)
    price = compile_price("openai", "openai", "gpt-6.1-sol", now=NOW)
    assert total_in(read) == prompt
    assert read.cache_write_1h_tokens == (read.cache_write_tokens if is_long else 0)
    assert price.cost_nusd(read) <= price.worst_nusd(prepared.input_bound, prepared.output_bound, prepared.fees)


texts = words | st.lists(words, min_size=1, max_size=5)
tokens = st.lists(st.integers(0, 200_000), min_size=1, max_size=50)


def count_of(given):
    """The most tokens an input can be: its bytes, or its numbers."""
    if isinstance(given, str):
        return len(given.encode())
    return sum(1 if isinstance(one, int) else count_of(one) if isinstance(one, str) else len(one) for one in given)


@settings(max_examples=100, deadline=None)
@given(texts | tokens | st.lists(tokens, min_size=1, max_size=5), st.data())
async def test_no_usage_of_embeddings_costs_more_than_its_hold(given_input, data):
    prepared = prepared_of({"input": given_input}, "embeddings", Facts("text-embedding-3-small", 8_192, 8_192, 4_096))
    assert prepared.output_bound == 0
    assert prepared.input_bound >= count_of(given_input)
    used = data.draw(st.integers(0, prepared.input_bound))
    usage = {"prompt_tokens": used, "total_tokens": used}
    read = openai_usage.read(Raw(json.dumps(usage).encode()), prepared)
    price = compile_price("openai", "openai", "text-embedding-3-small", now=NOW)
    assert price.cost_nusd(read) == -(-used * 20_000 // 1_000)
    assert price.cost_nusd(read) <= price.worst_nusd(prepared.input_bound, prepared.output_bound, prepared.fees)


@settings(max_examples=200, deadline=None)
@given(words, st.integers(1, 400), st.integers(1, 4), st.booleans(), st.data())
async def test_no_usage_an_anthropic_answer_can_tell_costs_more_than_its_hold(text, cap, most, searches, data):
    facts = Facts("claude-haiku-5-5", 1_000_000, 128_000, 8_192)
    tools = [{"type": "web_search_20250305", "name": "web_search", "max_uses": most}] if searches else []
    adapter = anthropic_adapter()
    prepared = adapter.prepare(job(chat(text, max_tokens=cap, tools=tools), "messages"), facts)
    left = prepared.input_bound
    parts = []
    for _ in range(3):
        parts.append(data.draw(st.integers(0, left)))
        left -= parts[-1]
    usage = {
        "input_tokens": left,
        "cache_read_input_tokens": parts[0],
        "cache_creation_input_tokens": parts[1] + parts[2],
        "cache_creation": {"ephemeral_5m_input_tokens": parts[1], "ephemeral_1h_input_tokens": parts[2]},
        "output_tokens": data.draw(st.integers(0, prepared.output_bound)),
        "server_tool_use": {"web_search_requests": data.draw(st.integers(0, most))} if searches else None,
        "inference_geo": data.draw(st.sampled_from(["us", "global", None])),
    }
    read, _ = adapter._usage(Raw(json.dumps(usage).encode()), prepared)
    price = compile_price("anthropic", "anthropic", "claude-haiku-5-5", now=NOW)
    assert total_in(read) == prepared.input_bound
    assert price.cost_nusd(read) <= price.worst_nusd(prepared.input_bound, prepared.output_bound, prepared.fees)


async def test_the_long_context_step_is_chosen_by_the_bound_not_by_a_guess():
    facts = Facts("gpt-6.1-sol", 1_050_000, 128_000, 8_192)
    price = compile_price("openai", "openai", "gpt-6.1-sol", now=NOW)
    short, long = (prepared_of(chat("x" * size, max_completion_tokens=1), facts=facts) for size in (200_000, 300_000))
    assert price.worst_nusd(short.input_bound, 1) == short.input_bound * 5_000 + 10_000  # 12 h writes, $5
    assert price.worst_nusd(long.input_bound, 1) == long.input_bound * 10_000 + 15_000  # twice that above the step


async def test_reasoning_is_within_the_cap_and_every_choice_has_its_own():
    thinking = {"type": "enabled", "budget_tokens": 1_024}
    assert prepared_of(chat(max_tokens=900, reasoning_effort="high", n=3)).output_bound == 2_700
    assert prepared_of(chat(max_tokens=900, thinking=thinking), "messages").output_bound == 900


RESPONSE_TOOLS = [
    ({"tools": [{"type": "function", "name": "f"}]}, 0, ()),
    ({"tools": [{"type": "namespace", "name": "n", "tools": []}]}, 0, ()),
    ({"tools": [{"type": "computer"}]}, 1, ()),
    ({"tools": [{"type": "shell", "environment": {"type": "local"}}]}, 1, ()),
    ({"tools": [{"type": "web_search"}], "max_tool_calls": 3}, 5, (Fee("web_search", 3),)),
    ({"tools": [{"type": "web_search_2025_08_26"}]}, 10, (Fee("web_search", None),)),
    ({"tools": [{"type": "web_search_preview"}], "max_tool_calls": 1}, 3, (Fee("web_search_preview", 1),)),
    ({"tools": [{"type": "file_search", "vector_store_ids": ["v"]}], "max_tool_calls": 2}, 4, (Fee("file_search", 2),)),
    ({"tools": [{"type": "code_interpreter", "container": {"type": "auto"}}], "max_tool_calls": 2}, 4,
     (Fee("code_interpreter", 1),)),
    ({"tools": [{"type": "shell", "environment": {"type": "container_auto"}}]}, 10, (Fee("shell", 1),)),
    ({"tools": [{"type": "image_generation"}], "max_tool_calls": 1}, 3, (Fee("image_generation", 1),)),
    ({"tools": [{"type": "mcp", "server_label": "m"}]}, 10, (Fee("mcp", None),)),
    ({"tools": [{"type": "of_tomorrow"}]}, 10, (Fee("of_tomorrow", None),)),
    ({"prompt": {"id": "p"}}, 10, (Fee("prompt", None),)),
    ({"prompt": {"id": "p"}, "tools": []}, 1, ()),
    ({"context_management": [{"type": "compaction"}]}, 10, ()),
    ({"input": [{"type": "additional_tools", "role": "developer", "tools": []}]}, 10, (Fee("additional_tools", None),)),
    ({"input": [{"type": "tool_search_output", "tools": []}], "tools": []}, 10, (Fee("tool_search_output", None),)),
    ({"input": [{"role": "user", "content": "x"}, {"type": "compaction_trigger"}]}, 10, ()),
    ({"previous_response_id": "r"}, 1, ()),
    ({"conversation": "c"}, 1, ()),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "rounds", "fees"), RESPONSE_TOOLS)
async def test_what_a_response_lets_the_server_do_is_held_for_every_round_and_every_fee(fields, rounds, fees):
    prepared = prepared_of({"input": "x", "max_output_tokens": 100, **fields}, "responses")
    expected = FACTS.context_window * rounds if rounds else len(prepared.body) + 1_024
    assert (prepared.input_bound, prepared.output_bound) == (expected, 100 * max(1, rounds))
    assert prepared.fees == fees


PIXELS = "data:image/png;base64," + "A" * 50_000
PICTURES = {
    "responses": [{"type": "input_text", "text": "What is this?"}, {"type": "input_image", "image_url": PIXELS}],
    "chat": [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": PIXELS}}],
    "messages": [
        {"type": "text", "text": "What is this?"},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "A" * 50_000}},
    ],
}


def said_in(api):
    return (lambda content: {"input": [{"role": "user", "content": content}]}) if api == "responses" else chat


@pytest.mark.parametrize("api", PICTURES)
async def test_an_image_counts_its_models_maximum_and_not_its_bytes(api):
    known = replace(FACTS, image_tokens=1_500)
    one, two = PICTURES[api], [*PICTURES[api], PICTURES[api][1]]
    said = said_in(api)
    bounds = [prepared_of(said(content), api, known).input_bound for content in (one, two)]
    assert 1_500 < bounds[0] < 2_500
    assert 1_500 <= bounds[1] - bounds[0] < 1_600
    assert prepared_of(said(one), api).input_bound == FACTS.context_window  # no maximum is known


async def test_an_image_in_a_tool_result_counts_too():
    result = {"type": "tool_result", "tool_use_id": "1", "content": [PICTURES["messages"][1]]}
    bound = prepared_of(chat([result]), "messages", replace(FACTS, image_tokens=1_500)).input_bound
    assert 1_500 < bound < 2_500


@pytest.mark.parametrize(
    ("api", "part"),
    [
        ("chat", {"type": "file", "file": {"file_id": "file-1"}}),
        ("messages", {"type": "document", "source": {"type": "file", "file_id": "file_1"}}),
        ("messages", {"type": "container_upload", "file_id": "file_1"}),
        ("responses", {"type": "input_file", "file_id": "file-1"}),
        ("responses", {"type": "input_image", "image_url": "https://x", "detail": "original"}),
    ],
)
async def test_a_file_by_reference_is_bounded_by_the_context_window_or_refused(api, part):
    body = said_in(api)([part])
    assert prepared_of(body, api, replace(FACTS, image_tokens=9)).input_bound == FACTS.context_window
    with pytest.raises(InputError, match="context_window"):
        prepared_of(body, api, replace(FACTS, context_window=0))


def catalogue(models=None, **providers):
    known = {
        "openai": ProviderSettings(kind="openai"),
        "anthropic": ProviderSettings(kind="anthropic"),
        "groq": ProviderSettings(kind="openai", base_url="https://api.groq.com/openai/v1"),
    }
    chosen = Settings(providers=known | providers, models=models or {})
    return Catalogue(chosen, PriceTable(chosen, now=lambda: NOW))


def test_image_maxima_are_data_that_can_be_overridden():
    assert catalogue().resolve("anthropic:claude-haiku-4-5").facts.image_tokens == 1_700
    assert catalogue().resolve("openai:gpt-6.1-sol").facts.image_tokens == 0  # its images have no known maximum
    stated = {"openai:gpt-6.1-sol": ModelSettings(image_tokens=20_000)}
    assert catalogue(stated).resolve("openai:gpt-6.1-sol").facts.image_tokens == 20_000


def test_a_guessed_context_window_bounds_no_money():
    stated = {"mine:m": ModelSettings(input_usd_per_mtok=1.0, output_usd_per_mtok=2.0)}
    mine = ProviderSettings(kind="openai", base_url=NOWHERE)
    assert catalogue(stated, mine=mine).resolve("mine:m").facts.context_window == 0
    assert catalogue(mine=ProviderSettings(kind="openai", base_url=NOWHERE, free=True)).resolve(
        "mine:m"
    ).facts == Facts("m", 128_000, 128_000, 8_192)


# Rounds and fees of tools that the server runs

SEARCH = {"type": "web_search_20250305", "name": "web_search"}


@pytest.mark.parametrize(
    ("fields", "rounds", "fees"),
    [
        ({"tools": [SEARCH | {"max_uses": 2}]}, 3, (Fee("web_search", 2),)),
        ({"tools": [SEARCH]}, 10, (Fee("web_search", None),)),
        ({"tools": [SEARCH | {"max_uses": 50}]}, 10, (Fee("web_search", 50),)),
        ({"tools": [{"type": "web_search_20260209", "name": "w", "max_uses": 1}]}, 10, (Fee("web_search", 1),)),
        ({"tools": [{"type": "web_fetch_20250910", "name": "web_fetch", "max_uses": 1}]}, 2, ()),
        ({"tools": [{"type": "code_execution_20260120", "name": "c"}]}, 10, (Fee("code_execution", 1),)),
        ({"container": "container_1"}, 10, (Fee("code_execution", 1),)),
        ({"mcp_servers": [{"type": "url", "url": "https://x", "name": "x"}]}, 10, ()),
        ({"tools": [{"type": "advisor_20260301", "name": "a"}]}, 10, (Fee("advisor", None),)),
        ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, 1, ()),
        ({"tools": [{"name": "f", "input_schema": {}}]}, 0, ()),
    ],
)
async def test_a_tool_that_anthropic_runs_is_held_for_every_round_and_every_fee(fields, rounds, fees):
    prepared = prepared_of(chat(max_tokens=100, **fields), "messages")
    expected = FACTS.context_window * rounds if rounds else len(prepared.body) + 1_024
    assert (prepared.input_bound, prepared.output_bound) == (expected, 100 * max(1, rounds))
    assert prepared.fees == fees


@pytest.mark.parametrize(
    ("model", "fields", "fees"),
    [
        ("gpt-5", {"web_search_options": {}, "n": 2}, (Fee("web_search", 2),)),
        ("gpt-4o-search-preview", {}, (Fee("web_search", 1),)),
        ("gpt-5", {"tools": [{"type": "browser_search"}]}, (Fee("browser_search", None),)),
        ("gpt-5", {"tools": [{"type": "function", "function": {"name": "f"}}]}, ()),
        ("gpt-5", {"plugins": [{"id": "web"}]}, ()),  # the vendor knows no such field
        ("gpt-5", {}, ()),
    ],
)
async def test_what_openai_charges_by_the_call_is_named(model, fields, fees):
    assert prepared_of(chat(**fields), facts=replace(FACTS, model_id=model)).fees == fees


@pytest.mark.parametrize("field", ["plugins", "models", "search_parameters", "enable_search"])
async def test_fields_by_which_other_servers_spend_are_fees_without_a_bound(field):
    adapter = OpenAIProvider("openrouter", api_key=KEY, base_url="https://openrouter.ai/api/v1")
    prepared = adapter.prepare(job(chat(**{field: ["x"]})), FACTS)
    assert prepared.fees == (Fee(field, None),)
    assert prepared.input_bound == FACTS.context_window
    await adapter.aclose()


def attempt_of(ref, body, api, models=None):
    """Prepare a job as the worker does; its hold is what `admit` judges (-1: refused where a limit applies)."""
    entry = catalogue(models).resolve(ref)
    provider = openai_adapter() if entry.provider_id == "openai" else anthropic_adapter()
    if entry.provider_id == "groq":
        provider = OpenAIProvider("groq", api_key=KEY, base_url="https://api.groq.com/openai/v1")
    payload = encode_job(structs.replace(job(body, api), model_ref=ref), 1)
    claimed = Claimed("id", f"flow:5:b:{ref}", "t" * 16, "1", 0, 0, 0, payload)
    return sending.prepare(claimed, "b", Route(ref, entry, provider), deadline=1e9)


async def test_a_fee_that_nobody_states_makes_the_hold_refusable_and_a_stated_one_is_held():
    body = chat(max_tokens=10, tools=[{"type": "browser_search"}])
    ref = "groq:llama-3.3-70b-versatile"
    unstated = {ref: ModelSettings(context_window=131_072)}
    assert attempt_of(ref, body, "chat", unstated).hold_nusd == UNPRICED
    for usd in (0.0, 0.01):
        stated = {ref: ModelSettings(context_window=131_072, fees_usd_per_call={"browser_search": usd})}
        held = attempt_of(ref, body, "chat", stated).hold_nusd
        assert (held == UNPRICED) == (usd > 0)  # nobody says how often; at no charge that does not matter
    once = chat(max_tokens=10, tools=[{"type": "browser_search", "max_uses": 3}])
    dear, free = (
        attempt_of(
            ref, once, "chat", {ref: ModelSettings(context_window=131_072, fees_usd_per_call={"browser_search": usd})}
        ).hold_nusd
        for usd in (0.01, 0.0)
    )
    assert dear - free == 30_000_000


async def test_listed_searches_are_held_at_their_most_and_booked_as_told():
    body = chat(max_tokens=10, tools=[SEARCH | {"max_uses": 3}])
    made = attempt_of("anthropic:claude-haiku-4-5", body, "messages")
    price = made.route.entry.price
    bare = price.worst_nusd(made.prepared.input_bound, made.prepared.output_bound)
    assert made.hold_nusd - bare == 30_000_000
    usage = {"input_tokens": 0, "output_tokens": 0, "server_tool_use": {"web_search_requests": 2}}
    read, _ = anthropic_adapter()._usage(Raw(json.dumps(usage).encode()), made.prepared)
    assert price.cost_nusd(read) == 20_000_000
    assert attempt_of("anthropic:claude-haiku-4-5", chat(tools=[SEARCH]), "messages").hold_nusd == UNPRICED


async def test_without_a_limit_an_unstated_fee_is_counted_as_unpriced_beside_the_tokens_booked():
    ref = "groq:llama-3.3-70b-versatile"
    body = chat(max_tokens=10, tools=[{"type": "browser_search"}])
    made = attempt_of(ref, body, "chat", {ref: ModelSettings(context_window=131_072)})
    usage = TokenUsage(1_000, 10, fees=(("browser_search", 0),))
    settled = endings.answered(made, Reply(200, "r", b"{}", b"{}", usage, "answered"), 0.0)
    assert (settled.money, settled.amount_nusd) == ("unpriced", made.route.entry.price.cost_nusd(usage))
    silent = endings.answered(made, Reply(200, "r", b"{}", b"{}", None, "answered"), 0.0)
    assert (silent.money, silent.amount_nusd) == ("unpriced", 0)


def stored(settlement):
    return decode_result(settlement.result).r


async def test_an_answer_whose_usage_nobody_could_read_costs_its_hold_and_says_so():
    made = attempt_of("openai:gpt-5-mini", chat(max_tokens=10), "chat")
    silent = endings.answered(made, Reply(200, "r", b"{}", b"{}", None, "answered"), 0.0)
    assert (silent.money, silent.amount_nusd) == ("actual", made.hold_nusd)
    assert "no usage that can be read came with it: booked at its hold" in stored(silent).note
    told = endings.answered(made, Reply(200, "r", b"{}", b"{}", TokenUsage(1, 1), "answered"), 0.0)
    assert stored(told).note == ""


async def test_what_was_counted_and_says_nothing_is_booked_once_and_not_called_answered():
    made = attempt_of("openai:gpt-5-mini", chat(max_tokens=10), "chat")
    usage = TokenUsage(10, 5)
    settled = endings.answered(made, Reply(200, "r", b"{}", b"{}", usage, ""), 0.0)
    assert (settled.action, settled.money) == ("finish", "actual")
    assert settled.amount_nusd == made.route.entry.price.cost_nusd(usage)
    assert settled.outcome.startswith("succeeded empty")
    assert (stored(settled).finish, "nothing that can be read" in stored(settled).note) == ("", True)


def test_the_refusal_names_the_fee_the_key_and_the_model():
    said = fee_problem("groq:m", "browser_search")
    assert "browser_search" in said
    assert "fees_usd_per_call" in said
    assert '[models."groq:m"]' in said


@pytest.mark.parametrize("price", [FREE, PRETEND])
def test_what_is_free_charges_no_fee(price):
    assert price.unstated_fee([Fee("anything", None)]) == ""
