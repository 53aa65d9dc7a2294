"""Amounts as the commands tell them: money in the fields of `--json`, how much a file asks, and when."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from farebox.ledger import Limit, Scope
from farebox.money import usd_from_nusd

if TYPE_CHECKING:
    from farebox_worker.run.plan import Plan


def money_fields(scope: Scope | Limit) -> dict[str, int | float | None]:
    """A scope's money as JSON fields, each in nano-dollars (`_nusd`, exact) and in dollars (`_usd`)."""
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


def counted(plan: Plan) -> str:
    """Say how many lines a file has, and how many jobs they make where each is asked of several models."""
    lines, jobs = plan.summary.lines, plan.summary.good
    models = len(plan.summary.models)
    if plan.summary.total == lines:
        return f"{jobs:,} {'line' if jobs == 1 else 'lines'}"
    return f"{lines:,} {'line' if lines == 1 else 'lines'} × {models} models, {jobs:,} jobs"  # noqa: RUF001 - the sign is meant


def moment(ms: int) -> str:
    """A time in UTC, to the second."""
    try:
        return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    except (ValueError, OverflowError, OSError):  # a producer's clock may say anything
        return f"{ms} ms"
