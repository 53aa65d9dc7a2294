"""The adapter for OpenAI, and for every server that speaks its chat completions (vLLM, Ollama, Groq, DeepSeek, ...).

Four duties, in this order: the request, the answer, its usage, the errors. The SDK gives credentials, connections and
error classes; bodies go through as bytes. It never retries.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from urllib.parse import urlsplit

import httpx2
import msgspec
import openai
from msgspec import Raw
from openai.types.chat import ChatCompletionChunk

from farebox.errors import ProviderError
from farebox.records import Finish, Job
from farebox_worker.providers import body as bodies
from farebox_worker.providers import fate
from farebox_worker.providers import openai_request as requests
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


class _Answered(msgspec.Struct):
    refusal: str | None = None
    tool_calls: list[Raw] | None = None


class _Choice(msgspec.Struct):
    message: _Answered | None = None
    finish_reason: str | None = None


class _WriteDetails(msgspec.Struct):
    ttl_12h_tokens: int | None = None


class _InputDetails(msgspec.Struct):
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None
    cache_write_tokens_details: _WriteDetails | None = None
    audio_tokens: int | None = None


class _OutputDetails(msgspec.Struct):
    audio_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int
    prompt_tokens_details: _InputDetails | None = None
    completion_tokens_details: _OutputDetails | None = None
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
        has_flex: bool | None = None,
    ) -> None:
        host = urlsplit(base_url or VENDOR_URL).hostname or ""
        super().__init__(provider_id, is_local=is_free or host in {"localhost", "::1"} or host.startswith("127."))
        self._is_vendor = host == "api.openai.com" or host.endswith(".api.openai.com")
        self._has_flex = self._is_vendor if has_flex is None else has_flex
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
        request = requests.read(body)
        requests.check_tier(request, job, self.provider_id, has_flex=self._has_flex)
        cap, by_default = bodies.output_cap([request.max_completion_tokens, request.max_tokens], job.max_tokens, facts)
        fields = bodies.fields_of(body)
        for name in CAP_FIELDS:
            fields.pop(name, None)
        fields["model"] = bodies.raw(facts.model_id)
        fields[self._cap_field] = bodies.raw(cap)
        fields.pop("service_tier", None)
        if self._is_vendor or self._has_flex:
            fields["service_tier"] = bodies.raw("flex" if job.tier == "flex" else "default")
        final = msgspec.json.encode(fields)
        return Prepared(
            body=final,
            input_bound=requests.input_bound(request, fields, final, facts, is_vendor=self._is_vendor),
            output_bound=requests.output_bound(request, cap),
            capped_by_default=by_default,
            api=job.api,
            fees=requests.fees(request, fields, facts.model_id, is_vendor=self._is_vendor),
        )

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
            usage=self._usage(answer.usage, prepared),
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
        prepared = self.prepare(job, facts_of(info))
        fields = bodies.fields_of(prepared.body)
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
                        usage = self._usage(Raw(piece.usage.model_dump_json().encode()), prepared)
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
    def _usage(raw: Raw, prepared: Prepared) -> TokenUsage | None:
        """Make the counts disjoint: OpenAI's prompt_tokens include what was read from and written to a cache.

        What a usage leaves open is taken at its dearest: audio whose count is not told, audio that may have been
        cached, writes of a request for the long-lived cache, fees, which no usage counts.
        """
        if not bodies.is_given(raw):
            return None
        try:
            usage = _usage.decode(raw)
        except msgspec.DecodeError:
            return None  # an answer whose usage nobody can read is still an answer
        details, made = usage.prompt_tokens_details or _InputDetails(), usage.completion_tokens_details
        prompt, answered = max(0, usage.prompt_tokens), max(0, usage.completion_tokens)
        heard = details.audio_tokens
        if heard is None:
            heard = prompt if requests.has_audio(prepared.body) else 0
        heard = min(prompt, max(0, heard))
        read = min(prompt - heard, max(0, details.cached_tokens or usage.prompt_cache_hit_tokens or 0))
        written = min(prompt - heard - read, max(0, details.cache_write_tokens or 0))
        kept = details.cache_write_tokens_details
        long = kept.ttl_12h_tokens if kept else written if requests.asks_long_cache(prepared.body) else 0
        return TokenUsage(
            prompt - read - written,
            answered,
            read,
            written,
            cache_write_1h_tokens=min(written, max(0, long or 0)),
            media_input_tokens=heard,
            media_output_tokens=min(answered, max(0, made.audio_tokens or 0)) if made else 0,
            fees=tuple((fee.name, fee.most or 0) for fee in prepared.fees),
        )

    # The errors

    def _failure(self, error: Exception, timeout_s: float) -> ProviderError:
        """Map what the SDK or its transport raised."""
        if isinstance(error, openai.APIStatusError):
            return fate.rejected(self.provider_id, error.response, scrub=self._scrub)
        return fate.lost(self.provider_id, error, timeout_s=timeout_s, scrub=self._scrub)


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
