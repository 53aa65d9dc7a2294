"""What the two vendors' wires share: the promise each keeps to the server, message texts, bearer keys."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Protocol

import msgspec
from multidict import CIMultiDict

from farebox_worker.simulate.answers import Ask, Choice
from farebox_worker.simulate.limits import Gate, Refused


class Wire(Protocol):
    """One vendor's way to ask, answer and refuse."""

    def ask(self, body: bytes) -> Ask:
        """Read a request.

        Raises:
            Refused: `bad_request`.
        """

    def answer(self, ask: Ask, choices: list[Choice], token: bytes) -> bytes:
        """Return the whole answer; `token` makes its id."""

    def events(self, ask: Ask, choices: list[Choice], token: bytes) -> list[bytes]:
        """Return the answer as server-sent events."""

    def headers(self, gate: Gate, request_id: str) -> CIMultiDict[str]:
        """Return the headers of every answer."""

    def error(self, refused: Refused, request_id: str) -> tuple[int, bytes]:
        """Return status and body of a refusal."""

    def models(self, models: tuple[str, ...]) -> bytes:
        """Return the list of models."""

    def model(self, model: str) -> bytes:
        """Return one model."""


class Part(msgspec.Struct):
    """A part of a message's content; only its text counts. Anthropic's tool results nest."""

    text: str = ""
    content: "str | list[Part] | None" = None


Content = str | list[Part] | None


class Message(msgspec.Struct):
    """A message, either vendor's."""

    role: str
    content: Content = None


class Schema(msgspec.Struct):
    """A JSON schema with its wrapping, or the wrapping alone."""

    type: str = "text"
    schema: dict[str, Any] | None = None
    json_schema: dict[str, Any] | None = None

    def wanted(self) -> dict[str, Any] | None:
        """Return the schema to fill, {} for any JSON, None for plain text."""
        if not self.type.startswith("json"):
            return None
        return self.schema or (self.json_schema or {}).get("schema") or {}


def text_of(content: Content) -> str:
    """Return all text in a message's content."""
    if isinstance(content, str):
        return content
    return "".join(part.text + text_of(part.content) for part in content or ())


def texts(messages: list[Message]) -> list[tuple[str, str]]:
    """Return (role, text) of each message."""
    return [(message.role, text_of(message.content)) for message in messages]


def bearer(headers: Mapping[str, str]) -> str:
    """Return the API key of a request, however it was sent; empty without one."""
    return headers.get("x-api-key") or headers.get("authorization", "").removeprefix("Bearer ").strip()


@lru_cache(maxsize=1024)
def masked(key: str) -> str:
    """Return a name for a key that is no secret: short keys whole, longer ones by their ends."""
    if len(key) <= 12:
        return key or "none"
    return f"{key[:3]}…{key[-4:]}"


@lru_cache(maxsize=1024)
def quoted(text: str) -> bytes:
    """Return a JSON string literal."""
    return msgspec.json.encode(text)


def check_caps(messages: list[Message], caps: tuple[int | None, ...], n: int = 1) -> None:
    """Refuse what both vendors refuse.

    Raises:
        Refused: `bad_request`: no messages, or a count below 1.
    """
    if not messages:
        raise Refused("bad_request", "messages: at least one message is required")
    if n < 1 or any(cap is not None and cap < 1 for cap in caps):
        raise Refused("bad_request", "max_tokens and n: must be at least 1")
