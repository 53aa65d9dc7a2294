"""What a chat completions request can use at most: tokens in and out, and calls that cost a fee of their own.

Bytes bound the tokens of text; what they do not bound is bounded by a maximum per image, else by the context window.
What has no bound at all is refused by name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import msgspec
from msgspec import Raw

from farebox.errors import InputError
from farebox.records import Job
from farebox_worker.providers import body as bodies
from farebox_worker.providers.base import Facts, Fee

# Fields by which servers other than the vendor's search, parse files or fall back to other models for money:
# OpenRouter (plugins, models), xAI (search_parameters), DashScope (enable_search). None says how often.
_PAID_FIELDS = ("plugins", "models", "search_parameters", "enable_search")
_FURTHER = frozenset((*_PAID_FIELDS, "extra_body", "cached_content"))  # the last two hold Gemini's cached prompts
_SEARCHES = ("search-preview", "search-api", ":online")  # in the names of models that search for every answer


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What the requests to one endpoint depend on. `cap_field` is what it calls the output cap of a chat completion."""

    provider_id: str
    is_vendor: bool
    has_flex: bool
    cap_field: str


class _Part(msgspec.Struct):
    type: str = ""


class _Message(msgspec.Struct):
    content: Raw = Raw()
    audio: Raw = Raw()


class _Tool(msgspec.Struct):
    type: str = "function"
    max_uses: int | None = None


class Request(msgspec.Struct):
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
    response_format: Raw = Raw()
    prediction: Raw = Raw()
    web_search_options: Raw = Raw()


_request = msgspec.json.Decoder(Request)
_raws = msgspec.json.Decoder(list[Raw])
_part = msgspec.json.Decoder(_Part)


def read(body: bytes) -> Request:
    """Read what bears on the cost, and refuse what has no bound. Raises: InputError."""
    try:
        request = _request.decode(body)
    except msgspec.DecodeError as error:
        raise InputError(f"the body is not a chat completion request: {error}") from None
    if request.stream:
        raise InputError("stream: a job's answer comes whole; remove it")
    if request.modalities and "audio" in request.modalities:
        raise InputError("modalities: audio output has no bounded price")
    return request


def set_tier(fields: bodies.Fields, named: str | None, job: Job, endpoint: Endpoint) -> None:
    """Write the job's service tier into a body, where the endpoint knows tiers.

    Raises: InputError for a tier without a bounded price, and for flex where there is none.
    """
    if named not in {None, "auto", "default", "flex"}:
        raise InputError(f"service_tier: {named!r} has no bounded price; use --tier standard or flex")
    if job.tier == "flex" and not endpoint.has_flex:
        raise InputError(
            f"{endpoint.provider_id} has no tier flex: use --tier standard, or cheapest; a server of your own that "
            "knows it says so with flex = true in its [providers] section"
        )
    fields.pop("service_tier", None)
    if endpoint.is_vendor or endpoint.has_flex:
        fields["service_tier"] = bodies.raw("flex" if job.tier == "flex" else "default")


def input_bound(request: Request, fields: bodies.Fields, final: bytes, facts: Facts, *, is_vendor: bool) -> int:
    """Bound the input tokens. Raises: InputError when nothing does."""
    if _server_tools(request):
        return bodies.context_bound(facts, "a server's own tool") * bodies.SERVER_ROUNDS
    if bodies.is_given(request.prediction) or bodies.is_given(request.web_search_options):
        return bodies.context_bound(facts, "prediction or web_search_options")
    if not is_vendor and reaches_further(fields):
        return bodies.context_bound(facts, "a field that searches, parses files or names a cached prompt")
    images: list[int] = []
    if not all(_is_bounded(message, images) for message in request.messages):
        return bodies.context_bound(facts, "content other than text and images")
    bound = len(final) if is_vendor else bodies.byte_bound(final) + bodies.CHAT_TEMPLATE
    explained = bodies.is_given(request.functions) or bodies.is_given(request.response_format)
    bound += bodies.TOOL_PROMPT if request.tools or explained else 0
    return bodies.with_images(bound, images, facts)


def output_bound(request: Request, cap: int) -> int:
    """Bound the output tokens of all choices; rejected predictions are billed as output, beside the cap."""
    rounds = bodies.SERVER_ROUNDS if _server_tools(request) else 1
    return (cap * rounds + len(bytes(request.prediction))) * (request.n or 1)


def fees(request: Request, fields: bodies.Fields, model_id: str, *, is_vendor: bool) -> tuple[Fee, ...]:
    """Name what the request can be charged for beyond its tokens. A search model searches once for each answer."""
    found = [Fee(tool.type, tool.max_uses) for tool in _server_tools(request)]
    if bodies.is_given(request.web_search_options) or searches_always(model_id):
        found.append(Fee("web_search", request.n or 1))
    return (*found, *([] if is_vendor else paid_elsewhere(fields)))


def searches_always(model_id: str) -> bool:
    """Tell whether a model searches for every answer, by its name."""
    return any(word in model_id for word in _SEARCHES)


def paid_elsewhere(fields: bodies.Fields) -> list[Fee]:
    """Name the fields by which servers other than the vendor's charge for more than tokens."""
    return [Fee(name, None) for name in _PAID_FIELDS if name in fields and bodies.is_given(fields[name])]


def reaches_further(fields: bodies.Fields) -> bool:
    """Tell whether a field makes such a server read more than the body."""
    return not _FURTHER.isdisjoint(fields) and any(bodies.is_given(fields[name]) for name in _FURTHER & fields.keys())


def asks_long_cache(body: bytes) -> bool:
    """Tell whether a body asks for cache writes that are kept for 12 hours."""
    return b'"12h"' in body


def has_audio(body: bytes) -> bool:
    """Tell whether a body brings audio."""
    return b'"input_audio"' in body


def _server_tools(request: Request) -> list[_Tool]:
    return [tool for tool in request.tools or () if tool.type not in {"function", "custom"}]


def _is_bounded(message: _Message, images: list[int]) -> bool:
    """Tell whether a message is text and images alone; add the bytes of each image's part to `images`."""
    content = bytes(message.content)
    if bodies.is_given(message.audio) or not content.startswith((b"[", b"{")):
        return not bodies.is_given(message.audio)
    try:
        parts = [(len(bytes(raw)), _part.decode(raw).type) for raw in _raws.decode(content)]
    except msgspec.DecodeError as error:
        raise InputError(f"messages: content is neither text nor a list of parts: {error}") from None
    images += [size for size, kind in parts if kind == "image_url"]
    return all(kind in {"text", "refusal", "image_url"} for _, kind in parts)
