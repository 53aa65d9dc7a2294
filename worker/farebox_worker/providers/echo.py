"""The provider that answers offline and at once: the last user message, said back.

For trying things out, for tests and for measuring the bus alone. Its tokens are rough and its price is a pretence,
but both are counted and limited like anybody's.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Annotated

import msgspec
from msgspec import Raw

from farebox.errors import InputError
from farebox.records import Finish, Job
from farebox_worker.providers import body as bodies
from farebox_worker.providers.base import Facts, ModelInfo, Prepared, PromptMessage, Reply, StreamChunk, TokenUsage
from farebox_worker.providers.conversation import SPEAKING, TIMEOUT_S, Conversational, chat_job, facts_of

CHARS_PER_TOKEN = 4
MODEL_ID = "echo"


class _Turn(msgspec.Struct):
    content: Raw = Raw()
    role: str = ""


class _Part(msgspec.Struct):
    text: str = ""


class _Kind(msgspec.Struct):
    type: str = ""


class _Output(msgspec.Struct):
    format: _Kind | None = None


class _Request(msgspec.Struct):
    messages: list[_Turn]
    model: str = MODEL_ID
    max_completion_tokens: int | None = None
    max_tokens: int | None = None
    n: Annotated[int, msgspec.Meta(ge=1, le=128)] | None = None
    stream: bool | None = None
    response_format: _Kind | None = None
    output_config: _Output | None = None


class _ChatSaid(msgspec.Struct):
    content: str
    role: str = "assistant"
    refusal: None = None


class _ChatChoice(msgspec.Struct):
    index: int
    message: _ChatSaid
    finish_reason: str
    logprobs: None = None


class _ChatUsage(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class _Completion(msgspec.Struct):
    model: str
    choices: list[_ChatChoice]
    usage: _ChatUsage
    id: str = "chatcmpl-echo"
    object: str = "chat.completion"
    created: int = 0


class _Text(msgspec.Struct):
    text: str
    type: str = "text"


class _MessageUsage(msgspec.Struct):
    input_tokens: int
    output_tokens: int


class _Message(msgspec.Struct):
    model: str
    content: list[_Text]
    stop_reason: str
    usage: _MessageUsage
    id: str = "msg_echo"
    type: str = "message"
    role: str = "assistant"
    stop_sequence: None = None


_request = msgspec.json.Decoder(_Request)
_content = msgspec.json.Decoder(str | list[_Part] | None)
_json = msgspec.json.Encoder()


class EchoProvider(Conversational):
    """Says the last user message back; `echo:echo` by default."""

    def __init__(self, provider_id: str = "echo") -> None:
        super().__init__(provider_id, is_local=False)  # it costs its pretended price, which local models do not
        name = "Echo (offline, pretend price)"
        info = ModelInfo(provider_id, MODEL_ID, name, SPEAKING, 1_000_000, 128_000, 1.0, 2.0)
        self._models = {MODEL_ID: info}

    # The request

    def prepare(self, job: Job, facts: Facts) -> Prepared:
        """Make the request for a job, without any IO. Raises: InputError."""
        try:
            request = _request.decode(job.body)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InputError(f"the body is not a completion request: {error}") from None
        if request.stream:
            raise InputError("stream: a job's answer comes whole; remove it")
        cap, by_default = bodies.output_cap([request.max_completion_tokens, request.max_tokens], job.max_tokens, facts)
        fields = bodies.fields_of(job.body)
        fields.pop("max_completion_tokens", None)
        fields["model"] = bodies.raw(facts.model_id)
        fields["max_tokens"] = bodies.raw(cap)
        final = _json.encode(fields)
        return Prepared(final, max(1, len(final)), cap * (request.n or 1), by_default, job.api)

    # The answer

    async def post(self, prepared: Prepared, *, timeout_s: float) -> Reply:  # noqa: ARG002 - it is never late
        """Answer at once."""
        request = _request.decode(prepared.body)
        text = _last_user_text(request.messages)
        if _wants_json(request) and not _is_json(text):
            text = _json.encode({"echo": text}).decode()
        choices = request.n or 1
        cap = request.max_tokens or 0
        finish: Finish = "answered"
        if _tokens(text) > cap:
            text, finish = text[: cap * CHARS_PER_TOKEN], "truncated"
        usage = self._usage(prepared.body, text, cap, choices)
        write = _write_chat if prepared.api == "chat" else _write_message
        body = write(request.model, text, usage, is_whole=finish == "answered", choices=choices)
        return Reply(200, "", body, body, usage, finish)

    async def stream(
        self,
        messages: Sequence[PromptMessage],
        model_id: str,
        *,
        max_tokens: int = 4096,
        temperature: float | None = None,
        stop_sequences: Sequence[str] | None = None,
    ) -> AsyncIterator[StreamChunk]:
        """Answer word by word; the last piece carries the usage."""
        info = self._info(model_id)
        job = chat_job(messages, info, max_tokens=max_tokens, temperature=temperature, stop_sequences=stop_sequences)
        reply = await self.post(self.prepare(job, facts_of(info)), timeout_s=TIMEOUT_S)
        text = msgspec.json.decode(reply.body, type=_Completion).choices[0].message.content
        for number, word in enumerate(text.split(" ")):
            yield StreamChunk(f" {word}" if number else word)
        yield StreamChunk("", is_final=True, usage=reply.usage)

    async def list_models(self) -> list[ModelInfo]:
        """Name its one model, at a pretended $1 and $2 per million tokens."""
        return list(self._models.values())

    async def aclose(self) -> None:
        """Do nothing: it has no connections."""

    # The usage

    @staticmethod
    def _usage(body: bytes, text: str, cap: int, choices: int) -> TokenUsage:
        """Count a token for every four bytes asked and every four characters said, at least one each."""
        return TokenUsage(max(1, len(body) // CHARS_PER_TOKEN), min(_tokens(text), cap) * choices)

    # The errors: it makes none of its own


def _tokens(text: str) -> int:
    return max(1, len(text) // CHARS_PER_TOKEN)


def _last_user_text(messages: list[_Turn]) -> str:
    raw = next((turn.content for turn in reversed(messages) if turn.role == "user"), Raw())
    if not bodies.is_given(raw):
        return ""
    try:
        content = _content.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return bytes(raw).decode("utf-8", "replace")
    return content if isinstance(content, str) else "".join(part.text for part in content or ())


def _wants_json(request: _Request) -> bool:
    asked = request.response_format or (request.output_config.format if request.output_config else None)
    return asked is not None and asked.type.startswith("json")


def _is_json(text: str) -> bool:
    try:
        msgspec.json.decode(text)
    except msgspec.DecodeError:
        return False
    return True


def _write_chat(model: str, text: str, usage: TokenUsage, *, is_whole: bool, choices: int) -> bytes:
    finish = "stop" if is_whole else "length"
    said = [_ChatChoice(index, _ChatSaid(text), finish) for index in range(choices)]
    counts = _ChatUsage(usage.input_tokens, usage.output_tokens, usage.total_tokens)
    return _json.encode(_Completion(model, said, counts))


def _write_message(model: str, text: str, usage: TokenUsage, *, is_whole: bool, choices: int) -> bytes:  # noqa: ARG001
    stop_reason = "end_turn" if is_whole else "max_tokens"
    counts = _MessageUsage(usage.input_tokens, usage.output_tokens)
    return _json.encode(_Message(model, [_Text(text)], stop_reason, counts))
