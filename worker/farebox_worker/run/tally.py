"""What a run has done so far, by model, for the screen and the summary. It counts; it never reads Redis."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from farebox.records import Result


@dataclass(slots=True)
class ModelTally:
    """One model's part of a run. Money in nano-dollars."""

    jobs: int = 0
    failed: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_nusd: int = 0


@dataclass(slots=True)
class Tally:
    """Counts of a run: outcomes, finishes, tokens and cost by model, and one example of each kind of failure."""

    outcomes: Counter[str] = field(default_factory=Counter)
    finishes: Counter[str] = field(default_factory=Counter)
    models: dict[str, ModelTally] = field(default_factory=dict)
    failures: dict[str, tuple[int, str]] = field(default_factory=dict)

    def add(self, result: Result) -> None:
        """Count one result."""
        self.count(
            result.model_ref,
            result.outcome,
            result.finish,
            result.input_tokens,
            result.output_tokens,
            result.cost_nusd,
        )
        if result.outcome == "failed":
            seen, example = self.failures.get(result.error_code, (0, result.error_message))
            self.failures[result.error_code] = (seen + 1, example)

    def count(  # noqa: PLR0913 - one line of OUT says these
        self, model_ref: str, outcome: str, finish: str, input_tokens: int, output_tokens: int, cost_nusd: int
    ) -> None:
        """Count one line."""
        self.outcomes[outcome] += 1
        if finish:
            self.finishes[finish] += 1
        model = self.models.setdefault(model_ref, ModelTally())
        model.jobs += 1
        model.failed += outcome == "failed"
        model.input_tokens += input_tokens
        model.output_tokens += output_tokens
        model.cost_nusd += cost_nusd

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
