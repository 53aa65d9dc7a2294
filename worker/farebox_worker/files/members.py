"""What one input line may look like: from its bytes to its members, and on to the body that is sent.

Values stay undecoded (`msgspec.Raw`), but for those that must be judged. Every refusal is an InputError whose
message says what to change; it names no line, since it knows none.
"""

from __future__ import annotations

import re

import msgspec

from farebox.apis import SUPPORTED, api_of
from farebox.errors import InputError
from farebox.keys import check_tag
from farebox.records import Api

MAX_LINE_BYTES = 8_000_000  # without the newline
MAX_CUSTOM_ID = 512  # characters

_BATCH_MEMBERS = frozenset(("custom_id", "method", "url", "body", "farebox"))
_PARAMS_MEMBERS = frozenset(("custom_id", "params", "farebox"))
_POSITIVE_MEMBERS = ("max_tokens", "max_completion_tokens", "max_output_tokens", "n")
_STORED = ("prompt", "conversation", "previous_response_id")  # by which a response may do without input
_LIST_OF_OBJECTS = re.compile(rb"\[\s*\{")
_TEXT_OR_LIST = re.compile(rb'"[^"]|\[\s*[^\]\s]')
_POSITIVE = re.compile(rb"[1-9][0-9]*")
_HALF_CHARACTER = re.compile(rb"\\u[dD][89a-fA-F]")

_INPUT_NEEDS_URL = 'a line with "input" needs a "body" and the "url" /v1/responses or /v1/embeddings'

Members = dict[str, msgspec.Raw]


class _OwnMembers(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The reserved member `farebox` of a line."""

    tags: tuple[str, ...] = ()
    fallbacks: tuple[str, ...] | None = None


class _Named(msgspec.Struct, frozen=True):
    model: str = ""


class _Glance(msgspec.Struct, frozen=True):
    custom_id: str = ""
    model: str = ""
    body: _Named = _Named()
    params: _Named = _Named()


_decode_glance = msgspec.json.Decoder(_Glance).decode
_decode_members = msgspec.json.Decoder(Members).decode
_decode_text = msgspec.json.Decoder(str).decode
_decode_own = msgspec.json.Decoder(_OwnMembers).decode


def split(raw: bytes | None) -> Members:
    """Split a line into its members, values undecoded; of two members of one name the last counts, as everywhere."""
    if raw is None:
        raise InputError(f"larger than {MAX_LINE_BYTES // 1_000_000} MB: shorten it, or send large media by reference")
    try:
        if not raw.isascii():
            raw.decode()  # msgspec looks at keys and structure only
        return _decode_members(raw)
    except UnicodeDecodeError as error:
        raise InputError(f"not UTF-8 (byte {error.start + 1}): save the file as UTF-8") from None
    except msgspec.ValidationError:
        raise InputError('not a JSON object: a line is one object, such as {"prompt": "…"}') from None
    except msgspec.DecodeError as error:
        raise InputError(_not_json(raw, str(error))) from None
    except RecursionError:
        raise InputError("nested too deeply: flatten it") from None


def _not_json(raw: bytes, reason: str) -> str:
    if _HALF_CHARACTER.search(raw) and any(sign in reason for sign in ("surrogate", "hex escape", "truncated")):
        return "not JSON: half a character (a \\ud… escape without its other half): repair the text"
    if "truncated" in reason:
        return "not JSON: the line ends too early"
    return f"not JSON: {reason.removeprefix('JSON is malformed: ')}"


def glance(raw: bytes) -> tuple[str, str] | None:
    """Read the custom id and the model of a good line, "" where it has none, at a tenth of what judging it takes.

    None where that cannot be; whatever else the line holds is not looked at.
    """
    try:
        seen = _decode_glance(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return seen.custom_id, seen.model or seen.body.model or seen.params.model


def is_batch(members: Members) -> bool:
    """Tell a batch line, OpenAI's or Anthropic's, from the short form."""
    return "body" in members or "url" in members or "method" in members or "params" in members


def batch_body(members: Members) -> tuple[Api, Members]:
    """Take the API and the body out of a batch line: OpenAI's, or Anthropic's `{"custom_id", "params"}`."""
    if "params" in members:
        return "messages", _inner(members, "params", _PARAMS_MEMBERS)
    body = _inner(members, "body", _BATCH_MEMBERS)
    if "method" in members and (method := text("method", members["method"])).upper() != "POST":
        raise InputError(f"unknown method {method!r}: it must be POST")
    if "url" not in members:
        raise InputError(f"no url: add it; supported are {SUPPORTED}")
    return api_of(text("url", members["url"])), body


def _inner(members: Members, holder: str, known: frozenset[str]) -> Members:
    """Take the request out of the member that holds it, beside which nothing unknown may stand."""
    if stray := members.keys() - known:
        raise InputError(f"{min(stray)!r} stands beside the {holder}: move it into the {holder}, or remove it")
    try:
        body = _decode_members(members[holder])
    except (KeyError, msgspec.ValidationError):
        raise InputError(f'no {holder}: "{holder}" must hold the request as an object') from None
    if "farebox" in body:
        raise InputError(f'"farebox" stands inside the {holder}: move it out, beside custom_id')
    return body


def short_body(members: Members) -> Members:
    """Make the body of a short line: all but the custom id, and a prompt becomes one user message."""
    members.pop("custom_id", None)
    if "prompt" not in members:
        return members
    if "messages" in members:
        raise InputError("both prompt and messages: keep one of them")
    if not text("prompt", members["prompt"]).strip():
        raise InputError("the prompt is empty")
    return dict(_as_messages(name, value) for name, value in members.items())


def _as_messages(name: str, value: msgspec.Raw) -> tuple[str, msgspec.Raw]:
    """Turn a prompt into one user message, in its place; every other member stays."""
    if name != "prompt":
        return name, value
    return "messages", msgspec.Raw(b'[{"role":"user","content":' + bytes(value) + b"}]")


def judge_body(api: Api, body: Members) -> None:
    """Refuse what no provider can answer and what would undo the bound on its cost; null counts as not said."""
    if api in {"responses", "embeddings"}:
        _judge_input(api, body)
    elif "messages" not in body:
        to_name = f"; {_INPUT_NEEDS_URL}" if "input" in body else ""
        raise InputError(f'no messages: add "messages" (a list) or "prompt" (a text){to_name}')
    elif not _LIST_OF_OBJECTS.match(body["messages"]):
        raise InputError("messages must be a list of at least one message object")
    if "stream" in body and bytes(body["stream"]) not in (b"false", b"null"):
        raise InputError("stream is not false: answers are written whole, so remove it")
    for name in _POSITIVE_MEMBERS:
        if name in body and not _POSITIVE.fullmatch(value := bytes(body[name])) and value != b"null":
            raise InputError(f"{name} must be a whole number of at least 1, not {value[:40].decode(errors='replace')}")


def _judge_input(api: Api, body: Members) -> None:
    if "input" not in body:
        if api == "responses" and any(name in body for name in _STORED):
            return
        raise InputError('no input: add "input" (a text or a list)')
    if not _TEXT_OR_LIST.match(body["input"]):
        raise InputError("input must be a text, or a list of at least one item")


def custom_id(members: Members) -> str:
    """Read the custom id; "" when the line has none."""
    if "custom_id" not in members:
        return ""
    return fit_id(text("custom_id", members["custom_id"]))


def fit_id(custom_id: str) -> str:
    """Return a custom id of fit length. Raises: InputError."""
    if not 0 < len(custom_id) <= MAX_CUSTOM_ID:
        raise InputError(f"custom_id has {len(custom_id):,} characters: 1 to {MAX_CUSTOM_ID} are allowed")
    return custom_id


def text(name: str, value: msgspec.Raw | None) -> str:
    """Decode a value that must be a text."""
    if value is None:
        raise InputError(f"no {name}: add it")
    try:
        return _decode_text(value)
    except msgspec.ValidationError:
        raise InputError(f"{name} must be a text in quotes") from None


def own_tags(own: msgspec.Raw) -> tuple[str, ...]:
    """Read the tags in the reserved member `farebox`."""
    return tuple(map(check_tag, _own(own).tags))


def own_fallbacks(own: msgspec.Raw) -> tuple[str, ...] | None:
    """Read the fallbacks in the reserved member `farebox`; None when it names none."""
    return _own(own).fallbacks


def _own(own: msgspec.Raw) -> _OwnMembers:
    try:
        return _decode_own(own)
    except msgspec.ValidationError as error:
        raise InputError(f'"farebox" takes {{"tags": ["…"], "fallbacks": ["…"]}} only: {error}') from None
