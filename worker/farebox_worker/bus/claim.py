"""claim: take due jobs of many lanes, leased to this process. Nothing is paid or sent yet."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from farebox.scripts import Argument, Tongue
from farebox_worker.bus.pause import UNTIL_RESUMED_MS
from farebox_worker.bus.scripts import CLAIM

MAX_BYTES = 4_000_000  # of payload in one answer; one job always fits


@dataclass(frozen=True, slots=True)
class Ask:
    """How many jobs of a lane may be claimed: free slots here, most in flight fleet-wide (0: no limit)."""

    lane: str
    slots: int
    max_in_flight: int = 0


class Claimed(msgspec.Struct, gc=False):
    """A job leased to this process.

    `token` names the attempt; `score` is the place to go back to; `attempts` were admitted before; `doubts` of them
    ended with unknown outcome; `claims` died before they were admitted. `at_ms` is when, by the server's clock, which
    alone is the same everywhere; 0 when it is not known.
    """

    job_id: str
    flow: str
    token: str
    score: str
    attempts: int
    doubts: int
    claims: int
    payload: bytes
    at_ms: int = 0


@dataclass(frozen=True, slots=True)
class Claims:
    """What a claim brought. `due_in_s` tells when the next job is due, None when nothing is known to come."""

    jobs: list[Claimed]
    due_in_s: float | None


def new_name() -> str:
    """A claim's name. The tokens of its attempts begin with it: no command may take them for options."""
    while (name := secrets.token_urlsafe(8)).startswith("-"):
        pass
    return name


async def claim(tongue: Tongue, asks: Sequence[Ask], *, lease_ms: int, only_batch: str = "", name: str = "") -> Claims:
    """Claim jobs over all lanes asked for. Asking again with the same `name` (11 characters) gives the same jobs.

    Raises: LedgerError; redis errors pass through.
    """
    name = name or new_name()
    arguments: list[Argument] = [name, lease_ms, only_batch, MAX_BYTES]
    for ask in asks:
        arguments += (ask.lane, ask.slots, ask.max_in_flight)
    answer = await tongue.say(CLAIM, *arguments)
    now, due = int(answer[1]), int(answer[2])
    jobs: list[Claimed] = []
    at = 3
    while at < len(answer):
        flow, first, count = answer[at].decode(), int(answer[at + 1]), int(answer[at + 2])
        after = at + 3 + 4 * count
        for number, i in enumerate(range(at + 3, after, 4), first):
            attempts, doubts, claims = map(int, answer[i + 2].split()) if answer[i + 2] else (0, 0, 0)
            token, score = f"{name}{number // 64:x}{number:04}", answer[i + 1].decode()
            jobs.append(Claimed(answer[i].decode(), flow, token, score, attempts, doubts, claims, answer[i + 3], now))
        at = after
    return Claims(jobs, max(0.0, (due - now) / 1000) if 0 < due < UNTIL_RESUMED_MS else None)
