"""Judges a failed attempt: what becomes of the job, of its money, and of the lane. One pure table, no IO.

| what happened                                                      | action         | money       | counted |
|--------------------------------------------------------------------|----------------|-------------|---------|
| the body or a setting is wrong, before anything was sent           | fail           | release     | no      |
| ConfigError                                                        | stop_provider  | release     | no      |
| 401, 403                                                           | stop_provider  | by the body | no      |
| 403 of who has answered, up to four in a row: a filter forbids it  | fail           | by the body | yes     |
| 401 of who has answered, up to four in a row                       | retry          | by the body | yes     |
| 402, quota, spend limit, credit balance                            | pause_provider | by the body | no      |
| 429                                                                | pause_lane     | by the body | no      |
| 429 resource_unavailable: the tier has no room                     | pause_lane     | by the body | no      |
| 429: the request is larger than the limit itself                   | fail           | by the body | no      |
| 400, 404, 413, 422 and other 4xx, 3xx                              | fail           | by the body | yes     |
| the connection could not be made                                   | retry          | release     | no      |
| 409, 500, 501, 503, 529                                            | retry          | by the body | yes     |
| 408, 499, 502, 504 and other 5xx (Cloudflare's 520 to 530)         | retry          | unconfirmed | yes     |
| no answer in time, connection lost after sending                   | retry          | unconfirmed | yes     |
| a 200 that is no answer, any other exception                       | retry          | unconfirmed | yes     |

"By the body": an error in the provider's own words was not billed, and is released; what a proxy or a stranger says
proves nothing, and is unconfirmed. A tier without room is waited for, longer each time. A counted retry after the last
attempt fails. A retry or a paused lane after the second unconfirmed attempt of a job fails too: a job may leave no more
than two bills in doubt. Bad requests that are `alike` are counted by `bus/blame.py`: 20 in a row pause their lane.
"""

from __future__ import annotations

import random as _random
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from farebox.errors import (
    ConfigError,
    InputError,
    ModelNotFoundError,
    ProviderAccountError,
    ProviderAuthError,
    ProviderConnectionError,
    ProviderError,
    ProviderOverloadedError,
    ProviderRateLimitError,
    ProviderRequestError,
    ProviderTimeoutError,
    UntranslatableError,
)

Action = Literal["retry", "fail", "pause_lane", "pause_provider", "stop_provider"]
Money = Literal["release", "unconfirmed"]

MAX_DOUBTS = 2  # unconfirmed attempts per job
MOST_DENIALS = 5  # of credentials that were good, without an answer between them: they are good no more
RETRY_BASE_S = 1.0
RETRY_CAP_S = 60.0
UNREACHABLE_CAP_S = 30.0
LANE_PAUSE_S = 10.0  # when a 429 does not say how long
LANE_PAUSE_CAP_S = 3_600.0  # then a probe
NO_ROOM = "resource_unavailable"  # OpenAI's word when flex has no capacity (its guide to flex processing)
NO_ROOM_PAUSE_S = 1.0  # doubled with each refusal in a row
NO_ROOM_CAP_S = 300.0
PROVIDER_PAUSE_S = 300.0  # then a probe
_DIFFERING = re.compile(r"'[^']*'|\"[^\"]*\"|`[^`]*`|\b\w*\d[\w.-]*")
_TOO_LARGE = re.compile(r"request (is )?(too large|larger than)", re.IGNORECASE)  # than all that a minute allows
_UNCERTAIN = frozenset({408, 499})  # may have been billed whatever the body says
_CERTAIN = frozenset({500, 501, 503, 529})  # of those from 500; the others tell of what stands before a provider

# The first row that an error is an instance of is its own.
_ROWS: tuple[tuple[type[Exception], str, Action, bool], ...] = (
    (InputError, "input", "fail", False),
    (ConfigError, "config", "stop_provider", False),
    (UntranslatableError, "untranslatable", "fail", False),
    (ModelNotFoundError, "model", "fail", False),
    (ProviderAuthError, "auth", "stop_provider", False),
    (ProviderAccountError, "account", "pause_provider", False),
    (ProviderRateLimitError, "rate_limit", "pause_lane", False),
    (ProviderRequestError, "request", "fail", True),
    (ProviderOverloadedError, "overloaded", "retry", True),
    (ProviderTimeoutError, "timeout", "retry", True),
    (ProviderConnectionError, "connection", "retry", True),
    (ProviderError, "answer", "retry", True),
    (Exception, "unknown", "retry", True),
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of a failed attempt.

    Attributes:
        action: what to do with the job and its lane. `stop_provider` concerns this process only; with it and with
            the pauses the job goes back to its place.
        money: what becomes of the hold.
        delay_s: seconds until the job is due again or the pause is over; None when neither applies.
        counted: whether the attempt counts towards the job's `max_attempts`.
        failure_class: one word, by which failures are grouped and requeued.
        message: what people are told.
        alike: of a request that is wrong, what is said of it without what differs from line to line; else "".
    """

    action: Action
    money: Money
    delay_s: float | None
    counted: bool
    failure_class: str
    message: str
    alike: str = ""


def judge(
    error: Exception,
    *,
    attempts: int,
    doubts: int,
    max_attempts: int,
    refusals: int = 1,
    denials: int | None = None,
    random: Callable[[], float] = _random.random,
) -> Verdict:
    """Judge a failed attempt.

    Args:
        error: what the attempt raised.
        attempts: the job's counted attempts, this one included.
        doubts: the job's unconfirmed attempts before this one.
        max_attempts: how many counted attempts a job may have.
        refusals: how often in a row the lane had no room, this time included.
        denials: how often in a row credentials were refused that had been good, this time included; None when the
            lane never answered this process.
        random: draws from [0, 1), for the jitter.
    """
    failure_class, action, counted = next(row[1:] for row in _ROWS if isinstance(error, row[0]))
    money = _money(error)
    message = (str(error) or type(error).__name__).encode(errors="replace").decode()  # it may hold half a character
    if isinstance(error, ProviderAuthError) and denials is not None and denials < MOST_DENIALS:
        action, counted = "retry", True
        if error.status_code == 403:  # else one line that a filter dislikes stops all
            failure_class, action = "request", "fail"
    alike = _alike(error) if failure_class == "request" else ""
    if failure_class == "connection" and money == "release":
        failure_class, counted = "unreachable", False  # a network that is down is no fault of the job's
    if failure_class == "rate_limit" and isinstance(error, ProviderError) and error.code == NO_ROOM:
        failure_class = "no_room"
    elif failure_class == "rate_limit" and _TOO_LARGE.search(message):
        failure_class, action = "too_large", "fail"  # no pause makes room for it
    if counted and action == "retry" and attempts >= max_attempts:
        action, message = "fail", f"{message} (attempt {attempts} of {max_attempts})"
    elif money == "unconfirmed" and action in {"retry", "pause_lane"} and doubts + 1 >= MAX_DOUBTS:
        action, message = "fail", f"{message} (whether {doubts + 1} attempts were billed is unknown)"
    delay_s = _delay_s(error, action, failure_class, refusals if failure_class == "no_room" else attempts, random)
    return Verdict(action, money, delay_s, counted, failure_class, message, alike)


def may_move(verdict: Verdict, doubts: int) -> bool:
    """Tell whether another model may be asked after a failure: whatever was refused, but no third bill in doubt.

    What was wrong before it was sent is wrong everywhere; what one model refuses (a parameter, a context too long, a
    filtered prompt, a name it does not know), or has no room for any more, another one may answer.
    """
    in_doubt = doubts + (verdict.money == "unconfirmed")
    return verdict.action == "fail" and verdict.failure_class != "input" and in_doubt < MAX_DOUBTS


def _alike(error: Exception) -> str:
    """Reduce a refusal to what 20 lines with the same mistake have in common: no numbers, ids, names, quotations."""
    status, code = (error.status_code, error.code) if isinstance(error, ProviderError) else (None, "")
    return f"{status or ''} {code} {_DIFFERING.sub('#', str(error))[:200]}".encode(errors="replace").decode()


def _money(error: Exception) -> Money:
    """Release what was provably not billed, and nothing else."""
    if isinstance(error, InputError | ConfigError):
        return "release"
    if not isinstance(error, ProviderError):
        return "unconfirmed"
    if not error.sent:
        return "release"
    status = error.status_code or 0
    refused = status in _CERTAIN or (400 <= status < 500 and status not in _UNCERTAIN)
    return "release" if refused and error.own_body else "unconfirmed"


def _delay_s(
    error: Exception, action: Action, failure_class: str, times: int, random: Callable[[], float]
) -> float | None:
    """Say how long to wait: the provider's word where it gave one, else a time with jitter."""
    if action == "pause_provider":
        return PROVIDER_PAUSE_S
    if action == "pause_lane":
        told = error.retry_after if isinstance(error, ProviderRateLimitError) else None
        if told is not None:
            return min(told, LANE_PAUSE_CAP_S)
        grown_s = min(NO_ROOM_CAP_S, NO_ROOM_PAUSE_S * 2.0 ** min(times - 1, 16))
        return (grown_s if failure_class == "no_room" else LANE_PAUSE_S) * (0.5 + random())
    if action != "retry":
        return None
    if failure_class == "unreachable":
        return RETRY_BASE_S + (UNREACHABLE_CAP_S - RETRY_BASE_S) * random()
    return min(RETRY_CAP_S, RETRY_BASE_S * 2.0 ** min(times, 16)) * random()
