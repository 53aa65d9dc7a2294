"""The provider that answers offline and at once: the last user message, said back, or vectors made of its letters.

For trying things out, for tests and for measuring the bus alone. Its tokens are rough and its price is a pretence,
but both are counted and limited like anybody's.
"""

from __future__ import annotations

import array
import base64
import hashlib
from collections.abc import AsyncGenerator, Callable
from typing import Annotated

import msgspec
from msgspec import Raw

from farebox.errors import InputError
from farebox.records import Api, Finish, Job
from farebox_worker.providers import body as bodies
from farebox_worker.providers.base import Facts, ModelInfo, Prepared, Reply, StreamChunk, TokenUsage
from farebox_worker.providers.conversation import SPEAKING, TIMEOUT_S, Conversational

CHARS_PER_TOKEN = 4
MODEL_ID = "echo"
DIMENSIONS = 16


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
    """A request in any of the formats: what is asked stands in `messages`, or in `input`."""

    messages: list[_Turn] | None = None
    input: str | list[Raw] | None = None
    model: str = MODEL_ID
    max_completion_tokens: int | None = None
    max_tokens: int | None = None
    max_output_tokens: int | None = None
    n: Annotated[int, msgspec.Meta(ge=1, le=128)] | None = None
    stream: bool | None = None
    response_format: _Kind | None = None
    output_config: _Output | None = None
    text: _Output | None = None
    dimensions: Annotated[int, msgspec.Meta(ge=1, le=4096)] | None = None
    encoding_format: str | None = None

    @property
    def turns(self) -> list[_Turn]:
        """The turns of the conversation; a text is one of the user's."""
        if isinstance(self.input, str):
            return [_Turn(bodies.raw(self.input), "user")]
        return self.messages or [_turn.decode(raw) for raw in self.input or ()]


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


class _ResponseMessage(msgspec.Struct):
    content: list[_Text]
    id: str = "msg_echo"
    type: str = "message"
    role: str = "assistant"
    status: str = "completed"


class _ResponseUsage(msgspec.Struct):
    input_tokens: int
    output_tokens: int
    total_tokens: int


class _Response(msgspec.Struct):
    model: str
    status: str
    incomplete_details: dict[str, str] | None
    output: list[_ResponseMessage]
    usage: _ResponseUsage
    id: str = "resp_echo"
    object: str = "response"
    created_at: int = 0


class _Vector(msgspec.Struct):
    index: int
    embedding: list[float] | str
    object: str = "embedding"


class _VectorUsage(msgspec.Struct):
    prompt_tokens: int
    total_tokens: int


class _Vectors(msgspec.Struct):
    model: str
    data: list[_Vector]
    usage: _VectorUsage
    object: str = "list"


_request = msgspec.json.Decoder(_Request)
_turn = msgspec.json.Decoder(_Turn)
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
        needed = "messages" if job.api in {"chat", "messages"} else "input"
        if not getattr(request, needed):
            raise InputError(f"the body is not a request: it has no {needed}")
        fields = bodies.fields_of(job.body)
        fields["model"] = bodies.raw(facts.model_id)
        if job.api == "embeddings":
            final = bodies.written(fields)
            return Prepared(final, max(1, len(final)), 0, capped_by_default=False, api=job.api)
        asked = [request.max_completion_tokens, request.max_tokens, request.max_output_tokens]
        cap, by_default = bodies.output_cap(asked, job.max_tokens, facts)
        for name in ("max_completion_tokens", "max_output_tokens"):
            fields.pop(name, None)
        fields["max_output_tokens" if job.api == "responses" else "max_tokens"] = bodies.raw(cap)
        final = bodies.written(fields)
        return Prepared(final, max(1, len(final)), cap * (request.n or 1), by_default, job.api)

    # The answer

    async def post(self, prepared: Prepared, *, timeout_s: float) -> Reply:  # noqa: ARG002 - it is never late
        """Answer at once."""
        request = _request.decode(prepared.body)
        if prepared.api == "embeddings":
            return _embedded(request, prepared.body)
        text = _last_user_text(request.turns)
        if _wants_json(request) and not _is_json(text):
            text = _json.encode({"echo": text}).decode()
        choices = request.n or 1
        cap = request.max_output_tokens or request.max_tokens or 0
        finish: Finish = "answered"
        if _tokens(text) > cap:
            text, finish = text[: cap * CHARS_PER_TOKEN], "truncated"
        usage = self._usage(prepared.body, text, cap, choices)
        body = _WRITE[prepared.api](request.model, text, usage, is_whole=finish == "answered", choices=choices)
        return Reply(200, "", body, body, usage, finish)

    async def _pieces(self, prepared: Prepared) -> AsyncGenerator[StreamChunk, None]:
        reply = await self.post(prepared, timeout_s=TIMEOUT_S)
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
    told = request.output_config or request.text
    asked = request.response_format or (told.format if told else None)
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


def _write_message(model: str, text: str, usage: TokenUsage, *, is_whole: bool, choices: int) -> bytes:
    del choices  # a message has none
    stop_reason = "end_turn" if is_whole else "max_tokens"
    counts = _MessageUsage(usage.input_tokens, usage.output_tokens)
    return _json.encode(_Message(model, [_Text(text)], stop_reason, counts))


def _write_response(model: str, text: str, usage: TokenUsage, *, is_whole: bool, choices: int) -> bytes:
    del choices  # nor has a response
    status = "completed" if is_whole else "incomplete"
    why = None if is_whole else {"reason": "max_output_tokens"}
    said = _ResponseMessage([_Text(text, "output_text")], status=status)
    counts = _ResponseUsage(usage.input_tokens, usage.output_tokens, usage.total_tokens)
    return _json.encode(_Response(model, status, why, [said], counts))


_WRITE: dict[Api, Callable[..., bytes]] = {
    "chat": _write_chat,
    "messages": _write_message,
    "responses": _write_response,
}


def _embedded(request: _Request, body: bytes) -> Reply:
    """Answer with a vector for each text or list of tokens, the same for the same one."""
    inputs = request.input if isinstance(request.input, list) else [bodies.raw(request.input or "")]
    if bytes(inputs[0])[:1].isdigit():  # one list of tokens
        inputs = [Raw(_json.encode(inputs))]
    used = TokenUsage(max(1, len(body) // CHARS_PER_TOKEN))
    texts = [_json.encode(msgspec.json.decode(one)) for one in inputs]  # however they are spaced and escaped
    vectors = [_vector(text, request.dimensions or DIMENSIONS) for text in texts]
    shown = [_packed(vector) if request.encoding_format == "base64" else vector for vector in vectors]
    counts = _VectorUsage(used.input_tokens, used.input_tokens)
    answer = _json.encode(_Vectors(request.model, [_Vector(at, vector) for at, vector in enumerate(shown)], counts))
    return Reply(200, "", answer, answer, used, "answered")


def _vector(text: bytes, dimensions: int) -> list[float]:
    """Make a vector of unit length from the digest of a text."""
    letters = hashlib.shake_128(text).digest(dimensions)
    length = sum((letter - 127.5) ** 2 for letter in letters) ** 0.5
    return [(letter - 127.5) / length for letter in letters]


def _packed(vector: list[float]) -> str:
    return base64.b64encode(array.array("f", vector).tobytes()).decode()
