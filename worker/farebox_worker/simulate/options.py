"""What a simulator is told: models, tempo, prices, limits and faults. Nothing here changes while it runs."""

from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

PUSD = 10**12
"""Pico-dollars in a dollar."""

SHARES = {
    "429": "share_429",
    "500": "share_500",
    "overloaded": "share_overloaded",
    "dropped": "share_dropped",
    "hung": "share_hung",
    "malformed": "share_malformed",
    "refused": "share_refused",
    "filtered": "share_filtered",
    "tool_call": "share_tool_call",
}
"""Each fate but the plain answer, and the option that holds its share."""


@dataclass(frozen=True)
class Options:
    """Everything `farebox simulate` can be told; the help of each is in `command.HELP`.

    Shares are fractions of all admitted requests, 0 to 1, together at most 1; the two of flex are fractions of the
    requests with service_tier flex, and for themselves. A limit of 0 is no limit.
    Prices may not be finer than a pico-dollar per token.
    """

    host: str = "127.0.0.1"
    port: int = 0
    models: tuple[str, ...] = ("sim-1",)
    latency_ms: float = 0.0
    latency_jitter_ms: float = 0.0
    output_tokens: tuple[int, int] = (20, 200)
    input_usd_per_mtok: float = 1.0
    output_usd_per_mtok: float = 2.0
    cost_usd: float | None = None
    rpm: int = 0
    tpm: int = 0
    concurrency: int = 0
    retry_after_s: float = 1.0
    share_429: float = 0.0
    share_500: float = 0.0
    share_overloaded: float = 0.0
    share_dropped: float = 0.0
    share_hung: float = 0.0
    share_malformed: float = 0.0
    share_refused: float = 0.0
    share_filtered: float = 0.0
    share_tool_call: float = 0.0
    seed: int = 0
    api_key: str | None = None
    share_flex_full: float = 0.0
    share_flex_default: float = 0.0
    account_empty_after_usd: float | None = None
    journal: Path | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be simulated.

        Raises:
            ValueError: a share, range, limit or price is out of bounds.
        """
        shares = self.shares()
        if not all(0 <= share <= 1 for share in shares.values()) or sum(shares.values()) > 1 + 1e-9:
            raise ValueError(f"shares are fractions from 0 to 1, together at most 1: {shares}")
        flex = (self.share_flex_full, self.share_flex_default)
        if not all(0 <= share <= 1 for share in flex) or sum(flex) > 1 + 1e-9:
            raise ValueError(f"shares of flex are fractions from 0 to 1, together at most 1: {flex}")
        low, high = self.output_tokens
        if not 1 <= low <= high:
            raise ValueError(f"output_tokens is a range LOW-HIGH with 1 <= LOW <= HIGH, not {low}-{high}")
        for name in ("port", "latency_ms", "latency_jitter_ms", "rpm", "tpm", "concurrency", "retry_after_s"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative")
        for name in ("input_usd_per_mtok", "output_usd_per_mtok", "cost_usd", "account_empty_after_usd"):
            amount = getattr(self, name)
            if amount is not None:
                _pusd(name, amount, 10**6 if name.endswith("mtok") else 1)

    def shares(self) -> dict[str, float]:
        """Return the share of each fate that has one."""
        return {fate: share for fate, name in SHARES.items() if (share := getattr(self, name))}

    @property
    def input_pusd(self) -> int:
        """Price of one input token, pico-dollars."""
        return _pusd("input_usd_per_mtok", self.input_usd_per_mtok, 10**6)

    @property
    def output_pusd(self) -> int:
        """Price of one output token, pico-dollars."""
        return _pusd("output_usd_per_mtok", self.output_usd_per_mtok, 10**6)

    @property
    def call_pusd(self) -> int | None:
        """Fixed price of one billed call, pico-dollars; None: priced by tokens."""
        return None if self.cost_usd is None else _pusd("cost_usd", self.cost_usd, 1)

    @property
    def account_pusd(self) -> int | None:
        """What the account holds, pico-dollars; None: without end."""
        return None if self.account_empty_after_usd is None else _pusd("", self.account_empty_after_usd, 1)


def _pusd(name: str, usd: float, per: int) -> int:
    """Return `usd` divided by `per` as whole pico-dollars."""
    amount = Decimal(str(usd)) * (PUSD // per)
    if not amount.is_finite() or amount < 0 or amount != int(amount):
        raise ValueError(f"{name} must be an amount of dollars, 0 or more and no finer than 1e-12: {usd}")
    return int(amount)
