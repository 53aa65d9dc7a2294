"""What became of a call that brought no answer: refused, lost on the way, or never sent.

It turns an HTTP status or a broken connection into Farebox's errors, with all that is known of the call's fate and
none of the secrets. It never guesses in our favour: only a failure to connect proves that nothing was sent.
"""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Any

import aiohttp
import httpx2
import msgspec

from farebox.errors import (
    ProviderAccountError,
    ProviderAuthError,
    ProviderConnectionError,
    ProviderError,
    ProviderOverloadedError,
    ProviderRateLimitError,
    ProviderRequestError,
    ProviderTimeoutError,
)
from farebox_worker.providers import body as bodies
from farebox_worker.providers.connection import Answer, TooLargeError, TooLateError

MAX_MESSAGE = 2_000  # characters of a provider's message that are kept
MAX_CODE = 100  # characters of a provider's code, and of a request's id, that are kept
MAX_BODY = 64_000  # bytes of a provider's error body that are kept

# Raised before the first byte of a request is written. httpx2's ConnectTimeout is not among them: the openai SDK also
# makes it of a server that hung up after reading the request.
NEVER_SENT = (
    aiohttp.ClientConnectorError,
    aiohttp.ConnectionTimeoutError,
    aiohttp.ClientHttpProxyError,
    aiohttp.InvalidURL,
    httpx2.UnsupportedProtocol,
    ConnectionRefusedError,
    socket.gaierror,
    TooLateError,
)
ACCOUNT_CODES = frozenset(
    {
        "insufficient_quota",
        "credit_balance_exhausted",
        "organization_spend_limit_exceeded",
        "project_spend_limit_exceeded",
        "organization_usage_limit_exceeded",
        "billing_hard_limit_reached",
        "billing_not_active",
        "billing_error",
        "enforced_spend_limit_reached",
        "contract_spend_limit_reached",
        "linked_organization_billing_unavailable",
        "linked_organization_spend_limit_reached",
        "organization_on_hold",
    }
)
# Codes of failures within a 200 that another try may mend (openai's `ResponseError.code`). OpenRouter's are statuses
# (openrouter.ai/docs/errors); all others are about the request.
_STATUS_OF = {"server_error": 500, "vector_store_timeout": 500, "rate_limit_exceeded": 429}
_RATE_HEADERS = (b"x-ratelimit-", b"anthropic-ratelimit-", b"anthropic-priority-", b"anthropic-fast-")
_KEPT_HEADERS = frozenset({b"x-request-id", b"request-id", b"retry-after", b"retry-after-ms"})
# What is masked begins where a word does, so that a long word is not read again from each of its letters; and not
# within an escape of JSON, which would be cut in two.
_SECRET = re.compile(r"\bsk-[\w\-*.…]{4,}|(?:(?<![\w\-\\])[\w\-]*)?\*{3,}[\w\-]*")


class Scrubber:
    """Takes an API key, and whatever looks like one or a part of this one, out of a text."""

    def __init__(self, api_key: str) -> None:
        patterns = [_SECRET.pattern]
        self._head = api_key[:8] if len(api_key) >= 8 else ""
        if self._head:
            head, tail = re.escape(self._head), re.escape(api_key[-4:])
            patterns = [re.escape(api_key), rf"{head}[\w\-*.…]*", *patterns, rf"(?<![\w\-]){tail}(?![\w\-])"]
        self._pattern = re.compile("|".join(patterns))

    def __call__(self, text: str) -> str:
        """Return the text with every trace of the key replaced by `[key]`."""
        return self._pattern.sub("[key]", text)

    def identifier(self, text: str) -> str:
        """Return a request's id, cut; no search by patterns, for every answer has one."""
        return "[key]" if self._head and self._head in text else text[:MAX_CODE]

    def words(self, text: str, most: int) -> str:
        """Return at most so many of its characters; the rest, which may be megabytes, is not even looked at."""
        return self(text[: 2 * most])[:most]


def kept_headers(raw_headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Keep what steers us: rate limits, Retry-After and the request's id; names in lower case."""
    kept = {}
    for raw_name, value in raw_headers:
        if name := _kept_name(raw_name):
            kept[name] = value.decode("latin-1")
    return kept


@lru_cache(maxsize=1000)
def _kept_name(raw_name: bytes) -> str:
    """A header's name in lower case, if it is one to keep; else ""."""
    name = raw_name.lower()
    return name.decode("ascii", "replace") if name in _KEPT_HEADERS or name.startswith(_RATE_HEADERS) else ""


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Read `retry-after-ms`, else `retry-after` (seconds or an HTTP date), as seconds from now, never negative.

    A date is compared with the answer's own `date`: the clock of this machine may be wrong.
    """
    try:
        if ms := headers.get("retry-after-ms"):
            return max(0.0, float(ms) / 1000)
        if not (text := headers.get("retry-after")):
            return None
        if text[:1].isalpha():
            return max(0.0, parsedate_to_datetime(text).timestamp() - _answered_at_s(headers))
        seconds = float(text)
    except (ValueError, TypeError, OverflowError):
        return None
    return max(0.0, seconds) if seconds == seconds else None  # noqa: PLR0124 - NaN is no delay


def _answered_at_s(headers: Mapping[str, str]) -> float:
    """When an answer was given, by the clock of who gave it; by ours where it does not say."""
    try:
        return parsedate_to_datetime(headers["date"]).timestamp()
    except (KeyError, ValueError):
        return time.time()


def rejected(
    provider_id: str,
    response: Answer | httpx2.Response,
    *,
    scrub: Scrubber,
    account_words: re.Pattern[str] | None = None,
) -> ProviderError:
    """Turn an HTTP status that is no success into an error.

    `account_words` finds a provider's account troubles in messages, where codes do not tell them.
    """
    status, headers, content = response.status_code, response.headers, _content(response)
    error = _error_object(content)
    own_body = error is not None or status == 429  # who turns a call away at the door has not let it in
    message, codes = _message_and_codes(error or {})
    fields: dict[str, Any] = {
        "status_code": status,
        "code": scrub.words(codes[0], MAX_CODE) if codes else "",
        "body": scrub(content[:MAX_BODY].decode("utf-8", "replace")).encode() if error is not None else b"",
        "own_body": own_body,
        "request_id": _request_id(headers, scrub),
        "headers": kept_headers(headers.raw),
        "retry_after": retry_after_s(headers),
    }
    if 300 <= status < 400 and (location := headers.get("location")):
        message = f"it redirects to {location}; base_url must name the address where it really is"
    said = scrub.words(message or _foreign_text(content), MAX_MESSAGE)
    text = f"{provider_id} answered {status}" + (f" {fields['code']}" if fields["code"] else "")
    text += f": {said}" if said else ""
    in_account = status == 402 or not ACCOUNT_CODES.isdisjoint(codes)
    if in_account or (own_body and status < 500 and account_words and account_words.search(message)):
        return ProviderAccountError(provider_id, text, **fields)
    if status == 429:
        return ProviderRateLimitError(provider_id, text, **fields)
    return _class_of(status)(provider_id, text, **fields)


def lost(provider_id: str, error: BaseException, *, timeout_s: float, scrub: Scrubber) -> ProviderError:
    """Turn a connection that broke, or could not be made, into an error that tells whether the call was sent."""
    if type(error) is TimeoutError:
        return ProviderTimeoutError(provider_id, f"{provider_id} did not answer within {timeout_s:g} s")
    if isinstance(error, TooLargeError):
        return ProviderError(provider_id, f"{provider_id} answered {error}", code="answer_too_large")
    chain = list(_causes(error))
    root = next(
        (one for one in reversed(chain) if str(one)), chain[-1]
    )  # a time-out's is a cancellation without a word
    reason = scrub.words(" ".join(f"{type(root).__name__}: {root}".split()).rstrip(": "), MAX_MESSAGE)
    if any(isinstance(cause, NEVER_SENT) for cause in chain):
        return ProviderConnectionError(provider_id, f"{provider_id} could not be reached: {reason}", sent=False)
    if any(isinstance(cause, TimeoutError | httpx2.ReadTimeout) for cause in chain):
        return ProviderTimeoutError(provider_id, f"{provider_id} fell silent: {reason}")
    return ProviderConnectionError(provider_id, f"{provider_id} broke the connection after the call was sent: {reason}")


def failed_within(
    provider_id: str, response: Answer | httpx2.Response, failure: tuple[str, str], *, billed: bool, scrub: Scrubber
) -> ProviderError:
    """Turn a failure that came within a 200 into the error that its HTTP status would have made.

    It was `billed` when a usage came with it: then the words are not taken as proof of the contrary.
    """
    code, message = scrub.words(failure[0], MAX_CODE), scrub.words(failure[1], MAX_MESSAGE)
    status = int(code) if re.fullmatch("[45][0-9][0-9]", code) else _STATUS_OF.get(code, 400)
    make = ProviderRateLimitError if status == 429 else _class_of(status)
    return make(
        provider_id,
        f"{provider_id} answered that it failed, {code}: {message}",
        status_code=status,
        code=code,
        body=scrub(response.content[:MAX_BODY].decode("utf-8", "replace")).encode(),
        own_body=not billed,
        request_id=_request_id(response.headers, scrub),
    )


def not_an_answer(provider_id: str, response: Answer | httpx2.Response, *, scrub: Scrubber) -> ProviderError:
    """Say that a 200 brought something else than was asked for: whether it was billed is unknown."""
    said = scrub(_foreign_text(response.content))[:MAX_MESSAGE]
    return ProviderError(
        provider_id,
        f"{provider_id} answered {response.status_code} with something else than was asked for: {said}",
        status_code=response.status_code,
        code="not_an_answer",
        request_id=_request_id(response.headers, scrub),
    )


def _request_id(headers: httpx2.Headers, scrub: Scrubber) -> str:
    return scrub.identifier(headers.get("x-request-id") or headers.get("request-id") or "")


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Walk from an error to its root by `__cause__` alone.

    `__context__` would also lead to whatever the caller was handling when it made this call: another call's
    refused connection would then pass for the proof that this one was never sent.
    """
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__


def _content(response: Answer | httpx2.Response) -> bytes:
    """Read a body that is there; an error in the midst of a stream leaves none."""
    try:
        return response.content
    except httpx2.ResponseNotRead:
        return b""


def _class_of(status: int) -> type[ProviderError]:
    if status in {401, 403}:
        return ProviderAuthError
    if status in {408, 499, 504, 524}:
        return ProviderTimeoutError
    if status < 300 or status == 409 or status >= 500:  # below 300: an error in the midst of a stream
        return ProviderOverloadedError
    return ProviderRequestError


def _error_object(content: bytes) -> dict[str, Any] | None:
    """Return the provider's own error object.

    It is JSON with `error` (Gemini wraps it into a list), `detail` (FastAPI's), or vLLM's older `{"object": "error"}`.
    """
    try:
        body = msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError):
        again = bodies.mended(content)
        body = msgspec.json.decode(again) if again else None
    except RecursionError:  # nobody means it
        return None
    if isinstance(body, list) and body:
        body = body[0]
    if not isinstance(body, dict):
        return None
    error = body.get("error")
    if isinstance(error, dict):
        return error
    if isinstance(error, str):
        return {"message": error}
    if detail := body.get("detail"):
        return {"message": detail}
    return body if body.get("object") == "error" else None


def _message_and_codes(error: dict[str, Any]) -> tuple[str, list[str]]:
    """Read an error object: its message, and its codes from the finest to the coarsest."""
    details = error.get("details")
    fine = details.get("error_code") if isinstance(details, dict) else None
    codes = [str(code) for code in (fine, error.get("code"), error.get("type")) if code and isinstance(code, str | int)]
    message = error.get("message")
    return (message if isinstance(message, str) else ""), codes


def _foreign_text(content: bytes) -> str:
    return content[:500].decode("utf-8", "replace").strip()
