"""What a model said, read out of a provider's JSON: chat completions, Anthropic's messages, OpenAI's responses.

It reads leniently: what is not there, or is of another shape, was not said.
"""

from __future__ import annotations

import base64
import struct

import msgspec
from msgspec import Raw


class _Function(msgspec.Struct, frozen=True):
    name: str = ""
    arguments: str = ""


class _Call(msgspec.Struct, frozen=True):
    id: str = ""
    function: _Function = _Function()


class _Part(msgspec.Struct, frozen=True):
    """A part of a message, a block of Anthropic's, or an item of a response's output."""

    type: str = ""
    text: str = ""
    id: str = ""
    call_id: str = ""
    name: str = ""
    input: Raw = Raw(b"{}")
    arguments: str = ""
    content: Raw = Raw(b"null")


class _Message(msgspec.Struct, frozen=True):
    content: str | list[_Part] | None = None
    tool_calls: list[_Call] | None = None


class _Choice(msgspec.Struct, frozen=True):
    message: _Message = _Message()


class _Body(msgspec.Struct, frozen=True):
    choices: list[_Choice] = []
    content: str | list[_Part] | None = None
    output: list[_Part] = []


class _Vector(msgspec.Struct, frozen=True):
    embedding: list[float] | str


class _Vectors(msgspec.Struct, frozen=True):
    data: list[_Vector] = []


_body = msgspec.json.Decoder(_Body)
_vectors = msgspec.json.Decoder(_Vectors)
_content = msgspec.json.Decoder(str | list[_Part] | None)
_TEXTS = frozenset(("text", "output_text"))


def said_text(raw: bytes) -> str:
    """Return the text of the first choice; "" when there is none."""
    body = _read(raw)
    if body.choices:
        return _text(body.choices[0].message.content)
    spoken = "".join(_text(_content.decode(item.content)) for item in body.output if item.type == "message")
    return spoken or _text(body.content)


def said_tool_calls(raw: bytes) -> list[tuple[str, str, str]]:
    """Return id, name and arguments (JSON text) of each tool call of the first choice."""
    body = _read(raw)
    if body.choices:
        calls = body.choices[0].message.tool_calls or []
        return [(call.id, call.function.name, call.function.arguments) for call in calls]
    blocks = body.content if isinstance(body.content, list) else []
    used = [(block.id, block.name, bytes(block.input).decode()) for block in blocks if block.type == "tool_use"]
    return used + [(item.call_id, item.name, item.arguments) for item in body.output if item.type == "function_call"]


def said_embeddings(raw: bytes) -> list[list[float]]:
    """Return the vectors of an embeddings answer, in the order of its input; base64 is 32-bit floats."""
    try:
        return [_floats(vector.embedding) for vector in _vectors.decode(raw).data]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError, struct.error):
        return []


def _floats(embedding: list[float] | str) -> list[float]:
    if isinstance(embedding, list):
        return embedding
    packed = base64.b64decode(embedding, validate=True)
    return [value for (value,) in struct.iter_unpack("<f", packed)]


def _read(raw: bytes) -> _Body:
    try:
        return _body.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _Body()


def _text(content: str | list[_Part] | None) -> str:
    if isinstance(content, list):
        return "".join(part.text for part in content if part.type in _TEXTS)
    return content or ""
