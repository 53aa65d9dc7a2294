"""What the price table does not know of its vendors' prices, read from `overlay.toml`, with a source each.

The table wins: it is reviewed and dated, so an entry here fills only what the table does not state. Surcharges have no
place in the table and always hold. It prices nothing by itself: `vendors` lays it over the table.
"""

from __future__ import annotations

import functools
import re
import tomllib
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

FILE = Path(__file__).with_name("overlay.toml")
EVERY_VENDOR = "*"

_Rates = dict[str, Annotated[float, Meta(gt=0, le=10_000)]]
_Percent = Annotated[int, Meta(gt=0, le=1_000)]


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What every entry says: for which vendor and models it holds, and who says so."""

    source: Annotated[str, Meta(min_length=20)]
    vendor: str = EVERY_VENDOR
    models: str = ".*"

    def covers(self, vendor: str, model_id: str) -> bool:
        """Tell whether it is about this model."""
        return self.vendor in {vendor, EVERY_VENDOR} and re.fullmatch(self.models, model_id.lower()) is not None


class LongWrite(Entry, frozen=True):
    """What a write to the long-lived cache costs, in percent of the input rate."""

    percent: _Percent


class Surcharge(Entry, frozen=True):
    """What a region adds, in percent: for every call to `hosts`, or for calls whose usage names the region."""

    percent: _Percent
    hosts: str = ""


class MoreRates(Entry, frozen=True):
    """Rates in dollars per million tokens that the table lacks for a model."""

    input_audio_mtok: float
    output_audio_mtok: float


class Unlisted(Entry, frozen=True):
    """A model the table does not know: its rates, those above so many tokens in, and its tiers in percent of them."""

    rates: _Rates
    above: dict[int, _Rates] = {}
    tiers: dict[str, _Percent] = {}
    context_window: int = 0


class FeePerCall(Entry, frozen=True):
    """What one call of something costs, in dollars."""

    name: str
    usd: Annotated[float, Meta(ge=0, le=100)]


class Image(Entry, frozen=True):
    """How many tokens one image counts at most."""

    tokens: Annotated[int, Meta(gt=0)]


class Overlay(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file; of entries for the same model the first counts."""

    long_writes: list[LongWrite] = []
    surcharges: list[Surcharge] = []
    rates: list[MoreRates] = []
    models: list[Unlisted] = []
    fees: list[FeePerCall] = []
    images: list[Image] = []

    def long_write_percent(self, vendor: str, model_id: str) -> int:
        """What a write to the long-lived cache costs, in percent of the input rate."""
        return next((entry.percent for entry in self.long_writes if entry.covers(vendor, model_id)), 100)

    def host_percent(self, vendor: str, host: str) -> int:
        """What a host adds to every call, in percent."""
        entries = (entry for entry in self.surcharges if entry.hosts and entry.vendor == vendor)
        return next((entry.percent for entry in entries if re.fullmatch(entry.hosts, host)), 0)

    def told_percent(self, vendor: str, model_id: str) -> int:
        """What a region that the usage names adds, in percent."""
        entries = (entry for entry in self.surcharges if not entry.hosts and entry.covers(vendor, model_id))
        return next((entry.percent for entry in entries), 0)

    def more_rates(self, vendor: str, model_id: str) -> dict[str, float]:
        """Rates by price key, in dollars per million tokens, for keys the table may lack."""
        for entry in self.rates:
            if entry.covers(vendor, model_id):
                return {"input_audio_mtok": entry.input_audio_mtok, "output_audio_mtok": entry.output_audio_mtok}
        return {}

    def unlisted(self, vendor: str, model_id: str) -> Unlisted | None:
        """The model's entry, should the table not know it."""
        return next((entry for entry in self.models if entry.covers(vendor, model_id)), None)

    def fees_usd(self, vendor: str, model_id: str) -> dict[str, float]:
        """Fees per call, in dollars by name."""
        return {entry.name: entry.usd for entry in self.fees if entry.covers(vendor, model_id)}

    def image_tokens(self, model_id: str) -> int:
        """The most tokens of one image, 0 when nobody says. A reseller's prefix (`openai/`) is left out of the id."""
        name = model_id.rpartition("/")[2]
        return next((entry.tokens for entry in self.images if entry.covers(EVERY_VENDOR, name)), 0)


@functools.cache
def overlay() -> Overlay:
    """Read the overlay that comes with Farebox."""
    return msgspec.convert(tomllib.loads(FILE.read_text(encoding="utf-8")), Overlay, strict=False)
