"""Measure, as ratios in one run: `python benchmarks/run.py [NAME…] [--repeats N]`; all of them without a name.

Each name is a file beside this one with `measured(repeats) -> Report`. What was measured replaces its section in
RESULTS.md, with the machine, the date and the versions; other sections stay.
"""

from __future__ import annotations

import argparse
import importlib
import re
import sys
import time

import measure
from measure import HERE, Report

NAMES = (
    "calls", "slots", "echo", "bus", "queues", "scale", "flat", "paced", "spread", "submit", "client", "pickup", "idle",
    "start", "memory", "limits",
)  # fmt: skip
RESULTS = HERE / "RESULTS.md"
HEAD = """# What was measured

Medians of 5 repeats, of 3 where one takes long, the least and the most in brackets; ratios are taken within one repeat.
Made by `make bench` (`python benchmarks/run.py [NAME…]`); every section names its own machine, date and commit.
"""


def main() -> None:
    """Measure what is asked for, print it and keep it."""
    parser = argparse.ArgumentParser(description="Measure Farebox.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; default: all")
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="at least 3; default: 5")
    given = parser.parse_args()
    names = given.names or NAMES
    if unknown := set(names) - set(NAMES):
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    for number, name in enumerate(names, 1):
        print(f"{number} of {len(names)}: {name}", file=sys.stderr, flush=True)
        machine, began = measure.machine(), time.perf_counter()
        report = importlib.import_module(name).measured(max(3, given.repeats))
        section = _written(report, [*machine, f"took {time.perf_counter() - began:.0f} s"])
        print(section)
        _keep(name, section)


def _written(report: Report, machine: list[str]) -> str:
    lines = [f"## {report.title}", "", report.how, "", "| what | median (least to most) | target |", "|---|---|---|"]
    lines += [f"| {what} | {figure} | {target} |" for what, figure, target in report.rows]
    return "\n".join([*lines, "", f"{'; '.join(machine)}.", ""])


def _keep(name: str, section: str) -> None:
    """Put a section in its place among the others."""
    kept = RESULTS.read_text(encoding="utf-8") if RESULTS.exists() else ""
    parts = re.split(r"^## ", kept, flags=re.MULTILINE)[1:]
    sections = {part.partition(":")[0]: f"## {part}".rstrip() + "\n" for part in parts}
    sections[name] = section
    order = [known for known in NAMES if known in sections]
    RESULTS.write_text("\n".join([HEAD, *(sections[known] for known in order)]), encoding="utf-8")


if __name__ == "__main__":
    main()
