"""What one input line may look like: from its bytes to its members, and on to the body that is sent.

Values stay undecoded (`msgspec.Raw`), but for those that must be judged. Every refusal is an InputError whose
message says what to change; it names no line, since it knows none.
"""

from __future__ import annotations

import re

import msgspec

from farebox.errors import InputError
from farebox.records import Api

MAX_LINE_BYTES = 8_000_000  # without the newline
MAX_CUSTOM_ID = 512  # characters

_APIS: dict[str, Api] = {"/v1/chat/completions": "chat", "/v1/messages": "messages"}
_BATCH_MEMBERS = frozenset(("custom_id", "method", "url", "body", "farebox"))
_POSITIVE_MEMBERS = ("max_tokens", "max_completion_tokens", "n")
_LIST_OF_OBJECTS = re.compile(rb"\[\s*\{")
_POSITIVE = re.compile(rb"[1-9][0-9]*")
_HALF_CHARACTER = re.compile(rb"\\u[dD][89a-fA-F]")

Members = dict[str, msgspec.Raw]


class _OwnMembers(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The reserved member `farebox` of a line."""

    tags: tuple[str, ...] = ()


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


def is_batch(members: Members) -> bool:
    """Tell OpenAI's batch line from the short form."""
    return "body" in members or "url" in members or "method" in members


def batch_body(members: Members) -> tuple[Api, Members]:
    """Take the API and the body out of a batch line."""
    if stray := members.keys() - _BATCH_MEMBERS:
        raise InputError(f"{min(stray)!r} stands beside the body: move it into the body, or remove it")
    if "method" in members and (method := text("method", members["method"])).upper() != "POST":
        raise InputError(f"unknown method {method!r}: it must be POST")
    url = text("url", members.get("url"))
    if url not in _APIS:
        raise InputError(f"unknown url {url!r}: it must be {' or '.join(_APIS)}")
    try:
        body = _decode_members(members["body"])
    except (KeyError, msgspec.ValidationError):
        raise InputError('no body: "body" must hold the request as an object') from None
    if "farebox" in body:
        raise InputError('"farebox" stands inside the body: move it out, beside custom_id')
    return _APIS[url], body


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


def judge_body(body: Members) -> None:
    """Refuse what no provider can answer and what would undo the bound on its cost; null counts as not said."""
    if "messages" not in body:
        raise InputError('no messages: add "messages" (a list) or "prompt" (a text)')
    if not _LIST_OF_OBJECTS.match(body["messages"]):
        raise InputError("messages must be a list of at least one message object")
    if "stream" in body and bytes(body["stream"]) not in (b"false", b"null"):
        raise InputError("stream is not false: answers are written whole, so remove it")
    for name in _POSITIVE_MEMBERS:
        if name in body and not _POSITIVE.fullmatch(value := bytes(body[name])) and value != b"null":
            raise InputError(f"{name} must be a whole number of at least 1, not {value[:40].decode(errors='replace')}")


def custom_id(members: Members) -> str:
    """Read the custom id; "" when the line has none."""
    if "custom_id" not in members:
        return ""
    custom_id = text("custom_id", members["custom_id"])
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
    try:
        tags = _decode_own(own).tags
    except msgspec.ValidationError as error:
        raise InputError(f'"farebox" takes {{"tags": ["…"]}} only: {error}') from None
    if "" in tags:
        raise InputError('"farebox" has an empty tag: remove it')
    return tags
