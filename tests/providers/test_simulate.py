"""The judge is judged: official clients read its answers, and its bill is what they can add up themselves."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import asynccontextmanager
from dataclasses import fields
from decimal import Decimal
from pathlib import Path

import aiohttp
import anthropic
import openai
import pytest
from click.testing import CliRunner

from farebox_worker.simulate import Options, Simulator
from farebox_worker.simulate.command import HELP, command
from farebox_worker.simulate.limits import Gate, Refused

TOOL_SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}
OPENAI_TOOL = {"type": "function", "function": {"name": "weather", "parameters": TOOL_SCHEMA}}
ANTHROPIC_TOOL = {"name": "weather", "input_schema": TOOL_SCHEMA}


@asynccontextmanager
async def rehearsal(key="sk-test", **options):
    """A simulator with a client of each vendor that does not retry."""
    async with (
        Simulator(Options(**options)) as simulator,
        openai.AsyncOpenAI(api_key=key, base_url=f"{simulator.url}/v1", max_retries=0, timeout=5) as by_openai,
        anthropic.AsyncAnthropic(api_key=key, base_url=simulator.url, max_retries=0, timeout=5) as by_anthropic,
    ):
        yield simulator, by_openai, by_anthropic


def user(text="Say something."):
    return [{"role": "user", "content": text}]


def chat(client, text="Say something.", **more):
    return client.chat.completions.create(model="sim-1", messages=user(text), **more)


def message(client, text="Say something.", **more):
    return client.messages.create(**{"model": "sim-1", "max_tokens": 1000, "messages": user(text), **more})


async def test_openai_client_reads_a_typed_answer():
    async with rehearsal(output_tokens=(30, 30)) as (_, client, _a):
        raw = await client.chat.completions.with_raw_response.create(model="sim-1", messages=user("é" * 10))
        answer = raw.parse()
    assert answer.object == "chat.completion"
    assert answer.model == "sim-1"
    assert answer.choices[0].finish_reason == "stop"
    assert len(answer.choices[0].message.content.split()) == 30
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (9, 30, 39)
    assert answer.usage.prompt_tokens_details.cached_tokens == 0
    assert answer.service_tier is None
    assert answer._request_id == raw.headers["x-request-id"]
    assert raw.headers["x-ratelimit-remaining-requests"] == "29999999"


async def test_anthropic_client_reads_a_typed_answer():
    async with rehearsal(output_tokens=(30, 30)) as (_, _o, client):
        answer = await message(client, "x" * 20, system=[{"type": "text", "text": "y" * 20}])
    assert answer.type == "message"
    assert answer.stop_reason == "end_turn"
    assert len(answer.content[0].text.split()) == 30
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (10 + 8, 30)
    assert answer.usage.cache_read_input_tokens == 0
    assert answer._request_id


async def test_openai_stream_says_and_counts_what_the_whole_answer_does():
    async with rehearsal() as (simulator, client, _):
        whole = await chat(client)
        stream = await chat(client, stream=True, stream_options={"include_usage": True})
        chunks = [chunk async for chunk in stream]
        streamed = simulator.bill()["output_tokens"] - whole.usage.completion_tokens
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[-1].usage.completion_tokens == len(text.split()) == streamed
    assert all(chunk.usage is None for chunk in chunks[:-1])


async def test_openai_stream_has_no_usage_unless_asked():
    async with rehearsal() as (_, client, _a):
        assert [chunk async for chunk in await chat(client, stream=True) if chunk.usage] == []


async def test_anthropic_stream_is_put_together_by_the_client():
    async with rehearsal(output_tokens=(50, 50)) as (simulator, _, client):
        async with client.messages.stream(model="sim-1", max_tokens=40, messages=user()) as stream:
            final = await stream.get_final_message()
        assert final.stop_reason == "max_tokens"
        assert len(final.content[0].text.split()) == final.usage.output_tokens == 40
        assert simulator.bill()["output_tokens"] == 40


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/chat/completions"])
async def test_chat_is_found_with_and_without_the_version(path):
    async with Simulator() as simulator, aiohttp.ClientSession() as session:
        body = {"model": "sim-1", "messages": user()}
        async with session.post(simulator.url + path, json=body) as answer:
            assert answer.status == 200
            assert len(answer.headers) >= 10


async def test_a_wrong_key_is_the_clients_authentication_error():
    async with rehearsal(key="sk-wrong", api_key="sk-right") as (simulator, by_openai, by_anthropic):
        with pytest.raises(openai.AuthenticationError) as refused:
            await chat(by_openai)
        assert refused.value.code == "invalid_api_key"
        with pytest.raises(anthropic.AuthenticationError) as refused:
            await message(by_anthropic)
        assert refused.value.type == "authentication_error"
        with pytest.raises(openai.AuthenticationError):
            await by_openai.models.list()
    assert simulator.bill()["billed_calls"] == 0
    assert simulator.bill()["faults"] == {"unauthorized": 2}


async def test_an_unknown_model_is_not_found():
    async with rehearsal() as (simulator, by_openai, by_anthropic):
        with pytest.raises(openai.NotFoundError) as refused:
            await by_openai.chat.completions.create(model="sim-2", messages=user())
        assert refused.value.code == "model_not_found"
        with pytest.raises(anthropic.NotFoundError):
            await message(by_anthropic, model="sim-2")
    assert simulator.bill()["faults"] == {"unknown_model": 2}


async def test_a_star_accepts_every_model():
    async with rehearsal(models=("*",)) as (simulator, by_openai, _):
        answer = await by_openai.chat.completions.create(model='any "thing"', messages=user())
    assert answer.model == 'any "thing"'
    assert simulator.bill()["by_model"]['any "thing"']["billed_calls"] == 1


async def test_models_are_listed_in_each_vendors_shape():
    async with rehearsal(models=("a", "b")) as (_, by_openai, by_anthropic):
        assert [model.id async for model in by_openai.models.list()] == ["a", "b"]
        listed = [model async for model in by_anthropic.models.list()]
        assert [model.id for model in listed] == ["a", "b"]
        assert listed[0].max_tokens == 64000
        assert (await by_anthropic.models.retrieve("b")).display_name == "b"


@pytest.mark.parametrize(
    "body",
    [b"{", b"{}", b'{"model":"sim-1","messages":[]}', b'{"model":"sim-1","messages":[{"role":"user"}],"max_tokens":0}'],
)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
async def test_a_request_that_is_none_is_refused_unbilled(path, body):
    async with Simulator() as simulator, aiohttp.ClientSession() as session:
        async with session.post(simulator.url + path, data=body) as answer:
            assert answer.status == 400
            assert (await answer.json())["error"]["type"] == "invalid_request_error"
        assert simulator.bill()["billed_calls"] == 0


async def test_both_caps_at_once_are_refused():
    async with rehearsal() as (_, client, _a):
        with pytest.raises(openai.BadRequestError, match="same time"):
            await chat(client, max_tokens=5, max_completion_tokens=5)


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
async def test_the_cap_holds_for_each_choice(field):
    async with rehearsal(output_tokens=(50, 60)) as (_, client, _a):
        answer = await chat(client, n=3, **{field: 7})
    assert [choice.finish_reason for choice in answer.choices] == ["length"] * 3
    assert [len(choice.message.content.split()) for choice in answer.choices] == [7, 7, 7]
    assert answer.usage.completion_tokens == 21


async def test_output_tokens_fill_their_range_and_never_leave_it():
    async with rehearsal(output_tokens=(3, 6)) as (_, client, _a):
        seen = {(await chat(client, f"Question {number}")).usage.completion_tokens for number in range(60)}
    assert seen == {3, 4, 5, 6}


async def test_long_answers_have_every_word_they_are_billed_for():
    async with rehearsal(output_tokens=(20_000, 20_000)) as (_, client, _a):
        answer = await chat(client)
    assert len(answer.choices[0].message.content.split()) == 20_000


async def test_the_bill_is_what_the_clients_can_add_up():
    async with rehearsal(input_usd_per_mtok=0.35, output_usd_per_mtok=1.4, share_429=0.2) as (simulator, oa, an):
        calls = [chat(oa, f"Question {number}", n=1 + number % 3) for number in range(40)]
        calls += [message(an, f"Question {number}") for number in range(40)]
        answers = await asyncio.gather(*calls, return_exceptions=True)
    usages = [answer.usage for answer in answers if not isinstance(answer, Exception)]
    taken = sum(getattr(usage, "prompt_tokens", None) or usage.input_tokens for usage in usages)
    given = sum(getattr(usage, "completion_tokens", None) or usage.output_tokens for usage in usages)
    bill = simulator.bill()
    assert 0 < bill["faults"]["429"] == 80 - len(usages)
    assert (bill["calls"], bill["billed_calls"]) == (80, len(usages))
    assert (bill["input_tokens"], bill["output_tokens"]) == (taken, given)
    assert Decimal(bill["cost_usd"]) == (taken * Decimal("0.35") + given * Decimal("1.4")) / 10**6
    assert bill["by_model"]["sim-1"]["cost_nusd"] == bill["by_key"]["sk-test"]["cost_nusd"] == bill["cost_nusd"]


async def test_each_call_is_rounded_up_to_the_nano_dollar():
    async with rehearsal(input_usd_per_mtok=0.0001, output_usd_per_mtok=0, output_tokens=(1, 1)) as (simulator, oa, _):
        for _number in range(2):
            await chat(oa, "x" * 24)  # 10 tokens of 100 pico-dollars each
        await chat(oa, "x" * 28)
    assert simulator.bill()["cost_usd"] == "0.000000003100"
    assert simulator.bill()["cost_nusd"] == 4


async def test_a_fixed_price_overrides_the_tokens():
    async with rehearsal(cost_usd=0.02) as (simulator, oa, _):
        await chat(oa)
        await chat(oa)
    assert Decimal(simulator.bill()["cost_usd"]) == Decimal("0.04")


async def test_long_keys_are_not_shown_on_the_bill():
    async with rehearsal(key="sk-proj-this-is-a-real-secret-1234") as (simulator, oa, _):
        await chat(oa)
    assert list(simulator.bill()["by_key"]) == ["sk-…1234"]


@pytest.mark.parametrize(
    ("share", "by_openai", "by_anthropic", "word"),
    [
        ("share_429", openai.RateLimitError, anthropic.RateLimitError, "429"),
        ("share_500", openai.InternalServerError, anthropic.InternalServerError, "500"),
        ("share_overloaded", openai.InternalServerError, anthropic._exceptions.OverloadedError, "overloaded"),
    ],
)
async def test_errors_in_the_vendors_own_words_are_not_billed(share, by_openai, by_anthropic, word):
    async with rehearsal(**{share: 1.0}) as (simulator, oa, an):
        with pytest.raises(by_openai) as refused:
            await chat(oa)
        assert refused.value.body["message"]
        with pytest.raises(by_anthropic) as refused:
            await message(an)
        assert refused.value.body["type"] == "error"
    assert (simulator.bill()["billed_calls"], simulator.bill()["cost_nusd"]) == (0, 0)
    assert simulator.bill()["faults"] == {word: 2}


async def test_dropped_calls_are_billed_and_disconnected_at_once():
    async with rehearsal(share_dropped=1.0) as (simulator, oa, an), aiohttp.ClientSession() as session:
        with pytest.raises(openai.APIConnectionError):
            await chat(oa)
        with pytest.raises(anthropic.APIConnectionError):
            await message(an)
        body = {"model": "sim-1", "messages": user()}
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await asyncio.wait_for(session.post(f"{simulator.url}/v1/chat/completions", json=body), 3)
    assert simulator.bill()["billed_calls"] == 3
    assert simulator.bill()["cost_nusd"] > 0
    assert simulator.bill()["faults"] == {"dropped": 3}


async def test_hung_calls_are_billed_and_leave_with_their_client():
    async with rehearsal(share_hung=1.0, concurrency=1) as (simulator, oa, _):
        for _number in range(2):
            with pytest.raises(openai.APITimeoutError):
                await chat(oa.with_options(timeout=0.2))
            await until(lambda: simulator._in_flight == 0)
    assert simulator.bill()["billed_calls"] == 2
    assert simulator.bill()["faults"] == {"hung": 2}


async def until(happened):
    for _ in range(300):
        if happened():
            return
        await asyncio.sleep(0.01)
    pytest.fail("it did not happen within three seconds")


async def test_a_call_hanging_when_the_simulator_stops_ends():
    async with rehearsal(share_hung=1.0) as (simulator, oa, _):
        call = asyncio.create_task(chat(oa))
        await until(lambda: simulator.bill()["billed_calls"] == 1)
        await simulator.__aexit__()
        with pytest.raises(openai.APIConnectionError):
            await asyncio.wait_for(call, 3)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
async def test_malformed_answers_are_billed_and_no_json(path):
    async with Simulator(Options(share_malformed=1.0)) as simulator, aiohttp.ClientSession() as session:
        body = {"model": "sim-1", "messages": user(), "max_tokens": 50}
        async with session.post(simulator.url + path, json=body) as answer:
            assert answer.status == 200
            text = await answer.text()
        assert text.startswith('{"id":')
        with pytest.raises(json.JSONDecodeError):
            json.loads(text)
        async with session.post(simulator.url + path, json=body | {"stream": True}) as answer:
            events = await answer.text()
        assert "data: {" in events
        assert "[DONE]" not in events
        assert "message_stop" not in events
        assert simulator.bill()["billed_calls"] == 2


async def test_refusals_and_filters_are_billed_answers():
    async with rehearsal(share_refused=1.0) as (refusing, oa, an):
        choice = (await chat(oa)).choices[0]
        assert (choice.finish_reason, choice.message.content) == ("stop", None)
        assert choice.message.refusal.startswith("I'm sorry")
        answer = await message(an)
        assert (answer.stop_reason, answer.stop_details.type) == ("refusal", "refusal")
    async with rehearsal(share_filtered=1.0) as (filtering, oa, an):
        assert (await chat(oa)).choices[0].finish_reason == "content_filter"
        assert (await message(an)).stop_details.category == "general_harms"
    assert refusing.bill()["faults"] == {"refused": 2}
    assert filtering.bill()["billed_calls"] == 2


async def test_the_first_tool_is_called_with_arguments_that_fit():
    async with rehearsal(share_tool_call=1.0) as (simulator, oa, an):
        choice = (await chat(oa, tools=[OPENAI_TOOL])).choices[0]
        assert choice.finish_reason == "tool_calls"
        called = choice.message.tool_calls[0].function
        assert (called.name, json.loads(called.arguments)) == ("weather", {"city": "lorem", "days": 1})
        answer = await message(an, tools=[ANTHROPIC_TOOL])
        assert (answer.stop_reason, answer.content[0].input) == ("tool_use", {"city": "lorem", "days": 1})
        async with an.messages.stream(model="sim-1", max_tokens=500, messages=user(), tools=[ANTHROPIC_TOOL]) as stream:
            assert (await stream.get_final_message()).content[0].input == {"city": "lorem", "days": 1}
        chunks = [chunk async for chunk in await chat(oa, tools=[OPENAI_TOOL], stream=True)]
        assert chunks[1].choices[0].delta.tool_calls[0].function.name == "weather"
        assert (await chat(oa)).choices[0].finish_reason == "stop"
    assert simulator.bill()["faults"] == {"tool_call": 4}


@pytest.mark.parametrize(
    ("wanted", "text"),
    [
        ({"type": "json_object"}, None),
        ({"type": "json_schema", "json_schema": {"name": "w", "schema": TOOL_SCHEMA}}, {"city": "lorem", "days": 1}),
    ],
)
async def test_json_is_answered_when_json_is_asked_for(wanted, text):
    async with rehearsal() as (_, oa, _a):
        answer = json.loads((await chat(oa, response_format=wanted)).choices[0].message.content)
    assert isinstance(answer, dict)
    assert text is None or answer == text


async def test_the_tier_is_named_only_when_asked_for():
    async with rehearsal() as (_, oa, _a):
        assert (await chat(oa, service_tier="flex")).service_tier == "flex"
        assert (await chat(oa, service_tier="auto")).service_tier == "default"


async def test_requests_per_minute_are_limited():
    async with rehearsal(rpm=3) as (simulator, oa, an):
        raw = await oa.chat.completions.with_raw_response.create(model="sim-1", messages=user())
        assert raw.headers["x-ratelimit-limit-requests"] == "3"
        assert raw.headers["x-ratelimit-remaining-requests"] == "2"
        await chat(oa)
        await message(an)
        with pytest.raises(openai.RateLimitError) as refused:
            await chat(oa)
        assert refused.value.code == "rate_limit_exceeded"
        assert 15 <= int(refused.value.response.headers["retry-after"]) <= 20
        with pytest.raises(anthropic.RateLimitError) as refused:
            await message(an)
        assert refused.value.response.headers["anthropic-ratelimit-requests-remaining"] == "0"
    assert simulator.bill()["faults"] == {"rate_limited": 2}
    assert simulator.bill()["billed_calls"] == 3


def test_the_windows_refill_evenly_and_never_overflow(monkeypatch):
    now_s = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    gate = Gate(Options(rpm=60, tpm=6000))
    for _ in range(60):
        gate.admit(100, 1, 0)
    with pytest.raises(Refused) as refused:
        gate.admit(100, 1, 0)
    assert refused.value.retry_after_s == pytest.approx(1)
    now_s += 2.5
    gate.admit(100, 1, 0)
    with pytest.raises(Refused) as refused:
        gate.admit(250, 1, 0)
    assert (refused.value.kind, refused.value.retry_after_s) == ("tokens", pytest.approx(1))
    gate.admit(150, 1, 0)  # the refused one took nothing from either window
    now_s += 1e6
    assert (gate.requests.level(), gate.tokens.level()) == (60, 6000)


async def test_tokens_per_minute_count_the_cap():
    async with rehearsal(tpm=1000) as (_, oa, _a):
        await chat(oa, max_tokens=600)
        with pytest.raises(openai.RateLimitError) as refused:
            await chat(oa, max_tokens=600)
        assert refused.value.type == "tokens"
        await chat(oa, max_tokens=100)


async def test_calls_in_flight_are_limited_and_their_peak_is_known():
    async with rehearsal(concurrency=2, latency_ms=300) as (simulator, oa, an):
        running = [asyncio.create_task(chat(oa)) for _ in range(2)]
        await until(lambda: simulator._in_flight == 2)
        with pytest.raises(openai.RateLimitError):
            await chat(oa)
        with pytest.raises(anthropic._exceptions.OverloadedError):
            await message(an)
        await asyncio.gather(*running)
    assert simulator.bill()["billed_calls"] == 2
    assert simulator.bill()["peak_in_flight"] == 3


async def test_latency_is_kept_within_its_jitter():
    async with rehearsal(latency_ms=150, latency_jitter_ms=50) as (_, oa, _a):
        began = time.monotonic()
        await chat(oa)
        assert time.monotonic() - began >= 0.1


async def test_an_empty_account_is_told_in_each_vendors_words():
    async with rehearsal(cost_usd=0.5, account_empty_after_usd=1.0) as (simulator, oa, an):
        await chat(oa)
        await message(an)
        with pytest.raises(openai.RateLimitError) as refused:
            await chat(oa)
        assert refused.value.code == refused.value.type == "insufficient_quota"
        with pytest.raises(anthropic.BadRequestError, match="credit balance is too low"):
            await message(an)
    assert Decimal(simulator.bill()["cost_usd"]) == 1


async def test_the_same_seed_gives_the_same_answers_and_fates():
    async def outcomes(seed):
        async with rehearsal(seed=seed, share_500=0.3) as (_, oa, _a):
            answers = await asyncio.gather(*(chat(oa, f"Q{n}") for n in range(40)), return_exceptions=True)
        return [isinstance(answer, Exception) or answer.choices[0].message.content for answer in answers]

    first, again, other = [await outcomes(seed) for seed in (1, 1, 2)]
    assert first == again != other
    assert 2 < first.count(True) < 25


async def test_a_request_sent_again_draws_a_new_fate():
    async with rehearsal(share_500=0.5) as (simulator, oa, _):
        await asyncio.gather(*(chat(oa) for _ in range(40)), return_exceptions=True)
    assert 5 < simulator.bill()["faults"]["500"] < 35


async def test_a_restart_rebuilds_the_bill_from_the_journal(tmp_path):
    journal = tmp_path / "journal"
    async with rehearsal(journal=journal, share_dropped=0.5) as (before, oa, an):
        calls = [chat(oa, f"Q{n}") for n in range(10)] + [message(an, f"Q{n}") for n in range(10)]
        await asyncio.gather(*calls, return_exceptions=True)
    with journal.open("ab") as file:
        file.write(b'{"time":1,"model":"si')  # killed while writing: never answered
    async with Simulator(Options(journal=journal, input_usd_per_mtok=99)) as after:
        assert after.bill()["faults"]["dropped"] > 0
        assert after.bill() | {"peak_in_flight": 0} == before.bill() | {"peak_in_flight": 0}
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    assert len(lines) == 20
    assert sum(line["cost_nusd"] for line in lines) == before.bill()["cost_nusd"]
    assert {line["marker"] for line in lines} == {f"Q{n}" for n in range(10)}


async def test_the_journal_has_the_call_before_the_client_has_the_answer(tmp_path):
    journal = tmp_path / "journal"
    async with rehearsal(journal=journal, share_hung=1.0) as (_, oa, _a):
        with pytest.raises(openai.APITimeoutError):
            await chat(oa.with_options(timeout=0.2), "m" * 100)
        assert json.loads(journal.read_text())["marker"] == "m" * 80


async def test_a_call_the_journal_cannot_take_is_neither_billed_nor_answered(tmp_path, monkeypatch):
    async with rehearsal(journal=tmp_path / "journal") as (simulator, oa, _):
        await chat(oa)
        monkeypatch.setattr(os, "write", lambda *_: 3)
        with pytest.raises(openai.InternalServerError):
            await chat(oa)
        monkeypatch.undo()
        assert simulator.bill()["billed_calls"] == 1
        assert len((tmp_path / "journal").read_text().splitlines()) == 1


@pytest.mark.parametrize("text", ['{"prompt":"precious"}\nno newline at the end', "one line, no newline"])
def test_a_file_that_is_no_journal_is_refused_and_left_alone(tmp_path, text):
    path = tmp_path / "prompts.jsonl"
    path.write_text(text)
    with pytest.raises(ValueError, match="line 1 is not an entry"):
        Simulator(Options(journal=path))
    assert path.read_text() == text


async def test_reset_forgets_the_bill_and_the_journal(tmp_path):
    async with rehearsal(journal=tmp_path / "journal", rpm=1) as (simulator, oa, _), aiohttp.ClientSession() as session:
        await chat(oa)
        async with session.post(f"{simulator.url}/reset") as answer:
            assert (await answer.json())["billed_calls"] == 0
        assert (tmp_path / "journal").read_text() == ""
        await chat(oa)
        async with session.get(f"{simulator.url}/bill") as answer:
            assert await answer.json() == simulator.bill()
        async with session.get(f"{simulator.url}/healthz") as answer:
            assert answer.status == 200


async def test_input_tokens_are_fewer_than_the_requests_bytes():
    async with Simulator() as simulator, aiohttp.ClientSession() as session:
        for messages in (user(""), user("€" * 50), user("a") * 30, [{"role": "user", "content": [{"text": "x" * 99}]}]):
            body = json.dumps({"model": "sim-1", "messages": messages}, ensure_ascii=False).encode()
            async with session.post(f"{simulator.url}/v1/chat/completions", data=body) as answer:
                assert 0 < (await answer.json())["usage"]["prompt_tokens"] < len(body)


async def test_a_prompt_of_many_megabytes_is_read():
    async with rehearsal() as (_, oa, _a):
        answer = await chat(oa, "x" * 8_000_000)
    assert answer.usage.prompt_tokens == 2_000_004


@pytest.mark.parametrize(
    "wrong",
    [
        {"share_429": 1.5},
        {"share_429": 0.6, "share_hung": 0.6},
        {"output_tokens": (5, 4)},
        {"output_tokens": (0, 4)},
        {"rpm": -1},
        {"cost_usd": -0.1},
        {"input_usd_per_mtok": 1e-7},
        {"cost_usd": float("inf")},
    ],
)
def test_options_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong)).split("_", maxsplit=1)[0]):
        Options(**wrong)


def test_every_option_has_a_flag_and_a_help():
    assert set(HELP) == {field.name for field in fields(Options)}
    shown = CliRunner().invoke(command, ["--help"])
    assert shown.exit_code == 0
    assert "--share-429" in shown.output


@pytest.mark.parametrize("flags", [["--output-tokens", "many"], ["--share-500", "2"]])
def test_wrong_flags_exit_2(flags):
    assert CliRunner().invoke(command, flags).exit_code == 2


def start(tmp_path: Path, *flags: str) -> tuple[subprocess.Popen[str], str]:
    """Start a simulator as a process and return it with its URL."""
    ready = tmp_path / "url"
    ready.unlink(missing_ok=True)
    command_line = [sys.executable, "-m", "farebox_worker.simulate", "--port", "0", "--ready-file", str(ready), *flags]
    process = subprocess.Popen(command_line, stderr=subprocess.PIPE, text=True)
    for _ in range(1000):
        if ready.exists() or process.poll() is not None:
            break
        time.sleep(0.01)
    return process, ready.read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_the_process_says_where_it_listens_and_leaves_with_its_bill(tmp_path, number):
    process, url = start(tmp_path, "--output-tokens", "7", "--model", "a", "--models", "b")
    try:
        async with openai.AsyncOpenAI(api_key="k", base_url=f"{url}/v1", max_retries=0) as client:
            answer = await client.chat.completions.create(model="b", messages=user())
            assert answer.usage.completion_tokens == 7
    finally:
        process.send_signal(number)
        _, said = process.communicate(timeout=10)
    assert process.returncode == 0
    assert said.startswith(f"farebox simulate: {url}  (OpenAI base_url {url}/v1, Anthropic base_url {url})\n")
    assert '"billed_calls":1' in said
    assert "Traceback" not in said


async def test_a_killed_process_goes_on_with_its_bill(tmp_path):
    flags = ("--journal", str(tmp_path / "journal"), "--cost-usd", "0.02")
    first, url = start(tmp_path, *flags)
    async with openai.AsyncOpenAI(api_key="k", base_url=f"{url}/v1", max_retries=0) as client:
        await asyncio.gather(*(chat(client) for _ in range(20)))
    first.kill()
    first.communicate(timeout=10)
    second, url = start(tmp_path, *flags)
    try:
        async with aiohttp.ClientSession() as session, session.get(f"{url}/bill") as answer:
            assert Decimal((await answer.json())["cost_usd"]) == Decimal("0.40")
    finally:
        second.terminate()
        second.communicate(timeout=10)


async def test_flex_costs_half_and_says_so():
    async with rehearsal(output_tokens=(10, 10)) as (simulator, client, _):
        answers = [await chat(client, service_tier=tier) for tier in ("flex", "default", "auto")]
        bill = simulator.bill()
    assert [answer.service_tier for answer in answers] == ["flex", "default", "default"]
    flex, default = bill["by_tier"]["flex"], bill["by_tier"]["default"]
    assert (flex["calls"], default["calls"]) == (1, 2)
    assert flex["cost_nusd"] * 4 == default["cost_nusd"]
    assert flex["cost_nusd"] + default["cost_nusd"] == bill["cost_nusd"]


async def test_flex_has_no_room_or_serves_the_default_tier_in_its_share():
    async with rehearsal(share_flex_full=0.4, share_flex_default=0.3) as (simulator, client, _):
        seen = {"flex": 0, "default": 0, "full": 0}
        for number in range(60):
            try:
                seen[(await chat(client, f"Say {number}.", service_tier="flex")).service_tier] += 1
            except openai.RateLimitError as error:
                seen["full" if error.code == "resource_unavailable" else "else"] += 1
            assert (await chat(client, f"Say {number}.")).service_tier is None, "only flex is ever full"
        bill = simulator.bill()
    assert min(seen.values()) > 5
    assert bill["faults"]["flex_full"] == seen["full"]
    assert bill["by_tier"]["flex"]["calls"] == seen["flex"]
    assert bill["by_tier"]["default"]["calls"] == seen["default"] + 60


@pytest.mark.parametrize("shares", [(0.7, 0.7), (-0.1, 0), (0, 1.1)])
def test_shares_of_flex_that_cannot_be(shares):
    with pytest.raises(ValueError, match="shares of flex"):
        Options(share_flex_full=shares[0], share_flex_default=shares[1])


def response(client, text="Say something.", **more):
    return client.responses.create(model="sim-1", input=text, **more)


async def test_openai_client_reads_a_typed_response():
    async with rehearsal(output_tokens=(30, 30)) as (simulator, client, _):
        answer = await response(client, "x" * 20, instructions="y" * 20)
        bill = simulator.bill()
    assert (answer.object, answer.status, answer.incomplete_details) == ("response", "completed", None)
    assert len(answer.output_text.split()) == 30
    assert (answer.usage.input_tokens, answer.usage.output_tokens, answer.usage.total_tokens) == (18, 30, 48)
    assert (bill["input_tokens"], bill["output_tokens"]) == (18, 30)


async def test_a_response_is_cut_refused_filtered_or_calls_a_tool():
    tool = {"type": "function", "name": "weather", "parameters": TOOL_SCHEMA}
    async with rehearsal(output_tokens=(50, 50)) as (_, client, _a):
        cut = await response(client, max_output_tokens=40)
        with pytest.raises(openai.BadRequestError, match="16"):
            await response(client, max_output_tokens=15)
    async with rehearsal(share_tool_call=1) as (_, client, _a):
        called = await response(client, tools=[tool])
    async with rehearsal(share_refused=1) as (_, client, _a):
        refused = await response(client)
    async with rehearsal(share_filtered=1) as (_, client, _a):
        filtered = await response(client)
    assert (cut.status, cut.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert cut.usage.output_tokens == 40
    assert (called.output[0].type, called.output[0].name) == ("function_call", "weather")
    assert json.loads(called.output[0].arguments).keys() == {"city", "days"}
    assert refused.output[0].content[0].type == "refusal"
    assert filtered.incomplete_details.reason == "content_filter"


async def test_a_response_fits_its_schema_and_flex_costs_half():
    wanted = {"format": {"type": "json_schema", "name": "w", "schema": TOOL_SCHEMA}}
    async with rehearsal() as (simulator, client, _):
        answer = await client.responses.create(model="sim-1", input="Say it.", text=wanted, service_tier="flex")
        bill = simulator.bill()
    assert json.loads(answer.output_text).keys() == {"city", "days"}
    assert answer.service_tier == "flex"
    flex = bill["by_tier"]["flex"]
    assert flex["cost_nusd"] == -(-(1000 * flex["input_tokens"] + 2000 * flex["output_tokens"]) // 2)


async def test_openai_client_reads_vectors_that_are_the_same_for_the_same_text():
    async with rehearsal(share_refused=0.5, share_tool_call=0.5) as (simulator, client, _):
        packed = await client.embeddings.create(model="sim-1", input=["x" * 20, "y"])
        plain = await client.embeddings.create(model="sim-1", input="x" * 20, encoding_format="float", dimensions=256)
        tokens = await client.embeddings.create(model="sim-1", input=[[1, 2, 3], [4]], dimensions=2)
        with pytest.raises(openai.BadRequestError):
            await client.embeddings.create(model="sim-1", input=["", "x"])
        bill = simulator.bill()
    assert [vector.index for vector in packed.data] == [0, 1]
    assert packed.data[0].embedding == pytest.approx(plain.data[0].embedding, abs=1e-6)
    assert packed.data[0].embedding != packed.data[1].embedding
    assert [len(vector.embedding) for vector in tokens.data] == [2, 2]
    assert (packed.usage.prompt_tokens, tokens.usage.prompt_tokens) == (6, 4)
    assert (bill["billed_calls"], bill["input_tokens"], bill["output_tokens"]) == (3, 15, 0)
    assert bill["cost_nusd"] == 15_000
    assert bill["faults"] == {"bad_request": 1}  # words are refused or call tools, vectors are not
