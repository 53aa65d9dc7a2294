"""Reads what people have set: `farebox.toml`, then variables over it, then flags over both.

Every error says where the mistake stands and what was expected.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_type_hints

import msgspec

from farebox.errors import ConfigError
from farebox_worker.settings import (
    ENTRY_POINTS,
    KEY_VARIABLES,
    KINDS,
    SECTIONS,
    BudgetSettings,
    ModelSettings,
    ProviderSettings,
    RedisSettings,
    RedisUrl,
    RetentionSettings,
    Settings,
    WorkerSettings,
)
from farebox_worker.tomlfile import TomlFile, nearest, typed

_LEAST_RATE = 1e-5  # dollars per million tokens: below it somebody wrote dollars per token


def load(
    config: Path | None = None,
    *,
    cwd: Path | None = None,
    environ: Mapping[str, str] = os.environ,
    data_dir: Path | None = None,
    redis_url: str | None = None,
) -> Settings:
    """Read the configuration: the file, then variables over it, then flags over both.

    The file is `config`, else FAREBOX_CONFIG, else `farebox.toml` in `cwd` or above, else none. Empty variables count
    as unset. A relative `data_dir` is relative to the file when it stands there, else to `cwd`.
    Raises: ConfigError.
    """
    here = (cwd or Path.cwd()).absolute()
    path = _find(config, here, environ)
    file = TomlFile(path, [*SECTIONS, "providers", "models"])
    home = path.parent if path else here
    given = {name: file.fields(name, file.table(name), struct) for name, struct in SECTIONS.items()}
    if "data_dir" in given["redis"]:
        given["redis"]["data_dir"] = home / given["redis"]["data_dir"].expanduser()
    _override(given, environ)
    if redis_url is not None:
        given["redis"]["url"] = typed("--redis", redis_url, RedisUrl)
    has_own_place = bool(data_dir or given["redis"].get("data_dir") or given["redis"].get("url"))
    chosen = data_dir or given["redis"].get("data_dir") or home / ".farebox"
    given["redis"]["data_dir"] = Path(os.path.normpath(here / chosen.expanduser()))
    providers = _providers(file, environ)
    return Settings(
        redis=RedisSettings(**given["redis"]),
        budget=BudgetSettings(**given["budget"]),
        worker=WorkerSettings(**given["worker"]),
        retention=_retention(file, given["retention"]),
        providers=providers,
        models=_models(file, providers),
        path=path,
        has_own_place=has_own_place,
    )


def with_vendors(settings: Settings) -> Settings:
    """The same settings with the vendors whose keys are not set, for commands that send nothing."""
    vendors = {
        kind: ProviderSettings(kind=kind, api_key_env=variable, cap_field=_cap_field(kind))
        for kind, variable in KEY_VARIABLES.items()
    }
    return msgspec.structs.replace(settings, providers={**vendors, **settings.providers})


def _find(config: Path | None, here: Path, environ: Mapping[str, str]) -> Path | None:
    if config is None and (named := environ.get("FAREBOX_CONFIG")):
        config = Path(named)
    if config is not None:
        return here / config.expanduser()
    return next((p for folder in (here, *here.parents) if (p := folder / "farebox.toml").is_file()), None)


def _override(given: dict[str, dict[str, Any]], environ: Mapping[str, str]) -> None:
    """Lay FAREBOX_<SECTION>_<KEY> over what the file says. Other FAREBOX_ variables are not ours to judge."""
    variables = {f"FAREBOX_{s}_{k}".upper(): (s, k) for s, t in SECTIONS.items() for k in t.__struct_fields__}
    prefixes = tuple(f"FAREBOX_{section.upper()}_" for section in SECTIONS)
    for name, text in environ.items():
        if not text or not name.startswith(prefixes):
            continue
        if name not in variables:
            raise ConfigError(f"environment variable {name} is unknown{nearest(name, variables)}")
        section, key = variables[name]
        hint = get_type_hints(SECTIONS[section], include_extras=True)[key]
        given[section][key] = typed(f"environment variable {name}", text, hint, strict=False)


def _retention(file: TomlFile, given: dict[str, Any]) -> RetentionSettings:
    retention = RetentionSettings(**given)
    if retention.ids_days < retention.results_days:
        days = f"{retention.ids_days:g}, expected at least results_days ({retention.results_days:g})"
        problem = f"is {days}: an id outlives its result"
        if given.items() & file.table("retention").items():
            file.fail("retention", "ids_days", problem)
        raise ConfigError(f"[retention] ids_days {problem}")
    return retention


def _providers(file: TomlFile, environ: Mapping[str, str]) -> dict[str, ProviderSettings]:
    """Read the providers, and add those that exist without being named."""
    found = {}
    for provider_id, raw in file.table("providers").items():
        name = f"providers.{provider_id}"
        if not re.fullmatch(r"[A-Za-z0-9_-]+", provider_id):
            file.fail(name, "", f'"{provider_id}" is no provider id: use A-Z a-z 0-9 _ - only')
        found[provider_id] = _provider(file, provider_id, file.as_table(name, raw))
    for kind, variable in KEY_VARIABLES.items():
        if environ.get(variable):
            found.setdefault(kind, ProviderSettings(kind=kind, api_key_env=variable, cap_field=_cap_field(kind)))
    found.setdefault("echo", ProviderSettings(kind="echo"))
    return found


def _provider(file: TomlFile, provider_id: str, table: dict[str, Any]) -> ProviderSettings:
    name = f"providers.{provider_id}"
    fields = file.fields(name, table, ProviderSettings)
    kind = fields.get("kind") or (provider_id if provider_id in KINDS else "openai" if "base_url" in fields else "")
    if not kind:
        file.fail(name, "", 'expected kind = "openai", "anthropic" or "echo", or a base_url')
    if kind not in KINDS and kind not in (known := _installed_kinds()):
        file.fail(name, "kind", f'is "{kind}", expected one of {", ".join(known)}{nearest(kind, known)}')
    if "base_url" not in fields and kind in KEY_VARIABLES:
        fields.setdefault("api_key_env", KEY_VARIABLES[kind])
    fields.setdefault("cap_field", _cap_field(kind))
    return ProviderSettings(**{**fields, "kind": kind})


def _models(file: TomlFile, providers: Mapping[str, ProviderSettings]) -> dict[str, ModelSettings]:
    """Read the models, whose names must be `provider:model` of a provider that is, or could be."""
    found = {}
    known = {*providers, *KINDS}
    for ref, raw in file.table("models").items():
        name = f'models."{ref}"'
        provider_id, _, model_id = ref.partition(":")
        if not model_id:
            file.fail(name, "", 'expected [models."provider:model"], in quotes')
        if provider_id not in known:
            file.fail(name, "", f'no provider "{provider_id}"{nearest(provider_id, known)}')
        fields = file.fields(name, file.as_table(name, raw), ModelSettings)
        for key, value in fields.items():
            if key.endswith("_per_mtok") and 0 < value < _LEAST_RATE:
                file.fail(name, key, f"is {value:g}: rates are dollars per million tokens, not per token")
        found[ref] = ModelSettings(**fields)
    return found


def _cap_field(kind: str) -> Literal["max_completion_tokens", "max_tokens"]:
    return "max_tokens" if kind == "anthropic" else "max_completion_tokens"


def _installed_kinds() -> list[str]:
    from importlib.metadata import entry_points  # noqa: PLC0415 - 20 ms that only foreign kinds should cost

    return [*KINDS, *sorted(point.name for point in entry_points(group=ENTRY_POINTS))]
