"""OpenAI's responses: the request with its bounds, the answer with its finish.

Bytes bound the tokens of text; what they do not bound is bounded by a maximum per image, else by the context window,
once for every round that the server's own tools may take. What has no bound at all is refused by name.
Source of items and tools: the types of openai 3.51 (`types/responses`).
"""

from __future__ import annotations

import re
from typing import Annotated, TypeVar

import msgspec
from msgspec import Raw

from farebox.errors import InputError
from farebox.records import Finish, Job
from farebox_worker.providers import body as bodies
from farebox_worker.providers import openai_request as requests
from farebox_worker.providers import openai_usage
from farebox_worker.providers.base import Facts, Fee, Prepared, Said
from farebox_worker.providers.openai_request import Endpoint

_T = TypeVar("_T")
LEAST_CAP = 16  # the vendor answers 400 to a smaller max_output_tokens
_OWN_TOOLS = {"function", "custom", "namespace"}  # defined and run by whoever asks
_MADE_TOOLS = {"computer", "computer_use_preview", "local_shell", "apply_patch"}  # made by OpenAI, run by whoever asks
_CONTAINER_TOOLS = {"code_interpreter", "shell"}  # run in one container per request, for less than its 20 minutes
_DATE = re.compile(r"_\d{4}_\d{2}_\d{2}$")
_BRING_TOOLS = {"additional_tools", "tool_search_output"}  # items that give the model tools beside the request's
_TAKE_ROUNDS = {*_BRING_TOOLS, "compaction_trigger"}
_BY_REFERENCE = ("previous_response_id", "conversation", "prompt")
_CALLS = {
    "function_call",
    "custom_tool_call",
    "computer_call",
    "local_shell_call",
    "apply_patch_call",
    "mcp_approval_request",
}


class _Environment(msgspec.Struct):
    type: str = ""


class _Tool(msgspec.Struct):
    type: str = "function"
    environment: _Environment | None = None

    @property
    def kind(self) -> str:
        """The tool's type without the date of its version; a shell on this side is one that OpenAI only made."""
        kind = _DATE.sub("", self.type)
        return "local_shell" if kind == "shell" and self.environment and self.environment.type == "local" else kind


class _Reasoning(msgspec.Struct):
    mode: str | None = None


class _Request(msgspec.Struct):
    """What of a request bears on its cost."""

    input: Raw = Raw()
    max_output_tokens: int | None = None
    max_tool_calls: Annotated[int, msgspec.Meta(ge=0)] | None = None
    tools: list[_Tool] | None = None
    stream: bool | None = None
    background: bool | None = None
    service_tier: str | None = None
    reasoning: _Reasoning | None = None
    text: Raw = Raw()
    previous_response_id: Raw = Raw()
    conversation: Raw = Raw()
    prompt: Raw = Raw()
    context_management: Raw = Raw()

    @property
    def server_tools(self) -> list[str]:
        """The kinds of tools that the server runs, each in a round of its own."""
        kinds = dict.fromkeys(tool.kind for tool in self.tools or ())
        return [kind for kind in kinds if kind not in _OWN_TOOLS | _MADE_TOOLS]

    @property
    def takes_rounds(self) -> bool:
        """Whether the model may read the prompt more than once; a stored prompt's tools give way to the request's."""
        stored = bodies.is_given(self.prompt) and self.tools is None
        return bool(self.server_tools) or stored or bodies.is_given(self.context_management)


class _Item(msgspec.Struct):
    type: str | None = None
    content: Raw = Raw()
    output: Raw = Raw()

    @property
    def kind(self) -> str:
        """The item's type; a message may leave it out."""
        return self.type or "message"


class _Part(msgspec.Struct):
    type: str = ""
    detail: str | None = None


_request = msgspec.json.Decoder(_Request)
_raws = msgspec.json.Decoder(list[Raw])
_item = msgspec.json.Decoder(_Item)
_part = msgspec.json.Decoder(_Part)


# The request


def prepare(job: Job, facts: Facts, endpoint: Endpoint) -> Prepared:
    """Make the request for a job. Raises: InputError."""
    body = bodies.unescaped(job.body)
    request = _read_request(body)
    items = [_decoded(_item, raw) for raw in _listed(request.input)]
    rounds = _rounds(request, items)
    cap, by_default = bodies.output_cap([request.max_output_tokens], job.max_tokens, facts)
    if endpoint.is_vendor and cap < LEAST_CAP:
        raise InputError(f"the output cap is {cap}: OpenAI's responses take no max_output_tokens below {LEAST_CAP}")
    fields = bodies.fields_of(body)
    fields["model"] = bodies.raw(facts.model_id)
    fields["max_output_tokens"] = bodies.raw(cap)
    requests.set_tier(fields, request.service_tier, job, endpoint)
    final = bodies.written(fields)
    return Prepared(
        body=final,
        input_bound=_input_bound(request, items, fields, final, facts, is_vendor=endpoint.is_vendor) * rounds,
        output_bound=cap * rounds,
        capped_by_default=by_default,
        api=job.api,
        fees=_fees(request, items, fields, facts.model_id, is_vendor=endpoint.is_vendor),
    )


def _read_request(body: bytes) -> _Request:
    """Read what bears on the cost, and refuse what has no bound. Raises: InputError."""
    try:
        request = _request.decode(body)
    except msgspec.DecodeError as error:
        raise InputError(f"the body is not a request for a response: {error}") from None
    if request.stream:
        raise InputError("stream: a job's answer comes whole; remove it")
    if request.background:
        raise InputError("background: a job's answer comes with its call; remove it")
    if request.reasoning and request.reasoning.mode not in {None, "standard"}:
        raise InputError(f"reasoning.mode: {request.reasoning.mode!r} has no bounded price")
    if not any(bodies.is_given(value) for value in (request.input, *(getattr(request, n) for n in _BY_REFERENCE))):
        raise InputError("the body is not a request for a response: it has no input")
    return request


def _rounds(request: _Request, items: list[_Item]) -> int:
    """Count how often the model may read the prompt: at first, after each call, and after one call too many."""
    if not request.takes_rounds and not any(item.kind in _TAKE_ROUNDS for item in items):
        return 1
    return bodies.SERVER_ROUNDS if request.max_tool_calls is None else request.max_tool_calls + 2


def _input_bound(
    request: _Request, items: list[_Item], fields: bodies.Fields, final: bytes, facts: Facts, *, is_vendor: bool
) -> int:
    """Bound the input tokens of one round. Raises: InputError when nothing does."""
    if _rounds(request, items) > 1:
        return bodies.context_bound(facts, "a server's own tool, a stored prompt or context_management")
    if any(tool.kind in _MADE_TOOLS for tool in request.tools or ()):
        return bodies.context_bound(facts, "a tool of OpenAI's own making")
    if any(bodies.is_given(getattr(request, name)) for name in _BY_REFERENCE):
        return bodies.context_bound(facts, f"what {', '.join(_BY_REFERENCE)} name")
    if not is_vendor and requests.reaches_further(fields):
        return bodies.context_bound(facts, "a field that searches, parses files or names a cached prompt")
    images: list[int] = []
    if not all(_is_bounded(item, images) for item in items):
        return bodies.context_bound(facts, "input other than text, images, function calls and their output")
    bound = len(final) if is_vendor else bodies.byte_bound(final) + bodies.CHAT_TEMPLATE
    explained = any(bodies.is_given(fields.get(name, Raw())) for name in ("tools", "text", "reasoning"))
    return bodies.with_images(bound + (bodies.TOOL_PROMPT if explained else 0), images, facts)


def _fees(
    request: _Request, items: list[_Item], fields: bodies.Fields, model_id: str, *, is_vendor: bool
) -> tuple[Fee, ...]:
    """Name what the request can be charged for beyond its tokens. A tool that is not known may cost anything."""
    found = [Fee(kind, 1 if kind in _CONTAINER_TOOLS else request.max_tool_calls) for kind in request.server_tools]
    if bodies.is_given(request.prompt) and request.tools is None:
        found.append(Fee("prompt", None))
    found += [Fee(kind, None) for kind in sorted(_BRING_TOOLS & {item.kind for item in items})]
    if requests.searches_always(model_id) and all(fee.name != "web_search" for fee in found):
        found.append(Fee("web_search", 1))
    return (*found, *([] if is_vendor else requests.paid_elsewhere(fields)))


def _is_bounded(item: _Item, images: list[int]) -> bool:
    """Tell whether an item is text, images or a function call; add the bytes of each image to `images`.

    Reasoning is not: what is encrypted in it stands for more than its bytes.
    """
    match item.kind:
        case "message":
            return _says_parts(item.content, images)
        case "function_call" | "custom_tool_call":
            return True
        case "function_call_output" | "custom_tool_call_output":
            return _says_parts(item.output, images)
        case _:
            return False


def _says_parts(content: Raw, images: list[int]) -> bool:
    raws = _listed(content)
    parts = [_decoded(_part, raw) for raw in raws]
    images += [len(bytes(raw)) for raw, part in zip(raws, parts, strict=True) if part.type == "input_image"]
    return all(
        part.type in {"input_text", "output_text", "refusal"}
        or (part.type == "input_image" and part.detail != "original")  # which no maximum bounds
        for part in parts
    )


def _listed(content: Raw) -> list[Raw]:
    """Return the members of a list; a text has none. Raises: InputError."""
    if not bytes(content).startswith((b"[", b"{")):
        return []
    return _decoded(_raws, content)


def _decoded(decoder: msgspec.json.Decoder[_T], raw: Raw) -> _T:
    try:
        return decoder.decode(raw)
    except msgspec.DecodeError as error:
        raise InputError(f"input is neither text nor a list of items: {error}") from None


# The answer


class _Error(msgspec.Struct):
    code: str | None = None
    message: str | None = None


class _Incomplete(msgspec.Struct):
    reason: str | None = None


class _Output(msgspec.Struct):
    type: str = ""
    content: Raw = Raw()


class _Searches(msgspec.Struct):
    num_requests: int | None = None


class _ToolUsage(msgspec.Struct):
    web_search: _Searches | None = None


class _Response(msgspec.Struct):
    object: str = ""
    status: str | None = None
    error: _Error | None = None
    incomplete_details: _Incomplete | None = None
    output: list[_Output] | None = None
    usage: Raw = Raw()
    tool_usage: _ToolUsage | None = None
    service_tier: str | None = None


_response = msgspec.json.Decoder(_Response)


def read(original: bytes, prepared: Prepared) -> Said | None:
    """Read an answer; None when it is none, or not yet one. Raises: msgspec.DecodeError."""
    answer = _response.decode(original)
    if answer.object != "response" or answer.status not in {None, "completed", "incomplete", "failed"}:
        return None
    searches = answer.tool_usage.web_search if answer.tool_usage else None
    usage = openai_usage.read(answer.usage, prepared, searches.num_requests if searches else None)
    failure = None
    if answer.status == "failed":
        error = answer.error or _Error()
        failure = (error.code or "server_error", error.message or "the response failed")
    return Said(original, usage, _finish_of(answer), answer.service_tier or "", failure)


def _finish_of(answer: _Response) -> Finish:
    """Judge the answer: cut off, else refused, else calling, else answered; "" when nothing is in it."""
    if answer.status == "incomplete":
        reason = answer.incomplete_details.reason if answer.incomplete_details else None
        return "filtered" if reason == "content_filter" else "truncated"
    output = answer.output or []
    if any(item.type == "message" and _refuses(item.content) for item in output):
        return "refused"
    if any(item.type in _CALLS for item in output):
        return "tool_call"
    return "answered" if output else ""


def _refuses(content: Raw) -> bool:
    if not bytes(content).startswith(b"["):
        return False
    return any(_part.decode(raw).type == "refusal" for raw in _raws.decode(content))
