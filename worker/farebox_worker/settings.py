"""What people may set: `farebox.toml`, `FAREBOX_<SECTION>_<KEY>` variables and flags, in rising order.

It owns names, types, ranges and defaults, and every error says where the mistake stands and
what was expected. It never holds or repeats a key: providers name the variable that holds theirs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

KEY_VARIABLES = {"openai": "OPENAI_API_KEY", "anthropic": "ANTHROPIC_API_KEY"}
KINDS = ("openai", "anthropic", "echo")
ENTRY_POINTS = "farebox.providers"  # group of packages that add kinds
MAX_USD = 9_007_199  # farebox.money.MAX_NUSD in dollars

_Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,32}\Z", description="1 to 32 of A-Z a-z 0-9 _ -")]
RedisUrl = Annotated[
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

    url: RedisUrl | None = None
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
        fallback_after_s: for how long a lane must be paused, unserved or away before its jobs go to their fallbacks.
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
