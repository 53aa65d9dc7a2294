"""What a process has settled in the last seconds: a server that fails may have acknowledged it and lost it."""

from __future__ import annotations

import time
from collections import deque

import msgspec

from farebox_worker.attempts.attempt import Attempt
from farebox_worker.bus.reassert import Known
from farebox_worker.bus.settle import Settlement

KEPT_S = 5.0
KEPT_BYTES = 8_000_000
OVERHEAD_BYTES = 500  # of a settlement beside its result


class Settled(msgspec.Struct, frozen=True, gc=False):
    """An acknowledged settlement, what its attempt had held in nano-dollars, and when (monotonic seconds)."""

    settlement: Settlement
    hold_nusd: int
    at_s: float

    @property
    def size(self) -> int:
        """About how many bytes it takes."""
        return len(self.settlement.result) + OVERHEAD_BYTES


class Recent:
    """The acknowledged settlements of the last 5 s, at most 8 MB of them."""

    def __init__(self) -> None:
        self._kept: deque[Settled] = deque()
        self._bytes = 0

    def add(self, settlement: Settlement, hold_nusd: int) -> None:
        """Keep a settlement that was acknowledged now."""
        settled = Settled(settlement, hold_nusd, time.monotonic())
        self._kept.append(settled)
        self._bytes += settled.size
        while self._kept and (self._bytes > KEPT_BYTES or self._kept[0].at_s < settled.at_s - KEPT_S):
            self._bytes -= self._kept.popleft().size

    def before(self, last_s: float) -> list[Settled]:
        """Those of the 5 s before the server was last heard of, oldest first.

        It may have been away for long since then: what counts is what it may not have kept.
        """
        return [settled for settled in self._kept if settled.at_s >= last_s - KEPT_S]


def known(one: Attempt) -> Known:
    """What there is to tell the server of an attempt that runs."""
    claimed = one.claimed
    return Known(claimed.job_id, claimed.flow, claimed.token, one.hold_nusd, one.scopes)
