"""One try at a job, top to bottom: read it, bound its cost, send it, judge what came back, say how to settle it.

Nothing here touches Redis: `dispatch.py` claims and admits before `send`, and settles what comes out. What `prepare`
refuses was never sent and costs nothing.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from functools import lru_cache

import msgspec

from farebox.errors import (
    FareboxError,
    ProviderAuthError,
    ProviderConnectionError,
    ProviderError,
    UntranslatableError,
)
from farebox.fallback import as_asked_in, lanes_of
from farebox.keys import check_tag
from farebox.ledger import GLOBAL
from farebox.records import decode_job
from farebox_worker.attempts import endings
from farebox_worker.attempts.attempt import UNPRICED, Attempt
from farebox_worker.attempts.failures import NO_ROOM, Verdict, judge
from farebox_worker.bus.claim import Claimed
from farebox_worker.bus.settle import Settlement
from farebox_worker.clock import clock
from farebox_worker.events import event
from farebox_worker.routes import Route

log = logging.getLogger(__name__)

Heeding = Callable[[Attempt, Settlement, Verdict | None, float], Awaitable[None] | None]

POISON_CLAIMS = 20
MOST_DOUBTS = 2


def prepare(  # noqa: PLR0911 - one way to fail after the other
    claimed: Claimed, batch_id: str, route: Route, *, deadline: float
) -> Attempt | Settlement:
    """Make an attempt of a claimed job, or the settlement that fails it: undecodable, untranslatable, poison."""
    if claimed.claims >= POISON_CLAIMS:
        return endings.refuse(claimed, "poison", f"{claimed.claims} workers died of this job before it was sent")
    try:
        envelope = decode_job(claimed.payload)
    except msgspec.DecodeError as error:
        return endings.refuse(claimed, "undecodable", f"the job cannot be read: {error}")
    job = envelope.a[0]
    if claimed.doubts >= MOST_DOUBTS:
        message = f"{claimed.doubts} attempts ended with unknown outcome; their cost is unconfirmed"
        return endings.refuse(claimed, "outcome_unknown", message, envelope)
    if route.lane not in lanes_of(job):
        asks = ", ".join(lanes_of(job))
        return endings.refuse(claimed, "unroutable", f"the job asks for {asks}, its lane is {route.lane}", envelope)
    job = as_asked_in(job, route.lane)
    if 0 < job.deadline_ms <= (claimed.at_ms or time.time() * 1000):  # this machine's clock may be an hour off
        return endings.refuse(claimed, "deadline", "the job's deadline passed before it was sent", envelope)
    try:
        scopes = _scopes(batch_id, route.entry.provider_id, job.model_ref, job.tags)
        prepared = route.provider.prepare(job, route.entry.facts)
    except UntranslatableError as error:
        on = endings.moved_on(claimed, envelope, route.lane, claimed.attempts)
        return on or endings.refuse(claimed, "invalid_request", str(error), envelope)
    except FareboxError as error:
        return endings.refuse(claimed, "invalid_request", str(error), envelope)
    price = route.entry.price
    hold = UNPRICED
    if price is not None and not price.unstated_fee(prepared.fees):
        hold = price.worst_nusd(prepared.input_bound, prepared.output_bound, prepared.fees)
    prepared.deadline = deadline
    return Attempt(claimed, route, prepared, hold, scopes)


@lru_cache(maxsize=4096)  # the jobs of a flow share it
def _scopes(batch_id: str, provider_id: str, model_ref: str, tags: tuple[str, ...]) -> tuple[str, ...]:
    """Where a job's money counts; whoever wrote the job, no tag may name two. Raises: InputError."""
    checked = (f"tag:{check_tag(tag)}" for tag in tags)
    return (GLOBAL, f"batch:{batch_id}", f"provider:{provider_id}", f"model:{model_ref}", *checked)


async def send(
    attempt: Attempt, *, timeout_s: float, max_attempts: int, then: Heeding | None = None
) -> tuple[Settlement, Verdict | None]:
    """Send an admitted attempt once; return how to settle it, and the verdict when it failed.

    An attempt whose lease has ended by our own clock is not sent, not even when that was while its connection was
    made. A cancelled task leaves its hold unconfirmed. `then` is told of the end, and what it returns is awaited:
    one coroutine per call, for each takes 300 bytes while it waits.
    """
    started = time.monotonic()
    verdict: Verdict | None = None
    try:
        if attempt.is_aborted:
            settlement = endings.cancelled(attempt)
        elif clock() >= attempt.deadline:
            settlement = endings.hand_back(attempt)
        else:
            try:
                reply = await attempt.route.provider.post(attempt.prepared, timeout_s=timeout_s)
            except asyncio.CancelledError:
                settlement = (endings.aborted if attempt.is_aborted else endings.stopped)(attempt, started)
            except ProviderError as error:
                settlement, verdict = _failed(attempt, error, started, max_attempts)
            else:
                attempt.status, attempt.headers = reply.status_code, reply.headers
                attempt.route.patience.answered()
                settlement = endings.answered(attempt, reply, started)
    except Exception as error:  # an adapter's bug: the call may have been sent, so its money stays owed
        extra = event("crashed", job=attempt.claimed.job_id, lane=attempt.route.lane, at="send")
        log.exception("sending %s failed", attempt.claimed.job_id, extra=extra)
        settlement, verdict = endings.broken(attempt, error), None
    if then is not None and (heeding := then(attempt, settlement, verdict, time.monotonic() - started)) is not None:
        await heeding
    return settlement, verdict


def _failed(
    attempt: Attempt, error: ProviderError, started: float, max_attempts: int
) -> tuple[Settlement, Verdict | None]:
    if isinstance(error, ProviderConnectionError) and not error.sent and clock() >= attempt.deadline:
        return endings.hand_back(attempt), None  # somebody else's by now
    attempt.status, attempt.headers, attempt.retry_after_s = error.status_code, error.headers, error.retry_after
    patience = attempt.route.patience
    verdict = judge(
        error,
        attempts=attempt.number,
        doubts=attempt.claimed.doubts,
        max_attempts=max_attempts,
        refusals=patience.refused(started) if error.code == NO_ROOM else 1,
        denials=patience.denied() if isinstance(error, ProviderAuthError) else None,
    )
    return endings.failed(attempt, error, verdict, started), verdict
