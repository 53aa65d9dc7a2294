"""The adapter for Anthropic's messages API, and for servers that speak it.

Three duties, in this order: the request, the answer, its usage; `remote` does the rest. Bodies go through as bytes,
chat-completions bodies are translated, and back.
"""

from __future__ import annotations

import re
import time
from collections.abc import AsyncGenerator, Mapping
from typing import Any, ClassVar, cast

import anthropic
import httpx2
import msgspec
from anthropic._models import FinalRequestOptions
from anthropic.types import RawMessageStreamEvent
from msgspec import Raw

from farebox.apis import URLS
from farebox.errors import InputError
from farebox.records import Api, Finish, Job
from farebox_worker.providers import anthropic_request as requests
from farebox_worker.providers import body as bodies
from farebox_worker.providers.base import (
    NO_HEADERS,
    Facts,
    ModelCapability,
    ModelInfo,
    Prepared,
    Said,
    StreamChunk,
    TokenUsage,
)
from farebox_worker.providers.connection import FOREVER, Templates, http_client
from farebox_worker.providers.conversation import (
    SPEAKING,
    TIMEOUT_S,
)
from farebox_worker.providers.remote import Remote
from farebox_worker.providers.translate_chat import chat_to_messages, message_to_chat

VENDOR_URL = "https://api.anthropic.com"
MOST_PAGES = 10  # of a thousand models each: a list without end is none
# The API version of 2026-10-21 refuses temperature, top_p and top_k; this one takes them (anthropic 2.0.0's changelog).
SAMPLING_VERSION = {"anthropic-version": "2023-06-01"}


class _Block(msgspec.Struct):
    type: str = ""


class _Message(msgspec.Struct):
    content: list[_Block]
    stop_reason: str | None = None
    usage: Raw = Raw()


class _Billed(msgspec.Struct):
    usage: Raw = Raw()


class _Writes(msgspec.Struct):
    ephemeral_1h_input_tokens: int | None = None
    ephemeral_5m_input_tokens: int | None = None


class _ServerTools(msgspec.Struct):
    web_search_requests: int | None = None


class _Usage(msgspec.Struct):
    input_tokens: int
    output_tokens: int
    cache_creation_input_tokens: int | None = None
    cache_creation: _Writes | None = None
    cache_read_input_tokens: int | None = None
    server_tool_use: _ServerTools | None = None
    service_tier: str | None = None
    inference_geo: str | None = None


class _Listed(msgspec.Struct):
    id: str
    display_name: str | None = None
    max_input_tokens: int | None = None
    max_tokens: int | None = None


class _Listing(msgspec.Struct):
    data: list[_Listed]
    has_more: bool | None = None
    last_id: str | None = None


_message = msgspec.json.Decoder(_Message)
_billed = msgspec.json.Decoder(_Billed)
_usage = msgspec.json.Decoder(_Usage, strict=False)  # some servers count in floats, 10.0
_listing = msgspec.json.Decoder(_Listing)
_FINISH: dict[str | None, Finish] = {
    "max_tokens": "truncated",
    "model_context_window_exceeded": "truncated",
    "pause_turn": "truncated",
    "tool_use": "tool_call",
    "refusal": "refused",
}


_PATH = "/v1/messages"


class AsyncAnthropic(Templates, anthropic.AsyncAnthropic):
    """The SDK's client, sending plain calls by a template. Its name is what the User-Agent says."""

    options_type = FinalRequestOptions


class AnthropicProvider(Remote):
    """One messages endpoint with one key; `base_url` None is the vendor itself."""

    paths: ClassVar[Mapping[Api, str]] = {"messages": _PATH, "chat": _PATH}
    request_id_header = "request-id"
    status_error = anthropic.APIStatusError
    # A spend limit of one's own comes as a plain 400: only the message tells.
    account_words = re.compile(r"credit balance|spend(ing)? limit|usage limits?", re.IGNORECASE)
    _client: AsyncAnthropic

    def __init__(self, provider_id: str, *, api_key: str, base_url: str | None = None, is_free: bool = False) -> None:
        super().__init__(provider_id, api_key=api_key, base_url=base_url or VENDOR_URL, is_free=is_free)
        self._is_vendor = self._host == "api.anthropic.com"
        self._client = AsyncAnthropic(
            api_key=api_key,
            base_url=base_url or VENDOR_URL,
            max_retries=0,
            timeout=FOREVER,
            open_telemetry=False,
            # The SDK sends the key as a bearer token; other servers may know the older header only.
            default_headers=None if self._is_vendor else {"x-api-key": api_key},
            http_client=http_client(is_vendor=self._is_vendor),
        )

    # The request

    def prepare(self, job: Job, facts: Facts) -> Prepared:
        """Make the request for a job, without any IO. Raises: UntranslatableError, InputError."""
        if job.api in {"responses", "embeddings"}:
            raise InputError(
                f"{self.provider_id} has no {URLS[job.api]}, and it is not translated: name a model of an "
                "OpenAI-compatible provider"
                + (f", or write the request for {URLS['chat']}" if job.api == "responses" else "")
            )
        body = bodies.unescaped(job.body)
        if job.api == "chat":
            body = chat_to_messages(body, provider_id=self.provider_id, drop=job.drop_params)
        request = requests.read(body)
        if job.tier == "flex":
            raise InputError(f"{self.provider_id} has no tier flex: use --tier standard, or cheapest")
        cap, by_default = bodies.output_cap([request.max_tokens], job.max_tokens, facts)
        fields = bodies.fields_of(body)
        fields["model"] = bodies.raw(facts.model_id)
        fields["max_tokens"] = bodies.raw(cap)
        fields.pop("service_tier", None)
        if self._is_vendor:
            fields["service_tier"] = Raw(b'"standard_only"')
        final = bodies.written(fields)
        return Prepared(
            body=final,
            input_bound=requests.input_bound(request, final, facts),
            output_bound=requests.output_bound(request, cap),
            capped_by_default=by_default,
            api=job.api,
            headers=SAMPLING_VERSION if request.has_sampling else NO_HEADERS,
            fees=requests.fees(request),
        )

    # The answer

    def _said(self, content: bytes, prepared: Prepared) -> Said | None:
        as_asked = content
        finish: Finish = ""
        try:
            bodies.check_text(content)
            try:
                answer = _message.decode(content)
                if prepared.api == "chat":
                    as_asked = message_to_chat(content, created=int(time.time()))
                counted, finish = answer.usage, _FINISH.get(answer.stop_reason, "answered")
            except msgspec.ValidationError:  # JSON of another shape: what was counted is paid
                counted = _billed.decode(content).usage
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        usage, served_tier = self._usage(counted, prepared)
        return Said(as_asked, usage, finish, served_tier) if finish or usage else None

    async def _pieces(self, prepared: Prepared) -> AsyncGenerator[StreamChunk, None]:
        usage: dict[str, Any] = {}
        try:
            events = await self._client.post(
                _PATH,
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
        yield StreamChunk("", is_final=True, usage=self._usage(Raw(msgspec.json.encode(usage)), prepared)[0])

    async def list_models(self) -> list[ModelInfo]:
        """Ask for the models and their limits; prices are never told, so they are 0. Raises: ProviderError."""
        models: list[_Listed] = []
        path = "/v1/models?limit=1000"
        for _ in range(MOST_PAGES):
            listing = await self._list(path, _listing)
            models += listing.data
            if not (listing.has_more and listing.last_id):
                break
            path = f"/v1/models?limit=1000&after_id={listing.last_id}"
        self._models = {model.id: self._described(model) for model in models}
        return list(self._models.values())

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
    def _usage(raw: Raw, prepared: Prepared) -> tuple[TokenUsage | None, str]:
        """Read the counts, which are disjoint as Anthropic writes them, and the tier that served.

        Searches are counted; of other fees no usage tells, so they are taken at the most they can be, as are writes
        of a request for the long-lived cache where their share is not told.
        """
        try:
            usage = _usage.decode(raw)
        except msgspec.DecodeError:
            return None, ""  # an answer whose usage nobody can read is still an answer
        if min(usage.input_tokens, usage.output_tokens) < 0:
            return None, usage.service_tier or ""
        writes, tools = usage.cache_creation or _Writes(), usage.server_tool_use
        kept = max(0, writes.ephemeral_1h_input_tokens or 0)
        written = max(usage.cache_creation_input_tokens or 0, kept + max(0, writes.ephemeral_5m_input_tokens or 0))
        if usage.cache_creation is None and requests.asks_long_cache(prepared.body):
            kept = written
        counted = {"web_search": max(0, tools.web_search_requests or 0)} if tools else {}
        return TokenUsage(
            usage.input_tokens,
            usage.output_tokens,
            max(0, usage.cache_read_input_tokens or 0),
            written,
            cache_write_1h_tokens=kept,
            fees=tuple((fee.name, counted.get(fee.name, fee.most or 0)) for fee in prepared.fees),
            is_regional=usage.inference_geo == "us",
        ), usage.service_tier or ""
