r"""What every adapter does to a request body before its vendor's own rules: read it, cap it, bound it.

And to an answer that is nearly JSON: write it anew (`mended`), for it is paid.

A body is taken apart at its top level only; what is inside stays the bytes the producer wrote, except that `\u`
escapes are written out, so that its length in bytes bounds its tokens tightly and whatever normalises text can be
accounted for.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from typing import TypeVar

import msgspec
from msgspec import Raw

from farebox.errors import InputError
from farebox_worker.providers.base import Facts

T = TypeVar("T")
Fields = dict[str, Raw]

# Tokens of the hidden prompt that comes with tools, thinking and formats of the answer: 159-530 seen for tools (Tool
# use, Pricing in Anthropic's documentation).
TOOL_PROMPT = 1_024
# How often a server's own tools make it read the prompt again within one request.
# Source: platform.claude.com/docs, Handling stop reasons: pause_turn comes after 10 iterations of the server's loop.
SERVER_ROUNDS = 10
CHAT_TEMPLATE = 256  # tokens of a default system prompt that an open model's chat template may bring

IMAGE_FRAME = 64  # tokens around an image
MOST_MENDED = 8_000_000  # bytes of an answer that are worth a second of everybody's time

_fields = msgspec.json.Decoder(Fields)
_json = msgspec.json.Encoder()


def unescaped(body: bytes) -> bytes:
    r"""Write out `\u` escapes. Raises: InputError when the body is not JSON in UTF-8."""
    try:
        if b"\\u" in body:
            return _json.encode(msgspec.json.decode(body))
        if not body.isascii():
            body.decode()
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InputError(f"the body is not JSON in UTF-8: {error}") from None
    return body


def fields_of(body: bytes) -> Fields:
    """Take a body apart at its top level. Raises: InputError when it is not a JSON object."""
    try:
        return _fields.decode(body)
    except msgspec.DecodeError as error:
        raise InputError(f"the body is not a JSON object: {error}") from None


def written(fields: Fields) -> bytes:
    """Write a body in no more memory than it takes: the encoder leaves half as much again behind what it wrote."""
    return bytes(memoryview(_json.encode(fields)))


def check_text(answer: bytes) -> None:
    """Look into the strings that msgspec passes over. Raises: UnicodeDecodeError when an answer is not UTF-8."""
    if not answer.isascii():
        answer.decode()


def mended(answer: bytes) -> bytes | None:
    """Write an answer anew that is JSON but for a byte order mark, broken or half characters, NaN or raw newlines.

    What cannot be written becomes "?" or null. None when it is no JSON all the same.
    """
    if len(answer) > MOST_MENDED:
        return None
    try:
        value = json.loads(answer.decode("utf-8-sig", "replace"), strict=False, parse_constant=lambda _: None)
        return json.dumps(value, ensure_ascii=False, allow_nan=False).encode(errors="replace")
    except (ValueError, RecursionError):
        return None


def understood(answer: bytes, read: Callable[[bytes], T | None]) -> tuple[T | None, bytes]:
    """Read an answer as it came or, when that is none, as `mended`; and return what was read of which bytes."""
    said = read(answer)
    if said is None and (again := mended(answer)):
        return read(again), again
    return said, answer


def is_given(raw: Raw) -> bool:
    """Tell whether a field is there and says something."""
    return bytes(raw) not in (b"", b"null")


def raw(value: str | int) -> Raw:
    """Write a value as JSON."""
    return Raw(_json.encode(value))


def output_cap(asked: list[int | None], job_cap: int | None, facts: Facts) -> tuple[int, bool]:
    """Decide the output cap in tokens, and whether it is the model's default that nobody asked for.

    The request's own (the smaller, where it names two), else the job's, else the model's default; never above what
    the model can do. Raises: InputError when a cap is negative.
    """
    named = [cap for cap in asked if cap is not None]
    cap = min(named) if named else job_cap
    by_default = cap is None
    cap = facts.default_max_tokens if cap is None else cap
    if facts.max_output_tokens > 0:
        cap = min(cap, facts.max_output_tokens)
    if cap < 0:
        raise InputError(f"the output cap must not be negative: {cap}")
    return cap, by_default


def byte_bound(body: bytes) -> int:
    """Bound the tokens of a body whose tokenizer normalises text (NFKC may lengthen it): its bytes before or after."""
    if body.isascii():
        return len(body)
    return max(len(body), len(unicodedata.normalize("NFKC", body.decode()).encode()))


def with_images(bound: int, images: list[int], facts: Facts) -> int:
    """Replace the bytes of images, one number each, in a bound by the most tokens that an image of the model counts.

    Raises: InputError when neither that nor the context window is known.
    """
    if images and not facts.image_tokens:
        return context_bound(facts, "an image")
    return bound - sum(images) + len(images) * (facts.image_tokens + IMAGE_FRAME)


def context_bound(facts: Facts, what: str) -> int:
    """Bound an input that bytes do not bound by the model's context window.

    Raises: InputError when the window is unknown: then nothing bounds its cost.
    """
    if facts.context_window <= 0:
        raise InputError(
            f"{what} is not bounded by its length, and the context window of {facts.model_id} is unknown: "
            "set context_window in its [models] section of farebox.toml"
        )
    return facts.context_window
