"""blame: a lane whose provider refuses one request after the other alike is paused: the file is wrong."""

from __future__ import annotations

from farebox.scripts import Tongue
from farebox_worker.bus.pause import Pause, pause
from farebox_worker.bus.scripts import BLAME

MOST_ALIKE = 20  # refusals alike without an answer between them, in the whole fleet
_WHY_LETTERS = 300


async def blame(tongue: Tongue, lane: str, *, model_ref: str, what: str, message: str) -> Pause | None:
    """Count a bad request; the twentieth alike in a row pauses its lane until it is resumed, and returns that pause.

    `what` is the message without what differs from line to line. It is not sent again: one more or less is no matter.
    Raises: LedgerError; redis errors pass through.
    """
    _, count = await tongue.say(BLAME, lane, f"model:{model_ref}", what, MOST_ALIKE)
    if count < MOST_ALIKE:
        return None
    said = " ".join(message[:_WHY_LETTERS].split())
    why = f"{MOST_ALIKE} requests in a row were refused alike, {said}: mend the file or the settings, then resume it"
    return await pause(tongue, lane, seconds=None, why=why)
