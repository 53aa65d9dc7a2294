"""An attempt: one try at a job, and what is known of it while it lasts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from farebox.records import Job, JobEnvelope
from farebox_worker.bus.claim import Claimed
from farebox_worker.providers.base import Prepared
from farebox_worker.routes import Route

UNPRICED = -1  # as a hold: admitted only where no limit applies


@dataclass(slots=True)
class Attempt:
    """A claimed job that is ready to be sent."""

    claimed: Claimed
    envelope: JobEnvelope
    route: Route
    prepared: Prepared
    hold_nusd: int
    scopes: tuple[str, ...]
    job: Job  # as it is asked in its lane
    status: int | None = None  # of what its provider answered
    headers: Mapping[str, str] = field(default_factory=dict)  # those that steer us: rate limits and Retry-After
    retry_after_s: float | None = None
    is_aborted: bool = False  # its batch was cancelled, and this call with it

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
