"""OpenAI's responses, as the official client reads them; whole ones only."""

import time
from typing import Any

import msgspec

from farebox_worker.simulate.answers import Ask, Choice, count_input
from farebox_worker.simulate.limits import Refused
from farebox_worker.simulate.openai_wire import OpenAIWire, tier_shown
from farebox_worker.simulate.wire import Content, Schema, quoted, text_of

_LEAST_CAP = 16


class _Item(msgspec.Struct):
    role: str = "user"
    content: Content = None
    output: Content = None
    arguments: str = ""


class _Tool(msgspec.Struct):
    type: str = ""
    name: str = ""
    parameters: dict[str, Any] | None = None


class _Text(msgspec.Struct):
    format: Schema | None = None


class _Request(msgspec.Struct):
    model: str
    input: str | list[_Item]
    instructions: str | None = None
    max_output_tokens: int | None = None
    stream: bool | None = None
    background: bool | None = None
    tools: list[_Tool] | None = None
    text: _Text | None = None
    service_tier: str | None = None


_DECODER = msgspec.json.Decoder(_Request)
_WHY = {"truncated": b"max_output_tokens", "filtered": b"content_filter"}
_BODY = (
    b'{"id":"resp_%b","object":"response","created_at":%d,"status":"%b","error":null,"incomplete_details":%b,'
    b'"instructions":null,"metadata":{},"model":%b,"output":[%b],"parallel_tool_calls":true,"temperature":1.0,'
    b'"tool_choice":"auto","tools":[],"top_p":1.0,"usage":%b%b}'
)
_MESSAGE = b'{"id":"msg_%b","type":"message","role":"assistant","status":"%b","content":[%b]}'
_SAYING = b'{"type":"output_text","text":%b,"annotations":[],"logprobs":[]}'
_REFUSING = b'{"type":"refusal","refusal":%b}'
_CALLING = b'{"id":"fc_%b","type":"function_call","status":"completed","call_id":"call_%b","name":%b,"arguments":%b}'
_USAGE = (
    b'{"input_tokens":%d,"input_tokens_details":{"cached_tokens":0,"cache_write_tokens":0},"output_tokens":%d,'
    b'"output_tokens_details":{"reasoning_tokens":0},"total_tokens":%d}'
)


class ResponsesWire(OpenAIWire):
    """Speaks `/v1/responses`."""

    def ask(self, body: bytes) -> Ask:
        """Read a request; what has another answer than a whole one is refused."""
        try:
            wanted = _DECODER.decode(body)
        except msgspec.DecodeError as error:
            raise Refused("bad_request", f"We could not parse your request: {error}") from error
        if wanted.stream or wanted.background:
            raise Refused("bad_request", "stream and background: not simulated for responses")
        if wanted.max_output_tokens is not None and wanted.max_output_tokens < _LEAST_CAP:
            raise Refused("bad_request", f"'max_output_tokens': expected a value >= {_LEAST_CAP}.")
        messages = _said(wanted.input)
        if not messages:
            raise Refused("bad_request", "input: at least one item is required")
        if wanted.instructions:
            messages.insert(0, ("system", wanted.instructions))
        tools = [(tool.name, tool.parameters or {}) for tool in wanted.tools or () if tool.type == "function"]
        return Ask(
            model=wanted.model,
            messages=messages,
            input_tokens=count_input(messages),
            cap=wanted.max_output_tokens,
            schema=wanted.text.format.wanted() if wanted.text and wanted.text.format else None,
            tool=tools[0] if tools else None,
            service_tier=wanted.service_tier,
        )

    def answer(self, ask: Ask, choices: list[Choice], token: bytes) -> bytes:
        """Return a `response`."""
        choice = choices[0]
        why = _WHY.get(choice.finish)
        status = b"incomplete" if why else b"completed"
        details = b'{"reason":"%b"}' % why if why else b"null"
        usage = _USAGE % (ask.input_tokens, choice.tokens, ask.input_tokens + choice.tokens)
        shown = (quoted(ask.model), _item(choice, token, status), usage, tier_shown(ask))
        return _BODY % (token, int(time.time()), status, details, *shown)


def _said(given: str | list[_Item]) -> list[tuple[str, str]]:
    """Return (role, text) of each item; a text is one of the user's."""
    if isinstance(given, str):
        return [("user", given)] if given else []
    return [(item.role, text_of(item.content) + text_of(item.output) + item.arguments) for item in given]


def _item(choice: Choice, token: bytes, status: bytes) -> bytes:
    if choice.tool:
        name, arguments = choice.tool
        return _CALLING % (token, token, quoted(name), quoted(arguments.decode()))
    said = _REFUSING if choice.finish == "refused" else _SAYING
    return _MESSAGE % (token, status, said % choice.text)
