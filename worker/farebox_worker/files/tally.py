"""What an output file holds, counted: outcomes, finishes, tokens and cost by model, failures by cause."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import msgspec

from farebox.records import Finish, Outcome
from farebox_worker.latency import Latencies


class NotedUsage(msgspec.Struct, frozen=True):
    """Tokens of a line."""

    input_tokens: int = 0
    output_tokens: int = 0


class Note(msgspec.Struct, frozen=True):
    """What is read of a line: the job, its batch and model, how it ended, what it cost in nano-dollars."""

    job: str
    outcome: Outcome
    cost_nusd: int
    batch: str = ""
    model_ref: str = ""
    finish: Finish = ""
    usage: NotedUsage = NotedUsage()
    tier: str = "standard"
    served_tier: str = ""
    saved_nusd: int = 0
    failure_class: str = ""
    error_code: str = ""
    error_message: str = ""
    latency_ms: int = 0
    reused_from: str = ""
    invalid: str = ""
    capped_by_default: bool = False


@dataclass(slots=True)
class ModelTally:
    """One model's part. Money in nano-dollars; `latency` is of the calls that answered.

    `invalid` are answers that do not match the schema.
    """

    jobs: int = 0
    answered: int = 0
    failed: int = 0
    invalid: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_nusd: int = 0
    saved_nusd: int = 0
    latency: Latencies = field(default_factory=Latencies)


@dataclass(slots=True)
class Tally:
    """The counts; every note that was counted can be taken out again.

    `examples` keeps one message per cause, `misfit` what is wrong with one of the answers that do not match, `served`
    the tiers that served the jobs that asked for flex. `reused` are answers of identical jobs, and `reused_nusd` what
    those had cost, in nano-dollars.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    finishes: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    served: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    misfit: str = ""
    models: dict[str, ModelTally] = field(default_factory=dict)
    reused: int = 0
    reused_nusd: int = 0

    def count(self, note: Note, by: int = 1) -> None:
        """Count a line, or take it out with -1."""
        self.outcomes[note.outcome] += by
        if note.finish or note.outcome == "succeeded":
            self.finishes[note.finish or "empty"] += by
        if note.outcome == "failed":
            self.failures[note.error_code] += by
            self.examples.setdefault(note.error_code, note.error_message)
        self.misfit = self.misfit or note.invalid
        model = self.models.get(note.model_ref) or self.models.setdefault(note.model_ref, ModelTally())
        usage = note.usage
        model.jobs += by
        model.answered += by * (note.outcome == "succeeded")
        model.failed += by * (note.outcome == "failed")
        model.invalid += by * bool(note.invalid)
        model.input_tokens += by * usage.input_tokens
        model.output_tokens += by * usage.output_tokens
        model.cost_nusd += by * note.cost_nusd
        if note.reused_from:
            self.reused += by
            self.reused_nusd += by * note.saved_nusd
            return
        model.saved_nusd += by * note.saved_nusd
        if note.outcome == "succeeded":
            model.latency.count(note.latency_ms, by)
        if note.tier != "standard" and note.outcome == "succeeded":
            self.served[note.served_tier or "untold"] += by

    @property
    def has_flaws(self) -> bool:
        """Whether a job failed, was cancelled, or has an answer that does not match the schema."""
        return bool(self.outcomes["failed"] or self.outcomes["cancelled"] or self.invalid)

    @property
    def invalid(self) -> int:
        """Answers that do not match the schema they were asked in."""
        return sum(model.invalid for model in self.models.values())

    @property
    def input_tokens(self) -> int:
        """All input tokens."""
        return sum(model.input_tokens for model in self.models.values())

    @property
    def output_tokens(self) -> int:
        """All output tokens."""
        return sum(model.output_tokens for model in self.models.values())

    @property
    def cost_nusd(self) -> int:
        """All known cost, in nano-dollars."""
        return sum(model.cost_nusd for model in self.models.values())

    @property
    def saved_nusd(self) -> int:
        """What all would have cost more at standard prices, in nano-dollars."""
        return sum(model.saved_nusd for model in self.models.values())
