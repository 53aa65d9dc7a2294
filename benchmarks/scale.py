"""Many worker processes on one lane: what they do together, and that none dies of it."""

from __future__ import annotations

import asyncio
import statistics

import measure
from fleet import fleet, rss_mb
from measure import Report

JOBS = measure.sized(60_000, 400)  # the first hundreds of a process cost more: its interpreter learns
PROCESSES = (1, 2, measure.sized(10, 3), measure.sized(40, 4))
ROUNDS = measure.sized(2)  # in turn: the best of three single figures would be the luckiest


def measured(repeats: int) -> Report:
    """Let ever more processes work off the same lane."""
    found = measure.repeat(repeats, lambda: asyncio.run(_once()), "scale")
    report = Report(
        "scale: worker processes on one lane",
        f"`farebox worker --processes N`, {JOBS:,} echo jobs of 1 KB in one flow; from the resume of the lane, when "
        f"all processes live, to the last settle, {ROUNDS} times in turn. The processes share the machine's cores with "
        "the server, whose one thread is the ceiling; each must end with exit code 0.",
    )
    for processes in PROCESSES:
        report.add(f"jobs/s: {processes} processes", found[f"{processes} rate"])
    report.add(f"jobs/s: {PROCESSES[-1]} processes, times the best of fewer", found["share"], "≥ 0.9")
    for processes in PROCESSES:
        report.add(f"CPU ms per job: {processes} processes, the server's included", found[f"{processes} cpu"])
    report.add(f"CPU per job: {PROCESSES[-1]} processes to 1", found["cpu ratio"], "≤ 1.2")
    report.add("of which the server, with one process", found["1 server"])
    report.add(f"of which the server, with {PROCESSES[-1]}", found[f"{PROCESSES[-1]} server"])
    report.add("MB resident per process of the last", found["rss"])
    return report


async def _once() -> dict[str, float]:
    rounds = [await _round() for _ in range(ROUNDS)]
    figures = {name: statistics.mean(one[name] for one in rounds) for name in rounds[0]}
    best = max(figures[f"{processes} rate"] for processes in PROCESSES[:-1])
    return figures | {
        "share": figures[f"{PROCESSES[-1]} rate"] / best,
        "cpu ratio": figures[f"{PROCESSES[-1]} cpu"] / figures["1 cpu"],
    }


async def _round() -> dict[str, float]:
    figures: dict[str, float] = {}
    for processes in PROCESSES:
        async with fleet() as bus:
            await bus.pause()
            await bus.fill(JOBS)
            await bus.start(processes)
            took = await bus.work_off(JOBS)
            figures[f"{processes} rate"], figures[f"{processes} cpu"] = took.rate, took.cpu_ms
            figures[f"{processes} server"] = 1000 * took.server_s / took.jobs
            figures["rss"] = max(map(rss_mb, bus.pids()))
    return figures
