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

import msgspec

from farebox.errors import ConfigError
from farebox.money import pusd_per_token
from farebox_worker.events import event
from farebox_worker.prices import vendors
from farebox_worker.prices.overlay import EVERY_VENDOR, overlay
from farebox_worker.prices.rates import FREE, PRETEND, Price, Rates, flat, price_of
from farebox_worker.prices.vendors import DisbelievedError
from farebox_worker.settings import KEY_VARIABLES

if TYPE_CHECKING:
    from farebox_worker.settings import ModelSettings, ProviderSettings, Settings

__all__ = ["FREE", "PRETEND", "Price", "PriceTable", "Rates", "compile_price"]

log = logging.getLogger(__name__)

MOST_FACTOR = 1_000  # a rate that moves by more within one process is a mistake of the table


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
    try:
        return _from_list(provider_kind, provider_id, model_id, base_url, tier, now or datetime.now(UTC))
    except DisbelievedError as error:
        log.error("%s", error, extra=event("prices_kept", model=model_id))  # noqa: TRY400 - nothing broke here
        return None


def _from_list(
    kind: str, provider_id: str, model_id: str, base_url: str | None, tier: str, now: datetime
) -> Price | None:
    """Make the price of a model from its vendor's list. Raises: DisbelievedError."""
    listing = vendors.find(kind, provider_id, model_id, base_url, tier, now)
    if listing is None:
        return None
    long_percent = overlay().long_write_percent(listing.vendor, model_id)
    (_, base), *cliffs = [(above, _listed(rates, long_percent)) for above, rates in listing.steps]
    return price_of(
        base,
        listing.version,
        request_pusd=listing.request_pusd,
        tiers=tuple(cliffs),
        fees=listing.fees,
        regional_percent=listing.regional_percent,
    )


def fee_problem(model_ref: str, name: str) -> str:
    """Say why a fee of a request has no bound under a limit, and what to do."""
    return (
        f"{name} costs a fee per call beside the tokens, and a budget applies, but nobody states the fee of "
        f'{model_ref} or how often it is due: set fees_usd_per_call = {{ {name} = … }} under [models."{model_ref}"] in '
        "farebox.toml, give the tool max_uses or the response max_tool_calls, or run without a budget (--no-budget)"
    )


def _listed(rates: dict[str, int], long_percent: int) -> Rates:
    """Read one step of a list. What has no rate of its own costs what its parent costs, as in genai-prices.

    Pictures and film cost what they cost whether or not a usage tells their share, so where their rate is the dearer
    one it stands for text too; only audio is told apart.
    """
    text_in, text_out = _dearest(rates, "input", ("image", "video")), _dearest(rates, "output", ("image", "video"))
    write_5m = max(rates.get("cache_write_mtok", text_in), rates.get("cache_write_5m_mtok", 0))
    listed_long = max((rate for key, rate in rates.items() if key.startswith("cache_write_1")), default=0)
    read = rates.get("cache_read_mtok", text_in)
    audio_in = max(rates.get("input_audio_mtok", 0), rates.get("cache_audio_read_mtok", 0))
    audio_out = max((rate for key, rate in rates.items() if key.startswith("output_")), default=0)
    return Rates(
        input_pusd=text_in,
        output_pusd=text_out,
        cache_read_pusd=max(read, rates.get("cache_image_read_mtok", 0)),
        cache_write_pusd=listed_long or _long_write(text_in, write_5m, long_percent),
        cache_write_5m_pusd=write_5m,
        media_input_pusd=audio_in if audio_in > text_in else 0,
        media_output_pusd=audio_out if audio_out > text_out else 0,
    )


def _dearest(rates: dict[str, int], direction: str, kinds: tuple[str, ...]) -> int:
    return max(rates[f"{direction}_mtok"], *(rates.get(f"{direction}_{kind}_mtok", 0) for kind in kinds))


def _long_write(text_in: int, write_5m: int, percent: int) -> int:
    """Price a write to the long-lived cache that nobody lists; where writes cost no more, neither do these."""
    return max(write_5m, -(-text_in * percent // 100)) if write_5m > text_in else write_5m


class PriceTable:
    """The prices of this process, looked up by model_ref; `revision` grows when one of them changed."""

    def __init__(self, settings: Settings, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self.revision = 0
        self._settings = settings
        self._now = now
        self._compiled_s = time.monotonic()
        self._models = 0
        self._known: dict[tuple[str, str], Price | None] = {}
        self._disbelieved: set[str] = set()

    def lookup(self, model_ref: str, tier: str = "standard") -> Price | None:
        """Find a model's price in a tier; None when nobody states it.

        Raises: ConfigError when farebox.toml states half a price of a model that the table does not know.
        """
        key = model_ref, tier
        if key not in self._known:
            try:
                self._known[key] = self._compile(model_ref, tier)
            except DisbelievedError as error:
                self._known[key] = None
                self._say_once(model_ref, str(error))
        return self._known[key]

    def refresh_if_older_than(self, seconds: float) -> bool:
        """Compile the known prices anew when they are older; tell whether one changed.

        A table that lost a fifth of its models since it was first read is not believed, nor is a rate that moved by a
        factor of 1,000: the old prices stay.
        """
        if time.monotonic() - self._compiled_s < seconds:
            return False
        self._compiled_s = time.monotonic()
        size = vendors.table_size()
        if size < 0.8 * self._models:
            log.error(
                "the price table shrank from %d to %d models: keeping the prices of before", self._models, size,
                extra=event("prices_kept", models=size),
            )  # fmt: skip
            return False
        fresh = {key: self._believed(*key) for key in self._known}
        if fresh == self._known:
            return False
        self._known = fresh
        self.revision += 1
        return True

    def _believed(self, model_ref: str, tier: str) -> Price | None:
        """Compile a price anew, and keep the old one when a rate moved too far; say so once per model."""
        old = self._known[model_ref, tier]
        try:
            new = self._compile(model_ref, tier)
        except DisbelievedError as error:
            self._say_once(model_ref, str(error))
            return old
        if old is None or new is None or not _leaps(old, new):
            return new
        moved = f"${old.input_pusd / 1e6:g} to ${new.input_pusd / 1e6:g} in and ${old.output_pusd / 1e6:g} to "
        moved += f"${new.output_pusd / 1e6:g} out, per million tokens"
        self._say_once(
            model_ref,
            f"a rate of {model_ref} moved by a factor of {MOST_FACTOR:,} or more ({moved}): keeping the old price. If "
            f'the new one is right, state it in [models."{model_ref}"] of farebox.toml',
        )
        return old

    def _say_once(self, model_ref: str, message: str) -> None:
        if model_ref not in self._disbelieved:
            self._disbelieved.add(model_ref)
            log.error("%s", message, extra=event("prices_kept", model=model_ref))

    def model_ids(self, provider_id: str) -> list[str]:
        """Name the models that the table prices for a provider."""
        provider = self._settings.providers[provider_id]
        return vendors.model_ids(provider.kind, provider_id, provider.base_url)

    def vendors_of(self, model_id: str) -> list[str]:
        """Name the vendors with a key of their own that list a model, configured or not."""
        return [kind for kind in KEY_VARIABLES if compile_price(kind, kind, model_id, now=self._now())]

    def context_window(self, model_ref: str) -> int | None:
        """Find a model's context window, in tokens, in the table."""
        provider_id, _, model_id = model_ref.partition(":")
        provider = self._settings.providers[provider_id]
        return vendors.context_window(provider.kind, provider_id, model_id, provider.base_url)

    def _compile(self, model_ref: str, tier: str) -> Price | None:
        provider_id, _, model_id = model_ref.partition(":")
        provider = self._settings.providers.get(provider_id)
        if provider is None:
            return None
        model = self._settings.models.get(model_ref)
        if provider.free or (model and model.free):
            return FREE
        if tier == "flex" and model and model.flex_input_usd_per_mtok is not None:
            price: Price | None = _stated_price(model_ref, provider, _as_flex(model_ref, model))
        elif model and _stated(model):
            price = self._override(model_ref, provider, model, tier)
        else:
            price = self._list(provider, provider_id, model_id, tier)
        return _with_fees(price, model) if price and model else price

    def _list(self, provider: ProviderSettings, provider_id: str, model_id: str, tier: str) -> Price | None:
        if provider.kind == "echo":
            return PRETEND if tier == "standard" else None
        self._models = self._models or vendors.table_size()
        return _from_list(provider.kind, provider_id, model_id, provider.base_url, tier, self._now())

    def _override(self, model_ref: str, provider: ProviderSettings, model: ModelSettings, tier: str) -> Price | None:
        provider_id, _, model_id = model_ref.partition(":")
        try:
            wanted, standard = (self._list(provider, provider_id, model_id, one) for one in (tier, "standard"))
        except DisbelievedError:
            wanted = standard = None
        if wanted is None and tier != "standard":
            return None
        if wanted is None or standard is None:
            return _stated_price(model_ref, provider, model)
        cliffs = tuple((above, _scaled(rates, standard, model)) for above, rates in wanted.tiers)
        scaled = _scaled(wanted, standard, model)
        fields = {name: getattr(scaled, name) for name in Rates.__dataclass_fields__}
        return replace(wanted, **fields, version="farebox.toml", tiers=cliffs)


def _leaps(old: Price, new: Price) -> bool:
    """Tell whether a rate moved by a factor of 1,000 or more, or fell to nothing."""
    before, after = [old, *(rates for _, rates in old.tiers)], [new, *(rates for _, rates in new.tiers)]
    pairs = [
        (getattr(one, name), getattr(other, name))
        for one, other in zip(before, after, strict=False)
        for name in ("input_pusd", "output_pusd", "cache_read_pusd", "cache_write_pusd", "cache_write_5m_pusd")
    ]
    return any(one and max(one, other) >= MOST_FACTOR * min(one, other) for one, other in pairs)


def _with_fees(price: Price, model: ModelSettings) -> Price:
    """Lay the fees of farebox.toml over the listed ones."""
    stated = {name: pusd_per_token(usd) * 1_000_000 for name, usd in model.fees_usd_per_call.items()}
    return replace(price, fees=tuple((dict(price.fees) | stated).items())) if stated else price


def _as_flex(model_ref: str, model: ModelSettings) -> ModelSettings:
    """Read the rates that farebox.toml states for flex as if they were the standard ones."""
    if model.flex_output_usd_per_mtok is None:
        raise ConfigError(f'[models."{model_ref}"] states flex_input_usd_per_mtok: state flex_output_usd_per_mtok too')
    return msgspec.structs.replace(
        model,
        input_usd_per_mtok=model.flex_input_usd_per_mtok,
        output_usd_per_mtok=model.flex_output_usd_per_mtok,
        cached_input_usd_per_mtok=None,
        cache_write_usd_per_mtok=None,
    )


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
    vendor, model_id = provider.kind if at_vendor else EVERY_VENDOR, model_ref.partition(":")[2]
    write_5m = stated.get("cache_write_5m_pusd", -(-5 * text_in // 4) if at_vendor else text_in)
    rates = replace(
        flat(text_in, stated["output_pusd"]),
        cache_read_pusd=stated.get("cache_read_pusd", text_in),
        cache_write_5m_pusd=write_5m,
        cache_write_pusd=_long_write(text_in, write_5m, overlay().long_write_percent(vendor, model_id)),
    )
    return price_of(rates, "farebox.toml", regional_percent=overlay().told_percent(vendor, model_id))
