"""What a call costs, and what it can cost at most: integer rates, one Price per model_ref and tier.

It owns the arithmetic and the order of sources: `farebox.toml` first, then the vendors' lists. An unknown price is
None, never zero. It never moves money.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from farebox.errors import ConfigError
from farebox.money import nusd_from_pusd, pusd_per_token
from farebox_worker import prices_data
from farebox_worker.providers.base import TokenUsage

if TYPE_CHECKING:
    from farebox_worker.settings import ModelSettings, ProviderSettings, Settings

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Pico-dollars per token.

    `cache_write_pusd` is the dearest write a request can ask for (Anthropic: 1 h, 2 x input; OpenAI: 12 h, 2.5 x
    input), `cache_write_5m_pusd` the default one. The media rates are the dearest for audio, images and video, 0
    where they cost what text costs. Sources: facts/sdks.md sections 0 (8), 2 and 3.4.
    """

    input_pusd: int
    output_pusd: int
    cache_read_pusd: int
    cache_write_pusd: int
    cache_write_5m_pusd: int
    media_input_pusd: int = 0
    media_output_pusd: int = 0

    @property
    def dearest_input_pusd(self) -> int:
        """The most that one token of input can cost."""
        return max(self.input_pusd, self.cache_read_pusd, self.cache_write_pusd, self.media_input_pusd)

    @property
    def dearest_output_pusd(self) -> int:
        """The most that one token of output can cost."""
        return max(self.output_pusd, self.media_output_pusd)


@dataclass(frozen=True, slots=True, kw_only=True)
class Price(Rates):
    """The rates of one model in one tier.

    `tiers` are long-context cliffs, ascending: above so many tokens of input in all, those rates hold for the whole
    request. `request_pusd` is a fee per request. `version` names the source for the books; a `pretend` price is
    nobody's bill.
    """

    version: str
    pretend: bool = False
    request_pusd: int = 0
    tiers: tuple[tuple[int, Rates], ...] = ()

    def worst_nusd(self, input_bound: int, output_bound: int) -> int:
        """Bound the cost of any request within so many tokens in and out, in nano-dollars, rounded up."""
        reachable: list[Rates] = [self, *(rates for above, rates in self.tiers if above < input_bound)]
        worst = max(
            input_bound * rates.dearest_input_pusd + output_bound * rates.dearest_output_pusd for rates in reachable
        )
        return nusd_from_pusd(worst + self.request_pusd)

    def cost_nusd(self, usage: TokenUsage, *, dearest: bool = False) -> int:
        """Price a usage in nano-dollars, rounded up once.

        `dearest` books each token at the dearest rate of its kind: for requests that asked for long-lived cache
        writes or sent audio, of which TokenUsage does not tell the share.
        """
        total = usage.input_tokens + usage.cache_read_tokens + usage.cache_write_tokens
        rates = next((rates for above, rates in reversed(self.tiers) if total > above), self)
        return nusd_from_pusd(self.request_pusd + (_dearest_pusd if dearest else _plain_pusd)(rates, usage))


def _plain_pusd(rates: Rates, usage: TokenUsage) -> int:
    return (
        usage.input_tokens * rates.input_pusd
        + usage.cache_read_tokens * rates.cache_read_pusd
        + usage.cache_write_tokens * rates.cache_write_5m_pusd
        + usage.output_tokens * rates.output_pusd
    )


def _dearest_pusd(rates: Rates, usage: TokenUsage) -> int:
    return (
        usage.input_tokens * max(rates.input_pusd, rates.media_input_pusd)
        + usage.cache_read_tokens * max(rates.cache_read_pusd, rates.media_input_pusd)
        + usage.cache_write_tokens * rates.cache_write_pusd
        + usage.output_tokens * rates.dearest_output_pusd
    )


def _flat(input_pusd: int, output_pusd: int) -> Rates:
    return Rates(
        input_pusd=input_pusd,
        output_pusd=output_pusd,
        cache_read_pusd=input_pusd,
        cache_write_pusd=input_pusd,
        cache_write_5m_pusd=input_pusd,
    )


def _price(rates: Rates, version: str, **more: object) -> Price:
    fields = {name: getattr(rates, name) for name in Rates.__dataclass_fields__}
    return Price(**fields, version=version, **more)  # type: ignore[arg-type]  # the fields of Rates, and Price's own


FREE = _price(_flat(0, 0), "free")
PRETEND = _price(_flat(1_000_000, 2_000_000), "pretend", pretend=True)  # $1 and $2 per million tokens


def compile_price(  # noqa: PLR0913 - a provider is three of these
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
    return _price(base, listing.version, request_pusd=listing.request_pusd, tiers=tuple(cliffs))


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
        return _price(_scaled(wanted, standard, model), "farebox.toml", **more)


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
        _flat(text_in, stated["output_pusd"]),
        cache_read_pusd=stated.get("cache_read_pusd", text_in),
        cache_write_5m_pusd=write_5m,
        cache_write_pusd=max(write_5m, _long_write(text_in, write_5m, provider.kind)),
    )
    return _price(rates, "farebox.toml")
