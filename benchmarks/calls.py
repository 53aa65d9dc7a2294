"""Calls over HTTP: `farebox run` beside loops by hand with each SDK, against the same simulator, in the same run."""

from __future__ import annotations

import json
import sys
from functools import partial

import measure
from measure import HERE, MODEL, Report

FEW = 40
JOBS = measure.sized(3_000, FEW + 10)
LOOPS = (("openai", 64), ("openai", 256), ("anthropic", 64))
REFS = {"openai": MODEL, "anthropic": "claude:sim-1"}
CALLED = {"openai": "AsyncOpenAI", "anthropic": "AsyncAnthropic"}


def measured(repeats: int) -> Report:
    """Run each with many lines and with few: the difference is what the calls cost."""
    with measure.folder() as folder, measure.simulator() as url:
        measure.configuration(folder, url)
        for jobs in (FEW, JOBS):
            measure.prompts(folder / f"{jobs}.jsonl", jobs)

        def once() -> dict[str, float]:
            figures = {sdk: per_call(partial(farebox_s, folder, ref), JOBS) for sdk, ref in REFS.items()}
            for sdk, slots in LOOPS:
                figures[f"{sdk} {slots}"] = per_call(partial(_loop, folder, url, sdk, slots), JOBS)
                figures[f"{sdk} {slots} ratio"] = figures[f"{sdk} {slots}"] / figures[sdk]
            return figures

        found = measure.repeat(repeats, once, "calls")
    report = Report(
        "calls: the main job over HTTP, beside plain loops",
        f"{JOBS:,} prompts of 1 KB against `farebox simulate` at 0 latency in a process of its own. CPU of the whole "
        f"command with its children; for Farebox that includes the Redis server and the output file. Start-up is "
        f"subtracted from all alike: each figure is the difference between {JOBS:,} and {FEW} prompts. The loops are "
        "the SDKs with their defaults, `asyncio.gather` and a semaphore (`benchmarks/plain_loop.py`); Farebox "
        "translates the same chat prompts for the messages API.",
    )
    for sdk, ref in REFS.items():
        report.add(f"CPU ms per call: farebox run, one process, {ref.partition(':')[0]} wire", found[sdk])
    for sdk, slots in LOOPS:
        target = "≥ 3" if sdk == "openai" else ""
        report.add(f"CPU ms per call: {CALLED[sdk]} loop, {slots} at once", found[f"{sdk} {slots}"])
        report.add(
            f"calls per CPU second, times the {CALLED[sdk]} loop with {slots}", found[f"{sdk} {slots} ratio"], target
        )
    return report


def per_call(cpu_s, jobs):
    """CPU ms per call, of a function that says the CPU seconds of so many prompts: start-up is the same in both."""
    return 1000 * (cpu_s(jobs) - cpu_s(FEW)) / (jobs - FEW)


def _loop(folder, url, sdk, slots, jobs):
    command = [sys.executable, str(HERE / "plain_loop.py"), sdk, url, f"{jobs}.jsonl", str(slots)]
    spent = measure.run(command, cwd=folder)
    assert int(spent.out) == jobs
    return spent.cpu_s


def farebox_s(folder, ref, jobs):
    """CPU seconds of `farebox run` with so many prompts, its server and its output among them."""
    with measure.folder() as place:
        arguments = ["-o", str(place / "out.jsonl"), "--data-dir", str(place / "data"), "--json", "--quiet"]
        spent = measure.farebox("run", f"{jobs}.jsonl", "-m", ref, "--budget", "100", *arguments, cwd=folder)
    assert json.loads(spent.out)["succeeded"] == jobs
    return spent.cpu_s
