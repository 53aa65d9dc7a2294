"""Starting: what a command and a worker take before anything happens."""

from __future__ import annotations

import asyncio

import measure
from fleet import fleet, rss_mb
from measure import Report

LINES = 10


def measured(repeats: int) -> Report:
    """Start each, with both SDKs where they are needed."""
    with measure.folder() as folder:
        measure.prompts(folder / "in.jsonl", LINES)
        found = measure.repeat(repeats, lambda: _once(folder), "start")
    report = Report(
        "start: before anything happens",
        f"`farebox --help`; `farebox run` with {LINES} lines on `echo:echo` and a new data directory, embedded server "
        "and its end included; a `farebox worker` that has loaded both SDKs and made a client of each.",
    )
    report.add("seconds: farebox --help", found["help"], "≤ 0.3")
    report.add(f"seconds: farebox run with {LINES} lines", found["run"], "≤ 2.5")
    report.add("CPU seconds of the same", found["run cpu"])
    report.add("MB resident: a worker that serves OpenAI, Anthropic and echo", found["rss"], "≤ 150")
    return report


def _once(folder) -> dict[str, float]:
    helped = measure.farebox("--help", cwd=folder)
    with measure.folder() as place:
        arguments = ["-m", "echo:echo", "--budget", "1", "-o", str(place / "out.jsonl"), "--data-dir", str(place / "d")]
        ran = measure.farebox("run", "in.jsonl", *arguments, "--json", "--quiet", cwd=folder)
    return {"help": helped.wall_s, "run": ran.wall_s, "run cpu": ran.cpu_s, "rss": asyncio.run(_worker_mb())}


async def _worker_mb() -> float:
    async with fleet() as bus:
        lanes = ["openai:gpt-5-mini", "anthropic:claude-sonnet-4-5"]
        await bus.pause(*lanes)
        for lane in lanes:
            await bus.fill(1, lane=lane)
        await bus.start(OPENAI_API_KEY="none", ANTHROPIC_API_KEY="none")
        await asyncio.sleep(2)
        return rss_mb(bus.pids()[0])
