"""Types as contracts of an answer: the JSON schema that asks for one, and reading an answer as one.

A type is a msgspec Struct, a dataclass, a TypedDict, or a pydantic model; pydantic is not imported here.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import TypeVar

import msgspec

from farebox.errors import InputError
from farebox.records import Api

T = TypeVar("T")
Json = dict[str, object]
_FENCE = re.compile(r"\A\s*```[\w-]*\s*\n(.*?)\n?\s*```\s*\Z", re.DOTALL)
_NAME = re.compile(r"[^A-Za-z0-9_-]")


def asked_as(schema: type[object], api: Api) -> Json:
    """Return the member of a request's body that asks for JSON of this type, in the words of an API.

    The schema is written as both vendors' strict modes want it: no other members, every member required.
    Raises: InputError when the type has no JSON schema, or its JSON is no object.
    """
    return asked_in(_schema_of(schema), getattr(schema, "__name__", "answer"), api)


def asked_in(schema: Json, name: str, api: Api) -> Json:
    """Return the member of a request's body that asks for JSON of a JSON schema, as `asked_as` does for a type."""
    asked = copy.deepcopy(schema)
    is_strict = not _is_open(asked)
    _close(asked)
    if api == "messages":
        return {"output_config": {"format": {"type": "json_schema", "schema": asked}}}
    if api == "embeddings":
        raise InputError("embeddings are vectors: they take no schema of the answer")
    name = _NAME.sub("_", name)[:64]
    if api == "responses":
        return {"text": {"format": {"type": "json_schema", "name": name, "schema": asked, "strict": is_strict}}}
    return {
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": name, "schema": asked, "strict": is_strict},
        }
    }


def read_as(schema: type[T], text: str) -> T:
    """Read JSON text as a type. Raises: ValueError saying where it differs."""
    inner = unfenced(text)
    validate: Callable[[str], T] | None = getattr(schema, "model_validate_json", None)  # pydantic's
    if validate is not None:
        return validate(inner)
    return msgspec.json.decode(inner, type=schema)


def unfenced(text: str) -> str:
    """Take the fence of Markdown off, in which some models wrap their JSON."""
    fenced = _FENCE.match(text)
    return fenced[1] if fenced else text


def _schema_of(schema: type[object]) -> Json:
    describe: Callable[[], Json] | None = getattr(schema, "model_json_schema", None)  # pydantic's
    try:
        found = copy.deepcopy(describe() if describe else msgspec.json.schema(schema))
    except (TypeError, NotImplementedError) as error:
        raise InputError(f"response_schema {schema!r} has no JSON schema: {error}") from None
    parts = found.get("$defs")
    reference = str(found.pop("$ref", ""))
    if reference and isinstance(parts, dict):  # a root must be the object itself
        found |= copy.deepcopy(parts[reference.rpartition("/")[2]])
        if not any(_refers(part, reference) for part in parts.values()):
            del parts[reference.rpartition("/")[2]]
        if not parts:
            del found["$defs"]
    if found.get("type") != "object":
        raise InputError(f"response_schema {schema!r} is no object in JSON: use a Struct, a dataclass, a TypedDict …")
    return found


def _refers(node: object, reference: str) -> bool:
    if isinstance(node, dict):
        return node.get("$ref") == reference or any(_refers(value, reference) for value in node.values())
    return isinstance(node, list) and any(_refers(value, reference) for value in node)


def _is_open(node: object) -> bool:
    """Tell whether an object may have members of any name, such as a dictionary: strict modes cannot say that."""
    if isinstance(node, list):
        return any(_is_open(value) for value in node)
    if not isinstance(node, dict):
        return False
    return (node.get("type") == "object" and "properties" not in node) or any(
        _is_open(value) for value in node.values()
    )


def _close(node: object) -> None:
    """Allow no other members than the named ones, and require them all."""
    if isinstance(node, list):
        for value in node:
            _close(value)
    elif isinstance(node, dict):
        members = node.get("properties")
        if isinstance(members, dict):
            node["required"] = list(members)
            node["additionalProperties"] = False
            for member in members.values():
                if isinstance(member, dict):
                    member.pop("default", None)
        for value in node.values():
            _close(value)
