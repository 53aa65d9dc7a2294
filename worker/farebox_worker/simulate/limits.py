"""Who may enter: requests and tokens per minute, calls in flight, and the money in the account."""

import time
from dataclasses import dataclass

from farebox_worker.simulate.options import Options

_UNLIMITED_RPM = 30_000_000
_UNLIMITED_TPM = 150_000_000_000


@dataclass
class Refused(Exception):  # noqa: N818 -- the word the vendors' tables are keyed by is an outcome, not a bug
    """A request ends with the vendor's own error and is not billed.

    `word` is a row of the vendors' error tables and the bill's name for it; `retry_after_s` 0 sends no advice.
    """

    word: str
    detail: str = ""
    retry_after_s: float = 0.0
    kind: str = "requests"


class Bucket:
    """A token bucket: holds one minute's allowance, refills evenly, starts full."""

    def __init__(self, per_minute: int, unlimited: int) -> None:
        self.limited = per_minute > 0
        self.size = per_minute or unlimited
        self._level = float(self.size)
        self._at_s = time.monotonic()

    def level(self) -> float:
        """Return what is left now; without a limit always the whole."""
        if self.limited:
            now_s = time.monotonic()
            self._level = min(self.size, self._level + (now_s - self._at_s) * self.size / 60)
            self._at_s = now_s
        return self._level

    def wait_s(self, amount: int) -> float:
        """Return the seconds until `amount` is there, 0 when it is; takes nothing."""
        return max(0.0, amount - self.level()) * 60 / self.size if self.limited else 0.0

    def take(self, amount: int) -> None:
        """Take what `wait_s` said is there."""
        if self.limited:
            self._level -= amount

    def full_in_s(self) -> float:
        """Return the seconds until the bucket is full again."""
        return (self.size - self.level()) * 60 / self.size


class Gate:
    """Admits a request against all limits together, or refuses it and takes nothing."""

    def __init__(self, options: Options) -> None:
        self._concurrency = options.concurrency
        self._account_pusd = options.account_pusd
        self._retry_after_s = options.retry_after_s
        self._rpm, self._tpm = options.rpm, options.tpm
        self.refill()

    def refill(self) -> None:
        """Start both windows afresh."""
        self.requests = Bucket(self._rpm, _UNLIMITED_RPM)
        self.tokens = Bucket(self._tpm, _UNLIMITED_TPM)

    def admit(self, tokens: int, in_flight: int, spent_pusd: int) -> None:
        """Take one request and `tokens` from the windows.

        `in_flight` counts this request too.

        Raises:
            Refused: `account_empty`, `too_many_in_flight`, `rate_limited`, or `above_limit` when waiting cannot help.
        """
        if self._account_pusd is not None and spent_pusd >= self._account_pusd:
            raise Refused("account_empty")
        if self._concurrency and in_flight > self._concurrency:
            raise Refused("too_many_in_flight", f"Limit {self._concurrency} in flight.", self._retry_after_s)
        if self.tokens.limited and tokens > self.tokens.size:
            raise Refused("above_limit", f"Limit {self.tokens.size}, Requested {tokens}.")
        if wait_s := self.requests.wait_s(1):
            raise Refused("rate_limited", f"Limit {self.requests.size} requests per min.", wait_s)
        if wait_s := self.tokens.wait_s(tokens):
            detail = f"Limit {self.tokens.size} tokens per min. Requested {tokens}."
            raise Refused("rate_limited", detail, wait_s, kind="tokens")
        self.requests.take(1)
        self.tokens.take(tokens)
