"""Lines that are spread over unequal models: how near the whole file comes to the soonest that it could be answered."""

from __future__ import annotations

import heapq
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import measure
from measure import Report

FAST_MS = 100
REFUSE_ALL = ("--share-429", "1")


@dataclass(frozen=True)
class Lane:
    """One simulator: how long it takes, and what it allows."""

    latency_ms: int = FAST_MS
    rpm: int = 0
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Case:
    """A file of so many lines, spread over lanes with so many slots each in every process."""

    name: str
    lines: int
    lanes: tuple[Lane, ...]
    processes: int = 1
    slots: int = 8


CASES = (
    Case("calls of 0.1, 1 and 5 s", measure.sized(900, 90), (Lane(100), Lane(1000), Lane(5000))),
    Case("calls of 0.1, 1 and 5 s, four processes", measure.sized(900, 90), (Lane(100), Lane(1000), Lane(5000)), 4, 2),
    Case("600 and 60 requests/min", measure.sized(150, 15), (Lane(rpm=600), Lane(rpm=60))),
    Case("one lane of two refuses everything", measure.sized(600, 60), (Lane(), Lane(options=REFUSE_ALL))),
)


def measured(repeats: int) -> Report:
    """Run the file of each case."""
    report = Report(
        "spread: lines shared over unequal models",
        "`farebox run --spread` over simulators, 8 slots per lane, two per process where there are four. The "
        "soonest is what a scheduler reaches that knows how long calls take and loses no time between them. The run's "
        "own clock counts, from its first submit to its last line; the start of further processes is in it.",
    )
    found = measure.repeat(repeats, _once, "spread")
    for case in CASES:
        words = f"{case.name}: {case.lines:,} lines, times the soonest ({soonest_s(case):.1f} s)"
        report.add(words, found[case.name], "≤ 1.3")
    return report


def _once() -> dict[str, float]:
    """Run the case of several processes by itself, the others, which only wait, at the same time."""
    alone = [case for case in CASES if case.processes > 1]
    together = [case for case in CASES if case.processes == 1]
    with ThreadPoolExecutor(len(together)) as threads:
        said = dict(zip(together, threads.map(run, together), strict=True)) | {case: run(case) for case in alone}
    return {case.name: said[case]["wall_s"] / soonest_s(case) for case in CASES}


def run(case: Case) -> dict:
    """Run a case once; what the run says of itself."""
    with ExitStack() as stack:
        place = stack.enter_context(measure.folder())
        urls = [
            stack.enter_context(measure.simulator(*_options(lane), latency_ms=lane.latency_ms)) for lane in case.lanes
        ]
        _configure(place, case, urls)
        measure.prompts(place / "in.jsonl", case.lines)
        names = ",".join(f"p{number}:sim-1" for number in range(len(urls)))
        width = ("--concurrency", str(case.slots), "--processes", str(case.processes))
        spent = measure.farebox("run", "in.jsonl", "--spread", names, *width, "--json", "--quiet", cwd=place)
        return json.loads(spent.out)


def soonest_s(case: Case) -> float:
    """When the last line is answered if each goes to the slot that answers it first."""
    slots = []
    for lane in case.lanes:
        if lane.options == REFUSE_ALL:
            continue
        took_s, gap_s = lane.latency_ms / 1000, 60 / lane.rpm if lane.rpm else 0.0
        if gap_s:  # one slot that may begin a call every so often, after a second's worth at once
            slots.append((took_s - max(1.0, lane.rpm / 60) * gap_s + gap_s, gap_s))
        else:
            slots += [(took_s, took_s)] * case.slots * case.processes
    heapq.heapify(slots)
    end_s = 0.0
    for _ in range(case.lines):
        end_s, step_s = slots[0]
        heapq.heapreplace(slots, (end_s + step_s, step_s))
    return end_s


def _options(lane: Lane) -> tuple[str, ...]:
    return (*(("--rpm", str(lane.rpm)) if lane.rpm else ()), *lane.options)


def _configure(place: Path, case: Case, urls: list[str]) -> None:
    """Write a farebox.toml with a provider per simulator, and the rates that they allow."""
    text = "[budget]\nlimit_usd = 100\n"
    for number, (lane, url) in enumerate(zip(case.lanes, urls, strict=True)):
        text += f'[providers.p{number}]\nbase_url = "{url}/v1"\nfree = true\n'
        text += f'[models."p{number}:sim-1"]\nmax_output_tokens = 16384\n' + (f"rpm = {lane.rpm}\n" if lane.rpm else "")
    (place / "farebox.toml").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    for wanted in [CASES[int(number)] for number in sys.argv[1:]] or CASES:
        said, best_s = run(wanted), soonest_s(wanted)
        print(f"{wanted.name}: {said['wall_s']:.1f} s, the soonest is {best_s:.1f} s", flush=True)
        print(json.dumps({name: said[name] for name in said if name in ("models", "by_model", "answered")}))
