"""Filling a text with the fields of a row: `{name}` is replaced by the field's text, `{{` and `}}` are braces.

Nothing else is understood: no attributes, no indices, no formats. A field's text is never filled again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from farebox.errors import InputError

_PART = re.compile(r"\{\{|\}\}|\{[^{}]*\}|[{}]")
_SHOWN = 20

_decode_text = msgspec.json.Decoder(str).decode


class Template:
    """A text with places for fields.

    Attributes:
        text: itself.
        names: the fields it needs, in order, each once.

    Raises: InputError when its braces do not match.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self._texts: list[str] = [""]
        places: list[str] = []
        end = 0
        for part in _PART.finditer(text):
            self._texts[-1] += text[end : part.start()]
            end = part.end()
            if part[0] in ("{{", "}}"):
                self._texts[-1] += part[0][0]
            elif len(part[0]) == 1:
                raise InputError(
                    f"the template has a single {part[0]!r} at character {part.start() + 1}: write {part[0] * 2} for a "
                    "brace, and {name} for a field"
                )
            elif name := part[0][1:-1].strip():
                places.append(name)
                self._texts.append("")
            else:
                raise InputError(f"the template has an empty {{}} at character {part.start() + 1}: name a field in it")
        self._texts[-1] += text[end:]
        self._places = places
        self.names = tuple(dict.fromkeys(places))

    def fill(self, fields: Mapping[str, msgspec.Raw]) -> str:
        """Fill it with the fields of a row. Raises: InputError naming a field that is not there, or is null."""
        filled = [self._texts[0]]
        for name, text in zip(self._places, self._texts[1:], strict=True):
            filled += (field_text(fields, name), text)
        return "".join(filled)


def field_text(fields: Mapping[str, msgspec.Raw], name: str) -> str:
    """Read a field as a text: a JSON text without its quotes, anything else as it is written.

    Raises: InputError when it is not there, or is null.
    """
    raw = fields.get(name)
    if raw is None:
        raise InputError(f"no field {name!r}: {known_names(list(fields))}")
    value = bytes(raw)
    if value == b"null":
        raise InputError(f"the field {name!r} is null")
    return _decode_text(value) if value.startswith(b'"') else value.decode()


def known_names(names: list[str]) -> str:
    """Say which fields there are."""
    shown = ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
    return f"there {'is' if len(names) == 1 else 'are'} {shown}" if names else "there are none"
