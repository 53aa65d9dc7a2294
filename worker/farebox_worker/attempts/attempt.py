"""An attempt: one try at a job, and what is known of it while it lasts."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from farebox.fallback import as_asked_in
from farebox.records import Job, JobEnvelope, decode_job
from farebox_worker.bus.claim import Claimed
from farebox_worker.providers.base import NO_HEADERS, Prepared
from farebox_worker.routes import Route

UNPRICED = -1  # as a hold: admitted only where no limit applies


class Attempt(msgspec.Struct, gc=False):
    """A claimed job that is ready to be sent.

    While it is in flight its job is the payload it came as and the request made of it, and nothing else.
    """

    claimed: Claimed
    route: Route
    prepared: Prepared
    hold_nusd: int
    scopes: tuple[str, ...]
    status: int | None = None  # of what its provider answered
    headers: Mapping[str, str] = NO_HEADERS  # those that steer us: rate limits and Retry-After
    retry_after_s: float | None = None
    is_aborted: bool = False  # its batch was cancelled, and this call with it
    _envelope: JobEnvelope | None = None

    @property
    def envelope(self) -> JobEnvelope:
        """The job as it was claimed: read when it is asked for, which is once the call has ended, and then kept."""
        if self._envelope is None:
            self._envelope = decode_job(self.claimed.payload)
        return self._envelope

    @property
    def job(self) -> Job:
        """The job as it is asked in its lane."""
        return as_asked_in(self.envelope.a[0], self.route.lane)

    def let_go(self) -> None:
        """Drop what was asked: its settlement, which may wait for the server, says all that is still needed."""
        self.claimed.payload = self.prepared.body = b""
        self._envelope = None

    @property
    def deadline(self) -> float:
        """When our lease ends, by `clock`; 0 when it is lost. Nothing is sent from then on."""
        return self.prepared.deadline

    @deadline.setter
    def deadline(self, ends: float) -> None:
        self.prepared.deadline = ends

    @property
    def number(self) -> int:
        """Which try at the job this is, from 1."""
        return self.claimed.attempts + 1

    @property
    def tokens(self) -> int:
        """How many tokens its provider may reckon with before it answers: one for four bytes, and the whole cap."""
        return self.prepared.input_bound // 4 + self.prepared.output_bound
