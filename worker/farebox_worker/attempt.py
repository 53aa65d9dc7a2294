"""One try at a job, top to bottom: read it, bound its cost, send it, judge what came back, say how to settle it.

Nothing here touches Redis: `process` claims and admits before `send`, and settles what comes out. What `prepare`
refuses was never sent and costs nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import msgspec

from farebox.errors import FareboxError, ProviderError, UntranslatableError
from farebox.fallback import as_asked_in, attempts_elsewhere, kind_of, lanes_after, lanes_of, moved
from farebox.keys import check_tag, lane_of
from farebox.ledger import GLOBAL
from farebox.money import MAX_NUSD
from farebox.records import (
    FUNCTION,
    VERSION,
    Job,
    JobEnvelope,
    Outcome,
    Result,
    ResultEnvelope,
    decode_job,
    encode_again,
    encode_result,
)
from farebox_worker.bus.claim import Claimed
from farebox_worker.bus.settle import Money, Settlement, booking_note
from farebox_worker.clock import clock
from farebox_worker.failures import NO_ROOM, Verdict, judge, may_move
from farebox_worker.history import tried_line
from farebox_worker.providers.base import Prepared, Reply
from farebox_worker.routes import Route
from farebox_worker.tiers import book, tier_named

POISON_CLAIMS = 20
MOST_DOUBTS = 2
UNPRICED = -1  # as a hold: admitted only where no limit applies


@dataclass(slots=True)
class Attempt:
    """A claimed job that is ready to be sent. `deadline` is our lease's end by `clock`."""

    claimed: Claimed
    envelope: JobEnvelope
    route: Route
    prepared: Prepared
    hold_nusd: int
    scopes: tuple[str, ...]
    deadline: float
    job: Job  # as it is asked in its lane
    status: int | None = None  # of what its provider answered
    headers: Mapping[str, str] = field(default_factory=dict)  # those that steer us: rate limits and Retry-After
    retry_after_s: float | None = None
    is_aborted: bool = False  # its batch was cancelled, and this call with it

    @property
    def number(self) -> int:
        """Which try at the job this is, from 1."""
        return self.claimed.attempts + 1

    @property
    def tokens(self) -> int:
        """How many tokens its provider may reckon with before it answers: one for four bytes, and the whole cap."""
        return self.prepared.input_bound // 4 + self.prepared.output_bound


def prepare(  # noqa: PLR0911 - one way to fail after the other
    claimed: Claimed, batch_id: str, route: Route, *, deadline: float
) -> Attempt | Settlement:
    """Make an attempt of a claimed job, or the settlement that fails it: undecodable, untranslatable, poison."""
    if claimed.claims >= POISON_CLAIMS:
        return refuse(claimed, "poison", f"{claimed.claims} workers died of this job before it was sent")
    try:
        envelope = decode_job(claimed.payload)
    except msgspec.DecodeError as error:
        return refuse(claimed, "undecodable", f"the job cannot be read: {error}")
    job = envelope.a[0]
    if claimed.doubts >= MOST_DOUBTS:
        message = f"{claimed.doubts} attempts ended with unknown outcome; their cost is unconfirmed"
        return refuse(claimed, "outcome_unknown", message, envelope)
    if route.lane not in lanes_of(job):
        asks = ", ".join(lanes_of(job))
        return refuse(claimed, "unroutable", f"the job asks for {asks}, its lane is {route.lane}", envelope)
    job = as_asked_in(job, route.lane)
    if 0 < job.deadline_ms <= (claimed.at_ms or time.time() * 1000):  # this machine's clock may be an hour off
        return refuse(claimed, "deadline", "the job's deadline passed before it was sent", envelope)
    try:
        scopes = _scopes(batch_id, route, job)
        prepared = route.provider.prepare(job, route.entry.facts)
    except UntranslatableError as error:
        on = _moved_on(claimed, envelope, route.lane, claimed.attempts)
        return on or refuse(claimed, "invalid_request", str(error), envelope)
    except FareboxError as error:
        return refuse(claimed, "invalid_request", str(error), envelope)
    price = route.entry.price
    hold = UNPRICED
    if price is not None and not price.unstated_fee(prepared.fees):
        hold = price.worst_nusd(prepared.input_bound, prepared.output_bound, prepared.fees)
    return Attempt(claimed, envelope, route, prepared, hold, scopes, deadline, job)


def _scopes(batch_id: str, route: Route, job: Job) -> tuple[str, ...]:
    """Where a job's money counts; whoever wrote the job, no tag may name two. Raises: InputError."""
    tags = tuple(f"tag:{check_tag(tag)}" for tag in job.tags)
    return (GLOBAL, f"batch:{batch_id}", f"provider:{route.entry.provider_id}", f"model:{job.model_ref}", *tags)


async def send(attempt: Attempt, *, timeout_s: float, max_attempts: int) -> tuple[Settlement, Verdict | None]:
    """Send an admitted attempt once; return how to settle it, and the verdict when it failed.

    A lease that has ended by our own clock is not sent. A cancelled task leaves its hold unconfirmed.
    """
    started = time.monotonic()
    if attempt.is_aborted:
        return cancelled(attempt), None
    if clock() >= attempt.deadline:
        return hand_back(attempt), None
    try:
        reply = await attempt.route.provider.post(attempt.prepared, timeout_s=timeout_s)
    except asyncio.CancelledError:
        if attempt.is_aborted:
            return _aborted(attempt, started), None
        owed = _retry(attempt, "unconfirmed", "worker stopped", 0.0, counted=True)
        return _remembered(attempt, owed, "stopped", "its worker left before the answer came", None, started), None
    except ProviderError as error:
        attempt.status, attempt.headers, attempt.retry_after_s = error.status_code, error.headers, error.retry_after
        verdict = judge(
            error,
            attempts=attempt.number,
            doubts=attempt.claimed.doubts,
            max_attempts=max_attempts,
            refusals=attempt.route.patience.refused(started) if error.code == NO_ROOM else 1,
        )
        failed = _failed(attempt, error, verdict, started)
        return _remembered(attempt, failed, verdict.failure_class, verdict.message, error, started), verdict
    attempt.status, attempt.headers = reply.status_code, reply.headers
    attempt.route.patience.answered()
    return _answered(attempt, reply, started), None


def hand_back(attempt: Attempt) -> Settlement:
    """Put an attempt that was not sent back to its place, its hold released."""
    claimed = attempt.claimed
    return Settlement(
        claimed.job_id,
        claimed.flow,
        claimed.token,
        "return",
        "release",
        due=claimed.score,
        scopes=attempt.scopes,
        felt="unsent",
    )


def refuse(
    claimed: Claimed, code: str, message: str, envelope: JobEnvelope | None = None, *, outcome: Outcome = "failed"
) -> Settlement:
    """Finish a claimed job that was not sent and cost nothing."""
    job = envelope.a[0] if envelope else None
    result = Result(
        VERSION,
        job.custom_id if job else "",
        job.model_ref if job else "",
        outcome,
        error_code=code,
        failure_class=code,
        error_message=message,
        attempts=claimed.attempts,
        tier=job.tier if job else "standard",
    )
    payload = _dictionary(claimed, envelope, result, claimed.attempts, time.time(), is_success=False)
    return Settlement(
        claimed.job_id,
        claimed.flow,
        claimed.token,
        "finish",
        "release",
        outcome=outcome,
        result=payload,
        felt="unsent",
    )


def cancelled(attempt: Attempt) -> Settlement:
    """Finish an attempt whose batch was cancelled before it was sent."""
    message = "the batch was cancelled before this job was sent"
    return refuse(attempt.claimed, "cancelled", message, attempt.envelope, outcome="cancelled")


def _aborted(attempt: Attempt, started: float) -> Settlement:
    """Finish an attempt whose batch was cancelled while its call ran: nobody knows what it cost."""
    result = Result(
        VERSION,
        attempt.job.custom_id,
        attempt.job.model_ref,
        "cancelled",
        error_code="cancelled",
        error_message="the batch was cancelled while this call ran; what it cost is unconfirmed",
        attempts=_attempts(attempt),
        unconfirmed_nusd=max(0, attempt.hold_nusd),
        latency_ms=int((time.monotonic() - started) * 1000),
        tier=attempt.job.tier,
    )
    return _finish(attempt, result, "unconfirmed", 0, "cancelled", started, why="cancelled while it ran")


def broken(attempt: Attempt, error: Exception) -> Settlement:
    """Settle an attempt whose adapter failed by itself: whether it was sent is unknown."""
    why = f"adapter failed: {type(error).__name__}"
    owed = _retry(attempt, "unconfirmed", why, 1.0, counted=True)
    return _remembered(attempt, owed, "crashed", why, None, time.monotonic())


def _answered(attempt: Attempt, reply: Reply, started: float) -> Settlement:
    """Book an answer, whatever we think of it. One without usage is booked at its hold."""
    entry, usage, job = attempt.route.entry, reply.usage, attempt.job
    booking = None if usage is None else book(entry, job.tier, reply.served_tier, usage)
    if usage is not None and max(usage.total_tokens, booking.cost_nusd if booking else 0) > MAX_NUSD:
        usage = booking = None  # no counter holds such a number: nobody can have meant it
    price, saved = entry.price, 0
    money: Money = "actual"
    if booking:
        if price is not None and attempt.hold_nusd == UNPRICED:
            money = "unpriced"  # for a fee that nobody states; what is stated is booked
        price, cost, saved = booking.price, booking.cost_nusd, booking.saved_nusd
    elif attempt.hold_nusd == UNPRICED:
        money, cost = "unpriced", 0
    else:
        cost = attempt.hold_nusd
    read, written = (usage.cache_read_tokens, usage.cache_write_tokens) if usage else (0, 0)
    tokens_in = usage.input_tokens + read + written if usage else 0
    tokens_out = usage.output_tokens if usage else 0
    result = Result(
        VERSION,
        job.custom_id,
        job.model_ref,
        "succeeded",
        finish=reply.finish,
        status_code=reply.status_code,
        request_id=reply.request_id,
        body=reply.body,
        attempts=_attempts(attempt),
        cost_nusd=cost,
        input_tokens=tokens_in,
        output_tokens=tokens_out,
        cache_read_tokens=read,
        cache_write_tokens=written,
        latency_ms=int((time.monotonic() - started) * 1000),
        tier=job.tier,
        price_version=price.version if price else "",
        capped_by_default=attempt.prepared.capped_by_default,
        served_tier=tier_named(reply.served_tier),
        saved_nusd=saved,
        asked=_asked(attempt),
    )
    capped = " default_cap" if attempt.prepared.capped_by_default else ""
    ending = f"succeeded {reply.finish or 'answered'}{capped}"
    version, tier = result.price_version.removeprefix("genai-prices "), "" if job.tier == "standard" else job.tier
    note = booking_note(version, reply.request_id, read, written, result.served_tier or tier)
    return _finish(attempt, result, money, cost, ending, started, note=note)


def _failed(attempt: Attempt, error: ProviderError, verdict: Verdict, started: float) -> Settlement:
    if verdict.action == "retry":
        return _retry(attempt, verdict.money, verdict.failure_class, verdict.delay_s or 0.0, counted=verdict.counted)
    if verdict.action != "fail":  # the lane, the provider or this process waits; the job keeps its place
        if verdict.money == "release" and not verdict.counted:
            return hand_back(attempt)
        return _retry(attempt, verdict.money, verdict.failure_class, 0.0, counted=verdict.counted)
    if may_move(verdict, attempt.claimed.doubts) and (
        on := _moved_on(attempt.claimed, attempt.envelope, attempt.route.lane, attempt.number)
    ):
        return replace(on, money=verdict.money, why=verdict.failure_class, scopes=attempt.scopes)
    job = attempt.job
    result = Result(
        VERSION,
        job.custom_id,
        job.model_ref,
        "failed",
        status_code=error.status_code or 0,
        request_id=_text(error.request_id),
        body=error.body,
        error_code=_text(error.code) or verdict.failure_class,
        error_message=verdict.message,
        attempts=_attempts(attempt),
        unconfirmed_nusd=max(0, attempt.hold_nusd) if verdict.money == "unconfirmed" else 0,
        failure_class=verdict.failure_class,
        latency_ms=int((time.monotonic() - started) * 1000),
        tier=job.tier,
        capped_by_default=attempt.prepared.capped_by_default,
        asked=_asked(attempt),
    )
    return _finish(attempt, result, verdict.money, 0, "failed", started, why=verdict.failure_class)


def _text(words: str) -> str:
    """Words of a provider's, fit to be written: half a character becomes a question mark."""
    return words.encode(errors="replace").decode()


def _moved_on(claimed: Claimed, envelope: JobEnvelope, lane: str, attempts: int) -> Settlement | None:
    """Let a job that failed in a lane be tried in the next that may answer it; None when there is none."""
    further = lanes_after(envelope, lane)
    if not further:
        return None
    goal = f"{kind_of(envelope.a[0])} {further[0]}"
    payload = encode_again(moved(envelope, lane, attempts))
    return Settlement(claimed.job_id, claimed.flow, claimed.token, "move", "release", outcome=goal, result=payload)


def _asked(attempt: Attempt) -> str:
    """The lane that a job named first, where another one answers it; of equals, none was first."""
    job = attempt.envelope.a[0]
    first = lane_of(job.model_ref, job.tier)
    return "" if job.spread or first == attempt.route.lane else first


def _attempts(attempt: Attempt) -> int:
    """How many attempts there were, in all lanes, this one included."""
    return attempt.number + attempts_elsewhere(attempt.envelope)


def _remembered(
    attempt: Attempt, settlement: Settlement, failure_class: str, message: str, error: Exception | None, started: float
) -> Settlement:
    """Let the job's history keep an attempt that did not answer it."""
    tried = tried_line(
        attempt.route.lane,
        failure_class,
        message,
        error,
        owed_nusd=max(0, attempt.hold_nusd) if settlement.money == "unconfirmed" else None,
        latency_ms=int((time.monotonic() - started) * 1000),
    )
    return replace(settlement, history=tried)


def _retry(attempt: Attempt, money: Money, why: str, delay_s: float, *, counted: bool) -> Settlement:
    claimed = attempt.claimed
    return Settlement(
        claimed.job_id,
        claimed.flow,
        claimed.token,
        "retry",
        money,
        why=why,
        due=str(int(delay_s * 1000)),
        attempts=attempt.number if counted else claimed.attempts,
        scopes=attempt.scopes,
    )


def _finish(  # noqa: PLR0913 - what a settlement is made of
    attempt: Attempt,
    result: Result,
    money: Money,
    cost: int,
    outcome: str,
    started: float,
    *,
    why: str = "",
    note: str = "",
) -> Settlement:
    claimed = attempt.claimed
    began = time.time() - (time.monotonic() - started)
    success = result.outcome == "succeeded"
    return Settlement(
        claimed.job_id,
        claimed.flow,
        claimed.token,
        "finish",
        money,
        amount_nusd=cost,
        input_tokens=result.input_tokens,
        output_tokens=result.output_tokens,
        why=why,
        outcome=outcome,
        result=_dictionary(claimed, attempt.envelope, result, attempt.number, began, is_success=success),
        scopes=attempt.scopes,
        note=note,
    )


def _dictionary(
    claimed: Claimed, envelope: JobEnvelope | None, result: Result, number: int, began: float, *, is_success: bool
) -> bytes:
    return encode_result(
        ResultEnvelope(
            t=number,
            f=FUNCTION,
            a=envelope.a if envelope and result.outcome == "failed" else (),
            k=envelope.k if envelope else {},
            et=envelope.et if envelope else 0,
            s=is_success,
            r=result,
            st=int(began * 1000),
            ft=int(time.time() * 1000),
            q=claimed.flow,
            id=claimed.job_id,
        )
    )
