"""Measure, as ratios in one run: `python benchmarks/run.py [NAME…] [--repeats N]`; all of them without a name.

Each name is a file beside this one with `measured(repeats) -> Report`. What was measured replaces its section in
RESULTS.md, with the machine, the date and the versions; other sections stay, and the tables at the top are made anew.
With FAREBOX_BENCH_SCALE below 1 everything is rehearsed at a fraction of its size, and nothing is kept.
"""

from __future__ import annotations

import argparse
import importlib
import re
import sys
import time
from pathlib import Path

import measure
import targets
from measure import HERE, Report

NAMES = (
    "calls", "gateways", "slots", "echo", "bus", "queues", "scale", "flat", "paced", "spread", "submit", "client",
    "pickup", "idle", "start", "memory", "limits", "money",
)  # fmt: skip
RESULTS = HERE / "RESULTS.md"
HEAD = """# What was measured

Medians, the least and the most in brackets; ratios are taken within one repeat. Made by `make bench`
(`python benchmarks/run.py [NAME…]`); every section names its own machine, date, commit and repeats. *Met* is judged by
the median; "by the median" says that the worst repeat was on the other side.
"""


def main() -> None:
    """Measure what is asked for, print it and keep it."""
    parser = argparse.ArgumentParser(description="Measure Farebox.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; default: all")
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="at least 3; default: 5")
    parser.add_argument("--into", type=Path, metavar="FILE", help="keep the sections here; default: RESULTS.md")
    parser.add_argument("--tables", action="store_true", help="measure nothing, make the tables at the top anew")
    given = parser.parse_args()
    names = () if given.tables else given.names or NAMES
    if unknown := set(names) - set(NAMES):
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    into = given.into or (None if measure.IS_REHEARSAL else RESULTS)
    repeats = given.repeats if measure.IS_REHEARSAL else max(3, given.repeats)
    began = time.perf_counter()
    for number, name in enumerate(names, 1):
        spent = f", {(time.perf_counter() - began) / 60:.1f} min so far" if number > 1 else ""
        print(f"{number} of {len(names)}: {name}{spent}", file=sys.stderr, flush=True)
        section = _measure(name, repeats)
        print(section, flush=True)
        if into:
            keep(into, {name: section})
    if into and given.tables:
        keep(into, {})


def _measure(name: str, repeats: int) -> str:
    machine, began = measure.machine(), time.perf_counter()
    report = importlib.import_module(name).measured(repeats)
    return written(name, report, [f"{repeats} repeats", *machine, f"took {time.perf_counter() - began:.0f} s"])


def written(name: str, report: Report, machine: list[str]) -> str:
    """Write a section; its title begins with its name, or it would not be found again."""
    if not report.title.startswith(f"{name}: "):
        raise ValueError(f"the title of {name} must begin with '{name}: ', not {report.title!r}")
    lines = [f"## {report.title}", "", report.how, "", "| what | median (least to most) | target |", "|---|---|---|"]
    lines += [f"| {what} | {figure} | {target} |" for what, figure, target in report.rows]
    return "\n".join([*lines, "", f"{'; '.join(machine)}.", ""])


def keep(into: Path, sections: dict[str, str]) -> None:
    """Put sections in their places among the others, and make the tables of all of them."""
    kept = into.read_text(encoding="utf-8") if into.exists() else ""
    parts = re.split(r"^## ", kept, flags=re.MULTILINE)[1:]
    known = {part.partition(":")[0]: f"## {part}".rstrip() + "\n" for part in parts} | sections
    ordered = {name: known[name] for name in NAMES if name in known}
    into.write_text("\n".join([HEAD, targets.tables(ordered), *ordered.values()]), encoding="utf-8")


if __name__ == "__main__":
    main()
