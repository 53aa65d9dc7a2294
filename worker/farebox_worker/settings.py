"""What people may set: `farebox.toml`, `FAREBOX_<SECTION>_<KEY>` variables and flags, in rising order.

It owns names, types, ranges and defaults (DESIGN.md section 8), and every error says where the mistake stands and
what was expected. It never holds or repeats a key: providers name the variable that holds theirs.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from farebox.errors import ConfigError
from farebox_worker.tomlfile import TomlFile, nearest, typed

KEY_VARIABLES = {"openai": "OPENAI_API_KEY", "anthropic": "ANTHROPIC_API_KEY"}
KINDS = ("openai", "anthropic", "echo")
ENTRY_POINTS = "farebox.providers"  # group of packages that add kinds
MAX_USD = 9_007_199  # farebox.money.MAX_NUSD in dollars

_Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,32}\Z", description="1 to 32 of A-Z a-z 0-9 _ -")]
_RedisUrl = Annotated[
    str,
    Meta(
        pattern=r"^(rediss?|unix|sentinels?)://",
        description="redis://, rediss://, unix://, sentinel:// or sentinels://",
    ),
]
_HttpUrl = Annotated[str, Meta(pattern=r"^https?://[^\s/]+", description="an http:// or https:// address")]
_Variable = Annotated[
    str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]*\Z", description="the name of an environment variable, not a key")
]
_Usd = Annotated[float, Meta(ge=0, le=MAX_USD, description="dollars, 0 to 9007199")]
_Rate = Annotated[
    float, Meta(ge=0, le=10_000, description="dollars per million tokens, 0 to 10000 (2.5 is $2.50 per 1,000,000)")
]
_Seconds = Annotated[float, Meta(ge=1, le=3600, description="seconds, 1 to 3600")]
_Days = Annotated[float, Meta(ge=0.01, le=3650, description="days, 0.01 to 3650")]
_Tokens = Annotated[int, Meta(ge=1, le=100_000_000, description="a whole number of tokens, 1 to 100000000")]
_PerMinute = Annotated[int, Meta(ge=1, le=2**40, description="a whole number of at least 1")]
_Slots = Annotated[int, Meta(ge=1, le=10_000, description="a whole number of 1 to 10000")]
_Fees = Annotated[
    dict[str, Annotated[float, Meta(ge=0, le=1_000)]],
    Meta(description="a table of dollars per call, 0 to 1000, such as { web_search = 0.01 }"),
]
_Attempts = Annotated[int, Meta(ge=1, le=100, description="a whole number of 1 to 100")]
_Port = Annotated[int, Meta(ge=0, le=65_535, description="a port, 0 to 65535; 0 takes a free one")]
_Drain = Annotated[float, Meta(ge=0, le=86_400, description="seconds, 0 to 86400")]
_Wait = Annotated[float, Meta(ge=0, le=86_400, description="seconds, 0 to 86400")]
_CapField = Annotated[
    Literal["max_completion_tokens", "max_tokens"], Meta(description='"max_completion_tokens" or "max_tokens"')
]


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class RedisSettings(_Section, frozen=True):
    """Where jobs and money are kept.

    Attributes:
        url: a Redis or Valkey that is shared; without it an embedded server runs in `data_dir`.
        data_dir: directory of the embedded server, private; beside the file when it stands there.
        namespace: what stands before every key; each has jobs, limits and money of its own.
        wait_s: for how long a command waits for a shared server that is away; workers wait without end.
    """

    url: _RedisUrl | None = None
    data_dir: Path = Path(".farebox")
    namespace: _Name = "farebox"
    wait_s: _Wait = 10.0


class BudgetSettings(_Section, frozen=True):
    """The limit of everything together.

    Attributes:
        limit_usd: dollars for good; the embedded server obeys it, a shared one takes it when its ledger is created.
    """

    limit_usd: _Usd | None = None


class WorkerSettings(_Section, frozen=True):
    """How a worker process works.

    Attributes:
        concurrency: calls at once, per lane and process.
        lease_s: for how long a worker that is gone keeps its jobs; every worker of a fleet states the same.
        drain_s: for how long running calls may finish after SIGTERM or Ctrl-C, before they are cut off.
        max_attempts: tries that a job gets before it fails.
        request_timeout_s: for how long a call may take before it is given up, its cost unconfirmed.
        fallback_after_s: for how long a lane must be paused or unserved before its jobs go to their fallbacks.
        metrics_port: where metrics and health are served; without it nowhere.
        metrics_host: the address at which they are served.
    """

    concurrency: _Slots = 256
    lease_s: _Seconds = 30.0
    drain_s: _Drain = 600.0
    max_attempts: _Attempts = 5
    request_timeout_s: _Seconds = 600.0
    fallback_after_s: _Wait = 60.0
    metrics_port: _Port | None = None
    metrics_host: str = "127.0.0.1"


class RetentionSettings(_Section, frozen=True):
    """For how long what is over is kept.

    Attributes:
        results_days: results, from the end of their job on.
        ids_days: ids, which keep a job from being paid twice; at least as long as results.
        journal_days: single bookings, before only their sums are kept.
    """

    results_days: _Days = 7.0
    ids_days: _Days = 90.0
    journal_days: _Days = 35.0

    @property
    def results_ttl_ms(self) -> int:
        """How long results live, in ms."""
        return int(self.results_days * 86_400_000)


class ProviderSettings(_Section, frozen=True):
    """A vendor or endpoint with credentials. `openai` and `anthropic` exist when their key is set, `echo` always.

    Attributes:
        kind: openai (and everything compatible), anthropic, echo, or what a package adds.
        base_url: the endpoint; without it the vendor's own.
        api_key_env: the environment variable that holds the key; without it no key is sent.
        cap_field: how the server calls the output cap; older compatible ones say max_tokens.
        free: nobody pays for its models.
        flex: whether the server knows the service tier flex; without it only OpenAI's own does.
        rpm: requests per minute of all its models together, for the whole fleet; without it what its headers say.
        tpm: tokens per minute, likewise.
    """

    kind: str
    base_url: _HttpUrl | None = None
    api_key_env: _Variable | None = None
    cap_field: _CapField = "max_completion_tokens"
    free: bool = False
    flex: bool | None = None
    rpm: _PerMinute | None = None
    tpm: _PerMinute | None = None

    @property
    def has_flex(self) -> bool:
        """Whether the server knows the service tier flex: OpenAI's own does; others when the file says so."""
        if self.flex is not None:
            return self.flex
        host = urlsplit(self.base_url).hostname or "" if self.base_url else "api.openai.com"
        return self.kind == "openai" and (host == "api.openai.com" or host.endswith(".api.openai.com"))


class ModelSettings(_Section, frozen=True):
    """What you know of a model better than its provider's list and the price table, which say the rest.

    Attributes:
        input_usd_per_mtok: price of input.
        cached_input_usd_per_mtok: price of input that is read from a cache.
        cache_write_usd_per_mtok: price of input that is written to a cache.
        output_usd_per_mtok: price of output.
        flex_input_usd_per_mtok: price of input at the tier flex.
        flex_output_usd_per_mtok: price of output at the tier flex.
        fees_usd_per_call: price of what costs a fee beside its tokens, per call.
        image_tokens: the most that one image can count.
        context_window: the most that input and output can count together.
        max_output_tokens: the most that the model can answer.
        default_max_tokens: the output cap that is sent when a request has none.
        rpm: requests per minute for the whole fleet; without it what the provider's headers say.
        tpm: tokens per minute, likewise.
        max_concurrency: calls at once in the whole fleet; below it the number adapts.
        free: nobody pays for it.
    """

    input_usd_per_mtok: _Rate | None = None
    cached_input_usd_per_mtok: _Rate | None = None
    cache_write_usd_per_mtok: _Rate | None = None
    output_usd_per_mtok: _Rate | None = None
    flex_input_usd_per_mtok: _Rate | None = None
    flex_output_usd_per_mtok: _Rate | None = None
    fees_usd_per_call: _Fees = {}
    image_tokens: _Tokens | None = None
    context_window: _Tokens | None = None
    max_output_tokens: _Tokens | None = None
    default_max_tokens: _Tokens | None = None
    rpm: _PerMinute | None = None
    tpm: _PerMinute | None = None
    max_concurrency: _Slots | None = None
    free: bool = False


class Settings(_Section, frozen=True):
    """Everything that is set. `path` is the file it came from; `models` are keyed by model_ref.

    `has_own_place` says that somebody named the data directory or the Redis, rather than taking the default.
    """

    redis: RedisSettings = RedisSettings()
    budget: BudgetSettings = BudgetSettings()
    worker: WorkerSettings = WorkerSettings()
    retention: RetentionSettings = RetentionSettings()
    providers: dict[str, ProviderSettings] = {}
    models: dict[str, ModelSettings] = {}
    path: Path | None = None
    has_own_place: bool = False


SECTIONS: dict[str, type[_Section]] = {
    "redis": RedisSettings,
    "budget": BudgetSettings,
    "worker": WorkerSettings,
    "retention": RetentionSettings,
}
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
        given["redis"]["url"] = typed("--redis", redis_url, _RedisUrl)
    has_own_place = bool(data_dir or given["redis"].get("data_dir") or given["redis"].get("url"))
    chosen = data_dir or given["redis"].get("data_dir") or home / ".farebox"
    given["redis"]["data_dir"] = Path(os.path.normpath(here / chosen.expanduser()))
    providers = _providers(file, environ)
    return Settings(
        redis=RedisSettings(**given["redis"]),
        budget=BudgetSettings(**given["budget"]),
        worker=WorkerSettings(**given["worker"]),
        retention=_retention(given["retention"]),
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


def _retention(given: dict[str, Any]) -> RetentionSettings:
    retention = RetentionSettings(**given)
    if retention.ids_days < retention.results_days:
        days = f"{retention.ids_days:g}, expected at least results_days ({retention.results_days:g})"
        raise ConfigError(f"[retention] ids_days is {days}: an id outlives its result")
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
