"""What both directions of translation share: reading a request, and naming what cannot be said.

`translate_chat` says a chat-completions request to a messages API and its answer back; `translate_messages` does the
reverse. Nothing is dropped in silence: every parameter without an equivalent is named in one UntranslatableError,
unless the job allows dropping it. Parameters that say nothing (null, or what would happen anyway) are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from farebox.errors import InputError, UntranslatableError

Json = dict[str, Any]


class Unsayable:
    """Collects the parameters that have no equivalent."""

    def __init__(self, provider_id: str, drop: Sequence[str]) -> None:
        self._provider_id = provider_id
        self._drop = frozenset(drop)
        self._names: dict[str, None] = {}

    def add(self, name: str) -> None:
        """Note a parameter, unless it may be dropped."""
        if name not in self._drop:
            self._names[name] = None

    def check(self) -> None:
        """Raise UntranslatableError when any was noted."""
        if self._names:
            raise UntranslatableError(self._provider_id, list(self._names))


def read_object(body: bytes) -> Json:
    """Read a request whose messages are objects. Raises: InputError."""
    try:
        request = msgspec.json.decode(body, type=dict[str, Any])
        msgspec.convert(request.get("messages"), list[dict[str, Any]])
    except msgspec.ValidationError as error:
        raise InputError(f"the body is not a request with messages: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InputError(f"the body is not a JSON object: {error}") from None
    if request.get("stream"):
        raise InputError("stream: a job's answer comes whole; remove it")
    return request


def simplest(blocks: list[Json]) -> str | list[Json]:
    """Write a single text as a string."""
    if len(blocks) == 1 and blocks[0]["type"] == "text":
        text: str = blocks[0]["text"]
        return text
    return blocks
