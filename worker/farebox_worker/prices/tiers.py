"""Which tier served a call, and what that makes it cost: the tier really served decides, not the one asked for.

Words are the vendors' own (OpenAI's `service_tier`, Anthropic's `usage.service_tier`). A word nobody knows is booked at
the dearest price that is known: a bill may turn out lower than the books, never higher.
"""

from __future__ import annotations

import msgspec

from farebox.records import Tier
from farebox_worker.prices.catalogue import Entry
from farebox_worker.prices.rates import Price
from farebox_worker.providers.base import TokenUsage

# "default" is OpenAI's word, "standard" Anthropic's, "on_demand" Groq's.
_WORDS = {"default": "standard", "on_demand": "standard"}


class Booking(msgspec.Struct, frozen=True, gc=False):
    """What an answer costs, in nano-dollars, by which price, and what the standard tier would have cost more."""

    cost_nusd: int
    saved_nusd: int
    price: Price


def tier_named(word: str) -> str:
    """Return our name of a tier for a vendor's word; "" stays "", and an unknown word is its own name."""
    return _WORDS.get(word, word)


def book(entry: Entry, asked: Tier, word: str, usage: TokenUsage) -> Booking | None:
    """Price a usage by the tier that served it; None when no price is known that could be its own.

    A provider that does not say served what was asked for, or the standard tier, whichever is dearer.
    """
    served = tier_named(word)
    price = entry.price
    if price is not None and asked == "standard" and served in {"", "standard"}:
        return Booking(price.cost_nusd(usage), 0, price)
    prices = dict(entry.prices)
    if price is None and served not in prices:
        return None
    if price is not None:
        prices[asked] = price
    costs = {tier: known.cost_nusd(usage) for tier, known in prices.items()}
    candidates = {served} if served else {asked, "standard"}
    tier = max(candidates & costs.keys() or costs, key=costs.__getitem__)
    return Booking(costs[tier], costs.get("standard", costs[tier]) - costs[tier], prices[tier])
