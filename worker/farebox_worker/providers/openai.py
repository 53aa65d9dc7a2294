"""The adapter for OpenAI, and for every server that speaks its chat completions (vLLM, Ollama, Groq, DeepSeek, ...).

Four duties, in this order: the request, the answer, its usage, the errors. The SDK gives credentials, connections and
error classes; bodies go through as bytes. It never retries.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from typing import Annotated
from urllib.parse import urlsplit

import httpx2
import msgspec
import openai
from msgspec import Raw
from openai.types.chat import ChatCompletionChunk

from farebox.errors import InputError, ProviderError
from farebox.records import Finish, Job
from farebox_worker.providers import body as bodies
from farebox_worker.providers import fate
from farebox_worker.providers.base import Facts, ModelInfo, Prepared, PromptMessage, Reply, StreamChunk, TokenUsage
from farebox_worker.providers.connection import FOREVER, HttpClient, Templates, plain
from farebox_worker.providers.conversation import (
    DISCOVERY_TIMEOUT_S,
    SPEAKING,
    TIMEOUT_S,
    Conversational,
    chat_job,
    facts_of,
)
from farebox_worker.providers.translate_messages import chat_to_message, messages_to_chat

VENDOR_URL = "https://api.openai.com/v1"
SECURITY = {"bearer_auth": True}  # which credentials a call takes, as the SDK's own create() says
CAP_FIELDS = ("max_completion_tokens", "max_tokens")


class _Part(msgspec.Struct):
    type: str = ""
    prompt_cache_breakpoint: Raw = Raw()


class _Message(msgspec.Struct):
    content: Raw = Raw()
    audio: Raw = Raw()


class _Tool(msgspec.Struct):
    type: str = "function"


class _Request(msgspec.Struct):
    """What of a request bears on its cost."""

    messages: list[_Message]
    max_completion_tokens: int | None = None
    max_tokens: int | None = None
    n: Annotated[int, msgspec.Meta(ge=1, le=128)] | None = None
    stream: bool | None = None
    service_tier: str | None = None
    modalities: list[str] | None = None
    tools: list[_Tool] | None = None
    functions: Raw = Raw()
    prediction: Raw = Raw()
    web_search_options: Raw = Raw()
    prompt_cache_options: Raw = Raw()


class _Answered(msgspec.Struct):
    refusal: str | None = None
    tool_calls: list[Raw] | None = None


class _Choice(msgspec.Struct):
    message: _Answered | None = None
    finish_reason: str | None = None


class _InputDetails(msgspec.Struct):
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int
    prompt_tokens_details: _InputDetails | None = None
    prompt_cache_hit_tokens: int | None = None  # DeepSeek's own name for it


class _Completion(msgspec.Struct):
    choices: list[_Choice] = []
    usage: Raw = Raw()
    service_tier: str | None = None


class _Listed(msgspec.Struct):
    id: str
    context_window: int | None = None
    context_length: int | None = None
    max_model_len: int | None = None
    max_completion_tokens: int | None = None


class _Listing(msgspec.Struct):
    data: list[_Listed]


_request = msgspec.json.Decoder(_Request)
_parts = msgspec.json.Decoder(list[_Part])
_completion = msgspec.json.Decoder(_Completion)
_usage = msgspec.json.Decoder(_Usage)
_listing = msgspec.json.Decoder(_Listing | list[_Listed])
_FINISH: dict[str | None, Finish] = {
    "length": "truncated",
    "tool_calls": "tool_call",
    "function_call": "tool_call",
    "content_filter": "filtered",
}


class AsyncOpenAI(Templates, openai.AsyncOpenAI):
    """The SDK's client, building plain calls from a template. Its name is what the User-Agent says."""


class OpenAIProvider(Conversational):
    """One OpenAI-compatible endpoint with one key; `base_url` None is the vendor itself."""

    def __init__(
        self,
        provider_id: str,
        *,
        api_key: str,
        base_url: str | None = None,
        cap_field: str | None = None,
        is_free: bool = False,
    ) -> None:
        host = urlsplit(base_url or VENDOR_URL).hostname or ""
        super().__init__(provider_id, is_local=is_free or host in {"localhost", "::1"} or host.startswith("127."))
        self._is_vendor = host == "api.openai.com" or host.endswith(".api.openai.com")
        self._cap_field = cap_field or CAP_FIELDS[0 if self._is_vendor else 1]
        if self._cap_field not in CAP_FIELDS:
            raise ValueError(f"cap_field is one of {', '.join(CAP_FIELDS)}, not {cap_field!r}")
        self._scrub = fate.Scrubber(api_key)
        # A connection must be given up before the server does: uvicorn, under most servers of one's own, waits 5 s.
        limits = httpx2.Limits(max_connections=10_000, keepalive_expiry=60.0 if self._is_vendor else 4.0)
        self._client = AsyncOpenAI(
            api_key=api_key,
            base_url=base_url or VENDOR_URL,
            max_retries=0,
            timeout=FOREVER,
            http_client=HttpClient(limits=limits, follow_redirects=False),
        )

    # The request

    def prepare(self, job: Job, facts: Facts) -> Prepared:
        """Make the request for a job, without any IO. Raises: UntranslatableError, InputError."""
        body = bodies.unescaped(job.body)
        if job.api == "messages":
            body = messages_to_chat(body, provider_id=self.provider_id, drop=job.drop_params)
        request = self._read(body, job)
        cap, by_default = bodies.output_cap([request.max_completion_tokens, request.max_tokens], job.max_tokens, facts)
        fields = bodies.fields_of(body)
        for name in CAP_FIELDS:
            fields.pop(name, None)
        fields["model"] = bodies.raw(facts.model_id)
        fields[self._cap_field] = bodies.raw(cap)
        fields.pop("service_tier", None)
        if self._is_vendor:
            fields["service_tier"] = bodies.raw("flex" if job.tier == "flex" else "default")
        final = msgspec.json.encode(fields)
        predicted = len(bytes(request.prediction))  # rejected predictions are billed as output, beside the cap
        return Prepared(
            body=final,
            input_bound=self._input_bound(request, final, facts),
            output_bound=(cap + predicted) * (request.n or 1),
            capped_by_default=by_default,
            api=job.api,
        )

    def _read(self, body: bytes, job: Job) -> _Request:
        """Read what bears on the cost, and refuse what has no bound or no known price."""
        try:
            request = _request.decode(body)
        except msgspec.DecodeError as error:
            raise InputError(f"the body is not a chat completion request: {error}") from None
        if request.stream:
            raise InputError("stream: a job's answer comes whole; remove it")
        if request.service_tier not in {None, "auto", "default", "flex"}:
            raise InputError(
                f"service_tier: {request.service_tier!r} has no bounded price; use --tier standard or flex"
            )
        if job.tier == "flex" and not self._is_vendor:
            raise InputError(f"{self.provider_id} has no tier flex")
        if request.modalities and "audio" in request.modalities:
            raise InputError("modalities: audio output has no bounded price")
        if b"12h" in bytes(request.prompt_cache_options):
            raise InputError("prompt_cache_options.ttl: cache writes for 12 hours have no known price")
        return request

    def _input_bound(self, request: _Request, final: bytes, facts: Facts) -> int:
        is_served = any(tool.type not in {"function", "custom"} for tool in request.tools or ())
        if is_served or bodies.is_given(request.prediction) or bodies.is_given(request.web_search_options):
            return bodies.context_bound(facts, "prediction, web_search_options or a server's own tool")
        if not all(_is_text(message) for message in request.messages):
            return bodies.context_bound(facts, "content other than text")
        bound = len(final) if self._is_vendor else bodies.byte_bound(final) + bodies.CHAT_TEMPLATE
        return bound + (bodies.TOOL_PROMPT if request.tools or bodies.is_given(request.functions) else 0)

    # The answer

    async def post(self, prepared: Prepared, *, timeout_s: float) -> Reply:
        """Send one attempt, at most `timeout_s` seconds long. Raises: ProviderError with what is known of its fate."""
        try:
            async with asyncio.timeout(timeout_s):
                response = await self._client.post(
                    "/chat/completions",
                    content=prepared.body,
                    cast_to=httpx2.Response,
                    options=plain(prepared.headers, security=SECURITY, post_parser=openai.NOT_GIVEN),
                )
        except Exception as error:  # noqa: BLE001 - whatever broke, the call may have been billed
            raise self._failure(error, timeout_s) from None
        return self._reply(response, prepared)

    def _reply(self, response: httpx2.Response, prepared: Prepared) -> Reply:
        original = response.content
        answer, as_asked = None, original
        with suppress(msgspec.DecodeError, UnicodeDecodeError):
            answer = _completion.decode(original)
            if prepared.api == "messages" and answer.choices:
                as_asked = chat_to_message(original)
        if answer is None or not (answer.choices or bytes(answer.usage)):
            raise fate.not_an_answer(self.provider_id, response, scrub=self._scrub)
        headers = fate.kept_headers(response.headers)
        return Reply(
            status_code=response.status_code,
            request_id=headers.get("x-request-id", ""),
            body=as_asked,
            original=original,
            usage=self._usage(answer.usage),
            finish=_finish_of(answer.choices),
            served_tier=answer.service_tier or "",
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
        fields = bodies.fields_of(self.prepare(job, facts_of(info)).body)
        fields |= {"stream": Raw(b"true"), "stream_options": Raw(b'{"include_usage":true}')}
        usage: TokenUsage | None = None
        try:
            pieces = await self._client.post(
                "/chat/completions",
                content=msgspec.json.encode(fields),
                cast_to=ChatCompletionChunk,
                options={"timeout": httpx2.Timeout(TIMEOUT_S, connect=10.0)},
                stream=True,
                stream_cls=openai.AsyncStream[ChatCompletionChunk],
            )
            async with pieces:
                async for piece in pieces:
                    if piece.usage:
                        usage = self._usage(Raw(piece.usage.model_dump_json().encode()))
                    if piece.choices and (text := piece.choices[0].delta.content):
                        yield StreamChunk(text)
        except Exception as error:  # noqa: BLE001 - whatever broke, the call may have been billed
            raise self._failure(error, TIMEOUT_S) from None
        yield StreamChunk("", is_final=True, usage=usage)

    async def list_models(self) -> list[ModelInfo]:
        """Ask for the models; limits that are not told are 0, prices always are. Raises: ProviderError."""
        try:
            async with asyncio.timeout(DISCOVERY_TIMEOUT_S):
                response = await self._client.get("/models", cast_to=httpx2.Response)
            listing = _listing.decode(response.content)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise fate.not_an_answer(self.provider_id, response, scrub=self._scrub) from None
        except Exception as error:  # noqa: BLE001 - discovery may fail in any way a call may
            raise self._failure(error, DISCOVERY_TIMEOUT_S) from None
        listed = listing.data if isinstance(listing, _Listing) else listing  # Together sends a bare list
        self._models = {model.id: self._described(model) for model in listed}
        return list(self._models.values())

    async def aclose(self) -> None:
        """Close its connections."""
        await self._client.close()

    def _described(self, model: _Listed) -> ModelInfo:
        window = model.context_window or model.context_length or model.max_model_len or 0
        most = model.max_completion_tokens or 0
        return ModelInfo(self.provider_id, model.id, model.id, SPEAKING, window, most, 0.0, 0.0, self._is_local)

    # The usage

    @staticmethod
    def _usage(raw: Raw) -> TokenUsage | None:
        """Make the counts disjoint: OpenAI's prompt_tokens include what was read from and written to a cache."""
        if not bodies.is_given(raw):
            return None
        try:
            usage = _usage.decode(raw)
        except msgspec.DecodeError:
            return None  # an answer whose usage nobody can read is still an answer
        details = usage.prompt_tokens_details or _InputDetails()
        prompt = max(0, usage.prompt_tokens)
        read = min(prompt, max(0, details.cached_tokens or usage.prompt_cache_hit_tokens or 0))
        written = min(prompt - read, max(0, details.cache_write_tokens or 0))
        return TokenUsage(prompt - read - written, max(0, usage.completion_tokens), read, written)

    # The errors

    def _failure(self, error: Exception, timeout_s: float) -> ProviderError:
        """Map what the SDK or its transport raised."""
        if isinstance(error, openai.APIStatusError):
            return fate.rejected(self.provider_id, error.response, scrub=self._scrub)
        return fate.lost(self.provider_id, error, timeout_s=timeout_s, scrub=self._scrub)


def _is_text(message: _Message) -> bool:
    """Tell whether the bytes of a message bound its tokens."""
    content = bytes(message.content)
    if bodies.is_given(message.audio) or not content.startswith((b"[", b"{")):
        return not bodies.is_given(message.audio)
    try:
        parts = _parts.decode(content)
    except msgspec.DecodeError as error:
        raise InputError(f"messages: content is neither text nor a list of parts: {error}") from None
    if any(b"12h" in bytes(part.prompt_cache_breakpoint) for part in parts):
        raise InputError("prompt_cache_breakpoint.ttl: cache writes for 12 hours have no known price")
    return all(part.type in {"text", "refusal"} for part in parts)


def _finish_of(choices: list[_Choice]) -> Finish:
    """Judge the choices: the first that is not plainly answered speaks for all."""
    for choice in choices:
        if choice.message and choice.message.refusal:
            return "refused"
        if finish := _FINISH.get(choice.finish_reason):
            return finish
        if choice.message and choice.message.tool_calls:  # some servers call it "stop" all the same
            return "tool_call"
    return "answered"
