"""How people talk through an adapter: messages become a chat job, its answer becomes a ModelResponse."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any

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
    StreamChunk,
    TokenUsage,
)

TIMEOUT_S = 600.0
DISCOVERY_TIMEOUT_S = 30.0
HEALTH_TIMEOUT_S = 5.0
SPEAKING = (
    ModelCapability.TEXT
    | ModelCapability.STREAMING
    | ModelCapability.TOOL_USE
    | ModelCapability.JSON_MODE
    | ModelCapability.SYSTEM_PROMPT
)


class _Message(msgspec.Struct):
    content: str | None = None
    refusal: str | None = None
    tool_calls: list[dict[str, Any]] | None = None


class _Choice(msgspec.Struct):
    message: _Message


class _Completion(msgspec.Struct):
    choices: list[_Choice]


_completion = msgspec.json.Decoder(_Completion)


def chat_job(
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


class Conversational:
    """What all adapters share: models as last discovered, their health, and `send` by way of `prepare` and `post`."""

    def __init__(self, provider_id: str, *, is_local: bool) -> None:
        self.provider_id = provider_id
        self._is_local = is_local
        self._models: dict[str, ModelInfo] = {}

    def prepare(self, job: Job, facts: Facts) -> Prepared:
        """Make the request for a job, without any IO. Raises: UntranslatableError, InputError."""
        raise NotImplementedError

    async def post(self, prepared: Prepared, *, timeout_s: float) -> Reply:
        """Send one attempt. Raises: ProviderError with what is known of its fate."""
        raise NotImplementedError

    async def send(
        self,
        messages: Sequence[PromptMessage],
        model_id: str,
        *,
        max_tokens: int = 4096,
        temperature: float | None = None,
        stop_sequences: Sequence[str] | None = None,
        response_format: str | None = None,
        tools: Sequence[dict[str, Any]] | None = None,
    ) -> ModelResponse:
        """Ask for one whole answer. `response_format` may be "json". Raises: ProviderError."""
        info = self._info(model_id)
        job = chat_job(
            messages,
            info,
            max_tokens=max_tokens,
            temperature=temperature,
            stop_sequences=stop_sequences,
            response_format=response_format,
            tools=tools,
        )
        started = time.monotonic()
        reply = await self.post(self.prepare(job, facts_of(info)), timeout_s=TIMEOUT_S)
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

    async def stream(
        self,
        messages: Sequence[PromptMessage],
        model_id: str,
        *,
        max_tokens: int = 4096,
        temperature: float | None = None,
        stop_sequences: Sequence[str] | None = None,
    ) -> AsyncIterator[StreamChunk]:
        """Ask for an answer in pieces; the last one carries the usage. Raises: ProviderError."""
        info = self._info(model_id)
        job = chat_job(messages, info, max_tokens=max_tokens, temperature=temperature, stop_sequences=stop_sequences)
        async with aclosing(self._pieces(self.prepare(job, facts_of(info)))) as pieces:
            async for piece in pieces:
                yield piece

    def _pieces(self, prepared: Prepared) -> AsyncGenerator[StreamChunk, None]:
        """Send a chat and yield what comes, as it comes. Raises: ProviderError."""
        raise NotImplementedError

    async def list_models(self) -> list[ModelInfo]:
        """Ask the provider for its models. Raises: ProviderError."""
        raise NotImplementedError

    async def health_check(self) -> bool:
        """Tell whether it lists its models within five seconds; never raises."""
        try:
            async with asyncio.timeout(HEALTH_TIMEOUT_S):
                await self.list_models()
        except Exception:  # noqa: BLE001 - that is the promise
            return False
        return True

    def _info(self, model_id: str) -> ModelInfo:
        """Look a model up; one that discovery has not named has limits and prices 0, which is unknown."""
        return self._models.get(model_id) or ModelInfo(
            self.provider_id, model_id, model_id, SPEAKING, 0, 0, 0.0, 0.0, self._is_local
        )
