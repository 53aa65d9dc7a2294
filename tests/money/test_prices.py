from __future__ import annotations

import logging
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from types import SimpleNamespace

import pytest
from genai_prices import Usage, calc_price, data_snapshot
from hypothesis import assume, given
from hypothesis import strategies as st

from farebox.errors import ConfigError
from farebox.money import nusd_from_usd
from farebox_worker.prices import vendors
from farebox_worker.prices.table import FREE, Price, PriceTable, Rates, compile_price
from farebox_worker.providers.base import TokenUsage
from farebox_worker.settings import ModelSettings, ProviderSettings, Settings

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


def listed(kind: str) -> list[Price]:
    tiers = ("standard", "flex", "priority", "batch")
    model_ids = vendors.model_ids(kind, kind, None)
    found = [compile_price(kind, kind, model_id, None, tier, now=NOW) for model_id in model_ids for tier in tiers]
    return [price for price in found if price]


def table(models: dict[str, ModelSettings] | None = None, **providers: ProviderSettings) -> PriceTable:
    known = {"openai": ProviderSettings(kind="openai"), "anthropic": ProviderSettings(kind="anthropic"), **providers}
    known.setdefault("echo", ProviderSettings(kind="echo"))
    return PriceTable(Settings(providers=known, models=models or {}), now=lambda: NOW)


def genai_usd(kind: str, model_id: str, usage: TokenUsage) -> Decimal:
    total = usage.input_tokens + usage.cache_read_tokens + usage.cache_write_tokens
    counts = Usage(
        input_tokens=total,
        output_tokens=usage.output_tokens,
        cache_read_tokens=usage.cache_read_tokens,
        cache_write_tokens=usage.cache_write_tokens,
    )
    return calc_price(counts, model_id, provider_id=kind, genai_request_timestamp=NOW).total_price


counts = st.integers(0, 2_000_000)


@st.composite
def usages_of(draw):
    """Any usage whose parts are parts of their wholes."""
    tokens_in, tokens_out, read, written = (draw(counts) for _ in range(4))
    parts = [draw(st.integers(0, whole)) for whole in (written, tokens_in, tokens_out)]
    return TokenUsage(tokens_in, tokens_out, read, written, *parts, is_regional=draw(st.booleans()))


usages = usages_of()
pusd = st.integers(0, 10**10)


@st.composite
def rates(draw):
    short = draw(pusd)
    fields = {"cache_write_5m_pusd": short, "cache_write_pusd": short + draw(pusd)}
    fields["media_input_pusd"] = draw(st.just(0) | pusd)
    fields["media_output_pusd"] = draw(st.just(0) | pusd)
    return Rates(input_pusd=draw(pusd), output_pusd=draw(pusd), cache_read_pusd=draw(pusd), **fields)


@st.composite
def made_up_prices(draw):
    base = draw(rates())
    cliffs = sorted(draw(st.lists(st.integers(0, 3_000_000), max_size=3, unique=True)))
    fields = {name: getattr(base, name) for name in Rates.__dataclass_fields__}
    tiers = tuple((above, draw(rates())) for above in cliffs)
    percent = draw(st.integers(0, 20))
    return Price(**fields, version="made up", request_pusd=draw(pusd), tiers=tiers, regional_percent=percent)


LISTED = listed("openai") + listed("anthropic")


@given(st.sampled_from(LISTED) | made_up_prices(), usages, counts, counts)
def test_no_usage_within_the_bounds_costs_more_than_the_worst_case(price, usage, spare_in, spare_out):
    total = usage.input_tokens + usage.cache_read_tokens + usage.cache_write_tokens
    cost = price.cost_nusd(usage)
    assert cost <= price.worst_nusd(total + spare_in, usage.output_tokens + spare_out)


@pytest.mark.parametrize("price", LISTED, ids=lambda price: price.version)
def test_the_worst_case_is_a_bound_at_every_cliff_of_every_listed_model(price):
    for above in {100, *(above for above, _ in price.tiers)}:
        for total in (above - 1, above, above + 1):
            worst = price.worst_nusd(total, 1000)
            for usage in (
                TokenUsage(total, 1000),
                TokenUsage(0, 1000, total, 0),
                TokenUsage(0, 1000, 0, total, cache_write_1h_tokens=total, is_regional=True),
                TokenUsage(total, 1000, media_input_tokens=total, media_output_tokens=1000),
                TokenUsage(total // 2, 1000, total - total // 2, 0),
            ):
                assert price.cost_nusd(usage) <= worst


@given(st.sampled_from(["openai", "anthropic"]), st.data(), st.builds(TokenUsage, counts, counts, counts, counts))
def test_costs_agree_with_genai_prices_to_the_nano_dollar(kind, data, usage):
    model_id = data.draw(st.sampled_from(vendors.model_ids(kind, kind, None)))
    assume("image" not in model_id and "realtime" not in model_id)  # pictures there are priced as the dearest kind
    price = compile_price(kind, kind, model_id, now=NOW)
    assume(price is not None)
    assert price.cost_nusd(usage) == nusd_from_usd(genai_usd(kind, model_id, usage))


def test_the_table_covers_most_of_what_the_vendors_sell_by_the_token():
    assert len(LISTED) > 150
    assert any(price.tiers for price in LISTED)


def test_known_prices_of_known_models():
    mini = compile_price("openai", "openai", "gpt-5-mini", now=NOW)
    assert (mini.input_pusd, mini.cache_read_pusd, mini.output_pusd) == (250_000, 25_000, 2_000_000)
    haiku = compile_price("anthropic", "anthropic", "claude-haiku-4-5", now=NOW)
    assert (haiku.cache_write_5m_pusd, haiku.cache_write_pusd) == (1_250_000, 2_000_000)
    assert haiku.version.startswith("genai-prices 0.2.")
    assert haiku.version.endswith("2026-11-22")


def test_the_dearest_write_of_openai_is_twelve_hours_at_two_and_a_half_times_input():
    sol = compile_price("openai", "openai", "gpt-6.1-sol", now=NOW)
    assert sol.cache_write_5m_pusd == 2_500_000
    assert sol.cache_write_pusd == 5_000_000
    mini = compile_price("openai", "openai", "gpt-5-mini", now=NOW)
    assert mini.cache_write_pusd == mini.input_pusd


def test_a_cliff_reprices_the_whole_request():
    haiku = compile_price("anthropic", "anthropic", "claude-haiku-5-5", now=NOW)
    assert haiku.cost_nusd(TokenUsage(100_000, 0)) == 10_000_000
    assert haiku.cost_nusd(TokenUsage(100_001, 0)) == 50_000_500
    assert haiku.cost_nusd(TokenUsage(1, 0, 100_000, 0)) == 500 + 5_000_000
    assert haiku.worst_nusd(100_000, 0) == 22_000_000  # 1 h writes, in the US
    assert haiku.worst_nusd(100_001, 0) == 110_001_100


def test_costs_round_up_once():
    price = Price(input_pusd=1, output_pusd=1, cache_read_pusd=1, cache_write_pusd=1, cache_write_5m_pusd=1, version="")
    assert price.cost_nusd(TokenUsage(1, 1, 1, 1)) == 1
    assert price.cost_nusd(TokenUsage(1000, 1, 0, 0)) == 2
    assert price.cost_nusd(TokenUsage()) == 0


def test_prices_are_those_of_the_date():
    old = compile_price("openai", "openai", "o3", now=datetime(2025, 6, 1, tzinfo=UTC))
    assert (old.input_pusd, compile_price("openai", "openai", "o3", now=NOW).input_pusd) == (10_000_000, 2_000_000)


@pytest.mark.parametrize("day", [datetime(2025, 6, 1, tzinfo=UTC), NOW], ids=["2025", "2026"])
def test_a_price_that_depends_on_the_hour_holds_until_after_the_refresh(day):
    def usd(moment):
        usage = Usage(input_tokens=1_000_000)
        return calc_price(usage, "deepseek-chat", provider_id="deepseek", genai_request_timestamp=moment).total_price

    dearer = 0
    for minute in range(0, 24 * 60, 30):
        now = day + timedelta(minutes=minute)
        price = compile_price("openai", "x", "deepseek-chat", "https://api.deepseek.com/v1", now=now)
        assert all(price.input_pusd >= usd(now + timedelta(minutes=ahead)) * 10**6 for ahead in range(0, 91, 30))
        dearer += price.input_pusd > usd(now) * 10**6
    assert dearer == 3


def test_flex_is_known_only_where_the_vendor_lists_it():
    assert compile_price("openai", "openai", "gpt-5-mini", None, "flex", now=NOW).output_pusd == 1_000_000
    assert compile_price("openai", "openai", "gpt-4o", None, "flex", now=NOW) is None
    assert compile_price("anthropic", "anthropic", "claude-opus-5", None, "flex", now=NOW) is None
    assert compile_price("openai", "openai", "gpt-5-mini", None, "nonsense", now=NOW) is None


@pytest.mark.parametrize(
    ("base_url", "model_id"),
    [
        ("https://api.groq.com/openai/v1", "llama-3.3-70b-versatile"),
        ("https://api.deepseek.com", "deepseek-chat"),
        ("https://api.mistral.ai/v1", "mistral-small-latest"),
        ("https://openrouter.ai/api/v1", "openai/gpt-4o-mini"),
        ("https://api.together.xyz/v1", "meta-llama/Llama-3.3-70B-Instruct-Turbo"),
        ("https://generativelanguage.googleapis.com/v1beta/openai/", "gemini-2.5-flash"),
    ],
)
def test_a_vendor_is_known_by_its_address(base_url, model_id):
    assert compile_price("openai", "anything", model_id, base_url, now=NOW) is not None


def test_an_address_nobody_knows_has_no_price_unless_it_is_named_after_its_vendor():
    assert compile_price("openai", "local", "gpt-5-mini", "http://127.0.0.1:8000/v1", now=NOW) is None
    assert compile_price("openai", "openai", "gpt-5-mini", "http://127.0.0.1:8000/v1", now=NOW) is not None


def test_a_regional_host_of_openai_costs_a_tenth_more():
    url = "https://eu.api.openai.com/v1"
    assert compile_price("openai", "x", "gpt-5-mini", url, now=NOW).output_pusd == 2_200_000


@pytest.mark.parametrize("model_id", ["gpt-99", "gpt-4o-mini-search-preview", "o3-deep-research", "whisper-1", "tts-1"])
def test_what_cannot_be_bounded_has_no_price(model_id):
    assert compile_price("openai", "openai", model_id, now=NOW) is None


def test_names_at_azure_are_the_customers_own():
    assert compile_price("openai", "azure", "gpt-4o", "https://x.openai.azure.com/openai/v1", now=NOW) is None


def test_a_fee_per_request_is_in_the_cost_and_in_the_worst_case():
    sonar = compile_price("openai", "x", "sonar", "https://api.perplexity.ai", now=NOW)
    assert sonar.request_pusd == 12_000_000_000
    assert sonar.cost_nusd(TokenUsage()) == 12_000_000
    assert sonar.worst_nusd(0, 0) == 12_000_000


def test_audio_is_held_at_its_own_rate():
    audio = compile_price("openai", "openai", "gpt-audio", now=NOW)
    assert audio.worst_nusd(1000, 0) == 32_000_000
    assert audio.cost_nusd(TokenUsage(1000, 0)) == 2_500_000
    assert audio.cost_nusd(TokenUsage(1000, 0, media_input_tokens=1000)) == 32_000_000


@pytest.mark.parametrize("factor", [10**6, Decimal(1) / 10**6])
def test_a_listed_rate_a_million_times_off_is_not_believed(monkeypatch, caplog, factor):
    original = vendors.pusd_per_token
    monkeypatch.setattr(vendors, "pusd_per_token", lambda rate: original(rate * factor))
    with caplog.at_level(logging.ERROR):
        assert compile_price("openai", "openai", "gpt-5-mini", now=NOW) is None
    assert "per million tokens" in caplog.text


def test_a_broken_table_prices_nothing(monkeypatch):
    monkeypatch.setattr(data_snapshot, "get_snapshot", lambda: SimpleNamespace(providers=[]))
    with pytest.raises(ConfigError, match="holds 0 models"):
        compile_price("openai", "openai", "gpt-5-mini", now=NOW)


def test_a_table_that_shrank_keeps_the_prices_of_before(monkeypatch, caplog):
    prices = table()
    before = prices.lookup("openai:gpt-5-mini")
    monkeypatch.setattr(vendors, "table_size", lambda: 1_001)
    monkeypatch.setattr(vendors, "find", lambda *_: None)
    assert not prices.refresh_if_older_than(0)
    assert prices.lookup("openai:gpt-5-mini") == before
    assert "shrank" in caplog.text


def test_a_refresh_takes_the_prices_of_the_new_date():
    clock = [datetime(2025, 6, 1, tzinfo=UTC)]
    providers = {"openai": ProviderSettings(kind="openai")}
    prices = PriceTable(Settings(providers=providers), now=lambda: clock[0])
    assert prices.lookup("openai:o3").input_pusd == 10_000_000
    clock[0] = NOW
    assert not prices.refresh_if_older_than(3600)
    assert prices.lookup("openai:o3").input_pusd == 10_000_000
    assert prices.refresh_if_older_than(0)
    assert prices.revision == 1
    assert prices.lookup("openai:o3").input_pusd == 2_000_000
    assert not prices.refresh_if_older_than(0)


def test_echo_has_a_pretend_price():
    price = table().lookup("echo:echo")
    assert price.pretend
    assert price.cost_nusd(TokenUsage(1_000_000, 1_000_000)) == 3_000_000_000


def test_free_is_zero_and_says_so():
    prices = table({"openai:gpt-5": ModelSettings(free=True)}, local=ProviderSettings(kind="openai", free=True))
    assert prices.lookup("openai:gpt-5") == prices.lookup("local:anything") == FREE
    assert FREE.version == "free"
    assert FREE.worst_nusd(10**6, 10**6) == 0


def test_unknown_is_none_never_zero():
    assert table().lookup("openai:gpt-99") is None
    assert table().lookup("nobody:gpt-5") is None


def test_stated_rates_go_before_listed_ones_and_keep_the_shape_of_the_list():
    stated = ModelSettings(input_usd_per_mtok=0.2, output_usd_per_mtok=1.0)
    price = table({"anthropic:claude-haiku-5-5": stated}).lookup("anthropic:claude-haiku-5-5")
    assert price.version == "farebox.toml"
    assert (price.input_pusd, price.output_pusd) == (200_000, 1_000_000)
    assert price.cache_write_pusd == 400_000
    ((above, cliff),) = price.tiers
    assert (above, cliff.input_pusd, cliff.output_pusd) == (100_000, 1_000_000, 5_000_000)


def test_a_stated_discount_never_lowers_unstated_cache_rates():
    listed_price = table().lookup("anthropic:claude-haiku-4-5")
    price = table({"anthropic:claude-haiku-4-5": ModelSettings(input_usd_per_mtok=0.5)}).lookup(
        "anthropic:claude-haiku-4-5"
    )
    assert price.cache_write_pusd == listed_price.cache_write_pusd
    assert price.cache_read_pusd == listed_price.cache_read_pusd
    assert price.output_pusd == listed_price.output_pusd


def test_flex_of_a_stated_model_keeps_the_vendors_discount():
    prices = table({"openai:gpt-5-mini": ModelSettings(output_usd_per_mtok=4.0)})
    assert prices.lookup("openai:gpt-5-mini", "flex").output_pusd == 2_000_000
    assert table({"openai:gpt-4o": ModelSettings(output_usd_per_mtok=4.0)}).lookup("openai:gpt-4o", "flex") is None


def test_a_model_nobody_lists_is_priced_by_what_is_stated_alone():
    stated = ModelSettings(input_usd_per_mtok=1.0, output_usd_per_mtok=2.0)
    local = ProviderSettings(kind="openai", base_url="http://127.0.0.1:1/v1")
    prices = table({"local:m": stated, "openai:gpt-99": stated}, local=local)
    assert prices.lookup("local:m").worst_nusd(1000, 0) == 1_000_000
    assert prices.lookup("openai:gpt-99").worst_nusd(1000, 0) == 2_500_000


def test_half_a_price_is_refused_by_name():
    with pytest.raises(ConfigError, match="output_usd_per_mtok"):
        table({"openai:gpt-99": ModelSettings(input_usd_per_mtok=1.0)}).lookup("openai:gpt-99")


stated_rates = st.none() | st.floats(0.001, 10_000)


@given(
    st.builds(
        ModelSettings,
        input_usd_per_mtok=stated_rates,
        cached_input_usd_per_mtok=stated_rates,
        cache_write_usd_per_mtok=stated_rates,
        output_usd_per_mtok=stated_rates,
    ),
    st.sampled_from(["openai:gpt-6.1-sol", "anthropic:claude-haiku-5-5", "openai:gpt-audio", "openai:gpt-5-mini"]),
    st.sampled_from(["standard", "flex"]),
    usages,
)
def test_the_worst_case_stays_a_bound_under_any_override(stated, ref, tier, usage):
    price = table({ref: stated}).lookup(ref, tier)
    assume(price is not None)
    total = usage.input_tokens + usage.cache_read_tokens + usage.cache_write_tokens
    assert price.cost_nusd(usage) <= price.worst_nusd(total, usage.output_tokens)


def test_equal_prices_are_equal():
    price = table().lookup("openai:gpt-5-mini")
    assert replace(price) == price


def test_the_table_is_imported_only_when_asked():
    code = "import sys, farebox_worker.prices.table; print('genai_prices' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "False"
