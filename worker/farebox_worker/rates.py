"""What a call costs, and what it can cost at most: the arithmetic of rates, in integers.

It knows no vendor and no setting: `prices` finds the rates. It never moves money.
"""

from __future__ import annotations

from dataclasses import dataclass

from farebox.money import nusd_from_pusd
from farebox_worker.providers.base import TokenUsage


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
        worst = input_bound * self.dearest_input_pusd + output_bound * self.dearest_output_pusd
        for above, rates in self.tiers:
            if above < input_bound:
                worst = max(worst, input_bound * rates.dearest_input_pusd + output_bound * rates.dearest_output_pusd)
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
