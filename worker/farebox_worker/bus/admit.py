"""admit: set the worst-case cost of claimed jobs aside. What is not admitted must not be sent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec

from farebox.scripts import Argument, Tongue
from farebox_worker.bus.claim import Claimed
from farebox_worker.bus.places import Places
from farebox_worker.bus.scripts import ADMIT


class Fare(msgspec.Struct, gc=False):
    """What admitting one attempt takes: its hold in nano-dollars, the scopes it counts in, the tokens it may use."""

    claimed: Claimed
    hold_nusd: int
    scopes: tuple[str, ...]
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether an attempt may be sent. `no_room` names the scope and the need; then the job is back in its place.

    So it is with `wait`: the tokens per minute are used up for `wait_ms`.
    """

    word: Literal["ok", "no_room", "wait", "unpriced", "cancelled", "lost"]
    scope: str = ""
    need_nusd: int = 0
    wait_ms: int = 0


_OK = Verdict("ok")


async def admit(tongue: Tongue, fares: Sequence[Fare]) -> list[Verdict]:
    """Admit attempts, each all or nothing. Safe to send again. Raises: LedgerError; redis errors pass through."""
    places = Places()
    manners: dict[tuple[str, str], int] = {}
    jobs: list[Argument] = []
    for fare in fares:
        claimed = fare.claimed
        manner = (claimed.flow, places.of(fare.scopes))
        jobs += (
            claimed.job_id,
            claimed.token,
            manners.setdefault(manner, len(manners) + 1),
            claimed.score,
            fare.hold_nusd,
            fare.tokens,
        )
    shared = (part for manner in manners for part in manner)
    answer = await tongue.say(ADMIT, len(places.scopes), len(manners), *places.scopes, *shared, *jobs)
    return [_OK if word == b"ok" else _verdict(word.decode()) for word in answer[1:]]


def _verdict(words: str) -> Verdict:
    word, _, rest = words.partition(" ")
    if word == "wait":
        return Verdict("wait", wait_ms=int(rest))
    scope, _, need = rest.rpartition(" ")
    return Verdict(word, scope, int(need) if need else 0)  # type: ignore[arg-type]  # the words of admit.lua
