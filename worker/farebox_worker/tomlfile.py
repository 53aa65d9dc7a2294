"""Reading a TOML file into Structs with errors that say where the mistake stands and what was expected.

It knows nothing of what is set: `settings` does. It never repeats a value that may be a secret.
"""

from __future__ import annotations

import difflib
import math
import re
import tomllib
import types
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, NoReturn, Union, get_args, get_origin, get_type_hints

import msgspec

from farebox.errors import ConfigError

_SECRET_KEY = re.compile(r"^(api_?key|key|token|secret|password|api_?secret|auth_?token)$", re.IGNORECASE)
_SECRET_VALUE = re.compile(r"^(sk-|gsk_|xai-|AIza|Bearer )")
_ENDS = 'Keys come from the environment only: remove it, and name its variable with api_key_env = "…"'


class TomlFile:
    """A TOML file, or none: then it reads as empty.

    Raises: ConfigError when it cannot be read, is not TOML, or seems to hold a secret.
    """

    def __init__(self, path: Path | None, sections: list[str]) -> None:
        self.path = path
        self.lines: list[str] = []
        self.content: dict[str, Any] = {}
        if path is None:
            return
        try:
            text = path.read_text(encoding="utf-8")
            self.lines = text.splitlines()
            self.content = tomllib.loads(text)
        except OSError as error:
            raise ConfigError(f"cannot read {path}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise ConfigError(f"{path} is not UTF-8 text") from None
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"{path} is not valid TOML: {error}") from None
        self._refuse_secrets("", self.content)
        for name in self.content:
            if name not in sections:
                self.fail(name, "", f"unknown section{nearest(name, sections)}")

    def table(self, name: str) -> dict[str, Any]:
        """Read a top-level table; an absent one is empty."""
        return self.as_table(name, self.content.get(name, {}))

    def as_table(self, name: str, raw: object) -> dict[str, Any]:
        """Hold that a value is a table."""
        if not isinstance(raw, dict):
            self.fail(name, "", "expected a table")
        return raw

    def fields(self, name: str, table: dict[str, Any], struct: type[msgspec.Struct]) -> dict[str, Any]:
        """Read a table as the checked keyword arguments of a Struct."""
        hints = get_type_hints(struct, include_extras=True)
        for key in table:
            if key not in hints:
                known = ", ".join(hints)
                self.fail(name, key, f"is unknown; the keys are {known}{nearest(key, hints)}")
        return {key: typed(self._where(name, key), raw, hints[key]) for key, raw in table.items()}

    def fail(self, section: str, key: str, problem: str) -> NoReturn:
        """Refuse the file, saying where."""
        raise ConfigError(f"{self._where(section, key)}{' ' if key else ': '}{problem}")

    def _where(self, section: str, key: str) -> str:
        line = _line_of(self.lines, section, key)
        place = f" [{section}]" if section else ""
        return f"{self.path}{f':{line}' if line else ''}:{place}{f' {key}' if key else ''}"

    def _refuse_secrets(self, section: str, table: dict[str, Any]) -> None:
        for key, raw in table.items():
            if isinstance(raw, dict):
                self._refuse_secrets(f"{section}.{key}" if section else key, raw)
            elif isinstance(raw, str) and (_SECRET_KEY.match(key) or _SECRET_VALUE.match(raw)):
                self.fail(section, key, f"looks like a secret. {_ENDS}")


def typed(where: str, raw: object, kind: Any, *, strict: bool = True) -> Any:
    """Turn a value into an annotated type; `strict=False` reads numbers and booleans from text.

    Raises: ConfigError with `where`, the value and the description in the type's Meta.
    """
    try:
        value = msgspec.convert(raw, kind, strict=strict, dec_hook=lambda hook, given: hook(given))
        if not isinstance(value, float) or math.isfinite(value):
            return value
    except (msgspec.ValidationError, TypeError):
        pass
    raise ConfigError(f"{where} is {_shown(where, raw)}, expected {_expected(kind)}")


def nearest(word: str, known: Iterable[str]) -> str:
    """Suggest the known word most like this one: ". Did you mean …?", or ""."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f". Did you mean {close[0]}?" if close else ""


def _shown(where: str, raw: object) -> str:
    if not isinstance(raw, str):
        return str(raw).lower() if isinstance(raw, bool) else str(raw)
    return "not shown" if "@" in raw or "api_key" in where else f'"{raw}"'


def _expected(kind: Any) -> str:
    """Say what a type takes, in words: the description its Meta carries."""
    if get_origin(kind) is Annotated:
        return str(next(meta.description for meta in kind.__metadata__ if meta.description))
    if get_origin(kind) in (Union, types.UnionType):
        return _expected(next(arm for arm in get_args(kind) if arm is not types.NoneType))
    return {bool: "true or false", Path: "a path"}.get(kind, "text")


def _line_of(lines: list[str], section: str, key: str) -> int | None:
    """Find a key's line, else its section's; None when neither is written in the plain way."""
    names = {section, section.replace('"', "'"), section.replace('"', "")}
    found, inside = None, False
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if text.startswith("["):
            inside = text.split("#")[0].strip().strip("[]").strip() in names
            found = number if inside and found is None else found
        elif key and (inside or not section) and re.match(rf'["\']?{re.escape(key)}["\']?\s*=', text):
            return number
    return found
