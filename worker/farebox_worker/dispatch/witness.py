"""Sees what `Dispatch` does: counts it, and tells the log; per job at DEBUG, what changes for a lane at INFO."""

from __future__ import annotations

import logging
import math
import time

from farebox.money import dollars_from_nusd, usd_from_nusd
from farebox_worker.attempts.attempt import Attempt
from farebox_worker.attempts.failures import Verdict
from farebox_worker.bus.admit import Verdict as Admission
from farebox_worker.bus.claim import Claimed
from farebox_worker.bus.settle import Settlement
from farebox_worker.events import event
from farebox_worker.limits import in_words
from farebox_worker.meters import Meters

log = logging.getLogger(__name__)

CALM_S = 60.0  # a lane that was not paused for so long is paused anew
_ENDINGS = {"retry": "retried", "return": "returned", "move": "moved"}


class Witness:
    """What one process does, seen from beside it. Nothing here waits, and nothing fails.

    Attributes:
        meters: what was counted.
    """

    def __init__(self) -> None:
        self.meters = Meters()
        self._parked: set[tuple[str, str]] = set()
        self._paused_until: dict[str, float] = {}

    def claimed(self, claimed: Claimed, lane: str) -> None:
        """A job was leased to this process."""
        self.meters.claimed[lane] += 1
        if log.isEnabledFor(logging.DEBUG):
            self._tell("claimed", claimed, lane, attempts=claimed.attempts)

    def admitted(self, one: Attempt, admission: Admission) -> None:
        """The ledger said whether an attempt may be sent. Parking is told when a lane begins to wait for a limit."""
        lane, word = one.route.lane, admission.word
        self.meters.admissions[lane, word] += 1
        if word == "no_room":
            if (lane, admission.scope) not in self._parked:
                self._parked.add((lane, admission.scope))
                scope, need = admission.scope, admission.need_nusd
                log.info(
                    "lane %s: a flow is parked at %s, its next job needs %s",
                    lane, in_words(scope), dollars_from_nusd(need),
                    extra=event("parked", lane=lane, scope=scope, need_usd=usd_from_nusd(need)),
                )  # fmt: skip
            return
        if word == "ok" and self._parked:
            self._parked = {(name, scope) for name, scope in self._parked if name != lane}
        if log.isEnabledFor(logging.DEBUG):
            name = "admitted" if word == "ok" else "refused"
            self._tell(name, one.claimed, lane, word=word, hold_usd=usd_from_nusd(max(0, one.hold_nusd)))

    def sent(self, one: Attempt) -> None:
        """An attempt is about to be sent."""
        if log.isEnabledFor(logging.DEBUG):
            self._tell("sent", one.claimed, one.route.lane, attempt=one.number)

    def called(self, one: Attempt, settlement: Settlement, verdict: Verdict | None, seconds: float) -> None:
        """A call came to its end: answered, failed by a verdict, or cut off; what was never sent was no call."""
        if verdict is None and settlement.action == "return":
            return
        lane = one.route.lane
        ending = verdict.failure_class if verdict else "answered" if settlement.action == "finish" else "cut_off"
        self.meters.calls[lane, ending] += 1
        self.meters.call_s[lane].add(seconds)
        if ending == "answered":
            self.meters.latency[lane].count(int(seconds * 1000))
        if log.isEnabledFor(logging.DEBUG) and verdict is None and ending == "answered":
            self._tell("answered", one.claimed, lane, seconds=round(seconds, 3))

    def settled(self, lane: str, settlement: Settlement, word: str, hold_nusd: int) -> None:
        """A settle was acknowledged with its word; one that was settled before counts nothing."""
        ending = _ENDINGS.get(settlement.action) or settlement.outcome.partition(" ")[0]
        self.meters.attempts[lane, "stale" if word == "money" else ending if word == "done" else word] += 1
        if word != "repeat":
            self._book(lane, settlement, hold_nusd)
        if ending != "succeeded" and log.isEnabledFor(logging.DEBUG):
            claimed = Claimed(settlement.job_id, settlement.flow, settlement.token, "", settlement.attempts, 0, 0, b"")
            self._tell(ending, claimed, lane, why=settlement.why)

    def paused(self, lane: str, seconds: float, why: str) -> None:
        """A lane was paused. A run of short pauses, as at a rate limit, is told once; a long one always."""
        self.meters.pauses[lane, why] += 1
        now, until = time.monotonic(), self._paused_until.get(lane, -math.inf)
        is_news = now > until + CALM_S or (seconds > CALM_S and now > until)
        words = "lane %s is paused for %.1f s: %s"
        extra = event("paused", lane=lane, seconds=round(seconds, 3), why=why)
        log.log(logging.INFO if is_news else logging.DEBUG, words, lane, seconds, why, extra=extra)
        self._paused_until[lane] = max(until, now + seconds)

    def away(self, lane: str, why: str) -> None:
        """Calls of a lane are not answered any more, and single ones try."""
        extra = event("lane_away", lane=lane, why=why)
        log.warning("lane %s is away, and single calls try it: %s", lane, why, extra=extra)

    def back(self, lane: str) -> None:
        """Calls of a lane that was away are answered again."""
        log.info("lane %s is back", lane, extra=event("lane_back", lane=lane))

    def _book(self, lane: str, settlement: Settlement, hold_nusd: int) -> None:
        if settlement.money == "actual":
            self.meters.cost_nusd[lane] += settlement.amount_nusd
        elif settlement.money == "unconfirmed":
            self.meters.unconfirmed_nusd[lane] += max(0, hold_nusd)
        if settlement.input_tokens or settlement.output_tokens:
            self.meters.tokens[lane, "input"] += settlement.input_tokens
            self.meters.tokens[lane, "output"] += settlement.output_tokens

    def _tell(self, name: str, claimed: Claimed, lane: str, **fields: object) -> None:
        log.debug("%s %s of %s", name, claimed.job_id, lane, extra=event(name, job=claimed.job_id, lane=lane, **fields))
