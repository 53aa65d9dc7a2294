"""One thing that was looked at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warn", "fail"]
SHOWN = 10  # lanes or models named one by one; more are counted


@dataclass(frozen=True, slots=True)
class Check:
    """What was looked at, how it is, and in one sentence what that means and what to do."""

    name: str
    level: Level
    message: str


def at_most(found: list[Check], *, of: str) -> list[Check]:
    """Keep the first few of many checks that say the same of different things."""
    if len(found) <= SHOWN:
        return found
    more = Check(found[0].name, found[0].level, f"and {len(found) - SHOWN:,} more {of}")
    return [*found[:SHOWN], more]
