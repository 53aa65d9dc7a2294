"""Money as the fields of `--json`: each amount in nano-dollars (`_nusd`, exact) and in dollars (`_usd`)."""

from __future__ import annotations

from farebox.ledger import Limit, Scope
from farebox.money import usd_from_nusd


def money_fields(scope: Scope | Limit) -> dict[str, int | float | None]:
    """A scope's money as JSON fields, each in nano-dollars and in dollars."""
    amounts = {
        "limit": scope.limit_nusd,
        "spent": scope.spent_nusd,
        "held": scope.held_nusd,
        "unconfirmed": scope.unconfirmed_nusd,
    }
    if isinstance(scope, Scope):
        amounts["overrun"] = scope.overrun_nusd
    fields: dict[str, int | float | None] = {f"{name}_nusd": nusd for name, nusd in amounts.items()}
    fields |= {f"{name}_usd": None if nusd is None else usd_from_nusd(nusd) for name, nusd in amounts.items()}
    return fields
