"""Judging a whole input file before a cent is spent, and telling people about its bad lines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

from farebox_worker.files.lines import Line

SHOWN = 20  # bad lines kept and shown
ALIKE = 3  # so many neighbours of one message are shown as one


@dataclass(slots=True)
class Summary:
    """What a file holds. `first_bad` has the first 20 bad lines, `models` the good lines by model_ref.

    With several models a line counts once for each, but once in `lines` and `bad_lines`; `last_line` is the number of
    the last.

    `alike` counts the bad lines right after those 20 that say the same as the last of them, to line `alike_to`.
    """

    total: int = 0
    good: int = 0
    lines: int = 0
    bad_lines: int = 0
    first_bad: list[Line] = field(default_factory=list)
    models: Counter[str] = field(default_factory=Counter)
    alike: int = 0
    alike_to: int = 0
    last_line: int = 0
    _last_bad: int = 0

    @property
    def bad(self) -> int:
        """How many lines are bad, once for each model."""
        return self.total - self.good

    def add(self, line: Line) -> None:
        """Count one line."""
        self.total += 1
        self.lines += line.number != self.last_line
        self.last_line = line.number
        if line.job is None:
            self.bad_lines += line.number != self._last_bad
            self._last_bad = line.number
            if len(self.first_bad) < SHOWN:
                self.first_bad.append(line)
            elif self.bad == SHOWN + self.alike + 1 and line.error == self.first_bad[-1].error:
                self.alike, self.alike_to = self.alike + 1, line.number
            return
        self.good += 1
        self.models[line.job.model_ref] += 1

    def add_known(self, number: int, model_refs: Sequence[str]) -> None:
        """Count a good line that was not read, asked of these models."""
        self.total += len(model_refs)
        self.good += len(model_refs)
        self.lines += 1
        self.last_line = number
        for model_ref in model_refs:
            self.models[model_ref] += 1


def summarize(lines: Iterable[Line]) -> Summary:
    """Count lines, in constant memory."""
    summary = Summary()
    for line in lines:
        summary.add(line)
    return summary


def how_to_mend(summary: Summary) -> str:
    """Say what to do about bad lines: where none is good, leaving them out would leave nothing."""
    if not summary.good:
        return ""
    return "Mend these lines, or leave them out with --skip-invalid."


def bad_line_report(path: str | Path, summary: Summary, *, shown: int = SHOWN, advice: str = "") -> str:
    """Write the bad lines for people, one `file:line: message` each; "" when there are none.

    Many neighbours with one message are told as one; `advice` ends it.
    """
    if not summary.bad:
        return ""
    verb = "is" if summary.bad_lines == 1 else "are"
    lines = [f"{path}: {summary.bad_lines:,} of {summary.lines:,} lines {verb} bad"]
    told = summary.first_bad[:shown]
    after = summary.alike if len(told) == SHOWN else 0
    for error, alike in groupby(told, key=lambda bad: bad.error):
        numbers = [bad.number for bad in alike]
        last, others = numbers[-1], len(numbers) - 1
        if after and last == told[-1].number:
            last, others = summary.alike_to, others + after
        if others + 1 < ALIKE:
            lines += [f"{path}:{number}: {error}" for number in numbers]
        else:
            lines.append(f"{path}:{numbers[0]}: {error} (and {others:,} more like it, to line {last})")
    if more := summary.bad - len(told) - after:
        lines.append(f"and {more:,} more")
    if advice:
        lines.append(advice)
    return "\n".join(lines)
