"""pause: let nothing of a lane, or of a provider, be claimed for a while, anywhere in the fleet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from farebox.commands import Redis
from farebox.keys import Keys
from farebox.money import dollars_from_nusd
from farebox.pauses import UNTIL_RESUMED_MS, Pause, ask_pause, read_pause
from farebox.scripts import Tongue
from farebox_worker.bus.scripts import PAUSE

__all__ = [
    "UNTIL_RESUMED_MS",
    "Pause",
    "Refusal",
    "ask_pause",
    "pause",
    "read_pause",
    "read_pauses",
    "resume",
    "stop_at_overrun",
]


@dataclass(frozen=True, slots=True)
class Refusal:
    """A call that was refused, how long ago it was sent, and with how short a pause to begin.

    Refusals without an answer between them double the pause, up to an hour.
    """

    sent_s_ago: float
    least_s: float


async def pause(
    tongue: Tongue,
    lane: str = "",
    *,
    provider: str = "",
    seconds: float | None,
    why: str,
    by: Literal["operator", "provider"] = "provider",
    refusal: Refusal | None = None,
) -> Pause:
    """Pause a lane, or a provider with every lane that it has and will have; None seconds mean until it is resumed.

    Return the pause in force: the longest wins, but an operator's replaces an operator's, and a `refusal` lengthens it.
    Raises: LedgerError; redis errors pass through.
    """
    pause_ms = UNTIL_RESUMED_MS if seconds is None else max(1, int(seconds * 1000))
    refused = (int(refusal.sent_s_ago * 1000), int(refusal.least_s * 1000)) if refusal else ("", "")
    _, until_ms, reason, whose = await tongue.say(PAUSE, _of(lane, provider), pause_ms, why, by, *refused)
    return Pause(int(until_ms), reason.decode(errors="replace"), whose.decode())


async def stop_at_overrun(tongue: Tongue, lane: str, *, hold_nusd: int, cost_nusd: int) -> Pause | None:
    """Pause a lane until it is resumed, for a call was billed above what its request could cost by our prices.

    Only the first one of a lane does: who resumes it accepts the rest. Returns None for all others.
    Raises: LedgerError; redis errors pass through.
    """
    key = tongue.keys.lane(lane)
    if await tongue.redis.hexists(key, "overrun"):
        return None
    why = f"a call was billed {dollars_from_nusd(cost_nusd)}, at most {dollars_from_nusd(hold_nusd)} was possible"
    paused = await pause(tongue, lane, seconds=None, why=f"{why}: look at its price, then resume it")
    await tongue.redis.hset(key, "overrun", str(cost_nusd - hold_nusd))
    return paused


async def read_pauses(redis: Redis, keys: Keys, lanes: Sequence[str]) -> dict[str, Pause]:
    """Which of these lanes are paused now, by themselves or with their provider, and why."""
    async with redis.pipeline(transaction=False) as pipe:
        pipe.time()
        for lane in lanes:
            ask_pause(pipe, keys, lane)
        (seconds, micros), *states = await pipe.execute()
    now_ms = int(seconds) * 1000 + int(micros) // 1000
    found = {lane: read_pause(states[2 * at : 2 * at + 2], now_ms) for at, lane in enumerate(lanes)}
    return {lane: pause for lane, pause in found.items() if pause}


async def resume(tongue: Tongue, lane: str = "", *, provider: str = "") -> None:
    """End every pause of a lane or of a provider, and wake its workers.

    Raises: LedgerError; redis errors pass through.
    """
    await tongue.say(PAUSE, _of(lane, provider), 0, "", "operator", "", "")


def _of(lane: str, provider: str) -> str:
    return f"provider:{provider}" if provider else f"lane:{lane}"
