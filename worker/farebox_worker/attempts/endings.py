"""How an attempt ends: for each way there is one function, which makes the settlement that tells the bus.

Nothing here touches Redis or a provider, and nothing decides: `failures.py` judges, `sending.py` calls.
`started` is when the call began, in monotonic seconds.
"""

from __future__ import annotations

import time

from msgspec.structs import replace

from farebox.errors import ProviderError
from farebox.fallback import attempts_elsewhere, kind_of, lanes_after, moved
from farebox.keys import lane_of
from farebox.money import MAX_NUSD
from farebox.records import (
    FUNCTION,
    VERSION,
    JobEnvelope,
    Outcome,
    Result,
    ResultEnvelope,
    encode_again,
    encode_result,
)
from farebox_worker.attempts.attempt import UNPRICED, Attempt
from farebox_worker.attempts.failures import Verdict, may_move
from farebox_worker.attempts.history import tried_line
from farebox_worker.bus.claim import Claimed
from farebox_worker.bus.settle import Money, Settlement, booking_note
from farebox_worker.prices.tiers import book, tier_named
from farebox_worker.providers.base import Reply


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


def aborted(attempt: Attempt, started: float) -> Settlement:
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


def stopped(attempt: Attempt, started: float) -> Settlement:
    """Settle an attempt whose worker leaves before the answer comes: nobody knows what it cost."""
    owed = _retry(attempt, "unconfirmed", "worker stopped", 0.0, counted=True)
    return _remembered(attempt, owed, "stopped", "its worker left before the answer came", None, started)


def broken(attempt: Attempt, error: Exception) -> Settlement:
    """Settle an attempt whose adapter failed by itself: whether it was sent is unknown."""
    why = f"adapter failed: {type(error).__name__}"
    owed = _retry(attempt, "unconfirmed", why, 1.0, counted=True)
    return _remembered(attempt, owed, "crashed", why, None, time.monotonic())


def answered(attempt: Attempt, reply: Reply, started: float) -> Settlement:
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
        note=_oddity(reply, is_read=usage is not None, is_booked=money == "actual"),
    )
    capped = " default_cap" if attempt.prepared.capped_by_default else ""
    ending = f"succeeded {reply.finish or 'empty'}{capped}"
    version, tier = result.price_version.removeprefix("genai-prices "), "" if job.tier == "standard" else job.tier
    note = booking_note(version, reply.request_id, read, written, result.served_tier or tier)
    return _finish(attempt, result, money, cost, ending, started, note=note)


def _oddity(reply: Reply, *, is_read: bool, is_booked: bool) -> str:
    """Say what is odd of an answer that was booked: that it says nothing, or that nobody could read its usage."""
    odd = [] if reply.finish else ["the provider counted tokens, and nothing that can be read as an answer came"]
    if not is_read:
        cost = "booked at its hold, the most it can cost" if is_booked else "what it cost is unknown"
        odd.append(f"no usage that can be read came with it: {cost}")
    return "; ".join(odd)


def failed(attempt: Attempt, error: ProviderError, verdict: Verdict, started: float) -> Settlement:
    """Do with a failed attempt what its verdict says, and let the job's history keep it."""
    settlement = _heeding(attempt, error, verdict, started)
    return _remembered(attempt, settlement, verdict.failure_class, verdict.message, error, started)


def _heeding(attempt: Attempt, error: ProviderError, verdict: Verdict, started: float) -> Settlement:
    if verdict.action == "retry":
        return _retry(attempt, verdict.money, verdict.failure_class, verdict.delay_s or 0.0, counted=verdict.counted)
    if verdict.action != "fail":  # the lane, the provider or this process waits; the job keeps its place
        if verdict.money == "release" and not verdict.counted:
            return hand_back(attempt)
        return _retry(attempt, verdict.money, verdict.failure_class, 0.0, counted=verdict.counted)
    if may_move(verdict, attempt.claimed.doubts) and (
        on := moved_on(attempt.claimed, attempt.envelope, attempt.route.lane, attempt.number)
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


def moved_on(claimed: Claimed, envelope: JobEnvelope, lane: str, attempts: int) -> Settlement | None:
    """Let a job that failed in a lane be tried in the next that may answer it; None when there is none."""
    further = lanes_after(envelope, lane)
    if not further:
        return None
    after = moved(envelope, lane, attempts)
    goal = f"{kind_of(envelope.a[0]) if lanes_after(after, further[0]) else 'last'} {further[0]}"
    payload = encode_again(after)
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
        is_first=attempt.number == 1,
    )


def _dictionary(
    claimed: Claimed, envelope: JobEnvelope | None, result: Result, number: int, began: float, *, is_success: bool
) -> bytes:
    written = encode_result(
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
    return bytes(memoryview(written))  # it is kept for seconds, and the encoder leaves room behind what it wrote
