"""What a messages request can use at most: tokens in and out, and calls that cost a fee of their own.

Bytes bound the tokens of text; what they do not bound is bounded by a maximum per image, else by the context window,
once for every round that the server's own tools may take. What has no bound at all is refused by name.
Source of the kinds of tools: platform.claude.com/docs, Tool reference and Server tools.
"""

from __future__ import annotations

import re

import msgspec
from msgspec import Raw

from farebox.errors import InputError
from farebox_worker.providers import body as bodies
from farebox_worker.providers.base import Facts, Fee

_CLIENT_TOOLS = {"bash", "text_editor", "computer", "memory"}  # made by Anthropic, run by whoever asks
_FEELESS_TOOLS = {"web_fetch", "tool_search_tool_regex", "tool_search_tool_bm25", "mcp_toolset"}
# These take one round for each use; later ones run code between the rounds.
_ROUND_PER_USE = {"web_search_20250305", "web_fetch_20250910"}
_DATE = re.compile(r"_\d{8}$")


class _Block(msgspec.Struct):
    type: str = ""
    content: Raw = Raw()


class _Turn(msgspec.Struct):
    content: Raw = Raw()


class _Tool(msgspec.Struct):
    type: str | None = "custom"
    max_uses: int | None = None

    @property
    def kind(self) -> str:
        """The tool's type without the date of its version."""
        return _DATE.sub("", self.type or "custom")


class Request(msgspec.Struct):
    """What of a request bears on its cost, or on the API version it needs."""

    messages: list[_Turn]
    max_tokens: int | None = None
    stream: bool | None = None
    service_tier: str | None = None
    speed: str | None = None
    inference_geo: str | None = None
    tools: list[_Tool] | None = None
    system: Raw = Raw()
    thinking: Raw = Raw()
    output_config: Raw = Raw()
    output_format: Raw = Raw()
    temperature: Raw = Raw()
    top_p: Raw = Raw()
    top_k: Raw = Raw()
    mcp_servers: Raw = Raw()
    container: Raw = Raw()
    context_management: Raw = Raw()

    @property
    def has_hidden_prompt(self) -> bool:
        """Whether it asks for something that the vendor explains to the model in words of its own."""
        asked = (self.thinking, self.output_config, self.output_format)
        return bool(self.tools) or any(bodies.is_given(value) for value in asked)

    @property
    def has_sampling(self) -> bool:
        """Whether it sets how the answer is sampled, which only the older API version takes."""
        return any(bodies.is_given(value) for value in (self.temperature, self.top_p, self.top_k))


_request = msgspec.json.Decoder(Request)
_raws = msgspec.json.Decoder(list[Raw])
_block = msgspec.json.Decoder(_Block)


def read(body: bytes) -> Request:
    """Read what bears on the cost, and refuse what has no known price. Raises: InputError."""
    try:
        request = _request.decode(body)
    except msgspec.DecodeError as error:
        raise InputError(f"the body is not a messages request: {error}") from None
    if request.stream:
        raise InputError("stream: a job's answer comes whole; remove it")
    if request.speed not in {None, "standard"}:
        raise InputError(f"speed: {request.speed!r} has no known price")
    if request.inference_geo not in {None, "global", "us"}:
        raise InputError(f"inference_geo: {request.inference_geo!r} has no known price")
    return request


def input_bound(request: Request, final: bytes, facts: Facts) -> int:
    """Bound the input tokens. Raises: InputError when nothing does."""
    if _server_tools(request) or bodies.is_given(request.mcp_servers) or bodies.is_given(request.container):
        return bodies.context_bound(facts, "a server's own tool, mcp_servers or container") * _rounds(request)
    if bodies.is_given(request.context_management):
        return bodies.context_bound(facts, "context_management")
    if any(tool.kind in _CLIENT_TOOLS for tool in request.tools or ()):
        return bodies.context_bound(facts, "a tool of Anthropic's own making")
    images: list[int] = []
    if not all(
        _is_bounded(content, images) for content in (request.system, *(turn.content for turn in request.messages))
    ):
        return bodies.context_bound(facts, "content other than text and images")
    return bodies.with_images(
        bodies.byte_bound(final) + (bodies.TOOL_PROMPT if request.has_hidden_prompt else 0), images, facts
    )


def output_bound(request: Request, cap: int) -> int:
    """Bound the output tokens: the cap, once for every round the server's own tools may take."""
    return cap * _rounds(request)


def fees(request: Request) -> tuple[Fee, ...]:
    """Name what the request can be charged for beyond its tokens.

    Code runs in one container per request, for less than an hour. A tool that is not known may cost anything.
    """
    found = [
        Fee(tool.kind, 1 if tool.kind == "code_execution" else tool.max_uses)
        for tool in _server_tools(request)
        if tool.kind not in _FEELESS_TOOLS
    ]
    if bodies.is_given(request.container) and all(fee.name != "code_execution" for fee in found):
        found.append(Fee("code_execution", 1))
    return tuple(found)


def asks_long_cache(body: bytes) -> bool:
    """Tell whether a body asks for cache writes that are kept for an hour."""
    return b'"1h"' in body


def _server_tools(request: Request) -> list[_Tool]:
    return [tool for tool in request.tools or () if tool.kind != "custom" and tool.kind not in _CLIENT_TOOLS]


def _rounds(request: Request) -> int:
    """How often the prompt may be read within the request."""
    tools = _server_tools(request)
    if not tools and not bodies.is_given(request.mcp_servers) and not bodies.is_given(request.container):
        return 1
    uses = [tool.max_uses for tool in tools if tool.type in _ROUND_PER_USE]
    has_other = bodies.is_given(request.mcp_servers) or bodies.is_given(request.container) or len(uses) < len(tools)
    if has_other or None in uses:
        return bodies.SERVER_ROUNDS
    return min(bodies.SERVER_ROUNDS, 1 + sum(max(0, use or 0) for use in uses))


def _is_bounded(content: Raw, images: list[int]) -> bool:
    """Tell whether a content is text and images alone; add the bytes of each image's block to `images`.

    Thinking is not: its signature stands for more than its bytes.
    """
    if not bytes(content).startswith((b"[", b"{")):
        return True
    try:
        raws = _raws.decode(content)
        blocks = [_block.decode(raw) for raw in raws]
    except msgspec.DecodeError as error:
        raise InputError(f"messages: content is neither text nor a list of blocks: {error}") from None
    images += [len(bytes(raw)) for raw, block in zip(raws, blocks, strict=True) if block.type == "image"]
    return all(
        block.type in {"text", "tool_use", "image"}
        or (block.type == "tool_result" and _is_bounded(block.content, images))
        for block in blocks
    )
