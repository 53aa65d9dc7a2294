"""Every row of the table that judges failed attempts."""

import pytest

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
from farebox_worker.attempts.failures import judge

HALF = 0.5


def own(status, kind=ProviderError, **fields):
    return kind("p", "why", status_code=status, own_body=True, body=b"{}", **fields)


def foreign(status, kind=ProviderError, **fields):
    return kind("p", "why", status_code=status, own_body=False, **fields)


def verdict(error, attempts=1, doubts=0, max_attempts=5, draw=HALF):
    return judge(error, attempts=attempts, doubts=doubts, max_attempts=max_attempts, random=lambda: draw)


ROWS = [
    # error, action, money, delay_s, counted, class
    (InputError("x"), "fail", "release", None, False, "input"),
    (UntranslatableError("p", ["seed"]), "fail", "release", None, False, "untranslatable"),
    (ModelNotFoundError("p:m"), "fail", "release", None, False, "model"),
    (ConfigError("x"), "stop_provider", "release", None, False, "config"),
    (own(401, ProviderAuthError), "stop_provider", "release", None, False, "auth"),
    (own(403, ProviderAuthError), "stop_provider", "release", None, False, "auth"),
    (foreign(403, ProviderAuthError), "stop_provider", "unconfirmed", None, False, "auth"),
    (own(402, ProviderAccountError), "pause_provider", "release", 300.0, False, "account"),
    (own(429, ProviderAccountError), "pause_provider", "release", 300.0, False, "account"),
    (own(400, ProviderAccountError), "pause_provider", "release", 300.0, False, "account"),
    (foreign(402, ProviderAccountError), "pause_provider", "unconfirmed", 300.0, False, "account"),
    (own(429, ProviderRateLimitError, retry_after=7.0), "pause_lane", "release", 7.0, False, "rate_limit"),
    (own(429, ProviderRateLimitError, retry_after=0.0), "pause_lane", "release", 0.0, False, "rate_limit"),
    (own(429, ProviderRateLimitError, retry_after=1e9), "pause_lane", "release", 3600.0, False, "rate_limit"),
    (own(429, ProviderRateLimitError), "pause_lane", "release", 10.0, False, "rate_limit"),
    (foreign(429, ProviderRateLimitError, retry_after=7.0), "pause_lane", "unconfirmed", 7.0, False, "rate_limit"),
    (own(400, ProviderRequestError), "fail", "release", None, True, "request"),
    (own(404, ProviderRequestError), "fail", "release", None, True, "request"),
    (own(413, ProviderRequestError), "fail", "release", None, True, "request"),
    (own(422, ProviderRequestError), "fail", "release", None, True, "request"),
    (foreign(404, ProviderRequestError), "fail", "unconfirmed", None, True, "request"),
    (foreign(307, ProviderRequestError), "fail", "unconfirmed", None, True, "request"),
    (own(500, ProviderOverloadedError), "retry", "release", 1.0, True, "overloaded"),
    (own(503, ProviderOverloadedError), "retry", "release", 1.0, True, "overloaded"),
    (own(529, ProviderOverloadedError), "retry", "release", 1.0, True, "overloaded"),
    (own(502, ProviderOverloadedError), "retry", "unconfirmed", 1.0, True, "overloaded"),
    (own(520, ProviderOverloadedError), "retry", "unconfirmed", 1.0, True, "overloaded"),  # Cloudflare writes JSON too
    (own(524, ProviderTimeoutError), "retry", "unconfirmed", 1.0, True, "timeout"),
    (foreign(503, ProviderOverloadedError), "retry", "unconfirmed", 1.0, True, "overloaded"),
    (own(200, ProviderOverloadedError), "retry", "unconfirmed", 1.0, True, "overloaded"),
    (own(408, ProviderTimeoutError), "retry", "unconfirmed", 1.0, True, "timeout"),
    (own(499, ProviderTimeoutError), "retry", "unconfirmed", 1.0, True, "timeout"),
    (own(504, ProviderTimeoutError), "retry", "unconfirmed", 1.0, True, "timeout"),
    (ProviderTimeoutError("p"), "retry", "unconfirmed", 1.0, True, "timeout"),
    (ProviderConnectionError("p", sent=True), "retry", "unconfirmed", 1.0, True, "connection"),
    (ProviderConnectionError("p", sent=False), "retry", "release", 15.5, False, "unreachable"),
    (foreign(200), "retry", "unconfirmed", 1.0, True, "answer"),
    (RuntimeError("bug"), "retry", "unconfirmed", 1.0, True, "unknown"),
]


@pytest.mark.parametrize(("error", "action", "money", "delay_s", "counted", "failure_class"), ROWS)
def test_every_failure_has_its_row(error, action, money, delay_s, counted, failure_class):
    got = verdict(error)
    assert (got.action, got.money, got.delay_s) == (action, money, delay_s)
    assert (got.counted, got.failure_class) == (counted, failure_class)


@pytest.mark.parametrize(
    ("attempts", "draw", "delay_s"), [(1, 0.0, 0.0), (1, 1.0, 2.0), (3, 1.0, 8.0), (40, 1.0, 60.0)]
)
def test_retries_wait_with_full_jitter_up_to_a_minute(attempts, draw, delay_s):
    got = verdict(own(500, ProviderOverloadedError), attempts=attempts, max_attempts=99, draw=draw)
    assert got.delay_s == delay_s


def test_the_last_counted_attempt_fails_the_job():
    error = own(500, ProviderOverloadedError)
    assert verdict(error, attempts=4).action == "retry"
    last = verdict(error, attempts=5)
    assert (last.action, last.money, last.delay_s) == ("fail", "release", None)
    assert "attempt 5 of 5" in last.message


@pytest.mark.parametrize(
    "error", [ProviderConnectionError("p", sent=False), own(429, ProviderRateLimitError), own(401, ProviderAuthError)]
)
def test_what_is_no_fault_of_the_jobs_never_fails_it(error):
    assert verdict(error, attempts=99).action != "fail"


def test_the_second_doubtful_attempt_fails_the_job():
    error = ProviderTimeoutError("p")
    assert verdict(error, doubts=0).action == "retry"
    second = verdict(error, doubts=1)
    assert (second.action, second.money) == ("fail", "unconfirmed")
    assert "2 attempts" in second.message
    assert verdict(foreign(429, ProviderRateLimitError), doubts=1).action == "fail"


@pytest.mark.parametrize(("make", "money"), [(own, "release"), (foreign, "unconfirmed")])
def test_a_request_that_a_filter_forbids_does_not_stop_whoever_has_good_credentials(make, money):
    judged = judge(make(403, ProviderAuthError), attempts=1, doubts=0, max_attempts=5, denials=1)
    assert (judged.action, judged.money, judged.failure_class, judged.counted) == ("fail", money, "request", True)
    assert judged.alike  # twenty of them in a row still pause the lane


@pytest.mark.parametrize(
    ("status", "denials", "action", "counted"),
    [(401, 4, "retry", True), (401, 5, "stop_provider", False), (403, 5, "stop_provider", False)],
)
def test_good_credentials_are_given_up_when_they_are_refused_again_and_again(status, denials, action, counted):
    error = own(status, ProviderAuthError)
    judged = judge(error, attempts=1, doubts=0, max_attempts=9, denials=denials)
    assert (judged.action, judged.counted, judged.money) == (action, counted, "release")


def test_doubts_of_the_past_do_not_fail_what_is_certain():
    assert verdict(own(500, ProviderOverloadedError), doubts=2).action == "retry"


def test_a_provider_is_stopped_or_paused_whatever_the_doubts():
    assert verdict(foreign(401, ProviderAuthError), doubts=5).action == "stop_provider"
    assert verdict(foreign(402, ProviderAccountError), doubts=5).action == "pause_provider"


def test_the_message_is_the_errors_own():
    assert verdict(own(500, ProviderOverloadedError)).message == "why"
    assert verdict(RuntimeError()).message == "RuntimeError"
