"""The main job without a network: a file of 1 KB prompts through `farebox run` and the echo provider, one process."""

from __future__ import annotations

import json

import measure
from measure import Report

FEW = 40
JOBS = measure.sized(10_000, 10 * FEW)


def measured(repeats: int) -> Report:
    """Run the file, and a short one whose cost is the start-up."""
    with measure.folder() as folder:
        for jobs in (FEW, JOBS):
            measure.prompts(folder / f"{jobs}.jsonl", jobs)

        def once() -> dict[str, float]:
            few, many = _run(folder, FEW), _run(folder, JOBS)
            jobs = JOBS - FEW
            return {
                "rate": JOBS / json.loads(many.out)["wall_s"],
                "rate_whole": JOBS / many.wall_s,
                "cpu": 1000 * (many.cpu_s - few.cpu_s) / jobs,
                "server": 1000 * (many.server_s - few.server_s) / jobs,
                "start": few.wall_s,
            }

        found = measure.repeat(repeats, once, "echo")
    report = Report(
        "echo: the main job without a network",
        f"`farebox run` with {JOBS:,} lines of 1 KB on `echo:echo`, a new data directory each time, the embedded "
        f"server's CPU counted. CPU per job is the difference to a run of {FEW} lines, which is the start-up.",
    )
    report.add("jobs/s, from the first submit to the last synced line", found["rate"], "≥ 5,000")
    report.add("jobs/s of the whole command: start-up, reading IN, shutting the server down", found["rate_whole"])
    report.add("CPU ms per job, server included", found["cpu"])
    report.add("of which the server", found["server"])
    report.add(f"seconds for {FEW} lines, all told", found["start"], "≤ 2.5")
    return report


def _run(folder, jobs):
    with measure.folder() as place:
        out, data = place / "out.jsonl", place / "data"
        arguments = [
            "run",
            f"{jobs}.jsonl",
            "-m",
            "echo:echo",
            "--budget",
            "100",
            "-o",
            str(out),
            "--data-dir",
            str(data),
        ]
        spent = measure.farebox(*arguments, "--json", "--quiet", cwd=folder, data_dir=data)
    assert json.loads(spent.out)["succeeded"] == jobs
    return spent
