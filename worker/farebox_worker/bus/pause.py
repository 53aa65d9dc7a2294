"""pause: let nothing of a lane be claimed for a while, anywhere in the fleet."""

from __future__ import annotations

from farebox.scripts import Tongue
from farebox_worker.bus.scripts import PAUSE


async def pause(tongue: Tongue, lane: str, *, seconds: float, why: str) -> None:
    """Pause a lane; the longest pause wins, 0 seconds resumes it. Raises: LedgerError; redis errors pass through."""
    await tongue.say(PAUSE, lane, int(seconds * 1000), why)
