"""pause: let nothing of a lane be claimed for a while, anywhere in the fleet."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from farebox.scripts import Tongue
from farebox_worker.bus.scripts import PAUSE

UNTIL_RESUMED_MS = 10**15  # a pause that ends after this moment, some 30,000 years from now, ends by a resume only


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
        return f"paused by the {self.by} {until}" + (f" ({self.why})" if self.why else "")


async def pause(
    tongue: Tongue, lane: str, *, seconds: float | None, why: str, by: Literal["operator", "provider"] = "provider"
) -> Pause:
    """Pause a lane; None seconds mean until it is resumed. Return the pause in force.

    The longest pause wins, but an operator's replaces an operator's. Raises: LedgerError; redis errors pass through.
    """
    pause_ms = UNTIL_RESUMED_MS if seconds is None else max(1, int(seconds * 1000))
    _, until_ms, reason, whose = await tongue.say(PAUSE, lane, pause_ms, why, by)
    return Pause(int(until_ms), reason.decode(errors="replace"), whose.decode())


async def resume(tongue: Tongue, lane: str) -> None:
    """End every pause of a lane and wake its workers. Raises: LedgerError; redis errors pass through."""
    await tongue.say(PAUSE, lane, 0, "", "operator")
