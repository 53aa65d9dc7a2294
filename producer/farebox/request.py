"""What a producer asks, and how it becomes a job: typed requests, and dicts as the lines of a file have them.

Reading sends nothing. Every refusal is an InputError that says what to change.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

import msgspec

from farebox.apis import api_of
from farebox.errors import InputError
from farebox.fallback import check_fallbacks
from farebox.keys import check_tag, lane_of
from farebox.records import VERSION, Api, Job, Tier
from farebox.schema import asked_as

Message = Mapping[str, object]
When = datetime | timedelta
MAX_BODY_BYTES = 8_000_000
MAX_JOB_ID = 512  # characters
_STORED = {"prompt", "conversation", "previous_response_id"}  # by which a response may do without input
_CAPS = ("max_tokens", "max_completion_tokens", "max_output_tokens", "n")


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One completion to ask for.

    Attributes:
        model: `provider:model`, such as `openai:gpt-5-mini`.
        messages: the conversation, in the words of `api`; or
        prompt: the text of a single user message. What `responses` and `embeddings` call `input` stands in the body.
        max_tokens: the output cap in tokens; None for the model's default. It bounds what the job can cost.
        job_id: 1 to 512 characters: the same id in the same batch is the same job. None makes a new one up.
        tags: the cost is counted under each, and bound by its limit.
        deadline: after it the job is not sent any more and fails as `deadline`, when its turn comes; while it is
            parked or paused its turn does not come. A moment with its time zone, or a time from now.
        response_schema: the type that the answer is to fit; see `Answer.parse`.
        tier: `standard`, or `flex`, which costs half and may take long, where the vendor has it.
        api: whose words `messages` and `body` are: `chat` (chat completions) or `messages` (Anthropic), of which
            either is translated for the other's models; `responses` or `embeddings` (OpenAI), which are not.
        drop_params: parameters that may be dropped when the provider's API cannot say them.
        fallbacks: further models, in order, with `@flex` for that tier: the next one is asked when one has failed for
            good, or cannot go on for long. `Answer.model_ref` says which one answered.
        spread: the model and its fallbacks are equals: whichever has room answers.
        body: whatever else the request holds, such as `temperature` or `tools`; it passes through untouched.
    """

    model: str
    messages: Sequence[Message] | None = None
    prompt: str | None = None
    max_tokens: int | None = None
    job_id: str | None = None
    tags: Sequence[str] = ()
    deadline: When | None = None
    response_schema: type[object] | None = None
    tier: Tier = "standard"
    api: Api = "chat"
    drop_params: Sequence[str] = ()
    fallbacks: Sequence[str] = ()
    spread: bool = False
    body: Mapping[str, object] = {}


Item = Request | Mapping[str, object]


def job_of(request: Request, job_id: str) -> Job:
    """Turn a request into a job of this id. Raises: InputError."""
    if not 0 < len(job_id) <= MAX_JOB_ID:
        raise InputError(f"a job id of {len(job_id):,} characters: 1 to {MAX_JOB_ID} are allowed")
    provider, _, model = request.model.partition(":")
    if not provider or not model:
        raise InputError(f"model {request.model!r}: name it as provider:model, such as openai:gpt-5-mini")
    for name, texts in (("tags", request.tags), ("fallbacks", request.fallbacks)):
        if isinstance(texts, str):
            raise InputError(f"{name}={texts!r} is a text: give a list of texts")
    if request.spread and not request.fallbacks:
        raise InputError(f"spread over {request.model} alone: name its equals as fallbacks")
    if request.max_tokens is not None and (type(request.max_tokens) is not int or request.max_tokens < 1):
        raise InputError(f"max_tokens must be a whole number of at least 1, not {request.max_tokens!r}")
    return Job(
        VERSION,
        job_id,
        request.model,
        request.api,
        _encoded(_body(request)),
        request.max_tokens,
        request.tier,
        tuple(check_tag(tag) for tag in request.tags),
        tuple(request.drop_params),
        ms_of("deadline", request.deadline),
        check_fallbacks(lane_of(request.model, request.tier), tuple(request.fallbacks)),
        request.spread,
    )


def request_of(item: Item, defaults: Request, number: int) -> tuple[Request, str]:
    """Read one item of a batch; return it with its job id, `line-N` when it has none. Raises: InputError.

    A dict is OpenAI's batch line (`custom_id`, `method`, `url`, `body`), Anthropic's (`custom_id`, `params`), or the
    short form (`messages` or `prompt`, and whatever else belongs into the body). `defaults` gives what an item does not
    say itself.
    """
    if isinstance(item, Request):
        return item, item.job_id or f"line-{number}"
    if not isinstance(item, Mapping):
        raise InputError(f"an item is a dict or a farebox.Request, not {type(item).__name__}")
    members = dict(item)
    custom_id = members.pop("custom_id", None) or f"line-{number}"
    own = members.pop("farebox", None)
    api = defaults.api
    prompt = None
    if members.keys() & {"body", "url", "method", "params"}:
        api, members = _line(members)
    else:
        prompt = members.pop("prompt", None)
    model = members.pop("model", None) or defaults.model
    if not isinstance(custom_id, str) or not isinstance(model, str) or not isinstance(prompt, str | None):
        raise InputError("custom_id, model and prompt are texts")
    said = _own(own)
    request = msgspec.structs.replace(
        defaults, model=model, prompt=prompt, api=api, tags=[*defaults.tags, *said.get("tags", [])], body=members
    )
    if "fallbacks" in said:
        request = msgspec.structs.replace(request, fallbacks=said["fallbacks"], spread=False)
    return request, custom_id


def ms_of(name: str, when: When | None) -> int:
    """Turn a moment, or a time from now, into ms since 1970, UTC; 0 for none. Raises: InputError."""
    if when is None:
        return 0
    if isinstance(when, timedelta):
        return max(1, int((time.time() + when.total_seconds()) * 1000))
    if not isinstance(when, datetime):
        raise InputError(f"{name}={when!r}: give a timedelta from now, or a datetime with a time zone")
    if when.tzinfo is None:
        raise InputError(f"{name}={when!r} names no time zone: use datetime.now(UTC) + timedelta(…), or a timedelta")
    return max(1, int(when.timestamp() * 1000))


def _line(members: dict[str, object]) -> tuple[Api, dict[str, object]]:
    """Take the API and the body out of a batch line, OpenAI's or Anthropic's."""
    holder = "params" if "params" in members else "body"
    body = members.get(holder)
    api: Api = "messages" if holder == "params" else api_of(str(members.get("url")))
    if not isinstance(body, Mapping):
        raise InputError(f'no {holder}: "{holder}" must hold the request as a dict')
    if stray := members.keys() - ({"params"} if holder == "params" else {"url", "body", "method"}):
        raise InputError(f"{min(stray)!r} stands beside the {holder}: move it into the {holder}, or remove it")
    return api, dict(body)


def _own(own: object) -> dict[str, list[str]]:
    try:
        return msgspec.convert(own or {}, dict[str, list[str]])
    except msgspec.ValidationError as error:
        raise InputError(f'"farebox" takes {{"tags": ["…"], "fallbacks": ["…"]}} only: {error}') from None


def _body(request: Request) -> dict[str, object]:
    body = dict(request.body)
    said = _said(request, body)
    if "model" in body:
        raise InputError("model stands in the body: name it as provider:model, outside")
    if body.get("stream"):
        raise InputError("stream: a job's answer comes whole; remove it")
    for name in _CAPS:
        value = body.get(name)
        if value is not None and (not isinstance(value, int) or value < 1):
            raise InputError(f"{name} must be a whole number of at least 1, not {value!r}")
    asked = asked_as(request.response_schema, request.api) if request.response_schema else {}
    text, format_ = body.get("text"), asked.get("text")
    if isinstance(text, Mapping) and isinstance(format_, Mapping):
        asked = {"text": {**text, **format_}}  # it may say how wordy the answer is to be
    return {**said, **body, **asked}


def _said(request: Request, body: dict[str, object]) -> dict[str, object]:
    """Find what is asked, and name it as the API does; take it out of the body. Raises: InputError."""
    name = "input" if request.api in {"responses", "embeddings"} else "messages"
    if name == "messages" and "input" in body:
        raise InputError('input goes with api="responses" or api="embeddings", in a dict with their url')
    if request.api == "embeddings" and request.messages is not None:
        raise InputError("embeddings take no messages: give input=… or prompt=…")
    own = body.pop(name, None)
    given = [one for one in (request.messages, request.prompt, own) if one is not None]
    if not given and request.api == "responses" and body.keys() & _STORED:
        return {}
    if len(given) != 1:
        raise InputError(f"give {name}=[…] or prompt=…, one of them")
    asked = given[0]
    if request.prompt is not None:
        if not request.prompt.strip():
            raise InputError("the prompt is empty")
        asked = request.prompt if name == "input" else [{"role": "user", "content": request.prompt}]
    elif not asked or not isinstance(asked, Sequence) or (name == "messages" and isinstance(asked, str)):
        what = "messages must be a list of at least one message"
        raise InputError(what if name == "messages" else "input must be a text, or a list of at least one item")
    return {name: asked}


def _encoded(body: dict[str, object]) -> bytes:
    try:
        encoded = msgspec.json.encode(body, enc_hook=_plain)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"the request cannot be written as JSON: {error}") from None
    if len(encoded) > MAX_BODY_BYTES:
        raise InputError(
            f"the request has {len(encoded):,} bytes, {MAX_BODY_BYTES:,} are allowed: send large media by reference"
        )
    return encoded


def _plain(value: object) -> object:
    """Let an SDK's own message objects stand in `messages`: they are pydantic models."""
    dump = getattr(value, "model_dump", None)
    if dump is None:
        raise TypeError(f"{type(value).__name__} is no JSON value")
    plain: object = dump(mode="json", exclude_none=True)
    return plain
