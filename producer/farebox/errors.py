"""Every error that Farebox raises on purpose.

    FareboxError
    ├── ConfigError                     a setting, a flag or an environment variable is wrong
    ├── InputError                      a line or a body of the caller's is wrong
    │   ├── JobConflictError            this job id already stands for another body
    │   └── BatchClosedError            the batch is sealed or cancelled
    ├── LedgerError                     the money cannot be trusted: nothing may be sent
    │   ├── NoLedgerError               no ledger here yet (or no longer)
    │   └── LedgerLostError             another epoch or an older state than this process has seen
    ├── ServerError                     Redis is unreachable, or unfit (evicting, too old, cluster)
    │   ├── ServerAwayError             it is away, or refuses for a while: waiting may help
    │   └── ServerFullError             its memory is too full to take more jobs
    ├── CostLimitExceededError          a booking took the total past its limit
    ├── JobFailedError                  a job ended without an answer; raised by who asks for its text
    ├── ReplyInvalidError               an answer came, was paid, and is not what was asked for
    ├── ResultGoneError                 a job ended, and its result was deleted or has expired
    └── ProviderError                   a provider did not answer the call
        ├── ProviderAuthError           401, 403: this process's credentials
        ├── ProviderAccountError        402, quota, spend limit: the provider's account
        ├── ProviderRateLimitError      429: wait
        ├── ProviderOverloadedError     5xx, 529: try again later
        ├── ProviderTimeoutError        no answer in time: the outcome is unknown
        ├── ProviderConnectionError     the connection failed; `sent` tells whether the call may have been billed
        ├── ProviderRequestError        400, 404, 413, 422: the request itself is wrong
        ├── UntranslatableError         the body says something this provider's API cannot
        └── ModelNotFoundError          no such model; names the nearest ones

It imports nothing but money's formatting and never holds a secret: messages are shown, logged and stored.
"""

from __future__ import annotations

from collections.abc import Mapping

from farebox.money import dollars, usd_from_nusd


class FareboxError(Exception):
    """The root: catch it to catch everything that Farebox raises on purpose.

    Errors can be pickled and copied, attributes and all: a task queue or a process pool hands them on.
    """

    def __reduce__(self) -> tuple[object, ...]:
        return _restored, (type(self), self.args, self.__dict__)


def _restored(kind: type[FareboxError], args: tuple[object, ...], attributes: dict[str, object]) -> FareboxError:
    """Make an error as it was, past its own __init__, which takes other arguments than the message in `args`."""
    error = kind.__new__(kind, *args)
    error.__dict__.update(attributes)
    return error


class ConfigError(FareboxError):
    """A setting is wrong; the message names the file, the key and what was expected."""


class InputError(FareboxError):
    """Something the caller handed in is wrong; the message says what, where and what to do."""


class JobConflictError(InputError):
    """A job id that exists was submitted again with another body."""

    def __init__(self, job_ids: list[str]) -> None:
        self.job_ids = job_ids
        shown = ", ".join(job_ids[:5]) + (f" and {len(job_ids) - 5} more" if len(job_ids) > 5 else "")
        super().__init__(f"already submitted with another body: {shown}. Use a new id, or a new batch.")


class BatchClosedError(InputError):
    """The batch takes no more jobs: it is sealed or cancelled."""


class LedgerError(FareboxError):
    """The money counters cannot be trusted, so nothing may be sent.

    Attributes:
        what: what is wrong.
        place: the flags that lead a command to this ledger, set by who knows them; "" without any.
    """

    def __init__(self, what: str) -> None:
        self.what = what
        self.place = ""
        super().__init__(what)

    def __str__(self) -> str:
        """What is wrong, where to look, and the command that goes on deliberately."""
        place = f" {self.place}" if self.place else ""
        return (
            f"{self.what} Nothing is sent. Compare `farebox ledger show{place}` with the provider's bill, go on "
            f"deliberately with `farebox ledger adopt{place}`, and start again what has stopped."
        )


class NoLedgerError(LedgerError):
    """The server holds no ledger in this namespace: an empty Redis means stop, not a fresh budget."""


class LedgerLostError(LedgerError):
    """The server's ledger has another epoch, or an older state than this process has seen."""


class ServerError(FareboxError):
    """Redis cannot be reached, or is not fit to hold money."""


class ServerAwayError(ServerError):
    """Redis cannot be reached, or refuses for a while: nothing is wrong with us, so waiting may help."""


class ServerFullError(ServerError):
    """Redis has too little memory left: nothing is submitted, so that what runs can still be settled."""


class CostLimitExceededError(FareboxError):
    """The total passed its limit. The cost that passed it is booked.

    Attributes: limit and current, both in USD.
    """

    def __init__(self, limit: float, current: float) -> None:
        self.limit = limit
        self.current = current
        super().__init__(f"cost limit of {dollars(limit)} exceeded: {dollars(current)} spent")


class JobFailedError(FareboxError):
    """A job ended without an answer: it failed, or was cancelled.

    Attributes:
        job_id: the id its producer gave it.
        code: the provider's error code, or one of Farebox: `deadline`, `cancelled`, `poison`, `outcome_unknown` …
        message: the provider's own words, or Farebox's.
        attempts: how often it was sent.
        cost_nusd: what its attempts are known to have cost, in nano-dollars; `cost_usd` in dollars.
        unconfirmed_nusd: what attempts of unknown outcome may have cost, in nano-dollars.
    """

    def __init__(
        self, job_id: str, *, code: str, message: str, attempts: int, cost_nusd: int, unconfirmed_nusd: int
    ) -> None:
        self.job_id = job_id
        self.code = code
        self.message = message
        self.attempts = attempts
        self.cost_nusd = cost_nusd
        self.unconfirmed_nusd = unconfirmed_nusd
        times = f"{attempts} attempt{'' if attempts == 1 else 's'}"
        super().__init__(f"job {job_id!r} has no answer after {times} ({code}): {message}")

    @property
    def cost_usd(self) -> float:
        """What its attempts are known to have cost, in dollars."""
        return usd_from_nusd(self.cost_nusd)


class ReplyInvalidError(FareboxError):
    """An answer came and was paid for, but it does not fit the type that was asked for.

    Attributes:
        job_id: the id its producer gave it.
        reason: where it differs.
        text: what the model said.
        raw: the provider's whole JSON.
        cost_nusd: what the answer cost, in nano-dollars; `cost_usd` in dollars.
    """

    def __init__(self, job_id: str, reason: str, *, text: str, raw: bytes, cost_nusd: int) -> None:
        self.job_id = job_id
        self.reason = reason
        self.text = text
        self.raw = raw
        self.cost_nusd = cost_nusd
        said = text if len(text) <= 200 else f"{text[:200]}…"
        super().__init__(f"the answer to job {job_id!r} is not what was asked for: {reason}. It said: {said!r}")

    @property
    def cost_usd(self) -> float:
        """What the answer cost, in dollars."""
        return usd_from_nusd(self.cost_nusd)


class ResultGoneError(FareboxError):
    """A job is not there any more, and neither is its result: it was deleted, or has expired."""

    def __init__(self, job_id: str) -> None:
        self.job_id = job_id
        super().__init__(
            f"the result of job {job_id!r} is not here (any more): it was collected and deleted, has expired "
            "([retention] results_days), or there never was such a job. Submit it under a new id to ask again."
        )


class ProviderError(FareboxError):
    """A provider did not answer a call.

    Attributes:
        provider_id: which provider.
        status_code: HTTP status, or None when there was no response.
        code: the provider's own error code or type, or "".
        body: the provider's error body as JSON bytes, or b"" when it sent none of its own.
        sent: False only when the call provably never left this machine.
        own_body: True when the body is the provider's own error object, or the status is 429: then nothing was billed.
        request_id: the provider's id of the request, or "".
        headers: what its answer said of rate limits and of when to come again, by name in lower case.
        retry_after: when to come again, in seconds, or None when the provider did not say.
    """

    def __init__(  # noqa: PLR0913 - an error is a record: every field is named at the call
        self,
        provider_id: str,
        message: str = "",
        *,
        status_code: int | None = None,
        code: str = "",
        body: bytes = b"",
        sent: bool = True,
        own_body: bool = False,
        request_id: str = "",
        headers: Mapping[str, str] | None = None,
        retry_after: float | None = None,
    ) -> None:
        self.provider_id = provider_id
        self.status_code = status_code
        self.code = code
        self.body = body
        self.sent = sent
        self.own_body = own_body
        self.request_id = request_id
        self.headers = headers or {}
        self.retry_after = retry_after
        super().__init__(message or f"provider {provider_id} failed")


class ProviderAuthError(ProviderError):
    """The credentials are wrong or lack a right (401, 403): this process stops serving the provider."""


class ProviderAccountError(ProviderError):
    """The account cannot pay (402, insufficient_quota, spend limit): the provider is paused for everybody."""


class ProviderRateLimitError(ProviderError):
    """Too many requests (429). `retry_after` is in seconds, or None when the provider did not say."""


class ProviderOverloadedError(ProviderError):
    """The provider is overloaded or broken (5xx, 529)."""


class ProviderTimeoutError(ProviderError):
    """No answer within the time allowed: whether it was billed is unknown."""


class ProviderConnectionError(ProviderError):
    """The connection failed. `sent` is False when it failed before the request could leave."""


class ProviderRequestError(ProviderError):
    """The provider refuses the request itself (400, 404, 413, 422): trying again cannot help."""


class UntranslatableError(ProviderError):
    """The body holds something that this provider's API cannot say. `parameters` names it."""

    def __init__(self, provider_id: str, parameters: list[str], message: str = "") -> None:
        self.parameters = parameters
        names = ", ".join(parameters)
        super().__init__(
            provider_id,
            message or f"{provider_id} cannot take: {names}. Remove it, or allow dropping it: --drop-params {names}",
            sent=False,
        )


class ModelNotFoundError(ProviderError):
    """No such model. `model_ref` is what was asked for, `nearest` the known refs most like it."""

    def __init__(
        self, model_ref: str, nearest: list[str] | None = None, *, provider_id: str = "", reason: str = ""
    ) -> None:
        self.model_ref = model_ref
        self.nearest = nearest or []
        hint = f" Did you mean {' or '.join(self.nearest)}?" if self.nearest else ""
        super().__init__(
            provider_id or model_ref.partition(":")[0],
            (reason or f"model not found: {model_ref}.") + hint,
            sent=False,
        )
