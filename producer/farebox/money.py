"""Money as integers: nano-dollars (1e-9 USD) everywhere inside, `Decimal` and text at the edges.

Rates are pico-dollars (1e-12 USD) per token, which is USD per million tokens times 10^6.
No float ever enters a sum; costs round up, once per attempt. It imports nothing of ours.
"""

from __future__ import annotations

from decimal import ROUND_CEILING, Decimal, InvalidOperation

NUSD_PER_USD = 1_000_000_000
MAX_NUSD = 2**53 - 1  # Lua's numbers are doubles: exact up to here ($9,007,199)


def nusd_from_usd(usd: Decimal | float | str) -> int:
    """Turn dollars into nano-dollars, rounding up.

    Floats are read by their shortest text (0.1 is 0.1).
    Raises: ValueError when it is not a finite amount of 0 to 9,007,199 dollars.
    """
    try:
        amount = Decimal(str(usd))
    except InvalidOperation:
        raise ValueError(f"not an amount in dollars: {usd!r}") from None
    if not amount.is_finite() or amount < 0 or amount * NUSD_PER_USD > MAX_NUSD:
        raise ValueError(f"not an amount of 0 to 9,007,199 dollars: {usd!r}")
    return int((amount * NUSD_PER_USD).to_integral_value(rounding=ROUND_CEILING))


def usd_from_nusd(nusd: int) -> float:
    """Turn nano-dollars into dollars, for JSON fields that end in `_usd`."""
    return nusd / NUSD_PER_USD


def pusd_per_token(usd_per_mtok: Decimal | float | str) -> int:
    """Turn a rate in USD per million tokens into pico-dollars per token, rounding up."""
    return int((Decimal(str(usd_per_mtok)) * 1_000_000).to_integral_value(rounding=ROUND_CEILING))


def nusd_from_pusd(pusd: int) -> int:
    """Turn pico-dollars into nano-dollars, rounding up."""
    return -(-pusd // 1000)


def dollars(usd: float | Decimal) -> str:
    """Write dollars for people: cents always, finer digits only for amounts under a dollar (`$5.00`, `$0.0042`)."""
    amount = Decimal(str(usd))
    sign = "-" if amount < 0 else ""
    amount = abs(amount)
    if amount == 0 or amount >= 1:
        return f"{sign}${amount:,.2f}"
    text = f"{amount:.9f}".rstrip("0")
    whole, _, cents = text.partition(".")
    return f"{sign}${whole}.{cents.ljust(2, '0')}"


def dollars_from_nusd(nusd: int) -> str:
    """Write nano-dollars for people."""
    return dollars(Decimal(nusd) / NUSD_PER_USD)
