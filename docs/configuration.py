"""Writes docs/configuration.md, the reference of farebox.toml, from the settings: `python docs/configuration.py`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from farebox_worker.settings import SECTIONS, ModelSettings, ProviderSettings
from farebox_worker.starter import about, keys_of

PAGE = Path(__file__).with_suffix(".md")
HEAD = """# Configuration

`farebox.toml` is looked for here and in the folders above; `--config FILE` or `FAREBOX_CONFIG` names another.
Everything in it is optional, and `farebox init` writes a commented one. `FAREBOX_<SECTION>_<KEY>` in the environment,
such as `FAREBOX_REDIS_URL` or `FAREBOX_WORKER_CONCURRENCY`, goes before the file, and flags go before both. A wrong
key, type or unit is an error that names the file, the key and what was expected. Keys of providers come from the
environment only.

This page is made from the settings themselves, so it says what the code does.
"""


def page() -> str:
    """The whole page."""
    sections = [(f"[{name}]", struct) for name, struct in SECTIONS.items()]
    sections += [("[providers.NAME]", ProviderSettings), ('[models."provider:model"]', ModelSettings)]
    return "\n".join([HEAD, *(line for head, struct in sections for line in _section(head, struct))])


def _section(head: str, struct: type[msgspec.Struct]) -> Iterator[str]:
    yield from (
        f"## `{head}`",
        "",
        about(struct)[0],
        "",
        "| key | default | what it is | expected |",
        "|---|---|---|---|",
    )
    for key in keys_of(struct):
        default = f"`{key.value}`" if key.has_default else f"none; such as `{key.value}`"
        yield f"| `{key.name}` | {default} | {key.words} | {key.unit} |"
    yield ""


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
