"""The words every adapter speaks, and the Protocol it fulfils.

Two ways lead through an adapter. People call `send` and `stream` with messages. The bus calls `prepare` (pure: what
will be sent, and what it can cost at most) and `post` (one attempt over the wire, bytes in, bytes out).
An adapter never retries, never counts money and never writes to Redis.
"""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from types import MappingProxyType
from typing import Any, Protocol, runtime_checkable

import msgspec

from farebox.records import Api, Finish, Job

NO_HEADERS: Mapping[str, str] = MappingProxyType({})  # one for all calls


class ModelCapability(enum.Flag):
    """What a model can do."""

    TEXT = enum.auto()
    STREAMING = enum.auto()
    TOOL_USE = enum.auto()
    VISION = enum.auto()
    JSON_MODE = enum.auto()
    SYSTEM_PROMPT = enum.auto()


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """One model of one provider. Costs are USD per million tokens; context and output are tokens."""

    provider_id: str
    model_id: str
    display_name: str
    capabilities: ModelCapability
    context_window: int
    max_output_tokens: int
    input_cost_per_mtok: float
    output_cost_per_mtok: float
    is_local: bool = False

    @property
    def model_ref(self) -> str:
        """`provider_id:model_id`, the name under which jobs ask for this model."""
        return f"{self.provider_id}:{self.model_id}"


class TokenUsage(msgspec.Struct, frozen=True, gc=False):  # a Struct is made in a tenth of a dataclass's time
    """What a call used, in tokens.

    The first four counts are disjoint: `input_tokens` is the input that was neither read from nor written to a cache.
    Adapters normalise to this whatever their vendor's convention (OpenAI's prompt_tokens include cached ones).
    The next three are parts of them that have prices of their own: of the writes, those to the long-lived cache
    (Anthropic's 1 h, OpenAI's 12 h); of input and output, what was not text. `fees` are the calls that cost a fee of
    their own, by name; `is_regional` says that the call ran where the vendor's surcharge for a region applies.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cache_write_1h_tokens: int = 0
    media_input_tokens: int = 0
    media_output_tokens: int = 0
    fees: tuple[tuple[str, int], ...] = ()
    is_regional: bool = False

    @property
    def total_tokens(self) -> int:
        """All tokens, in and out."""
        return self.input_tokens + self.output_tokens + self.cache_read_tokens + self.cache_write_tokens


@dataclass(frozen=True, slots=True)
class PromptMessage:
    """One message of a conversation; `role` is system, user or assistant."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class ModelResponse:
    """A whole answer. `finish_reason` is one of farebox.records.Finish; `latency_ms` is wall time of the call."""

    content: str
    model_info: ModelInfo
    usage: TokenUsage
    finish_reason: str
    latency_ms: float
    raw_response: Any = None
    tool_calls: list[dict[str, Any]] | None = None


@dataclass(frozen=True, slots=True)
class StreamChunk:
    """A piece of an answer; the final one has `is_final` and the usage."""

    text: str
    is_final: bool = False
    usage: TokenUsage | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    """What an adapter must know of a model to prepare a request: its limits, in tokens; 0 where unknown.

    `image_tokens` is the most that one image can count.
    """

    model_id: str
    context_window: int
    max_output_tokens: int
    default_max_tokens: int
    image_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Fee:
    """Something a request can be charged for beyond its tokens: its name, and how often at most (None: unbounded)."""

    name: str
    most: int | None


class Prepared(msgspec.Struct, gc=False):
    """A request ready to be sent, and the bounds of what it can use.

    `body` is the exact JSON to send. `input_bound` bounds the input tokens; `output_bound` bounds all output tokens
    together (cap x n). `capped_by_default` says the request named no cap of its own. `api` is the wire format the
    job was written in, into which the answer is put back. `headers` are sent beside the adapter's own. `fees` are
    what it can be charged for beyond its tokens. `deadline` is when the right to send it ends, by the clock of
    `farebox_worker.clock`; it may move, so an adapter that has to connect first looks again before it writes.
    """

    body: bytes
    input_bound: int
    output_bound: int
    capped_by_default: bool
    api: Api
    headers: Mapping[str, str] = NO_HEADERS
    fees: tuple[Fee, ...] = ()
    deadline: float = inf


class Said(msgspec.Struct, gc=False):
    """What a 200 says: `body` is in the job's wire format.

    `finish` is "" when nothing is in it; `failure` is its code and message, where it tells of one.
    """

    body: bytes
    usage: TokenUsage | None
    finish: Finish = "answered"
    served_tier: str = ""
    failure: tuple[str, str] | None = None


class Reply(msgspec.Struct, gc=False):
    """A provider's 200, judged: `body` is JSON in the job's wire format, `original` the provider's own bytes."""

    status_code: int
    request_id: str
    body: bytes
    original: bytes
    usage: TokenUsage | None
    finish: Finish
    served_tier: str = ""
    headers: Mapping[str, str] = NO_HEADERS


@runtime_checkable
class ModelProvider(Protocol):
    """What an adapter does. `ProviderManager` itself needs only `provider_id` and `list_models`."""

    @property
    def provider_id(self) -> str:
        """The provider's name, the part of a model_ref before the first colon."""
        ...

    async def list_models(self) -> list[ModelInfo]:
        """Ask the provider for its models. Raises: ProviderError."""
        ...

    async def send(
        self,
        messages: Sequence[PromptMessage],
        model_id: str,
        *,
        max_tokens: int = 4096,
        temperature: float | None = None,
        stop_sequences: Sequence[str] | None = None,
        response_format: str | None = None,
        tools: Sequence[dict[str, Any]] | None = None,
    ) -> ModelResponse:
        """Ask for one whole answer. `response_format` may be "json". Raises: ProviderError."""
        ...

    def stream(
        self,
        messages: Sequence[PromptMessage],
        model_id: str,
        *,
        max_tokens: int = 4096,
        temperature: float | None = None,
        stop_sequences: Sequence[str] | None = None,
    ) -> AsyncIterator[StreamChunk]:
        """Ask for an answer in pieces. Raises: ProviderError."""
        ...

    async def health_check(self) -> bool:
        """Tell whether the provider answers; never raises."""
        ...

    async def aclose(self) -> None:
        """Close its connections."""
        ...


@runtime_checkable
class Adapter(ModelProvider, Protocol):
    """A provider that the bus can work with: it can tell beforehand what a job costs at most, and send it once."""

    def prepare(self, job: Job, facts: Facts) -> Prepared:
        """Make the request for a job, without any IO.

        Raises: UntranslatableError; InputError, also for an API (`job.api`) that it does not speak.
        """
        ...

    async def post(self, prepared: Prepared, *, timeout_s: float) -> Reply:
        """Send one attempt. Raises: ProviderError with what is known of its fate."""
        ...
