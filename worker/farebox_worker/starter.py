"""The farebox.toml that `farebox init` writes: what was found here, and every key with its default, commented out.

Keys, defaults, units and words come from `settings`, so that they cannot drift.
"""

from __future__ import annotations

import inspect
import json
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import msgspec

from farebox_worker.settings import SECTIONS, ModelSettings, ProviderSettings

LOOK_S = 0.3  # how long a server on this machine may take to answer
_EXAMPLES: dict[str, object] = {  # of keys without a default
    "url": "redis://127.0.0.1:6379/0",
    "limit_usd": 20.0,
    "metrics_port": 9108,
    "base_url": "https://api.example.com/v1",
    "api_key_env": "EXAMPLE_API_KEY",
    "flex": False,
    "rpm": 500,
    "tpm": 200_000,
    "max_concurrency": 64,
    "kind": "openai",
    "input_usd_per_mtok": 0.25,
    "cached_input_usd_per_mtok": 0.025,
    "cache_write_usd_per_mtok": 0.3,
    "output_usd_per_mtok": 2.0,
    "flex_input_usd_per_mtok": 0.125,
    "flex_output_usd_per_mtok": 1.0,
    "image_tokens": 1_600,
    "context_window": 128_000,
    "max_output_tokens": 16_384,
    "default_max_tokens": 8_192,
}


@dataclass(frozen=True, slots=True)
class Vendor:
    """A vendor whose key may stand in the environment; `base_url` is None where the provider needs no section."""

    provider_id: str
    variable: str
    base_url: str | None = None
    cap_field: str = "max_tokens"


VENDORS = (
    Vendor("openai", "OPENAI_API_KEY"),
    Vendor("anthropic", "ANTHROPIC_API_KEY"),
    Vendor("groq", "GROQ_API_KEY", "https://api.groq.com/openai/v1", "max_completion_tokens"),
    Vendor("mistral", "MISTRAL_API_KEY", "https://api.mistral.ai/v1"),
    Vendor("deepseek", "DEEPSEEK_API_KEY", "https://api.deepseek.com/v1"),
    Vendor("openrouter", "OPENROUTER_API_KEY", "https://openrouter.ai/api/v1"),
    Vendor("together", "TOGETHER_API_KEY", "https://api.together.xyz/v1"),
    Vendor("fireworks", "FIREWORKS_API_KEY", "https://api.fireworks.ai/inference/v1"),
    Vendor("xai", "XAI_API_KEY", "https://api.x.ai/v1", "max_completion_tokens"),
)
LOCAL = {"ollama": "http://127.0.0.1:11434", "vllm": "http://127.0.0.1:8000"}


@dataclass(frozen=True, slots=True)
class Found:
    """What there is here: vendors whose key is set, servers on this machine and their models, a Redis that is named."""

    vendors: tuple[Vendor, ...] = ()
    local: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    redis_variable: str = ""


def look_around(environ: Mapping[str, str], *, local: Mapping[str, str] = LOCAL) -> Found:
    """See which keys the environment holds, and whether a model server listens on this machine; it takes under 1 s."""
    vendors = tuple(vendor for vendor in VENDORS if environ.get(vendor.variable))
    served = {name: models for name, url in local.items() if (models := _models_at(url)) is not None}
    redis = next((name for name in ("FAREBOX_REDIS_URL", "REDIS_URL") if environ.get(name)), "")
    return Found(vendors, served, redis)


def _models_at(url: str) -> tuple[str, ...] | None:
    """The models of an OpenAI-compatible server; None when there is none."""
    try:
        with urllib.request.urlopen(f"{url}/v1/models", timeout=LOOK_S) as answer:  # noqa: S310 - a constant address
            return tuple(str(one["id"]) for one in json.load(answer)["data"] or ())
    except (OSError, ValueError, KeyError, TypeError):
        return None


def starter_text(found: Found, *, local: Mapping[str, str] = LOCAL) -> str:
    """Write the file."""
    lines = [
        "# Farebox's configuration. Everything is optional: what is commented out shows its default, or an example.",
        "# FAREBOX_<SECTION>_<KEY> in the environment goes before this file, and flags before both.",
        "# Keys of providers come from the environment only; none belongs in here.",
    ]
    for name, struct in SECTIONS.items():
        lines += ["", f"[{name}]", *_about(struct)]
        if name == "redis" and found.redis_variable == "REDIS_URL":
            lines.append("# REDIS_URL is set here; to use that server, say so: url = …, or FAREBOX_REDIS_URL.")
        lines += _keys(struct)
    lines += ["", *_about(ProviderSettings)]
    for vendor in found.vendors:
        lines += _of_vendor(vendor)
    for name in found.local:
        lines += [f"[providers.{name}]", 'kind = "openai"', f'base_url = "{local[name]}/v1"', "free = true"]
        lines += ['cap_field = "max_tokens"', ""]
    lines += ["# [providers.NAME]", *_keys(ProviderSettings)]
    lines += ["", *_about(ModelSettings), '# [models."provider:model"]', *_keys(ModelSettings)]
    return "\n".join(lines) + "\n"


def _of_vendor(vendor: Vendor) -> list[str]:
    if vendor.base_url is None:
        return [f"# {vendor.variable} is set: the provider {vendor.provider_id} is there without a section.", ""]
    return [
        f"[providers.{vendor.provider_id}]  # {vendor.variable} is set",
        'kind = "openai"',
        f'base_url = "{vendor.base_url}"',
        f'api_key_env = "{vendor.variable}"',
        f'cap_field = "{vendor.cap_field}"',
        "",
    ]


def _about(struct: type[msgspec.Struct]) -> list[str]:
    return [f"# {about(struct)[0]}"]


def _keys(struct: type[msgspec.Struct]) -> Iterator[str]:
    for key in keys_of(struct):
        yield f"# {key.words}" + (f": {key.unit}" if key.unit else "")
        yield f"# {key.name} = {key.value}"


@dataclass(frozen=True, slots=True)
class Key:
    """A key of farebox.toml: its default in TOML, or an example where it has none; what it means; what is expected."""

    name: str
    value: str
    has_default: bool
    words: str
    unit: str


def about(struct: type[msgspec.Struct]) -> tuple[str, dict[str, str]]:
    """Read what the docstring of a section says: of itself, and of each key."""
    text, _, attributes = (inspect.getdoc(struct) or "").replace("`", "").partition("\n\nAttributes:\n")
    words = dict(line.strip().rstrip(".").split(": ", 1) for line in attributes.splitlines() if line.strip())
    return " ".join(text.split()), words


def keys_of(struct: type[msgspec.Struct]) -> Iterator[Key]:
    """Name the keys of a section, in the order in which they stand in the settings."""
    hints, words = get_type_hints(struct, include_extras=True), about(struct)[1]
    for one in msgspec.structs.fields(struct):
        default = one.default if one.default_factory is msgspec.NODEFAULT else one.default_factory()
        has_default = default not in (None, msgspec.NODEFAULT)
        value = default if has_default else _EXAMPLES[one.name]
        yield Key(one.name, _toml(value), has_default, words[one.name], _unit(hints[one.name]))


def _unit(hint: Any) -> str:
    """What settings say of a type, wherever it stands in a union."""
    if get_origin(hint) is Annotated:
        return next((one.description for one in get_args(hint)[1:] if getattr(one, "description", None)), "")
    return next((words for part in get_args(hint) if (words := _unit(part))), "")


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f" {key} = {_toml(one)}" for key, one in value.items()) + " }" if value else "{}"
    return json.dumps(value if isinstance(value, bool | int | float) else str(value))
