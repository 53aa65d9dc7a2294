"""What the flags add to lines: a template for rows, a system message, a schema of the answer.

A line that has its own system message or its own format of the answer keeps it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import msgspec

from farebox.errors import InputError
from farebox.records import Api
from farebox.schema import Json, asked_in
from farebox_worker.files.fit import Fit
from farebox_worker.files.members import Members
from farebox_worker.files.template import Template, field_text

_SYSTEM_ROLES = frozenset(("system", "developer"))
_SYSTEM_MEMBERS: dict[str, str] = {"messages": "system", "responses": "instructions"}

_encode = msgspec.json.Encoder().encode


class _Message(msgspec.Struct):
    role: str = ""


_decode_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_roles = msgspec.json.Decoder(list[_Message]).decode


class Wording:
    """How lines are put into words.

    Args:
        template: makes the prompt of a row; a table's rows without it need a column `prompt`.
        id_column: the field that names a row; "" takes `custom_id` where there is one.
        system: the system message of lines without one, "" for none.
        schema: the JSON schema that answers must have, and its name.
    """

    def __init__(
        self,
        *,
        template: Template | None = None,
        id_column: str = "",
        system: str = "",
        schema: Json | None = None,
        schema_name: str = "answer",
    ) -> None:
        self.template = template
        self.id_column = id_column
        self._system = msgspec.Raw(_encode(system)) if system else None
        self.schema = schema
        self._schema_name = schema_name
        self._formats = cache(lambda api: _raw_members(asked_in(schema or {}, schema_name, api)))

    @property
    def said(self) -> tuple[str, ...]:
        """All that is said, as texts that stand for it."""
        template = self.template.text if self.template else ""
        schema = msgspec.json.encode((self.schema, self._schema_name), order="sorted").decode()
        return template, self.id_column, str(bytes(self._system or b"")), schema

    def is_row(self, members: Members) -> bool:
        """Tell a row of data, whose fields fill the template, from a line that says what to ask."""
        return self.template is not None and not members.keys() & {"messages", "prompt", "body", "url", "params"}

    def row_id(self, fields: Mapping[str, msgspec.Raw]) -> str:
        """The id that a row bears; "" when it bears none. Raises: InputError when it should."""
        if not self.id_column and "custom_id" not in fields:
            return ""
        return field_text(fields, self.id_column or "custom_id")

    def row_body(self, fields: Mapping[str, msgspec.Raw], template: Template) -> Members:
        """Make the body of a row's job: one user message. Raises: InputError when there is nothing to ask."""
        prompt = template.fill(fields)
        if not prompt.strip():
            raise InputError("the prompt is empty")
        return {"messages": msgspec.Raw(_encode([{"role": "user", "content": prompt}]))}

    def complete(self, api: Api, body: Members) -> None:
        """Add the system message and the schema to a body that lacks them. Raises: InputError where it cannot be."""
        if api == "embeddings" and (self._system or self.schema):
            raise InputError("embeddings take neither --system nor --schema: ask for them in a file of their own")
        if self._system is not None:
            self._add_system(api, body, self._system)
        if self.schema is not None:
            for name, value in self._formats(api).items():
                body[name] = _with_format(body[name], value) if name in body else value

    def _add_system(self, api: Api, body: Members, system: msgspec.Raw) -> None:
        if member := _SYSTEM_MEMBERS.get(api):
            body.setdefault(member, system)
            return
        messages = bytes(body.get("messages", b""))
        if messages.startswith(b"[") and not _has_system(messages):
            first = b'[{"role":"system","content":' + bytes(system) + b"},"
            body["messages"] = msgspec.Raw(first + messages[1:])


def _with_format(own: msgspec.Raw, asked: msgspec.Raw) -> msgspec.Raw:
    """Add the format to a member that says other things of the answer, such as how wordy; its own format stays."""
    added = _decode_members(asked)
    if "format" not in added:  # `response_format` is one
        return own
    try:
        return msgspec.Raw(_encode({**added, **_decode_members(own)}))
    except (msgspec.DecodeError, RecursionError):  # judged elsewhere
        return own


def _has_system(messages: bytes) -> bool:
    try:
        return any(message.role in _SYSTEM_ROLES for message in _decode_roles(messages))
    except (msgspec.DecodeError, RecursionError):  # judged elsewhere
        return True


def _raw_members(asked: Json) -> Members:
    return {name: msgspec.Raw(_encode(value)) for name, value in asked.items()}


def text_or_file(text: str, flag: str) -> str:
    """A flag's text, or with `@FILE` what the file holds, without its last newline. Raises: InputError."""
    if not text.startswith("@"):
        return text
    try:
        return Path(text[1:]).read_text("utf-8-sig").removesuffix("\n")
    except OSError as error:
        raise InputError(f"{flag} {text}: cannot read it: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"{flag} {text}: it is not UTF-8") from None


def read_schema(path: Path) -> Json:
    """Read a JSON schema of an object. Raises: InputError."""
    try:
        schema = msgspec.json.decode(path.read_bytes())
    except OSError as error:
        raise InputError(f"--schema {path}: cannot read it: {error.strerror}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InputError(f"--schema {path}: not JSON: {error}") from None
    if not isinstance(schema, dict) or schema.get("type") != "object":
        raise InputError(f'--schema {path}: it must be a JSON schema with "type": "object" at its top')
    try:
        Fit(schema)
    except InputError as error:
        raise InputError(f"--schema {path}: {error}") from None
    return schema
