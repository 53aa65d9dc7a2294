"""What is laid over the price table, and which of its words are not believed."""

import logging
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from genai_prices.data_snapshot import get_snapshot

from farebox_worker.prices import overlay as overlay_module
from farebox_worker.prices import vendors
from farebox_worker.prices.overlay import Overlay, overlay
from farebox_worker.prices.table import PriceTable, compile_price
from farebox_worker.settings import ProviderSettings, Settings

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


def test_every_entry_of_the_overlay_has_a_source_and_a_place():
    held = overlay()
    entries = [*held.long_writes, *held.surcharges, *held.rates, *held.models, *held.fees, *held.images]
    assert len(entries) > 10
    assert all("." in entry.source for entry in entries)


def test_the_overlay_says_nothing_that_the_table_says_already():
    """When this fails the table has caught up: remove the entry."""
    vendors = {vendor.id: vendor for vendor in get_snapshot().providers}
    for entry in overlay().models:
        assert vendors[entry.vendor].find_model(entry.models.replace("\\", "")) is None
    for entry in overlay().rates:
        model = vendors[entry.vendor].find_model(entry.models.removesuffix(".*"))
        assert "input_audio_mtok" not in model.get_prices(NOW).__dict__
    for entry in overlay().fees:
        assert not any(
            f"{entry.name}s_kcount" in model.get_prices(NOW).__dict__ for model in vendors[entry.vendor].models
        )


def lay(monkeypatch, **entries):
    made = Overlay(**{name: [vars_of(entry) for entry in listed] for name, listed in entries.items()})
    monkeypatch.setattr(vendors, "overlay", lambda: made)


def vars_of(entry):
    kind = getattr(overlay_module, entry.pop("kind"))
    return kind(source="a test, not a price page", vendor="openai", **entry)


def test_the_table_wins_over_a_model_and_a_rate_that_it_knows(monkeypatch):
    known = compile_price("openai", "openai", "gpt-audio", now=NOW)
    wrong = {"input_mtok": 999.0, "output_mtok": 999.0}
    lay(
        monkeypatch,
        models=[{"kind": "Unlisted", "models": "gpt-audio|gpt-99", "rates": wrong}],
        rates=[{"kind": "MoreRates", "models": "gpt-audio", "input_audio_mtok": 999.0, "output_audio_mtok": 999.0}],
    )
    assert compile_price("openai", "openai", "gpt-audio", now=NOW) == known
    assert compile_price("openai", "openai", "gpt-99", now=NOW).input_pusd == 999_000_000


def test_the_table_wins_over_a_fee_that_it_knows(monkeypatch):
    fees = [{"kind": "FeePerCall", "name": name, "usd": 9.0} for name in ("web_search", "dancing")]
    lay(monkeypatch, fees=fees)
    stated = dict(compile_price("openai", "openai", "gpt-5", now=NOW).fees)
    assert (stated["web_search"], stated["dancing"]) == (10_000_000_000, 9_000_000_000_000)


def test_a_model_of_the_overlay_has_its_steps_its_tiers_and_its_regional_host():
    sol = compile_price("openai", "openai", "gpt-6.2-sol", now=NOW)
    ((above, long),) = sol.tiers
    assert (sol.input_pusd, sol.cache_write_pusd, above, long.output_pusd) == (
        2_000_000,
        5_000_000,
        272_000,
        15_000_000,
    )
    assert compile_price("openai", "openai", "gpt-6.2-sol", None, "batch", now=NOW).output_pusd == 5_000_000
    assert compile_price("openai", "openai", "gpt-6.2-sol", None, "flex", now=NOW) is None
    eu = compile_price("openai", "x", "gpt-6.2-sol", "https://eu.api.openai.com/v1", now=NOW)
    assert eu.output_pusd == 11_000_000
    assert vendors.context_window("openai", "openai", "gpt-6.2-sol", None) == 1_050_000


def test_a_fee_that_nobody_can_have_meant_is_not_believed(monkeypatch, caplog):
    lay(monkeypatch, fees=[{"kind": "FeePerCall", "name": "web", "usd": 100.0}])
    assert compile_price("openai", "openai", "gpt-99", now=NOW) is None
    assert compile_price("openai", "openai", "gpt-5", now=NOW) is None
    assert "$10 per call" in caplog.text


# Prices that move


def moved(monkeypatch, factor):
    """A price table whose every rate moves by a factor between two readings, with what it said before and after."""
    settings_ = Settings(providers={"openai": ProviderSettings(kind="openai")})
    prices = PriceTable(settings_, now=lambda: NOW)
    before = prices.lookup("openai:gpt-5-mini")
    original = vendors.pusd_per_token
    monkeypatch.setattr(vendors, "pusd_per_token", lambda rate: max(10, original(rate * factor)))
    return prices, before


@pytest.mark.parametrize("factor", [1_000, 5_000])
def test_a_price_that_leaps_a_thousandfold_is_not_taken_and_said_once(monkeypatch, caplog, factor):
    prices, before = moved(monkeypatch, factor)
    with caplog.at_level(logging.ERROR):
        assert not prices.refresh_if_older_than(0)
        assert not prices.refresh_if_older_than(0)
    assert prices.lookup("openai:gpt-5-mini") == before
    assert len([line for line in caplog.records if "gpt-5-mini" in line.getMessage()]) == 1


def test_a_price_that_falls_a_thousandfold_is_not_taken(monkeypatch):
    prices, before = moved(monkeypatch, Decimal("0.001"))
    assert not prices.refresh_if_older_than(0)
    assert prices.lookup("openai:gpt-5-mini") == before


def test_a_price_that_moves_less_is_taken(monkeypatch):
    prices, before = moved(monkeypatch, 900)
    assert prices.refresh_if_older_than(0)
    assert prices.lookup("openai:gpt-5-mini").input_pusd == 900 * before.input_pusd
