"""Building one output line from a result: OpenAI's batch output line, with `farebox` beside it.

Every line begins with the same bytes (`written.PREFIX`), ends with the only newline in it, and is valid JSON whatever
the provider sent. The provider's JSON goes in as it came: no number is read, no key moved.
"""

from __future__ import annotations

import msgspec

from farebox.money import NUSD_PER_USD
from farebox.records import Finish, Outcome, Result, Tier


class _Error(msgspec.Struct):
    code: str
    message: str


class _Response(msgspec.Struct):
    status_code: int
    request_id: str
    body: msgspec.Raw | str | None


class _Usage(msgspec.Struct):
    input_tokens: int
    output_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int


class _Own(msgspec.Struct, omit_defaults=True, kw_only=True):
    job: str
    batch: str = ""
    model_ref: str
    fallback_from: str = ""
    tier: Tier
    served_tier: str = ""
    outcome: Outcome
    failure_class: str = ""
    finish: Finish
    attempts: int
    cost_usd: msgspec.Raw
    cost_nusd: int
    saved_nusd: int = 0
    unconfirmed_nusd: int = 0
    usage: _Usage
    latency_ms: int
    price_version: str
    capped_by_default: bool = False
    reused_from: str = ""
    invalid: str = ""
    note: str = ""


class _OutputLine(msgspec.Struct):
    id: str
    custom_id: str
    response: _Response | None
    error: _Error | None
    farebox: _Own


_encode = msgspec.json.Encoder().encode
_check_json = msgspec.json.Decoder(msgspec.Raw).decode


def output_line(job_id: str, result: Result, batch_id: str = "", invalid: str = "") -> bytes:
    """Write a result as one JSON line with its newline.

    `response` is null when nothing came back over HTTP, `error` is null when the job succeeded.
    `cost_usd` is the exact decimal of `cost_nusd`; `invalid` says why the answer does not match the schema.
    """
    line = _OutputLine(
        f"farebox-{job_id.rpartition(':')[2]}",
        result.custom_id,
        _response(result),
        _error(result),
        _own(job_id, result, batch_id, invalid),
    )
    return _encode(line) + b"\n"


def _response(result: Result) -> _Response | None:
    if not result.status_code and not result.body:
        return None
    return _Response(result.status_code, result.request_id, _one_line(result.body) if result.body else None)


def _error(result: Result) -> _Error | None:
    if result.outcome == "succeeded":
        return None
    return _Error(result.error_code or result.outcome, result.error_message or f"the job {_ENDED[result.outcome]}")


_ENDED = {"failed": "failed", "cancelled": "was cancelled"}


def _own(job_id: str, result: Result, batch_id: str, invalid: str) -> _Own:
    return _Own(
        job=job_id,
        batch=batch_id,
        model_ref=result.model_ref,
        fallback_from=result.asked,
        tier=result.tier,
        served_tier=result.served_tier,
        outcome=result.outcome,
        failure_class=result.failure_class,
        finish=result.finish,
        attempts=result.attempts,
        cost_usd=msgspec.Raw(_decimal_usd(result.cost_nusd)),
        cost_nusd=result.cost_nusd,
        saved_nusd=result.saved_nusd,
        unconfirmed_nusd=result.unconfirmed_nusd,
        usage=_Usage(result.input_tokens, result.output_tokens, result.cache_read_tokens, result.cache_write_tokens),
        latency_ms=result.latency_ms,
        price_version=result.price_version,
        capped_by_default=result.capped_by_default,
        reused_from=result.reused_from,
        invalid=invalid,
        note=result.note,
    )


def _one_line(body: bytes) -> msgspec.Raw | str:
    """Return the body as JSON without newlines, or as a text when it is not JSON."""
    try:
        if not body.isascii():
            body.decode()  # msgspec does not look into the strings it passes over
        value = _check_json(body)
        if b"\n" in body or b"\r" in body:  # valid JSON has them between tokens only
            return msgspec.Raw(msgspec.json.format(value, indent=-1))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return body.decode(errors="replace")
    return value


def _decimal_usd(nusd: int) -> bytes:
    """Write nano-dollars as a JSON number in dollars, to the digit and without trailing zeros."""
    sign = "-" if nusd < 0 else ""
    whole, fraction = divmod(abs(nusd), NUSD_PER_USD)
    digits = f"{fraction:09d}".rstrip("0")
    return f"{sign}{whole}.{digits}".encode() if digits else f"{sign}{whole}".encode()
