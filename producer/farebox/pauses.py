"""Pauses as everybody may read them: why nothing of a lane is claimed now, by whom, and until when.

They are made by workers and operators (`farebox_worker.bus.pause`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from redis.asyncio.client import Pipeline

from farebox.keys import Keys

UNTIL_RESUMED_MS = 10**15  # a pause that ends after this moment, some 30,000 years from now, ends by a resume only
PAUSE_FIELDS = ["paused_until", "paused_why", "paused_by"]


@dataclass(frozen=True, slots=True)
class Pause:
    """Why a lane is paused, by whom ("operator" or "provider"), and until when by the server's clock, in ms."""

    until_ms: int
    why: str
    by: str

    @property
    def ends_by_itself(self) -> bool:
        """Whether it ends without a resume."""
        return self.until_ms < UNTIL_RESUMED_MS

    def __str__(self) -> str:
        """Say by whom it is paused, until when, and why."""
        until = "until resumed"
        if self.ends_by_itself:
            until = f"until {datetime.fromtimestamp(self.until_ms / 1000, UTC):%Y-%m-%d %H:%M:%SZ}"
        whose = "paused by the operator" if self.by == "operator" else "paused because of its provider"
        return f"{whose} {until}" + (f" ({self.why})" if self.why else "")


def ask_pause(pipe: Pipeline, keys: Keys, lane: str) -> None:
    """Add the two commands whose answers `read_pause` reads."""
    pipe.hmget(keys.lane(lane), PAUSE_FIELDS)
    pipe.hmget(keys.provider(lane.partition(":")[0]), PAUSE_FIELDS)


def read_pause(states: Sequence[Sequence[bytes | None]], now_ms: int) -> Pause | None:
    """Read the PAUSE_FIELDS of a lane and of its provider; None when neither is paused now, else the longer pause."""
    found = []
    for state in states:
        until, why, by = [(value or b"").decode(errors="replace") for value in state]
        if until and int(until) > now_ms:
            found.append(Pause(int(until), why, by or "provider"))
    return max(found, key=lambda one: one.until_ms, default=None)
