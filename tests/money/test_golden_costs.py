"""Responses as the vendors send them, and what each costs, computed by hand in the case (`golden/costs/*.json`).

A case names the source of its prices and writes its arithmetic out: tokens times dollars per million tokens, in
nano-dollars, which the first test checks without any code of Farebox. The other runs the real adapter over HTTP.
"""

import json
from datetime import UTC, datetime
from decimal import ROUND_CEILING, Decimal
from pathlib import Path

import pytest
from tests.providers.adapter_contract import KEY, job, script

from farebox_worker.prices.overlay import overlay
from farebox_worker.prices.table import compile_price
from farebox_worker.providers.anthropic import AnthropicProvider
from farebox_worker.providers.base import Facts
from farebox_worker.providers.openai import OpenAIProvider

__all__ = ["script"]

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
GOLDEN = Path(__file__).parents[1] / "golden/costs"
CASES = {path.stem: json.loads(path.read_text()) for path in sorted(GOLDEN.glob("*"))}
each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
API = {"openai": "chat", "anthropic": "messages"}


@pytest.fixture
async def adapters(script):
    made = {
        "openai": OpenAIProvider("openai", api_key=KEY, base_url=script.url),
        "anthropic": AnthropicProvider("anthropic", api_key=KEY, base_url=script.url),
    }
    yield made
    for adapter in made.values():
        await adapter.aclose()


def price_of(case):
    return compile_price(
        case["provider"], case["provider"], case["model"], case.get("host"), case.get("tier", "standard"), now=NOW
    )


def nusd_of(line):
    """Dollars per million tokens are thousands of nano-dollars per token."""
    if "calls" in line:
        return line["calls"] * Decimal(line["usd"]) * 10**9
    return line["tokens"] * Decimal(line["usd_per_mtok"]) * 1000


def test_there_are_enough_cases_of_both_vendors():
    assert len(CASES) >= 30
    assert {case["provider"] for case in CASES.values()} == set(API)


@each_case
def test_the_arithmetic_of_the_case_adds_up(case):
    assert all(Decimal(str(line["nusd"])) == nusd_of(line) for line in case["sums"])
    total = sum(Decimal(str(line["nusd"])) for line in case["sums"])
    assert case["nusd"] == int(total.to_integral_value(rounding=ROUND_CEILING))
    assert "docs" in case["source"] or "pricing" in case["source"]


@each_case
async def test_the_adapter_and_the_price_agree_with_the_hand_and_stay_below_the_hold(case, adapters, script):
    adapter, price = adapters[case["provider"]], price_of(case)
    facts = Facts(case["model"], 1_000_000, 128_000, 8_192, overlay().image_tokens(case["model"]))
    prepared = adapter.prepare(job(case["request"], case.get("api", API[case["provider"]])), facts)
    script.says(200, case["response"])
    reply = await adapter.post(prepared, timeout_s=5)
    assert price.cost_nusd(reply.usage) == case["nusd"]
    assert reply.finish == case.get("finish_is", "answered")
    assert price.unstated_fee(prepared.fees) == ""
    window = max(prepared.input_bound, sum(line.get("tokens", 0) for line in case["sums"]))  # the prompt is made up
    assert case["nusd"] <= price.worst_nusd(window, prepared.output_bound, prepared.fees)
