"""pause: let nothing of a lane, or of a provider, be claimed for a while, anywhere in the fleet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from redis.asyncio import Redis
from redis.asyncio.client import Pipeline

from farebox.keys import Keys
from farebox.money import dollars_from_nusd
from farebox.scripts import Tongue
from farebox_worker.bus.scripts import PAUSE

UNTIL_RESUMED_MS = 10**15  # a pause that ends after this moment, some 30,000 years from now, ends by a resume only
PAUSE_FIELDS = ["paused_until", "paused_why", "paused_by"]


@dataclass(frozen=True, slots=True)
class Refusal:
    """A call that was refused, how long ago it was sent, and with how short a pause to begin.

    Refusals without an answer between them double the pause, up to an hour.
    """

    sent_s_ago: float
    least_s: float


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
    if await tongue.redis.hexists(key, "overrun"):  # type: ignore[misc]
        return None
    why = f"a call was billed {dollars_from_nusd(cost_nusd)}, at most {dollars_from_nusd(hold_nusd)} was possible"
    paused = await pause(tongue, lane, seconds=None, why=f"{why}: look at its price, then resume it")
    await tongue.redis.hset(key, "overrun", str(cost_nusd - hold_nusd))  # type: ignore[misc]
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


async def resume(tongue: Tongue, lane: str = "", *, provider: str = "") -> None:
    """End every pause of a lane or of a provider, and wake its workers.

    Raises: LedgerError; redis errors pass through.
    """
    await tongue.say(PAUSE, _of(lane, provider), 0, "", "operator", "", "")


def _of(lane: str, provider: str) -> str:
    return f"provider:{provider}" if provider else f"lane:{lane}"
