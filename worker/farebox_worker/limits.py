"""Limits in words: what people call one, which command moves it, and when its window ends.

The ledger's own names (`day:tag:nightly`) are for programs: nothing that people read shows them.
"""

from __future__ import annotations

import shlex
from datetime import UTC, datetime, timedelta

from farebox.ledger import GLOBAL, Limit, Per, Scope, in_words, parts_of_limit
from farebox.money import dollars_from_nusd

__all__ = ["doubted", "in_words", "money_line", "raise_command", "room_again", "window_end"]


def raise_command(name: str, flags: str = "") -> str:
    """Write the command that moves a limit; `flags` lead to its server, with a space before them, or are ""."""
    scope, per = parts_of_limit(name)
    kind, _, which = scope.partition(":")
    of = "" if scope == GLOBAL else f" --{kind} {shlex.quote(which)}"
    return f"farebox budget set USD{of}{f' --per {per}' if per else ''}{flags}"


def window_end(per: Per, now: datetime) -> datetime:
    """Say when the UTC day or month of `now` ends."""
    today = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    if per == "day":
        return today + timedelta(days=1)
    return (today.replace(day=1) + timedelta(days=32)).replace(day=1)


def room_again(name: str, now: datetime) -> str:
    """Say when a limit per day or month has room again by itself; "" of a limit for good."""
    per = parts_of_limit(name)[1]
    return f"there is room again when the {per} ends, at {window_end(per, now):%Y-%m-%d %H:%M} UTC" if per else ""


def money_line(scope: Scope | Limit) -> str:
    """Say what a scope has spent, holds and does not know, and its budget.

    With it: how much was billed above its hold, and the share of the budget that is unconfirmed.
    """
    spent = f"{dollars_from_nusd(scope.spent_nusd)} spent"
    if isinstance(scope, Scope) and scope.overrun_nusd:
        spent += f" ({dollars_from_nusd(scope.overrun_nusd)} of it overrun)"
    held = f", {dollars_from_nusd(scope.held_nusd)} held" if scope.held_nusd else ""
    owed = f", {dollars_from_nusd(scope.unconfirmed_nusd)} unconfirmed{_share(scope)}" if scope.unconfirmed_nusd else ""
    of = f" of {dollars_from_nusd(scope.limit_nusd)}" if scope.limit_nusd is not None else ""
    return spent + held + owed + of


def doubted(scope: Scope | Limit) -> str:
    """Say what is unconfirmed, and its share of the budget."""
    return f"{dollars_from_nusd(scope.unconfirmed_nusd)}{_share(scope)} are unconfirmed"


def _share(scope: Scope | Limit) -> str:
    """Say what share of the budget is unconfirmed, in brackets; "" without a budget."""
    if not scope.limit_nusd:
        return ""
    percent = 100 * scope.unconfirmed_nusd / scope.limit_nusd
    return f" ({percent:.0f}%)" if percent >= 1 else " (under 1%)"
