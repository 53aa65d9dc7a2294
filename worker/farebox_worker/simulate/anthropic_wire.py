"""Anthropic's messages, as the official client reads them."""

import time
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import msgspec
from multidict import CIMultiDict

from farebox_worker.simulate.answers import Ask, Choice, count_input, slices
from farebox_worker.simulate.limits import Gate, Refused
from farebox_worker.simulate.wire import Content, Message, Schema, check_caps, quoted, text_of, texts


class _Tool(msgspec.Struct):
    name: str
    input_schema: dict[str, Any] | None = None


class _Output(msgspec.Struct):
    format: Schema | None = None


class _Request(msgspec.Struct):
    model: str
    messages: list[Message]
    max_tokens: int
    system: Content = None
    stream: bool | None = None
    tools: list[_Tool] | None = None
    output_config: _Output | None = None
    output_format: Schema | None = None


_DECODER = msgspec.json.Decoder(_Request)
_STOP = {"truncated": b"max_tokens", "tool_call": b"tool_use", "refused": b"refusal", "filtered": b"refusal"}
_DETAILS = {
    "refused": b'{"type":"refusal","category":null,"explanation":null}',
    "filtered": b'{"type":"refusal","category":"general_harms","explanation":"Simulated filter."}',
}
_ERRORS = {
    "bad_request": (400, "invalid_request_error", "{detail}"),
    "too_large": (413, "request_too_large", "{detail}"),
    "unauthorized": (401, "authentication_error", "invalid x-api-key"),
    "unknown_path": (404, "not_found_error", "Not found: {detail}"),
    "unknown_model": (404, "not_found_error", "model: {detail}"),
    "account_empty": (
        400,
        "invalid_request_error",
        "Your credit balance is too low to access the Anthropic API.",
    ),
    "too_many_in_flight": (529, "overloaded_error", "Overloaded"),
    "rate_limited": (429, "rate_limit_error", "This request would exceed your rate limit. {detail}"),
    "above_limit": (429, "rate_limit_error", "This request is larger than your rate limit of tokens. {detail}"),
    "429": (429, "rate_limit_error", "This request would exceed your rate limit. {detail}"),
    "500": (500, "api_error", "Internal server error"),
    "overloaded": (529, "overloaded_error", "Overloaded"),
    "journal": (500, "api_error", "farebox simulate: {detail}"),
}
_HEADERS: CIMultiDict[str] = CIMultiDict(
    {
        "content-type": "application/json",
        "server": "farebox-simulate",
        "anthropic-organization-id": "00000000-0000-0000-0000-000000000000",
        "anthropic-ratelimit-requests-limit": "30000000",
        "anthropic-ratelimit-requests-remaining": "29999999",
        "anthropic-ratelimit-tokens-limit": "150000000000",
        "anthropic-ratelimit-tokens-remaining": "150000000000",
    }
)
_BODY = (
    b'{"id":"msg_%b","type":"message","role":"assistant","model":%b,"content":[%b],"stop_reason":%b,'
    b'"stop_sequence":null,"stop_details":%b,"usage":%b}'
)
_USAGE = (
    b'{"input_tokens":%d,"cache_creation_input_tokens":0,"cache_read_input_tokens":0,'
    b'"cache_creation":{"ephemeral_5m_input_tokens":0,"ephemeral_1h_input_tokens":0},'
    b'"output_tokens":%d,"service_tier":"standard"}'
)
_DELTA_USAGE = b'{"input_tokens":%d,"cache_creation_input_tokens":0,"cache_read_input_tokens":0,"output_tokens":%d}'


class AnthropicWire:
    """Speaks `/v1/messages` and `/v1/models`."""

    def ask(self, body: bytes) -> Ask:
        """Read a request; max_tokens is required."""
        try:
            wanted = _DECODER.decode(body)
        except msgspec.DecodeError as error:
            raise Refused("bad_request", str(error)) from error
        check_caps(wanted.messages, (wanted.max_tokens,))
        messages = texts(wanted.messages)
        if wanted.system is not None:
            messages.insert(0, ("system", text_of(wanted.system)))
        wrapped = (wanted.output_config and wanted.output_config.format) or wanted.output_format
        return Ask(
            model=wanted.model,
            messages=messages,
            input_tokens=count_input(messages),
            cap=wanted.max_tokens,
            stream=bool(wanted.stream),
            schema=wrapped.wanted() if wrapped else None,
            tool=(wanted.tools[0].name, wanted.tools[0].input_schema or {}) if wanted.tools else None,
        )

    def answer(self, ask: Ask, choices: list[Choice], token: bytes) -> bytes:
        """Return a `message`."""
        choice = choices[0]
        usage = _USAGE % (ask.input_tokens, choice.tokens)
        stop = b'"%b"' % _STOP.get(choice.finish, b"end_turn")
        details = _DETAILS.get(choice.finish, b"null")
        return _BODY % (token, quoted(ask.model), _block(choice, token, choice.text), stop, details, usage)

    def events(self, ask: Ask, choices: list[Choice], token: bytes) -> list[bytes]:
        """Return the events of a stream; its usages are cumulative."""
        choice = choices[0]
        begun = _BODY % (token, quoted(ask.model), b"", b"null", b"null", _USAGE % (ask.input_tokens, 1))
        stop, details = _STOP.get(choice.finish, b"end_turn"), _DETAILS.get(choice.finish, b"null")
        delta = b'{"stop_reason":"%b","stop_sequence":null,"stop_details":%b}' % (stop, details)
        usage = _DELTA_USAGE % (ask.input_tokens, choice.tokens)
        empty = _block(choice, token, b'""', b"{}")
        return [
            _event(b"message_start", b',"message":%b' % begun),
            _event(b"content_block_start", b',"index":0,"content_block":%b' % empty),
            _event(b"ping", b""),
            *[_event(b"content_block_delta", b',"index":0,"delta":%b' % said) for said in _deltas(choice)],
            _event(b"content_block_stop", b',"index":0'),
            _event(b"message_delta", b',"delta":%b,"usage":%b' % (delta, usage)),
            _event(b"message_stop", b""),
        ]

    def headers(self, gate: Gate, request_id: str) -> CIMultiDict[str]:
        """Return the headers of every answer, the windows as they stand."""
        headers = CIMultiDict(_HEADERS)
        headers["request-id"] = headers["x-request-id"] = request_id
        now_s = time.time()
        for what, bucket in (("requests", gate.requests), ("tokens", gate.tokens)):
            if bucket.limited:
                headers[f"anthropic-ratelimit-{what}-limit"] = str(bucket.size)
                headers[f"anthropic-ratelimit-{what}-remaining"] = str(int(bucket.level()))
            reset_s = now_s + bucket.full_in_s() if bucket.limited else now_s
            headers[f"anthropic-ratelimit-{what}-reset"] = _rfc3339(int(reset_s) + bucket.limited)
        return headers

    def error(self, refused: Refused, request_id: str) -> tuple[int, bytes]:
        """Return the error as Anthropic words it."""
        status, kind, message = _ERRORS[refused.word]
        error = {"type": kind, "message": message.format(detail=refused.detail)}
        return status, msgspec.json.encode({"type": "error", "error": error, "request_id": request_id})

    def models(self, models: tuple[str, ...]) -> bytes:
        """Return the one page of models."""
        page = b",".join([self.model(model) for model in models])
        return b'{"data":[%b],"has_more":false,"first_id":%b,"last_id":%b}' % (
            page,
            quoted(models[0]),
            quoted(models[-1]),
        )

    def model(self, model: str) -> bytes:
        """Return a model with its limits."""
        return (
            b'{"type":"model","id":%b,"display_name":%b,"created_at":"2026-01-01T00:00:00Z","lifecycle":"active",'
            b'"max_input_tokens":200000,"max_tokens":64000,"capabilities":null}' % (quoted(model), quoted(model))
        )


def _block(choice: Choice, token: bytes, text: bytes, arguments: bytes | None = None) -> bytes:
    if choice.tool is None:
        return b'{"type":"text","text":%b,"citations":null}' % text
    name, wanted = choice.tool
    given = wanted if arguments is None else arguments
    return b'{"type":"tool_use","id":"toolu_%b","name":%b,"input":%b}' % (token, quoted(name), given)


def _deltas(choice: Choice) -> list[bytes]:
    if choice.tool:
        return [b'{"type":"input_json_delta","partial_json":%b}' % quoted(choice.tool[1].decode())]
    return [b'{"type":"text_delta","text":%b}' % piece for piece in slices(choice.text)]


def _event(name: bytes, fields: bytes) -> bytes:
    return b'event: %b\ndata: {"type":"%b"%b}\n\n' % (name, name, fields)


@lru_cache(maxsize=64)
def _rfc3339(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
