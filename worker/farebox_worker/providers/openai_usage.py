"""Reads the usage of OpenAI's answers, whichever of its APIs they come from and whoever speaks like it."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw

from farebox_worker.providers import body as bodies
from farebox_worker.providers import openai_request as requests
from farebox_worker.providers.base import Prepared, Said, TokenUsage


class _WriteDetails(msgspec.Struct):
    ttl_12h_tokens: int | None = None


class _InputDetails(msgspec.Struct):
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None
    cache_write_tokens_details: _WriteDetails | None = None
    audio_tokens: int | None = None


class _OutputDetails(msgspec.Struct):
    audio_tokens: int | None = None
    reasoning_tokens: int | None = None


class _Usage(msgspec.Struct):
    """Chat completions and embeddings say prompt and completion, responses say input and output."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    total_tokens: int | None = None
    prompt_tokens_details: _InputDetails | None = None
    input_tokens_details: _InputDetails | None = None
    completion_tokens_details: _OutputDetails | None = None
    prompt_cache_hit_tokens: int | None = None  # DeepSeek's own name for it


class _Billed(msgspec.Struct):
    usage: Raw = Raw()
    service_tier: Any = None


_usage = msgspec.json.Decoder(_Usage, strict=False)  # some servers count in floats, 10.0
_billed = msgspec.json.Decoder(_Billed)


def read(raw: Raw, prepared: Prepared, searches: int | None = None) -> TokenUsage | None:
    """Make the counts disjoint: OpenAI's input includes what was read from and written to a cache.

    What a usage leaves open is taken at its dearest: audio whose count is not told, audio that may have been cached,
    writes of a request for the long-lived cache, fees but for `searches`, where an answer counts them.
    None when nobody can read it: an answer without a usage is still an answer.
    """
    try:
        usage = _usage.decode(raw) if bodies.is_given(raw) else None
    except msgspec.DecodeError:
        return None
    counts = _whole(usage, prepared) if usage else None
    if usage is None or counts is None:
        return None
    prompt, answered = counts
    details, made = usage.prompt_tokens_details or usage.input_tokens_details, usage.completion_tokens_details
    details = details or _InputDetails()
    heard = details.audio_tokens
    if heard is None:
        heard = prompt if requests.has_audio(prepared.body) else 0
    heard = min(prompt, max(0, heard))
    cached = min(prompt - heard, max(0, details.cached_tokens or usage.prompt_cache_hit_tokens or 0))
    written = min(prompt - heard - cached, max(0, details.cache_write_tokens or 0))
    kept = details.cache_write_tokens_details
    long = kept.ttl_12h_tokens if kept else written if requests.asks_long_cache(prepared.body) else 0
    counted = {} if searches is None else {"web_search": max(0, searches)}
    return TokenUsage(
        prompt - cached - written,
        answered,
        cached,
        written,
        cache_write_1h_tokens=min(written, max(0, long or 0)),
        media_input_tokens=heard,
        media_output_tokens=min(answered, max(0, made.audio_tokens or 0)) if made else 0,
        fees=tuple((fee.name, counted.get(fee.name, fee.most or 0)) for fee in prepared.fees),
    )


def billed(original: bytes, prepared: Prepared) -> Said | None:
    """Read what is no answer but was counted: it is paid, so nothing asks again. None when no usage says so.

    Raises: msgspec.DecodeError.
    """
    told = _billed.decode(original)
    usage = read(told.usage, prepared)
    tier = told.service_tier if isinstance(told.service_tier, str) else ""
    return Said(original, usage, "", tier) if usage else None


def _whole(usage: _Usage, prepared: Prepared) -> tuple[int, int] | None:
    """Find all tokens in and out; an embedding has none of the latter, and some servers tell its total alone.

    OpenAI counts reasoning among the completion; xAI and Gemini beside it, and in the total (docs.x.ai, Consumption
    and rate limits). Both are billed as output. None when a count is missing or negative.
    """
    prompt = usage.input_tokens if usage.prompt_tokens is None else usage.prompt_tokens
    answered = usage.output_tokens if usage.completion_tokens is None else usage.completion_tokens
    if prepared.api == "embeddings":
        prompt, answered = usage.total_tokens if prompt is None else prompt, 0
    if prompt is None or answered is None or min(prompt, answered) < 0:
        return None
    if prepared.api != "embeddings":
        made = usage.completion_tokens_details
        thought = (made.reasoning_tokens or 0) if made else 0
        answered = max(answered + thought if thought > answered else answered, (usage.total_tokens or 0) - prompt)
    return prompt, answered
