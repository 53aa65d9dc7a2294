"""Whether an answer has the form that `--schema` asked for. It judges; what follows is for others to say."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from farebox.errors import InputError
from farebox.records import Result
from farebox.said import said_text
from farebox.schema import Json, unfenced

_FLAW_CHARS = 300


class Fit:
    """Judges answers by a JSON schema, in the draft that its `$schema` names (2020-12 when it names none).

    A schema stands on its own: what it refers to elsewhere is not fetched.
    Raises: InputError when it is no JSON schema.
    """

    def __init__(self, schema: Json) -> None:
        import jsonschema_rs  # noqa: PLC0415 - 15 MB that only --schema needs

        self.schema = schema
        self._error = jsonschema_rs.ValidationError
        try:
            self._validator = jsonschema_rs.validator_for(schema, offline=True)
        except jsonschema_rs.ValidationError as error:
            raise InputError(f"it is no JSON schema: {_said(error.instance_path, error.message)}") from None

    def flaw(self, result: Result) -> str:
        """Say in one line why an answer does not match; "" when it does, and for what is no text to be judged.

        Jobs that failed have no answer, and a model that calls a tool has not answered yet.
        """
        if result.outcome != "succeeded" or result.finish == "tool_call":
            return ""
        try:
            self._validator.validate(msgspec.json.decode(unfenced(said_text(result.body))))
        except self._error as error:
            return _said(error.instance_path, error.message)
        except (msgspec.DecodeError, RecursionError) as error:
            how = "cut off at its output cap" if result.finish == "truncated" else str(error)
            return f"no JSON: {_cut(how)}"
        return ""


def _said(path: Sequence[str | int], message: str) -> str:
    where = "/".join(map(str, path))
    return _cut(f"{where}: {message}" if where else message)


def _cut(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= _FLAW_CHARS else f"{flat[:_FLAW_CHARS]}…"
