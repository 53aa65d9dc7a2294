"""The flags of `farebox run`, and what they mean together."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from farebox.money import nusd_from_usd
from farebox_worker.cli.lines import LineFlags


class Flags(msgspec.Struct, frozen=True, kw_only=True):
    """One field for each flag."""

    output: Path | None
    lines: LineFlags
    budget: float | None
    no_budget: bool
    first: int | None
    tags: tuple[str, ...]
    concurrency: int | None
    fallback_after: float | None
    processes: int
    with_worker: bool
    max_failures: str | None
    dry_run: bool
    overwrite: bool
    redo: bool
    reuse: bool
    ordered: bool
    answer_column: str
    quiet: bool

    @property
    def budget_nusd(self) -> int | None:
        """The budget in nano-dollars; None when the flags name none."""
        return None if self.budget is None else nusd_from_usd(self.budget)

    def most_failures(self, total: int) -> int | None:
        """How many of so many jobs may fail; None for any number. Raises: click.UsageError."""
        text = self.max_failures
        if text is None:
            return None
        try:
            percent = float(text[:-1]) if text.endswith("%") else 0.0
            jobs = int(total * percent / 100) if text.endswith("%") else int(text)
        except (ValueError, OverflowError):
            percent, jobs = 0.0, -1
        if jobs < 0 or percent > 100:
            raise click.UsageError(f"--max-failures takes a number of jobs or a percentage up to 100%, not {text!r}.")
        return max(1, jobs)

    def refuse_unfit(self, *, as_json: bool) -> None:
        """Refuse what cannot be meant together. Raises: click.UsageError."""
        if str(self.output) == "-" and as_json:
            raise click.UsageError("-o - and --json both write to stdout: keep one of them.")
        if self.budget is not None and self.no_budget:
            raise click.UsageError("--budget and --no-budget exclude each other.")
        self.most_failures(1)
