"""What a call costs, and what it can cost at most: the arithmetic of rates, in integers.

It knows no vendor and no setting: `prices` finds the rates. It never moves money.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from farebox.money import nusd_from_pusd
from farebox_worker.providers.base import Fee, TokenUsage

_FEELESS = ("free", "pretend")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Pico-dollars per token.

    `cache_write_pusd` is the write to the long-lived cache (Anthropic: 1 h, OpenAI: 12 h), which is the dearest,
    `cache_write_5m_pusd` the default one. The media rates are the dearest for audio, 0 where it costs what text costs.
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
        writes = max(self.cache_write_pusd, self.cache_write_5m_pusd)
        return max(self.input_pusd, self.cache_read_pusd, writes, self.media_input_pusd)

    @property
    def dearest_output_pusd(self) -> int:
        """The most that one token of output can cost."""
        return max(self.output_pusd, self.media_output_pusd)


@dataclass(frozen=True, slots=True, kw_only=True)
class Price(Rates):
    """The rates of one model in one tier.

    `tiers` are long-context cliffs, ascending: above so many tokens of input in all, those rates hold for the whole
    request. `request_pusd` is a fee per request, `fees` are fees per call of something, in pico-dollars by name.
    `regional_percent` is what the vendor adds to all rates when a call's usage says that it ran in a dearer region;
    the worst case has it always. `version` names the source for the books; a `pretend` price is nobody's bill.
    """

    version: str
    pretend: bool = False
    request_pusd: int = 0
    tiers: tuple[tuple[int, Rates], ...] = ()
    fees: tuple[tuple[str, int], ...] = ()
    regional_percent: int = 0

    def worst_nusd(self, input_bound: int, output_bound: int, fees: Iterable[Fee] = ()) -> int:
        """Bound the cost of any request within so many tokens in and out, in nano-dollars, rounded up.

        It is a bound only where `unstated_fee` finds none among the `fees`.
        """
        worst = input_bound * self.dearest_input_pusd + output_bound * self.dearest_output_pusd
        for above, rates in self.tiers:
            if above < input_bound:
                worst = max(worst, input_bound * rates.dearest_input_pusd + output_bound * rates.dearest_output_pusd)
        calls = self._fees_pusd([(fee.name, fee.most or 0) for fee in fees]) if fees else 0
        return nusd_from_pusd(_raised(worst, self.regional_percent) + self.request_pusd + calls)

    def cost_nusd(self, usage: TokenUsage) -> int:
        """Price a usage in nano-dollars, rounded up once. A fee that nobody states costs nothing here."""
        rates: Rates = self
        if self.tiers:
            total = usage.input_tokens + usage.cache_read_tokens + usage.cache_write_tokens
            rates = next((rates for above, rates in reversed(self.tiers) if total > above), self)
        tokens = _raised(_tokens_pusd(rates, usage), self.regional_percent if usage.is_regional else 0)
        return nusd_from_pusd(tokens + self.request_pusd + self._fees_pusd(usage.fees))

    def unstated_fee(self, fees: Iterable[Fee]) -> str:
        """Name the first fee without a bound, "" when there is none: its price or how often it is due is unknown."""
        if self.version in _FEELESS:
            return ""
        stated = dict(self.fees)
        for fee in fees:
            pusd = stated.get(fee.name)
            if pusd is None or (pusd and fee.most is None):
                return fee.name
        return ""

    def _fees_pusd(self, calls: Sequence[tuple[str, int]]) -> int:
        if not calls:
            return 0
        stated = dict(self.fees)
        return sum(stated.get(name, 0) * count for name, count in calls)


def _tokens_pusd(rates: Rates, usage: TokenUsage) -> int:
    long_writes = min(usage.cache_write_1h_tokens, usage.cache_write_tokens)
    media_in = min(usage.media_input_tokens, usage.input_tokens)
    media_out = min(usage.media_output_tokens, usage.output_tokens)
    return (
        (usage.input_tokens - media_in) * rates.input_pusd
        + media_in * (rates.media_input_pusd or rates.input_pusd)
        + usage.cache_read_tokens * rates.cache_read_pusd
        + (usage.cache_write_tokens - long_writes) * rates.cache_write_5m_pusd
        + long_writes * rates.cache_write_pusd
        + (usage.output_tokens - media_out) * rates.output_pusd
        + media_out * (rates.media_output_pusd or rates.output_pusd)
    )


def _raised(pusd: int, percent: int) -> int:
    return -(-pusd * (100 + percent) // 100) if percent else pusd


def flat(input_pusd: int, output_pusd: int) -> Rates:
    """Make rates that know no cache: every token of input costs the same."""
    return Rates(
        input_pusd=input_pusd,
        output_pusd=output_pusd,
        cache_read_pusd=input_pusd,
        cache_write_pusd=input_pusd,
        cache_write_5m_pusd=input_pusd,
    )


def price_of(rates: Rates, version: str, **more: object) -> Price:
    """Make a Price of base rates and the fields of its own."""
    fields = {name: getattr(rates, name) for name in Rates.__dataclass_fields__}
    return Price(**fields, version=version, **more)  # type: ignore[arg-type]  # the fields of Rates, and Price's own


FREE = price_of(flat(0, 0), "free")
PRETEND = price_of(flat(1_000_000, 2_000_000), "pretend", pretend=True)  # $1 and $2 per million tokens
