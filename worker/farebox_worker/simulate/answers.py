"""What the model says: seeded words, one a token, or JSON after a schema. Shared by both vendors' wires."""

from dataclasses import dataclass
from typing import Any

import msgspec

from farebox_worker.simulate.faults import Luck

_LOREM = b"""
lorem ipsum dolor sit amet consectetur adipiscing elit sed do eiusmod tempor incididunt ut labore et dolore magna aliqua
enim ad minim veniam quis nostrud exercitation ullamco laboris nisi aliquip ex ea commodo consequat duis aute irure in
reprehenderit voluptate velit esse cillum fugiat nulla pariatur excepteur sint occaecat cupidatat
"""
_WORDS = _LOREM.split()
_TURNS = 64
_TEXT = b" ".join(_WORDS * _TURNS)
_ENDS = [0]
for _word in _WORDS * _TURNS:
    _ENDS.append(_ENDS[-1] + len(_word) + 1)
_SORRY = b"\"I'm sorry, but I can't help with that request.\""


@dataclass(slots=True)
class Ask:
    """What a completion request wants, whichever vendor's wire it came on.

    `cap` bounds the output tokens of each of `n` choices, of which an embedding has none; `schema` is a JSON schema, {}
    for any JSON object.
    """

    model: str
    messages: list[tuple[str, str]]
    input_tokens: int
    cap: int | None = None
    n: int = 1
    stream: bool = False
    stream_usage: bool = False
    schema: dict[str, Any] | None = None
    tool: tuple[str, dict[str, Any]] | None = None
    service_tier: str | None = None

    def marker(self) -> str:
        """Return the first 80 characters of the last user message."""
        return next((text[:80] for role, text in reversed(self.messages) if role == "user"), "")


@dataclass(slots=True)
class Choice:
    """One answer: `finish` in our words, `text` as a JSON string literal, `tool` as (name, arguments as JSON)."""

    finish: str
    tokens: int
    text: bytes
    tool: tuple[str, bytes] | None = None


def count_input(messages: list[tuple[str, str]]) -> int:
    """Return the input tokens of (role, text) pairs: a quarter of their UTF-8 bytes, rounded up, and 4 a message.

    Never more than the bytes of the request: a message spends over 20 on its braces and names.
    """
    size = sum(len(text) if text.isascii() else len(text.encode()) for _, text in messages)
    return -(-size // 4) + 4 * len(messages)


def compose(ask: Ask, fate: str, luck: Luck, output_tokens: tuple[int, int]) -> list[Choice]:
    """Return the `ask.n` choices that this fate and this luck give."""
    return [_choice(ask, fate, luck, output_tokens, number) for number in range(ask.n)]


def _choice(ask: Ask, fate: str, luck: Luck, output_tokens: tuple[int, int], number: int) -> Choice:
    wanted = luck.tokens(*output_tokens, number)
    tokens = wanted if ask.cap is None else min(wanted, ask.cap)
    if fate == "refused":
        return Choice("refused", tokens, _SORRY)
    if fate == "tool_call" and ask.tool:
        name, schema = ask.tool
        return Choice("tool_call", tokens, b'""', (name, msgspec.json.encode(instance(schema))))
    words = _words(luck.place(len(_WORDS), number), tokens)
    if fate == "filtered":
        return Choice("filtered", tokens, b'"%b"' % words[: len(words) // 2])
    cut = tokens < wanted
    text = b'"%b"' % words if ask.schema is None else _json_text(ask.schema, words, cut)
    return Choice("truncated" if cut else "answered", tokens, text)


def _words(start: int, count: int) -> bytes:
    """Return `count` words beginning at word `start` of the text, which repeats without end."""
    whole, rest = divmod(count, len(_WORDS) * (_TURNS - 1))
    piece = _TEXT[_ENDS[start] : _ENDS[start + rest] - 1] if rest else b""
    if not whole:
        return piece
    lap = _TEXT[: _ENDS[len(_WORDS) * (_TURNS - 1)] - 1]
    return b" ".join([lap] * whole + [piece] * bool(rest))


def _json_text(schema: dict[str, Any], words: bytes, cut: bool) -> bytes:
    """Return a JSON document as a JSON string literal; a cut answer loses the document's end, as it would for real."""
    document = instance(schema) if schema else {"answer": words.decode()}
    text = msgspec.json.encode(document).decode()
    return msgspec.json.encode(text[: len(text) // 2] if cut else text)


def instance(schema: Any, depth: int = 0) -> Any:
    """Return a small value that fits the common part of a JSON schema; references and formats are not followed."""
    if not isinstance(schema, dict) or depth > 20:
        return "lorem"
    if "const" in schema:
        return schema["const"]
    for several in ("enum", "anyOf", "oneOf", "allOf"):
        if schema.get(several):
            first = schema[several][0]
            return first if several == "enum" else instance(first, depth + 1)
    return _typed(schema, depth)


def _typed(schema: dict[str, Any], depth: int) -> Any:
    kind = schema.get("type", "object" if "properties" in schema else "string")
    kind = kind[0] if isinstance(kind, list) and kind else kind
    if kind == "object":
        return {name: instance(part, depth + 1) for name, part in schema.get("properties", {}).items()}
    if kind == "array":
        return [instance(schema.get("items"), depth + 1)] * max(1, schema.get("minItems", 1))
    least = schema.get("minimum", 1)
    return {"integer": least, "number": least, "boolean": True, "null": None}.get(str(kind), "lorem")


def slices(text: bytes) -> list[bytes]:
    """Split a JSON string literal into literals of about eight words, for a stream."""
    words = msgspec.json.decode(text, type=str).split(" ")
    parts = [" ".join(words[at : at + 8]) for at in range(0, len(words), 8)]
    return [msgspec.json.encode(part if at == 0 else f" {part}") for at, part in enumerate(parts)]
