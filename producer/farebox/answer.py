"""How a job ended, as its producer reads it: the answer, what it cost, or why there is none.

It reads what the provider sent and changes nothing of it; `raw` is the provider's own JSON, byte for byte.
"""

from __future__ import annotations

import json
from typing import TypeVar

import msgspec

from farebox.errors import JobFailedError, ReplyInvalidError
from farebox.money import usd_from_nusd
from farebox.records import Finish, Outcome, Result
from farebox.said import said_embeddings, said_text, said_tool_calls
from farebox.schema import read_as

T = TypeVar("T")


class Usage(msgspec.Struct, frozen=True):
    """Tokens of the attempt that answered; `input_tokens` are all of them, those of the cache included."""

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        """Input and output together."""
        return self.input_tokens + self.output_tokens


class JobError(msgspec.Struct, frozen=True):
    """Why a job has no answer.

    Attributes:
        code: the provider's error code, or one of Farebox: `deadline`, `cancelled`, `poison`, `outcome_unknown` …
        message: the provider's own words, or Farebox's.
        status_code: the HTTP status, 0 when nothing came back.
    """

    code: str
    message: str
    status_code: int = 0


class ToolCall(msgspec.Struct, frozen=True):
    """A call of a tool that the model asks for; `arguments` is JSON text, as the model wrote it."""

    id: str
    name: str
    arguments: str


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """How a job ended. A job that failed has an `error`; its `text`, `tool_calls` and `parse` raise JobFailedError.

    Attributes:
        job_id: the id its producer gave it.
        batch_id: the batch it belongs to.
        model_ref: `provider:model` that answered, or failed last.
        asked: the lane that was named first, where a fallback answered; else "".
        outcome: `succeeded`, `failed` or `cancelled`.
        finish: how the answer ended: `answered`, `truncated` (at the output cap), `tool_call`, `refused`, `filtered`;
            "" when there is none, or nothing in it.
        note: what is odd of the answer: nothing is in it, or its usage could not be read; else "".
        raw: the provider's JSON in the wire format the job was written in; its error body when the job failed.
        error: why there is no answer; None when there is one.
        usage: tokens.
        attempts: how often it was sent and counted.
        cost_nusd: what it cost, in nano-dollars (1e-9 USD).
        unconfirmed_nusd: what attempts of unknown outcome may have cost beside, in nano-dollars.
        saved_nusd: what the same usage would have cost more at standard prices, in nano-dollars.
        latency_ms: how long the last attempt took.
        tier: the tier that was asked for.
        served_tier: the one that the provider says it served; "" when it does not say.
        price_version: the price table it was booked by.
        capped_by_default: whether the output cap was the model's default, since the job named none.
        reused_from: the bus's id of the identical job whose answer this is (`reuse="content"`); "" when it was asked.
            It cost nothing then, and `saved_nusd` is what that one cost.
        request_id: the provider's id of the request, "" without one.
        cursor: where reading a batch's results goes on after this one; "" for the result of a handle.
    """

    job_id: str
    batch_id: str
    model_ref: str
    outcome: Outcome
    asked: str = ""
    finish: Finish = ""
    raw: bytes = b""
    error: JobError | None = None
    usage: Usage = Usage()
    attempts: int = 0
    cost_nusd: int = 0
    unconfirmed_nusd: int = 0
    saved_nusd: int = 0
    latency_ms: int = 0
    tier: str = "standard"
    served_tier: str = ""
    price_version: str = ""
    capped_by_default: bool = False
    request_id: str = ""
    reused_from: str = ""
    note: str = ""
    cursor: str = ""

    @property
    def is_reused(self) -> bool:
        """Whether it is the answer of an identical job, and cost nothing."""
        return bool(self.reused_from)

    @property
    def cost_usd(self) -> float:
        """What it cost, in dollars."""
        return usd_from_nusd(self.cost_nusd)

    @property
    def unconfirmed_usd(self) -> float:
        """What attempts of unknown outcome may have cost beside, in dollars."""
        return usd_from_nusd(self.unconfirmed_nusd)

    @property
    def text(self) -> str:
        """What the model said; "" when it only called tools. Raises: JobFailedError when there is no answer."""
        self.raise_for_error()
        return said_text(self.raw)

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """The calls of tools that the model asks for. Raises: JobFailedError when there is no answer."""
        self.raise_for_error()
        return tuple(ToolCall(*call) for call in said_tool_calls(self.raw))

    @property
    def embeddings(self) -> list[list[float]]:
        """The vectors of an embeddings job, in the order of its input. Raises: JobFailedError when there are none."""
        self.raise_for_error()
        return said_embeddings(self.raw)

    def raise_for_error(self) -> None:
        """Do nothing when there is an answer. Raises: JobFailedError with code, message, attempts and cost."""
        if self.error is not None:
            raise JobFailedError(
                self.job_id,
                code=self.error.code,
                message=self.error.message,
                attempts=self.attempts,
                cost_nusd=self.cost_nusd,
                unconfirmed_nusd=self.unconfirmed_nusd,
            )

    def json(self) -> object:
        """Decode `raw`. Raises: ReplyInvalidError when it is no JSON."""
        try:
            found: object = json.loads(self.raw)
        except ValueError as error:
            raise self._invalid(str(error), self.raw.decode(errors="replace")) from None
        return found

    def parse(self, schema: type[T]) -> T:
        """Read what the model said as JSON of a type: a msgspec Struct, a dataclass, a TypedDict or a pydantic model.

        A fence of Markdown around the JSON is taken off. Asking for such JSON is `submit(response_schema=…)`.

        Raises: JobFailedError when there is no answer; ReplyInvalidError, which keeps the text and the cost.
        """
        text = self.text
        try:
            return read_as(schema, text)
        except ValueError as error:
            cut = "; it was cut off at the output cap: raise max_tokens" if self.finish == "truncated" else ""
            raise self._invalid(f"{error}{cut}", text) from error

    def _invalid(self, reason: str, text: str) -> ReplyInvalidError:
        return ReplyInvalidError(self.job_id, reason, text=text, raw=self.raw, cost_nusd=self.cost_nusd)


def answer_of(batch_id: str, result: Result, cursor: str = "") -> Answer:
    """Turn a record of the bus into an answer."""
    error = None
    if result.outcome != "succeeded":
        code = result.error_code or result.outcome
        error = JobError(code, result.error_message or f"the job {result.outcome}", result.status_code)
    return Answer(
        job_id=result.custom_id,
        batch_id=batch_id,
        model_ref=result.model_ref,
        outcome=result.outcome,
        asked=result.asked,
        finish=result.finish,
        raw=result.body,
        error=error,
        usage=Usage(result.input_tokens, result.output_tokens, result.cache_read_tokens, result.cache_write_tokens),
        attempts=result.attempts,
        cost_nusd=result.cost_nusd,
        unconfirmed_nusd=result.unconfirmed_nusd,
        saved_nusd=result.saved_nusd,
        latency_ms=result.latency_ms,
        tier=result.tier,
        served_tier=result.served_tier,
        price_version=result.price_version,
        capped_by_default=result.capped_by_default,
        request_id=result.request_id,
        reused_from=result.reused_from,
        note=result.note,
        cursor=cursor,
    )
