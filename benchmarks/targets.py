"""The first tables of RESULTS.md: what is promised, what was measured, and whether that is enough.

They are made of the sections below them, which carry their own targets: nothing here is a figure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

PROMISED = "| promise | what | target | measured | met | section |\n|---|---|---|---|---|---|"
FURTHER = "| what | target | measured | met | section |\n|---|---|---|---|---|"
NUMBER = r"[\d,]+(?:\.\d+)?"
UNMEASURED = "*not measured yet*"


@dataclass(frozen=True)
class Promise:
    """A row of the design's list: its words, and a pattern of the rows of a section that show it."""

    words: str
    section: str
    rows: str


PROMISES = (
    Promise(
        "end to end over HTTP beside a plain `AsyncOpenAI` loop, one worker process, the server's CPU on our side",
        "calls", r"calls per CPU second, times",
    ),
    Promise("the bus alone: echo lane, 1 KB bodies, one worker process", "bus", r"jobs/s$"),
    Promise("the bus beside no-ops of other queues on the same server", "queues", r"jobs/s, times those of"),
    Promise("bulk submit of 1 KB jobs, one producer process", "submit", r"jobs/s$"),
    Promise("pick-up of one job by an idle worker", "pickup", r"ms from submit to call"),
    Promise("busy slots with 1 s calls, concurrency 200", "slots", r"% of slot time"),
    Promise("CPU per job, a long queue to a short one, many flows to one", "flat", r"CPU per job, .*(queued|flows) to"),
    Promise("Redis memory per queued 1 KB job", "submit", r"bytes of Redis memory"),
    Promise("RSS of `farebox run`, a long file to one of 10,000 lines", "memory", r".* lines to"),
    Promise("limit $1, many processes, calls of $0.02, kill -9 at random", "money", r"\$ "),
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """A row of a section: what was measured, how it came out, and what it should be."""

    section: str
    what: str
    figure: str
    target: str

    @property
    def verdict(self) -> str:
        """Whether the median keeps to the target, and whether every repeat did."""
        median, *others = numbers(self.figure)
        sign, bound = bounded(self.target)
        if not _keeps(median, sign, bound):
            return "**no**"
        return "yes" if all(_keeps(other, sign, bound) for other in others) else "by the median"

    @property
    def line(self) -> str:
        """Say it as a row of these tables."""
        return f"| {self.what} | {self.target} | {self.figure} | {self.verdict} | {self.section} |"


def tables(sections: Mapping[str, str]) -> str:
    """Make both tables, and the line about time, of the sections' own text by name."""
    rows = [row for name, text in sections.items() for row in rows_of(name, text) if row.target]
    promised, shown = [], set()
    for promise in PROMISES:
        found = [row for row in rows if row.section == promise.section and re.match(promise.rows, row.what)]
        lines = [row.line for row in found] or [f"| {UNMEASURED} | | | | {promise.section} |"]
        promised += [f"| {promise.words} {line}" for line in lines]
        shown |= set(found)
    others = [row.line for row in rows if row not in shown]
    first, second = "\n".join([PROMISED, *promised]), "\n".join([FURTHER, *others])
    parts = ["## What the design promises", first, "## What else has a target", second, _time(sections)]
    return "\n\n".join(parts) + "\n"


def rows_of(section: str, text: str) -> list[Row]:
    """Read the rows of a section back from its table."""
    lines = [line[2:-2].split(" | ") for line in text.splitlines() if line.startswith("| ") and line.endswith(" |")]
    return [Row(section, *(cell.strip() for cell in cells)) for cells in lines[1:] if len(cells) == 3]


def numbers(figure: str) -> list[float]:
    """Read the numbers of a figure: the median, and the least and the most where they are said."""
    found = re.match(rf"(-?{NUMBER})(?:.* \((-?{NUMBER}) to (-?{NUMBER})\))?", figure)
    if not found:
        raise ValueError(f"a figure begins with a number, unlike {figure!r}")
    return [float(number.replace(",", "")) for number in found.groups() if number]


def bounded(target: str) -> tuple[str, float]:
    """Read a target such as `≥ 5,000`, `< 1` or `1`."""
    found = re.match(rf"([≥≤<>]?) ?({NUMBER})", target)
    if not found:
        raise ValueError(f"a target reads like '≥ 5,000', not {target!r}")
    return found[1], float(found[2].replace(",", ""))


def _keeps(value: float, sign: str, bound: float) -> bool:
    return {"≥": value >= bound, ">": value > bound, "≤": value <= bound, "<": value < bound, "": value == bound}[sign]


def _time(sections: Mapping[str, str]) -> str:
    took = {name: int(found[1]) / 60 for name, text in sections.items() if (found := re.search(r"took (\d+) s", text))}
    each = ", ".join(f"{name} {minutes:.1f}" for name, minutes in took.items())
    missing = [name for name in sections if name not in took]
    unsaid = f"; of {', '.join(missing)} it is not known" if missing else ""
    return f"Minutes that the sections took, {sum(took.values()):.0f} together: {each}{unsaid}."
