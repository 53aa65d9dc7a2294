"""What the money invariant costs: the main job of `echo` with no limit, with one, and with ten of every kind."""

from __future__ import annotations

import json

import measure
from measure import Report

FEW = 40
JOBS = measure.sized(6_000, 10 * FEW)
EVERY_KIND = [
    [*scope, *per]
    for scope in ([], ["--provider", "echo"], ["--model", "echo:echo"], ["--tag", "t"])
    for per in ([], ["--per", "day"])
] + [["--per", "month"]]
VARIANTS = {"none": [], "one": [[]], "ten": EVERY_KIND}  # the run's own --budget is the tenth


def measured(repeats: int) -> Report:
    """Run the file under each set of limits in turn."""
    with measure.folder() as folder:
        for jobs in (FEW, JOBS):
            measure.prompts(folder / f"{jobs}.jsonl", jobs)

        def once() -> dict[str, float]:
            figures = {}
            for name, limits in VARIANTS.items():
                few, many = _run(folder, FEW, name, limits), _run(folder, JOBS, name, limits)
                figures[name] = 1000 * (many.cpu_s - few.cpu_s) / (JOBS - FEW)
                figures[f"{name} server"] = 1000 * (many.server_s - few.server_s) / (JOBS - FEW)
            ratios = {f"{name} ratio": figures[name] / figures["none"] for name in VARIANTS}
            return figures | ratios

        found = measure.repeat(repeats, once, "limits")
    report = Report(
        "limits: what the invariant costs",
        f"`farebox run` with {JOBS:,} lines of 1 KB on `echo:echo` and a tag, one process, the embedded server's CPU "
        "counted; holds, windows and the journal are written in every case. The ten limits are for good and per day of "
        "everything, the provider, the model and the tag, per month of everything, and the run's own.",
    )
    for name, words in (("none", "no limit"), ("one", "one limit"), ("ten", "ten limits")):
        report.add(f"CPU ms per job, {words}", found[name])
        report.add(f"of which the server, {words}", found[f"{name} server"])
    for name in ("one", "ten"):
        report.add(f"CPU per job, {name} to none", found[f"{name} ratio"])
    return report


def _run(folder, jobs, name, limits):
    with measure.folder() as place:
        data = place / "data"
        where = {"cwd": folder, "data_dir": data}
        for flags in limits:
            measure.farebox("budget", "set", "1000", *flags, "--data-dir", str(data), **where)
        arguments = ["run", f"{jobs}.jsonl", "-m", "echo:echo", "--tag", "t", "-o", str(place / "out.jsonl")]
        arguments += ["--budget", "100"] if name == "ten" else ["--no-budget"]
        spent = measure.farebox(*arguments, "--data-dir", str(data), "--json", "--quiet", **where)
    assert json.loads(spent.out)["succeeded"] == jobs
    return spent
