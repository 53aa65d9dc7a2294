"""OpenAI's chat completions, as the official client reads them."""

import math
import time
from typing import Any

import msgspec
from multidict import CIMultiDict

from farebox_worker.simulate.answers import Ask, Choice, count_input, slices
from farebox_worker.simulate.limits import Bucket, Gate, Refused
from farebox_worker.simulate.wire import Message, Schema, check_caps, quoted, texts


class _Function(msgspec.Struct):
    name: str
    parameters: dict[str, Any] | None = None


class _Tool(msgspec.Struct):
    function: _Function | None = None


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class _Request(msgspec.Struct):
    model: str
    messages: list[Message]
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    n: int | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    tools: list[_Tool] | None = None
    response_format: Schema | None = None
    service_tier: str | None = None


_DECODER = msgspec.json.Decoder(_Request)
_FINISH = {"truncated": b"length", "tool_call": b"tool_calls", "filtered": b"content_filter"}
_ERRORS = {
    "bad_request": (400, "invalid_request_error", None, "{detail}"),
    "too_large": (413, "invalid_request_error", None, "{detail}"),
    "unauthorized": (401, "invalid_request_error", "invalid_api_key", "Incorrect API key provided: {detail}."),
    "unknown_path": (404, "invalid_request_error", "unknown_url", "Invalid URL ({detail})"),
    "unknown_model": (
        404,
        "invalid_request_error",
        "model_not_found",
        "The model `{detail}` does not exist or you do not have access to it.",
    ),
    "account_empty": (
        429,
        "insufficient_quota",
        "insufficient_quota",
        "You exceeded your current quota, please check your plan and billing details.",
    ),
    "too_many_in_flight": (429, "requests", "rate_limit_exceeded", "Too many concurrent requests. {detail}"),
    "rate_limited": (429, "requests", "rate_limit_exceeded", "Rate limit reached. {detail}"),
    "above_limit": (429, "tokens", "rate_limit_exceeded", "Request too large on tokens per min (TPM): {detail}"),
    "429": (429, "requests", "rate_limit_exceeded", "Rate limit reached. {detail}"),
    "flex_full": (429, "requests", "resource_unavailable", "Flex has no capacity right now. {detail}"),
    "500": (500, "server_error", None, "The server had an error while processing your request. Sorry about that!"),
    "overloaded": (503, "service_unavailable_error", "server_is_overloaded", "The server is overloaded."),
    "journal": (500, "server_error", None, "farebox simulate: {detail}"),
}
_HEADERS: CIMultiDict[str] = CIMultiDict(
    {
        "content-type": "application/json",
        "server": "farebox-simulate",
        "openai-organization": "farebox-simulate",
        "openai-processing-ms": "1",
        "openai-version": "2020-10-01",
        "x-ratelimit-limit-requests": "30000000",
        "x-ratelimit-limit-tokens": "150000000000",
        "x-ratelimit-remaining-requests": "29999999",
        "x-ratelimit-remaining-tokens": "149999999000",
        "x-ratelimit-reset-requests": "2ms",
        "x-ratelimit-reset-tokens": "0s",
    }
)
_BODY = (
    b'{"id":"chatcmpl-%b","object":"chat.completion","created":%d,"model":%b,"choices":[%b],"usage":%b,'
    b'"system_fingerprint":"fp_simulate"%b}'
)
_CHOICE = b'{"index":%d,"message":%b,"logprobs":null,"finish_reason":"%b"}'
_MESSAGE = b'{"role":"assistant","content":%b,"refusal":%b,"annotations":[]}'
_CALLING = (
    b'{"role":"assistant","content":null,"refusal":null,"annotations":[],"tool_calls":'
    b'[{"id":"call_%b","type":"function","function":{"name":%b,"arguments":%b}}]}'
)
_CALL_DELTA = b'{"tool_calls":[{"index":0,"id":"call_%b","type":"function","function":{"name":%b,"arguments":%b}}]}'
_USAGE = (
    b'{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d,'
    b'"prompt_tokens_details":{"cached_tokens":0,"audio_tokens":0},"completion_tokens_details":'
    b'{"reasoning_tokens":0,"audio_tokens":0,"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}}'
)
_CHUNK = (
    b'data: {"id":"chatcmpl-%b","object":"chat.completion.chunk","created":%d,"model":%b,"choices":[%b]%b,'
    b'"system_fingerprint":"fp_simulate"%b}\n\n'
)
_DELTA = b'{"index":%d,"delta":%b,"logprobs":null,"finish_reason":%b}'


class OpenAIWire:
    """Speaks `/v1/chat/completions` and `/v1/models`."""

    def ask(self, body: bytes) -> Ask:
        """Read a request; both caps at once are refused, as OpenAI does."""
        try:
            wanted = _DECODER.decode(body)
        except msgspec.DecodeError as error:
            raise Refused("bad_request", f"We could not parse your request: {error}") from error
        caps = (wanted.max_tokens, wanted.max_completion_tokens)
        if None not in caps:
            raise Refused(
                "bad_request", "Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported."
            )
        n = 1 if wanted.n is None else wanted.n
        check_caps(wanted.messages, caps, n)
        messages = texts(wanted.messages)
        return Ask(
            model=wanted.model,
            messages=messages,
            input_tokens=count_input(messages),
            cap=caps[0] if caps[1] is None else caps[1],
            n=n,
            stream=bool(wanted.stream),
            stream_usage=bool(wanted.stream_options and wanted.stream_options.include_usage),
            schema=wanted.response_format.wanted() if wanted.response_format else None,
            tool=next(
                ((tool.function.name, tool.function.parameters or {}) for tool in wanted.tools if tool.function), None
            )
            if wanted.tools
            else None,
            service_tier=wanted.service_tier,
        )

    def answer(self, ask: Ask, choices: list[Choice], token: bytes) -> bytes:
        """Return a `chat.completion`."""
        shown = b",".join(
            [
                _CHOICE % (number, _message(choice, token), _FINISH.get(choice.finish, b"stop"))
                for number, choice in enumerate(choices)
            ]
        )
        usage = _usage(ask, choices)
        return _BODY % (token, int(time.time()), quoted(ask.model), shown, usage, tier_shown(ask))

    def events(self, ask: Ask, choices: list[Choice], token: bytes) -> list[bytes]:
        """Return `chat.completion.chunk`s, the usage in a last one if it was asked for."""
        head, tail = (token, int(time.time()), quoted(ask.model)), tier_shown(ask)
        blank = b',"usage":null' if ask.stream_usage else b""
        deltas = [delta for number, choice in enumerate(choices) for delta in _deltas(number, choice, token)]
        events = [_CHUNK % (*head, delta, blank, tail) for delta in deltas]
        if ask.stream_usage:
            events.append(_CHUNK % (*head, b"", b',"usage":' + _usage(ask, choices), tail))
        return [*events, b"data: [DONE]\n\n"]

    def headers(self, gate: Gate, request_id: str) -> CIMultiDict[str]:
        """Return the headers of every answer, the windows as they stand."""
        headers = CIMultiDict(_HEADERS)
        headers["x-request-id"] = request_id
        _show(headers, "requests", gate.requests)
        _show(headers, "tokens", gate.tokens)
        return headers

    def error(self, refused: Refused, request_id: str) -> tuple[int, bytes]:
        """Return the error as OpenAI words it."""
        del request_id  # only Anthropic repeats it in the body
        status, kind, code, message = _ERRORS[refused.word]
        if kind == "requests":
            kind = refused.kind
        error = {"message": message.format(detail=refused.detail), "type": kind, "param": None, "code": code}
        return status, msgspec.json.encode({"error": error})

    def models(self, models: tuple[str, ...]) -> bytes:
        """Return the one page of models."""
        return b'{"object":"list","data":[%b]}' % b",".join([self.model(model) for model in models])

    def model(self, model: str) -> bytes:
        """Return a model, which says nothing of limits."""
        return b'{"id":%b,"object":"model","created":1700000000,"owned_by":"farebox-simulate"}' % quoted(model)


def _message(choice: Choice, token: bytes) -> bytes:
    if choice.tool:
        name, arguments = choice.tool
        return _CALLING % (token, quoted(name), quoted(arguments.decode()))
    if choice.finish == "refused":
        return _MESSAGE % (b"null", choice.text)
    return _MESSAGE % (choice.text, b"null")


def _deltas(number: int, choice: Choice, token: bytes) -> list[bytes]:
    if choice.tool:
        name, arguments = choice.tool
        said = [_CALL_DELTA % (token, quoted(name), quoted(arguments.decode()))]
    else:
        field = b'{"refusal":%b}' if choice.finish == "refused" else b'{"content":%b}'
        said = [field % piece for piece in slices(choice.text)]
    shown = [
        _DELTA % (number, delta, b"null") for delta in (b'{"role":"assistant","content":"","refusal":null}', *said)
    ]
    return [*shown, _DELTA % (number, b"{}", b'"%b"' % _FINISH.get(choice.finish, b"stop"))]


def _usage(ask: Ask, choices: list[Choice]) -> bytes:
    output_tokens = sum([choice.tokens for choice in choices])
    return _USAGE % (ask.input_tokens, output_tokens, ask.input_tokens + output_tokens)


def tier_shown(ask: Ask) -> bytes:
    """Return the tier served; like OpenAI, only when one was asked for."""
    if ask.service_tier is None:
        return b""
    return b',"service_tier":%b' % quoted("default" if ask.service_tier == "auto" else ask.service_tier)


def _show(headers: CIMultiDict[str], what: str, bucket: Bucket) -> None:
    if bucket.limited:
        headers[f"x-ratelimit-limit-{what}"] = str(bucket.size)
        headers[f"x-ratelimit-remaining-{what}"] = str(int(bucket.level()))
        headers[f"x-ratelimit-reset-{what}"] = _duration(bucket.full_in_s())


def _duration(seconds: float) -> str:
    """Return a duration as OpenAI writes it: `12ms`, `8.64s`, `6m0s`."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms" if seconds > 0 else "0s"
    minutes, rest = divmod(seconds, 60)
    return f"{int(minutes)}m{int(rest)}s" if minutes else f"{rest:.2f}".rstrip("0").rstrip(".") + "s"
