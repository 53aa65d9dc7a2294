"""The price of every model: one Price per model_ref and tier, compiled from `farebox.toml`, then the vendors' lists.

It owns the order of sources. An unknown price is None, never zero.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from farebox.errors import ConfigError
from farebox.money import pusd_per_token
from farebox_worker import prices_data
from farebox_worker.rates import FREE, PRETEND, Price, Rates, flat, price_of

if TYPE_CHECKING:
    from farebox_worker.settings import ModelSettings, ProviderSettings, Settings

__all__ = ["FREE", "PRETEND", "Price", "PriceTable", "Rates", "compile_price"]

log = logging.getLogger(__name__)


def compile_price(
    provider_kind: str,
    provider_id: str,
    model_id: str,
    base_url: str | None = None,
    tier: str = "standard",
    *,
    now: datetime | None = None,
) -> Price | None:
    """Make the price of a model from its vendor's list at a time (UTC now); None when it is unknown there.

    A tier (flex, priority, batch) without rates of its own is unknown. The first call imports the table: 160 ms.
    """
    listing = prices_data.find(provider_kind, provider_id, model_id, base_url, tier, now or datetime.now(UTC))
    if listing is None:
        return None
    (_, base), *cliffs = [(above, _listed(rates, listing.vendor)) for above, rates in listing.steps]
    return price_of(base, listing.version, request_pusd=listing.request_pusd, tiers=tuple(cliffs))


def _listed(rates: dict[str, int], vendor: str) -> Rates:
    """Read one step of a list. What has no rate of its own costs what its parent costs (facts/sdks.md section 3.3)."""
    text_in, text_out = rates["input_mtok"], rates["output_mtok"]
    write_5m = rates.get("cache_write_mtok", text_in)
    writes = [rate for key, rate in rates.items() if key.startswith("cache_") and "write" in key]
    media = [rate for key, rate in rates.items() if key.startswith(("input_", "cache_")) and "write" not in key]
    return Rates(
        input_pusd=text_in,
        output_pusd=text_out,
        cache_read_pusd=rates.get("cache_read_mtok", text_in),
        cache_write_pusd=max(write_5m, *writes, _long_write(text_in, write_5m, vendor)),
        cache_write_5m_pusd=write_5m,
        media_input_pusd=_above(text_in, media),
        media_output_pusd=_above(text_out, [rate for key, rate in rates.items() if key.startswith("output_")]),
    )


def _long_write(text_in: int, write_5m: int, vendor: str) -> int:
    """Bound the rate of a write to a long-lived cache: 2 x input at Anthropic, 2.5 x where OpenAI's may be resold."""
    if write_5m <= text_in:
        return write_5m
    return 2 * text_in if vendor == "anthropic" else -(-5 * text_in // 2)


def _above(text: int, rates: list[int]) -> int:
    dearest = max(rates, default=0)
    return dearest if dearest > text else 0


class PriceTable:
    """The prices of this process, looked up by model_ref; `revision` grows when one of them changed."""

    def __init__(self, settings: Settings, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self.revision = 0
        self._settings = settings
        self._now = now
        self._compiled_s = time.monotonic()
        self._models = 0
        self._known: dict[tuple[str, str], Price | None] = {}

    def lookup(self, model_ref: str, tier: str = "standard") -> Price | None:
        """Find a model's price in a tier; None when nobody states it.

        Raises: ConfigError when farebox.toml states half a price of a model that the table does not know.
        """
        key = model_ref, tier
        if key not in self._known:
            self._known[key] = self._compile(model_ref, tier)
        return self._known[key]

    def refresh_if_older_than(self, seconds: float) -> bool:
        """Compile the known prices anew when they are older; tell whether one changed.

        A table that lost a fifth of its models since it was first read is not believed: the old prices stay.
        """
        if time.monotonic() - self._compiled_s < seconds:
            return False
        self._compiled_s = time.monotonic()
        size = prices_data.table_size()
        if size < 0.8 * self._models:
            log.error("the price table shrank from %d to %d models: keeping the prices of before", self._models, size)
            return False
        fresh = {key: self._compile(*key) for key in self._known}
        if fresh == self._known:
            return False
        self._known = fresh
        self.revision += 1
        return True

    def model_ids(self, provider_id: str) -> list[str]:
        """Name the models that the table prices for a provider."""
        provider = self._settings.providers[provider_id]
        return prices_data.model_ids(provider.kind, provider_id, provider.base_url)

    def context_window(self, model_ref: str) -> int | None:
        """Find a model's context window, in tokens, in the table."""
        provider_id, _, model_id = model_ref.partition(":")
        provider = self._settings.providers[provider_id]
        return prices_data.context_window(provider.kind, provider_id, model_id, provider.base_url)

    def _compile(self, model_ref: str, tier: str) -> Price | None:
        provider_id, _, model_id = model_ref.partition(":")
        provider = self._settings.providers.get(provider_id)
        if provider is None:
            return None
        model = self._settings.models.get(model_ref)
        if provider.free or (model and model.free):
            return FREE
        if model and _stated(model):
            return self._override(model_ref, provider, model, tier)
        return self._list(provider, provider_id, model_id, tier)

    def _list(self, provider: ProviderSettings, provider_id: str, model_id: str, tier: str) -> Price | None:
        if provider.kind == "echo":
            return PRETEND if tier == "standard" else None
        self._models = self._models or prices_data.table_size()
        return compile_price(provider.kind, provider_id, model_id, provider.base_url, tier, now=self._now())

    def _override(self, model_ref: str, provider: ProviderSettings, model: ModelSettings, tier: str) -> Price | None:
        provider_id, _, model_id = model_ref.partition(":")
        wanted = self._list(provider, provider_id, model_id, tier)
        if wanted is None and tier != "standard":
            return None
        standard = self._list(provider, provider_id, model_id, "standard")
        if wanted is None or standard is None:
            return _stated_price(model_ref, provider, model)
        cliffs = tuple((above, _scaled(rates, standard, model)) for above, rates in wanted.tiers)
        more = {"request_pusd": wanted.request_pusd, "tiers": cliffs, "pretend": wanted.pretend}
        return price_of(_scaled(wanted, standard, model), "farebox.toml", **more)


def _stated(model: ModelSettings) -> dict[str, int]:
    """Read the rates farebox.toml states, as pico-dollars per token by field of Rates."""
    fields = {
        "input_pusd": model.input_usd_per_mtok,
        "output_pusd": model.output_usd_per_mtok,
        "cache_read_pusd": model.cached_input_usd_per_mtok,
        "cache_write_5m_pusd": model.cache_write_usd_per_mtok,
    }
    return {name: pusd_per_token(rate) for name, rate in fields.items() if rate is not None}


def _scaled(rates: Rates, standard: Rates, model: ModelSettings) -> Rates:
    """Lay stated rates over listed ones: cliffs, long cache writes and tiers keep their ratio to the standard rate.

    When only the input rate is stated, cache rates go up with it, but never down: the hold stays a worst case.
    """

    def scale(rate: int, name: str) -> int:
        listed = getattr(standard, name)
        return -(-rate * stated[name] // listed) if listed else stated[name]

    stated = _stated(model)
    names = {name: name for name in ("input_pusd", "output_pusd", "cache_read_pusd", "cache_write_5m_pusd")}
    names |= {"cache_write_pusd": "cache_write_5m_pusd", "media_input_pusd": "input_pusd"}
    names |= {"media_output_pusd": "output_pusd"}
    fresh = {}
    for name, source in names.items():
        rate = getattr(rates, name)
        if source in stated:
            fresh[name] = scale(rate, source) if rate else stated[name] if name == source else 0
        elif name.startswith("cache_") and "input_pusd" in stated:
            fresh[name] = max(rate, scale(rate, "input_pusd"))
        else:
            fresh[name] = rate
    return Rates(**fresh)


def _stated_price(model_ref: str, provider: ProviderSettings, model: ModelSettings) -> Price:
    """Make a price of what farebox.toml states alone. Vendors themselves may charge cache writes above input."""
    stated = _stated(model)
    for name, key in (("input_pusd", "input_usd_per_mtok"), ("output_pusd", "output_usd_per_mtok")):
        if name not in stated:
            raise ConfigError(f'[models."{model_ref}"] needs {key}: the price table does not know this model')
    text_in = stated["input_pusd"]
    at_vendor = provider.base_url is None
    write_5m = stated.get("cache_write_5m_pusd", -(-5 * text_in // 4) if at_vendor else text_in)
    rates = replace(
        flat(text_in, stated["output_pusd"]),
        cache_read_pusd=stated.get("cache_read_pusd", text_in),
        cache_write_5m_pusd=write_5m,
        cache_write_pusd=max(write_5m, _long_write(text_in, write_5m, provider.kind)),
    )
    return price_of(rates, "farebox.toml")
