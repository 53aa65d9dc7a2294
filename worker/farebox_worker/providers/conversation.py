"""How people talk through an adapter: messages become a chat job, its answer becomes a ModelResponse."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Protocol

import msgspec
from farebox.records import VERSION, Job

from farebox_worker.providers.base import (
    Facts,
    ModelCapability,
    ModelInfo,
    ModelResponse,
    Prepared,
    PromptMessage,
    Reply,
    TokenUsage,
)

TIMEOUT_S = 600.0
SPEAKING = (
    ModelCapability.TEXT
    | ModelCapability.STREAMING
    | ModelCapability.TOOL_USE
    | ModelCapability.JSON_MODE
    | ModelCapability.SYSTEM_PROMPT
)


class Wire(Protocol):
    """The two steps of an adapter that a conversation needs."""

    def prepare(self, job: Job, facts: Facts) -> Prepared:
        """Make the request."""
        ...

    async def post(self, prepared: Prepared, *, timeout_s: float) -> Reply:
        """Send it."""
        ...


class _Message(msgspec.Struct):
    content: str | None = None
    refusal: str | None = None
    tool_calls: list[dict[str, Any]] | None = None


class _Choice(msgspec.Struct):
    message: _Message


class _Completion(msgspec.Struct):
    choices: list[_Choice]


_completion = msgspec.json.Decoder(_Completion)


def chat_job(  # noqa: PLR0913 - the arguments of ModelProvider.send
    messages: Sequence[PromptMessage],
    info: ModelInfo,
    *,
    max_tokens: int,
    temperature: float | None = None,
    stop_sequences: Sequence[str] | None = None,
    response_format: str | None = None,
    tools: Sequence[dict[str, Any]] | None = None,
) -> Job:
    """Write messages as a chat-completions job. Raises: ValueError for a `response_format` other than "json"."""
    if response_format not in {None, "json"}:
        raise ValueError(f'response_format is "json" or None, not {response_format!r}')
    body: dict[str, Any] = {
        "messages": [{"role": message.role, "content": message.content} for message in messages],
        "temperature": temperature,
        "stop": list(stop_sequences) if stop_sequences else None,
        "response_format": {"type": "json_object"} if response_format else None,
        "tools": list(tools) if tools else None,
    }
    said = {name: value for name, value in body.items() if value is not None}
    return Job(VERSION, "send", info.model_ref, "chat", msgspec.json.encode(said), max_tokens=max_tokens)


def facts_of(info: ModelInfo) -> Facts:
    """Take a model's limits from its info; 0 there means unknown."""
    return Facts(info.model_id, info.context_window, info.max_output_tokens, info.max_output_tokens or 4096)


async def ask(wire: Wire, job: Job, info: ModelInfo) -> ModelResponse:
    """Send a chat job and read its answer. Raises: ProviderError."""
    started = time.monotonic()
    reply = await wire.post(wire.prepare(job, facts_of(info)), timeout_s=TIMEOUT_S)
    message = _completion.decode(reply.body).choices[0].message
    return ModelResponse(
        content=message.content or message.refusal or "",
        model_info=info,
        usage=reply.usage or TokenUsage(),
        finish_reason=reply.finish,
        latency_ms=(time.monotonic() - started) * 1000,
        raw_response=msgspec.json.decode(reply.original),
        tool_calls=message.tool_calls,
    )


def unlisted(provider_id: str, model_id: str, *, is_local: bool) -> ModelInfo:
    """Stand in for a model that discovery has not named: limits and prices 0, which is unknown."""
    return ModelInfo(provider_id, model_id, model_id, SPEAKING, 0, 0, 0.0, 0.0, is_local)
