"""The adapter for OpenAI, and for every server that speaks like it (vLLM, Ollama, Groq, DeepSeek, ...).

Requests and answers are made and read by one module per API: `openai_chat`, `openai_responses`, `openai_embeddings`;
`remote` does the rest. Bodies go through as bytes.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress
from typing import ClassVar, Protocol

import httpx2
import msgspec
import openai
from msgspec import Raw
from openai._models import FinalRequestOptions
from openai.types.chat import ChatCompletionChunk

from farebox.records import Api, Job
from farebox_worker.providers import body as bodies
from farebox_worker.providers import openai_chat, openai_embeddings, openai_responses, openai_usage
from farebox_worker.providers.base import (
    Facts,
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
from farebox_worker.providers.openai_request import Endpoint
from farebox_worker.providers.remote import Remote

VENDOR_URL = "https://api.openai.com/v1"


class _Listed(msgspec.Struct):
    id: str
    context_window: int | None = None
    context_length: int | None = None
    max_model_len: int | None = None
    max_completion_tokens: int | None = None


class _Listing(msgspec.Struct):
    data: list[_Listed]


_listing = msgspec.json.Decoder(_Listing | list[_Listed])


class _Wire(Protocol):
    """One API of OpenAI's, as a module: how a request is made, and how an answer is read."""

    def prepare(self, job: Job, facts: Facts, endpoint: Endpoint) -> Prepared:
        """Make the request for a job. Raises: UntranslatableError, InputError."""

    def read(self, original: bytes, prepared: Prepared) -> Said | None:
        """Read an answer; None when it is none. Raises: msgspec.DecodeError."""


_CHAT = "/chat/completions"
# A messages job is sent as a chat completion.
_WIRES: dict[Api, _Wire] = {
    "chat": openai_chat,
    "messages": openai_chat,
    "responses": openai_responses,
    "embeddings": openai_embeddings,
}


class AsyncOpenAI(Templates, openai.AsyncOpenAI):
    """The SDK's client, sending plain calls by a template. Its name is what the User-Agent says."""

    options_type = FinalRequestOptions
    options: ClassVar[Mapping[str, object]] = {"security": {"bearer_auth": True}}  # as the SDK's own create() says


class OpenAIProvider(Remote):
    """One OpenAI-compatible endpoint with one key; `base_url` None is the vendor itself."""

    paths: ClassVar[Mapping[Api, str]] = {
        "chat": _CHAT,
        "messages": _CHAT,
        "responses": "/responses",
        "embeddings": "/embeddings",
    }
    request_id_header = "x-request-id"
    status_error = openai.APIStatusError
    _client: AsyncOpenAI

    def __init__(
        self,
        provider_id: str,
        *,
        api_key: str,
        base_url: str | None = None,
        cap_field: str | None = None,
        is_free: bool = False,
        has_flex: bool | None = None,
    ) -> None:
        super().__init__(provider_id, api_key=api_key, base_url=base_url or VENDOR_URL, is_free=is_free)
        is_vendor = self._host == "api.openai.com" or self._host.endswith(".api.openai.com")
        cap_field = cap_field or openai_chat.CAP_FIELDS[0 if is_vendor else 1]
        if cap_field not in openai_chat.CAP_FIELDS:
            raise ValueError(f"cap_field is one of {', '.join(openai_chat.CAP_FIELDS)}, not {cap_field!r}")
        self._endpoint = Endpoint(provider_id, is_vendor, is_vendor if has_flex is None else has_flex, cap_field)
        self._client = AsyncOpenAI(
            api_key=api_key,
            base_url=base_url or VENDOR_URL,
            max_retries=0,
            timeout=FOREVER,
            http_client=http_client(is_vendor=is_vendor),
        )

    # The request

    def prepare(self, job: Job, facts: Facts) -> Prepared:
        """Make the request for a job, without any IO. Raises: UntranslatableError, InputError."""
        return _WIRES[job.api].prepare(job, facts, self._endpoint)

    # The answer

    def _said(self, content: bytes, prepared: Prepared) -> Said | None:
        with suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            bodies.check_text(content)
            try:
                return _WIRES[prepared.api].read(content, prepared)
            except msgspec.ValidationError:  # JSON of another shape
                return openai_usage.billed(content, prepared)
        return None

    async def _pieces(self, prepared: Prepared) -> AsyncGenerator[StreamChunk, None]:
        fields = bodies.fields_of(prepared.body)
        fields |= {"stream": Raw(b"true"), "stream_options": Raw(b'{"include_usage":true}')}
        usage: TokenUsage | None = None
        try:
            pieces = await self._client.post(
                _CHAT,
                content=msgspec.json.encode(fields),
                cast_to=ChatCompletionChunk,
                options={"timeout": httpx2.Timeout(TIMEOUT_S, connect=10.0)},
                stream=True,
                stream_cls=openai.AsyncStream[ChatCompletionChunk],
            )
            async with pieces:
                async for piece in pieces:
                    if piece.usage:
                        usage = openai_usage.read(Raw(piece.usage.model_dump_json().encode()), prepared)
                    if piece.choices and (text := piece.choices[0].delta.content):
                        yield StreamChunk(text)
        except Exception as error:  # noqa: BLE001 - whatever broke, the call may have been billed
            raise self._failure(error, TIMEOUT_S) from None
        yield StreamChunk("", is_final=True, usage=usage)

    async def list_models(self) -> list[ModelInfo]:
        """Ask for the models; limits that are not told are 0, prices always are. Raises: ProviderError."""
        listing = await self._list("/models", _listing)
        listed = listing.data if isinstance(listing, _Listing) else listing  # Together sends a bare list
        self._models = {model.id: self._described(model) for model in listed}
        return list(self._models.values())

    def _described(self, model: _Listed) -> ModelInfo:
        window = model.context_window or model.context_length or model.max_model_len or 0
        most = model.max_completion_tokens or 0
        return ModelInfo(self.provider_id, model.id, model.id, SPEAKING, window, most, 0.0, 0.0, self._is_local)
