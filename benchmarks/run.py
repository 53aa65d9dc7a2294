"""Measure, as ratios in one run: `python benchmarks/run.py [NAME…] [--repeats N]`; all of them without a name.

Each name is a file beside this one with `measured(repeats) -> Report`. What was measured replaces its section in
RESULTS.md, with the machine, the date and the versions; other sections stay.
"""

from __future__ import annotations

import argparse
import importlib
import re

import measure
from measure import HERE, Report

NAMES = ("echo", "limits", "calls", "pickup", "submit", "client", "bus")
PEERS: tuple[str, ...] = ()  # arq, SAQ, streaQ, taskiq, Curator: one file each in peers/, see peers/README.md
RESULTS = HERE / "RESULTS.md"
HEAD = """# What was measured

Medians of repeats, the least and the most in brackets; ratios are taken within one repeat. Made by `make bench`
(`python benchmarks/run.py [NAME…]`); every section names its own machine, date and commit.
"""


def main() -> None:
    """Measure what is asked for, print it and keep it."""
    parser = argparse.ArgumentParser(description="Measure Farebox.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join((*NAMES, *PEERS))}; default: all")
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="at least 3; default: 5")
    given = parser.parse_args()
    names = given.names or [*NAMES, *PEERS]
    if unknown := set(names) - {*NAMES, *PEERS}:
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join((*NAMES, *PEERS))}")
    for name in names:
        machine = measure.machine()
        report = importlib.import_module(name).measured(max(3, given.repeats))
        section = _written(report, machine, max(3, given.repeats))
        print(section)
        _keep(name, section)


def _written(report: Report, machine: list[str], repeats: int) -> str:
    lines = [f"## {report.title}", "", report.how, "", "| what | median (least to most) | target |", "|---|---|---|"]
    lines += [f"| {what} | {figure} | {target} |" for what, figure, target in report.rows]
    return "\n".join([*lines, "", f"{repeats} repeats. {'; '.join(machine)}.", ""])


def _keep(name: str, section: str) -> None:
    """Put a section in its place among the others."""
    kept = RESULTS.read_text(encoding="utf-8") if RESULTS.exists() else ""
    parts = re.split(r"^## ", kept, flags=re.MULTILINE)[1:]
    sections = {part.partition(":")[0]: f"## {part}".rstrip() + "\n" for part in parts}
    sections[name] = section
    order = [known for known in (*NAMES, *PEERS) if known in sections]
    RESULTS.write_text("\n".join([HEAD, *(sections[known] for known in order)]), encoding="utf-8")


if __name__ == "__main__":
    main()
