"""What vendors list, read from the bundled data of genai-prices: rates as pico-dollars per token, by price key.

It owns which vendor a provider is, and what of the table to believe. It never goes online. Importing the data takes
160 ms, so nothing here imports it before the first question.
Source: genai-prices (pydantic/genai-prices), its `data_snapshot` and `types.ModelInfo.get_prices`.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from importlib.metadata import version
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from farebox.errors import ConfigError
from farebox.money import pusd_per_token
from farebox_worker.prices.overlay import Unlisted, overlay

if TYPE_CHECKING:
    from decimal import Decimal

    from genai_prices.types import ModelInfo, ModelPrice, Provider

LEAST_PUSD, MOST_PUSD = 10, 10_000_000_000  # $0.00001 and $10,000 per million tokens: beyond, the unit is wrong
MOST_FEE_PUSD = 10_000_000_000_000  # $10 per call
_LEAST_MODELS = 1_000  # the table of 0.2.3 holds 2,330
_CONTEXTS = {
    "flex": {"service_tier": "flex"},
    "priority": {"service_tier": "priority"},
    "batch": {"processing": "batch"},
}
# Names of models there are the customer's own, so a name says nothing of the price.
_CUSTOMER_NAMED = {"azure", "databricks", "modal"}
# These bill searches that no usage mentions.
_UNBOUNDED = re.compile(r"search-preview|search-api|deep-research")
# These write no tokens, so a list without an output rate is a whole one. Others without one are not believed.
_EMBEDS = re.compile(r"embed|(^|[/-])(voyage|bge|gte)-")
_FEES = {"web_search": "web_searches_kcount", "file_search": "storage_searches_kcount"}
_SEARCH_INCLUDED = {"perplexity"}  # its fee per request is for the search
_AHEAD = [timedelta(minutes=minutes) for minutes in (0, 30, 60, 90)]


@dataclass(frozen=True, slots=True)
class Listing:
    """What a vendor lists for a model: rates by price key, for requests with more than so many tokens of input.

    The first step is the base (above -1). `request_pusd` is a fee per request, `fees` are fees per call by name.
    `regional_percent` is what a region that a usage may name adds to the rates.
    """

    vendor: str
    steps: tuple[tuple[int, dict[str, int]], ...]
    request_pusd: int
    version: str
    fees: tuple[tuple[str, int], ...] = ()
    regional_percent: int = 0


class DisbelievedError(LookupError):
    """The table lists a price whose unit must be wrong."""


def find(kind: str, provider_id: str, model_id: str, base_url: str | None, tier: str, now: datetime) -> Listing | None:
    """Find what a model costs in a tier at a time; None when the table does not know.

    Where prices depend on the time, each rate is the dearest of the next 90 minutes: a price is used until the
    hourly refresh, and a call may take 15 minutes more.
    Raises: DisbelievedError.
    """
    vendor = _vendor(kind, provider_id, base_url)
    if vendor is None or vendor.id in _CUSTOMER_NAMED or _UNBOUNDED.search(model_id.lower()):
        return None
    percent = 100 + overlay().host_percent(vendor.id, _host(base_url))
    model = vendor.find_model(model_id)
    if model is None:
        entry = overlay().unlisted(vendor.id, model_id)
        listing = entry and _unlisted(entry, vendor.id, model_id, tier, percent)
    elif tier == "standard" or _has_variant(model, tier, now):
        listing = _listed(model, vendor.id, model_id, tier, percent, now)
    else:
        listing = None
    return _believe(listing, model_id) if listing else None


def _listed(model: ModelInfo, vendor: str, model_id: str, tier: str, percent: int, now: datetime) -> Listing:
    """Read what the table lists, and fill what it lacks from the overlay."""
    dated = {now + ahead for ahead in _AHEAD} if isinstance(model.prices, list) else {now}
    prices = [model.get_prices(moment, _CONTEXTS.get(tier)) for moment in dated]
    more = {
        key: -(-pusd_per_token(usd) * percent // 100) for key, usd in overlay().more_rates(vendor, model_id).items()
    }
    more |= {"output_mtok": 0} if _is_embedder(model) else {}
    steps = tuple((above, more | _dearest(prices, above, percent)) for above in sorted({-1, *_thresholds(prices)}))
    request = max(_per_call_pusd(price, "requests_kcount") for price in prices) * percent // 100
    listed = {name: max(_per_call_pusd(price, key) for price in prices) for name, key in _FEES.items()}
    fees = _overlaid_fees(vendor, model_id) | {name: pusd for name, pusd in listed.items() if pusd}
    if vendor in _SEARCH_INCLUDED:
        fees.setdefault("web_search", 0)  # but for those whose searches the table prices
    version = f"genai-prices {_release()} {now.date()}"
    return Listing(vendor, steps, request, version, tuple(fees.items()), overlay().told_percent(vendor, model_id))


def _unlisted(entry: Unlisted, vendor: str, model_id: str, tier: str, percent: int) -> Listing | None:
    """Price a model that the table does not know by the overlay alone."""
    share = 100 if tier == "standard" else entry.tiers.get(tier)
    if share is None:
        return None
    steps = tuple(
        (above, {key: -(-pusd_per_token(usd) * percent * share // 10_000) for key, usd in rates.items()})
        for above, rates in sorted({-1: entry.rates, **entry.above}.items())
    )
    fees = tuple(_overlaid_fees(vendor, model_id).items())
    return Listing(vendor, steps, 0, "farebox prices/overlay.toml", fees, overlay().told_percent(vendor, model_id))


def _overlaid_fees(vendor: str, model_id: str) -> dict[str, int]:
    return {name: pusd_per_token(usd) * 1_000_000 for name, usd in overlay().fees_usd(vendor, model_id).items()}


def context_window(kind: str, provider_id: str, model_id: str, base_url: str | None) -> int | None:
    """Find a model's context window in tokens; None when the table does not say."""
    vendor = _vendor(kind, provider_id, base_url)
    if vendor is None:
        return None
    if model := vendor.find_model(model_id):
        return model.context_window
    entry = overlay().unlisted(vendor.id, model_id)
    return entry.context_window if entry else None


def model_ids(kind: str, provider_id: str, base_url: str | None) -> list[str]:
    """Name the models that the table prices by tokens for this provider's vendor."""
    vendor = _vendor(kind, provider_id, base_url)
    if vendor is None or vendor.id in _CUSTOMER_NAMED:
        return []
    return [model.id for model in vendor.models if _by_token(model) and not model.id.endswith("-")]


def table_size() -> int:
    """Count the models of the table. Raises: ConfigError when so few are left that it must be broken."""
    from genai_prices.data_snapshot import get_snapshot  # noqa: PLC0415 - 160 ms

    providers = get_snapshot().providers
    count = sum(len(provider.models) for provider in providers)
    if count < _LEAST_MODELS or not {"openai", "anthropic"} <= {provider.id for provider in providers}:
        raise ConfigError(
            f"the price table of genai-prices {_release()} holds {count:,} models, expected at least "
            f"{_LEAST_MODELS:,}: reinstall it, nothing is priced by a broken table"
        )
    return count


def _vendor(kind: str, provider_id: str, base_url: str | None) -> Provider | None:
    """Find whose prices hold.

    An address the table knows decides; else the provider's id, when it is exactly a vendor's (a gateway or a
    rehearsal named after it).
    """
    from genai_prices.data_snapshot import get_snapshot  # noqa: PLC0415 - 160 ms

    table_size()
    providers = {provider.id: provider for provider in get_snapshot().providers}
    if kind == "echo":
        return None
    if base_url is None:
        return providers.get(kind)
    if overlay().host_percent("openai", _host(base_url)):
        return providers["openai"]
    by_address = (provider for provider in providers.values() if re.match(provider.api_pattern, base_url))
    return next(by_address, providers.get(provider_id))


def _host(base_url: str | None) -> str:
    return urlsplit(base_url or "").hostname or ""


def _has_variant(model: ModelInfo, tier: str, now: datetime) -> bool:
    """Tell whether the table states a tier's own rates: without them get_prices answers with the standard ones."""
    return any(
        variant.when == _CONTEXTS.get(tier)
        and (variant.constraint is None or variant.constraint.active(now))
        and {"input_mtok", "output_mtok"} <= variant.prices.__dict__.keys()
        for variant in model.price_variants or ()
    )


def _thresholds(prices: list[ModelPrice]) -> set[int]:
    values = [value for price in prices for value in price.__dict__.values()]
    return {tier.start for value in values for tier in getattr(value, "tiers", ())}


def _dearest(prices: list[ModelPrice], above: int, percent: int) -> dict[str, int]:
    """Take the dearest rate of each key, in pico-dollars per token, for requests with more than `above` tokens in."""
    rates: dict[str, int] = {}
    for price in prices:
        for key, value in price.__dict__.items():
            if key.endswith("_mtok") and value is not None:
                rates[key] = max(rates.get(key, 0), -(-_rate(value, above) * percent // 100))
    return rates


def _rate(value: Any, above: int) -> int:
    """Read one price: a Decimal, or one with tiers, of which the highest that starts at or below `above` holds."""
    if value is None:
        return 0
    price: Decimal = getattr(value, "base", value)
    for tier in getattr(value, "tiers", ()):
        if tier.start <= above:
            price = tier.price
    return pusd_per_token(price)


def _per_call_pusd(price: ModelPrice, key: str) -> int:
    """Read a price per thousand calls as pico-dollars per call."""
    return _rate(price.__dict__.get(key), -1) * 1000


def _by_token(model: ModelInfo) -> bool:
    return {"input_mtok", "output_mtok"} <= _stated_keys(model) or _is_embedder(model)


def _is_embedder(model: ModelInfo) -> bool:
    """Tell whether a model makes vectors: its name says so, and it is listed with a price of input alone."""
    keys = _stated_keys(model)
    has_output = any(key.startswith("output_") for key in keys)
    return "input_mtok" in keys and not has_output and _EMBEDS.search(model.id.lower()) is not None


def _stated_keys(model: ModelInfo) -> set[str]:
    prices = model.prices[-1].prices if isinstance(model.prices, list) else model.prices
    return {key for key, value in prices.__dict__.items() if value is not None}


def _believe(listing: Listing, model_id: str) -> Listing | None:
    """Leave out a listing without token rates, and refuse one whose unit must be wrong."""
    wrong = [name for name, pusd in listing.fees if pusd > MOST_FEE_PUSD]
    for _, rates in listing.steps:
        if not {"input_mtok", "output_mtok"} <= rates.keys():
            return None
        if wrong or any(not LEAST_PUSD <= rate <= MOST_PUSD for rate in rates.values() if rate):
            raise DisbelievedError(
                f"the price table lists {model_id} of {listing.vendor} beyond $0.00001 to $10,000 per million tokens, "
                'or $10 per call: not believed. State its price in [models."…"] of farebox.toml'
            )
    return listing


@functools.cache
def _release() -> str:
    return version("genai-prices")
