"""The adapter for Anthropic's messages API, and for servers that speak it.

Four duties, in this order: the request, the answer, its usage, the errors. The SDK gives credentials, connections and
error classes; bodies go through as bytes, chat-completions bodies are translated, and back. It never retries.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any, cast
from urllib.parse import urlsplit

import anthropic
import httpx2
import msgspec
from anthropic.types import RawMessageStreamEvent
from msgspec import Raw

from farebox.errors import InputError, ProviderError
from farebox.records import Finish, Job
from farebox_worker.providers import body as bodies
from farebox_worker.providers import fate
from farebox_worker.providers.base import (
    Facts,
    ModelCapability,
    ModelInfo,
    Prepared,
    PromptMessage,
    Reply,
    StreamChunk,
    TokenUsage,
)
from farebox_worker.providers.connection import FOREVER, HttpClient, Templates, plain
from farebox_worker.providers.conversation import (
    DISCOVERY_TIMEOUT_S,
    SPEAKING,
    TIMEOUT_S,
    Conversational,
    chat_job,
    facts_of,
)
from farebox_worker.providers.translate_chat import chat_to_messages, message_to_chat

VENDOR_URL = "https://api.anthropic.com"
# The API version of 2026-10-21 refuses temperature, top_p and top_k; this one takes them (facts/sdks.md 1.7).
SAMPLING_VERSION = {"anthropic-version": "2023-06-01"}
# A spend limit of one's own comes as a plain 400: only the message tells (facts/sdks.md 6.2).
_ACCOUNT_WORDS = re.compile(r"credit balance|spend(ing)? limit|usage limits?", re.IGNORECASE)


class _Block(msgspec.Struct):
    type: str = ""
    content: Raw = Raw()


class _Turn(msgspec.Struct):
    content: Raw = Raw()


class _Tool(msgspec.Struct):
    type: str | None = "custom"


class _Request(msgspec.Struct):
    """What of a request bears on its cost, or on the API version it needs."""

    messages: list[_Turn]
    max_tokens: int | None = None
    stream: bool | None = None
    service_tier: str | None = None
    speed: str | None = None
    inference_geo: str | None = None
    tools: list[_Tool] | None = None
    temperature: Raw = Raw()
    top_p: Raw = Raw()
    top_k: Raw = Raw()
    mcp_servers: Raw = Raw()
    container: Raw = Raw()
    context_management: Raw = Raw()


class _Message(msgspec.Struct):
    content: list[_Block]
    stop_reason: str | None = None
    usage: Raw = Raw()


class _Usage(msgspec.Struct):
    input_tokens: int
    output_tokens: int
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    service_tier: str | None = None


class _Listed(msgspec.Struct):
    id: str
    display_name: str | None = None
    max_input_tokens: int | None = None
    max_tokens: int | None = None


class _Listing(msgspec.Struct):
    data: list[_Listed]
    has_more: bool | None = None
    last_id: str | None = None


_request = msgspec.json.Decoder(_Request)
_blocks = msgspec.json.Decoder(list[_Block])
_message = msgspec.json.Decoder(_Message)
_usage = msgspec.json.Decoder(_Usage)
_listing = msgspec.json.Decoder(_Listing)
_FINISH: dict[str | None, Finish] = {
    "max_tokens": "truncated",
    "model_context_window_exceeded": "truncated",
    "pause_turn": "truncated",
    "tool_use": "tool_call",
    "refusal": "refused",
}


class AsyncAnthropic(Templates, anthropic.AsyncAnthropic):
    """The SDK's client, building plain calls from a template. Its name is what the User-Agent says."""


class AnthropicProvider(Conversational):
    """One messages endpoint with one key; `base_url` None is the vendor itself."""

    def __init__(self, provider_id: str, *, api_key: str, base_url: str | None = None, is_free: bool = False) -> None:
        host = urlsplit(base_url or VENDOR_URL).hostname or ""
        super().__init__(provider_id, is_local=is_free or host in {"localhost", "::1"} or host.startswith("127."))
        self._is_vendor = host == "api.anthropic.com"
        self._scrub = fate.Scrubber(api_key)
        # A connection must be given up before the server does: uvicorn, under most servers of one's own, waits 5 s.
        limits = httpx2.Limits(max_connections=10_000, keepalive_expiry=60.0 if self._is_vendor else 4.0)
        self._client = AsyncAnthropic(
            api_key=api_key,
            base_url=base_url or VENDOR_URL,
            max_retries=0,
            timeout=FOREVER,
            open_telemetry=False,
            # The SDK sends the key as a bearer token; other servers may know the older header only.
            default_headers=None if self._is_vendor else {"x-api-key": api_key},
            http_client=HttpClient(limits=limits, follow_redirects=False),
        )

    # The request

    def prepare(self, job: Job, facts: Facts) -> Prepared:
        """Make the request for a job, without any IO. Raises: UntranslatableError, InputError."""
        body = bodies.unescaped(job.body)
        if job.api == "chat":
            body = chat_to_messages(body, provider_id=self.provider_id, drop=job.drop_params)
        request = self._read(body, job)
        cap, by_default = bodies.output_cap([request.max_tokens], job.max_tokens, facts)
        fields = bodies.fields_of(body)
        fields["model"] = bodies.raw(facts.model_id)
        fields["max_tokens"] = bodies.raw(cap)
        fields.pop("service_tier", None)
        if self._is_vendor:
            fields["service_tier"] = Raw(b'"standard_only"')
        final = msgspec.json.encode(fields)
        has_sampling = any(bodies.is_given(value) for value in (request.temperature, request.top_p, request.top_k))
        return Prepared(
            body=final,
            input_bound=_input_bound(request, fields, final, facts),
            output_bound=cap,
            capped_by_default=by_default,
            api=job.api,
            headers=SAMPLING_VERSION if has_sampling else {},
        )

    def _read(self, body: bytes, job: Job) -> _Request:
        """Read what bears on the cost, and refuse what has no known price."""
        try:
            request = _request.decode(body)
        except msgspec.DecodeError as error:
            raise InputError(f"the body is not a messages request: {error}") from None
        if request.stream:
            raise InputError("stream: a job's answer comes whole; remove it")
        if job.tier == "flex":
            raise InputError(f"{self.provider_id} has no tier flex")
        if request.speed not in {None, "standard"}:
            raise InputError(f"speed: {request.speed!r} has no known price")
        if request.inference_geo not in {None, "global"}:
            raise InputError(f"inference_geo: {request.inference_geo!r} has no known price")
        return request

    # The answer

    async def post(self, prepared: Prepared, *, timeout_s: float) -> Reply:
        """Send one attempt, at most `timeout_s` seconds long. Raises: ProviderError with what is known of its fate."""
        try:
            async with asyncio.timeout(timeout_s):
                response = await self._client.post(
                    "/v1/messages",
                    content=prepared.body,
                    cast_to=httpx2.Response,
                    options=plain(prepared.headers, post_parser=anthropic.NOT_GIVEN),
                )
        except Exception as error:  # noqa: BLE001 - whatever broke, the call may have been billed
            raise self._failure(error, timeout_s) from None
        return self._reply(response, prepared)

    def _reply(self, response: httpx2.Response, prepared: Prepared) -> Reply:
        original = response.content
        try:
            answer = _message.decode(original)
            as_asked = message_to_chat(original, created=int(time.time())) if prepared.api == "chat" else original
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise fate.not_an_answer(self.provider_id, response, scrub=self._scrub) from None
        headers = fate.kept_headers(response.headers)
        usage, served_tier = self._usage(answer.usage)
        return Reply(
            status_code=response.status_code,
            request_id=headers.get("request-id", ""),
            body=as_asked,
            original=original,
            usage=usage,
            finish=_FINISH.get(answer.stop_reason, "answered"),
            served_tier=served_tier,
            headers=headers,
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
        prepared = self.prepare(job, facts_of(info))
        usage: dict[str, Any] = {}
        try:
            events = await self._client.post(
                "/v1/messages",
                content=msgspec.json.encode(bodies.fields_of(prepared.body) | {"stream": Raw(b"true")}),
                cast_to=cast("type[Any]", RawMessageStreamEvent),  # a union: the SDK's own create() casts it too
                options={"headers": prepared.headers, "timeout": httpx2.Timeout(TIMEOUT_S, connect=10.0)},
                stream=True,
                stream_cls=anthropic.AsyncStream[RawMessageStreamEvent],
            )
            async with events:
                async for event in events:
                    if event.type == "message_start":
                        usage |= event.message.usage.model_dump(exclude_none=True)
                    elif event.type == "message_delta":  # counts are cumulative: they replace what the start said
                        usage |= event.usage.model_dump(exclude_none=True)
                    elif event.type == "content_block_delta" and event.delta.type == "text_delta":
                        yield StreamChunk(event.delta.text)
        except Exception as error:  # noqa: BLE001 - whatever broke, the call may have been billed
            raise self._failure(error, TIMEOUT_S) from None
        yield StreamChunk("", is_final=True, usage=self._usage(Raw(msgspec.json.encode(usage)))[0])

    async def list_models(self) -> list[ModelInfo]:
        """Ask for the models and their limits; prices are never told, so they are 0. Raises: ProviderError."""
        models: list[_Listed] = []
        path = "/v1/models?limit=1000"
        while path:
            listing = await self._list_page(path)
            models += listing.data
            path = f"/v1/models?limit=1000&after_id={listing.last_id}" if listing.has_more and listing.last_id else ""
        self._models = {model.id: self._described(model) for model in models}
        return list(self._models.values())

    async def _list_page(self, path: str) -> _Listing:
        try:
            async with asyncio.timeout(DISCOVERY_TIMEOUT_S):
                response = await self._client.get(path, cast_to=httpx2.Response)
            return _listing.decode(response.content)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise fate.not_an_answer(self.provider_id, response, scrub=self._scrub) from None
        except Exception as error:  # noqa: BLE001 - discovery may fail in any way a call may
            raise self._failure(error, DISCOVERY_TIMEOUT_S) from None

    async def aclose(self) -> None:
        """Close its connections."""
        await self._client.close()

    def _described(self, model: _Listed) -> ModelInfo:
        return ModelInfo(
            self.provider_id,
            model.id,
            model.display_name or model.id,
            (SPEAKING | ModelCapability.VISION) & ~ModelCapability.JSON_MODE,
            model.max_input_tokens or 0,
            model.max_tokens or 0,
            0.0,
            0.0,
            self._is_local,
        )

    # The usage

    @staticmethod
    def _usage(raw: Raw) -> tuple[TokenUsage | None, str]:
        """Read the counts, which are disjoint as Anthropic writes them, and the tier that served."""
        try:
            usage = _usage.decode(raw)
        except msgspec.DecodeError:
            return None, ""  # an answer whose usage nobody can read is still an answer
        counts = (
            usage.input_tokens,
            usage.output_tokens,
            usage.cache_read_input_tokens or 0,
            usage.cache_creation_input_tokens or 0,
        )
        return TokenUsage(*(max(0, count) for count in counts)), usage.service_tier or ""

    # The errors

    def _failure(self, error: Exception, timeout_s: float) -> ProviderError:
        """Map what the SDK or its transport raised."""
        if isinstance(error, anthropic.APIStatusError):
            return fate.rejected(self.provider_id, error.response, scrub=self._scrub, account_words=_ACCOUNT_WORDS)
        return fate.lost(self.provider_id, error, timeout_s=timeout_s, scrub=self._scrub)


def _input_bound(request: _Request, fields: bodies.Fields, final: bytes, facts: Facts) -> int:
    """Bound the input by bytes where they bound it, else by the context window."""
    if any(tool.type not in {"custom", None} for tool in request.tools or ()):
        return bodies.context_bound(facts, "a server's own tool")
    if any(bodies.is_given(value) for value in (request.mcp_servers, request.container, request.context_management)):
        return bodies.context_bound(facts, "mcp_servers, container or context_management")
    if not all(_is_text(turn.content) for turn in request.messages) or not _is_text(fields.get("system", Raw())):
        return bodies.context_bound(facts, "content other than text")
    return bodies.byte_bound(final) + (bodies.TOOL_PROMPT if request.tools else 0)


def _is_text(content: Raw) -> bool:
    """Tell whether the bytes of a content bound its tokens. Thinking does not: its signature stands for more."""
    if not bytes(content).startswith((b"[", b"{")):
        return True
    try:
        blocks = _blocks.decode(content)
    except msgspec.DecodeError as error:
        raise InputError(f"messages: content is neither text nor a list of blocks: {error}") from None
    return all(
        block.type in {"text", "tool_use"} or (block.type == "tool_result" and _is_text(block.content))
        for block in blocks
    )
