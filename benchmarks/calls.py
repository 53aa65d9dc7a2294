"""Calls over HTTP: `farebox run` beside a plain AsyncOpenAI loop, against the same simulator, in the same run."""

from __future__ import annotations

import json
import sys
from functools import partial

import measure
from measure import HERE, MODEL, Report

JOBS = 4_000
FEW = 40
LOOPS = (64, 256)


def measured(repeats: int) -> Report:
    """Run both with many lines and with few: the difference is what the calls cost."""
    with measure.folder() as folder, measure.simulator() as url:
        measure.configuration(folder, url)
        for jobs in (FEW, JOBS):
            measure.prompts(folder / f"{jobs}.jsonl", jobs)

        def once() -> dict[str, float]:
            found = {f"loop {slots}": _per_call(partial(_loop, folder, url, slots)) for slots in LOOPS}
            found["farebox"] = _per_call(partial(_run, folder))
            return found | {f"ratio {slots}": found[f"loop {slots}"] / found["farebox"] for slots in LOOPS}

        found = measure.repeat(repeats, once, "calls")
    report = Report(
        "calls: the main job over HTTP, beside a plain loop",
        f"{JOBS:,} prompts of 1 KB against `farebox simulate` at 0 latency in a process of its own. CPU of the whole "
        f"command with its children; for Farebox that includes the Redis server and the output file. Start-up is "
        f"subtracted from all alike: each figure is the difference between {JOBS:,} and {FEW} prompts. The loop is "
        "`AsyncOpenAI` with its defaults, `asyncio.gather` and a semaphore (`benchmarks/plain_loop.py`).",
    )
    report.add("CPU ms per call: farebox run, one process, 256 slots", found["farebox"])
    for slots in LOOPS:
        report.add(f"CPU ms per call: AsyncOpenAI loop, {slots} at once", found[f"loop {slots}"])
        report.add(f"calls per CPU second, times the loop with {slots}", found[f"ratio {slots}"], "≥ 2, later 3")
    return report


def _per_call(cpu_s):
    return 1000 * (cpu_s(JOBS) - cpu_s(FEW)) / (JOBS - FEW)


def _loop(folder, url, slots, jobs):
    command = [sys.executable, str(HERE / "plain_loop.py"), f"{url}/v1", f"{jobs}.jsonl", str(slots)]
    spent = measure.run(command, cwd=folder)
    assert int(spent.out) == jobs
    return spent.cpu_s


def _run(folder, jobs):
    with measure.folder() as place:
        arguments = ["-o", str(place / "out.jsonl"), "--data-dir", str(place / "data"), "--json", "--quiet"]
        spent = measure.farebox("run", f"{jobs}.jsonl", "-m", MODEL, "--budget", "100", *arguments, cwd=folder)
    assert json.loads(spent.out)["succeeded"] == jobs
    return spent.cpu_s
