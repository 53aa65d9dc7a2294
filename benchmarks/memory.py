"""Memory of `farebox run`: a long file beside a short one. `FAREBOX_BENCH_LINES=1000000` takes the million."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import measure
from measure import Report

FEW = measure.sized(10_000, 100)
MANY = measure.sized(int(os.environ.get("FAREBOX_BENCH_LINES", "100000")), 200)


def measured(repeats: int) -> Report:
    """Run both files; memory is the most the process had at any time."""
    repeats = repeats if MANY <= 200_000 else 1
    with measure.folder() as folder:
        for lines in (FEW, MANY):
            measure.prompts(folder / f"{lines}.jsonl", lines)

        def once() -> dict[str, float]:
            few_mb, _ = _peak(folder, FEW)
            many_mb, rate = _peak(folder, MANY)
            return {"few": few_mb, "many": many_mb, "ratio": many_mb / few_mb, "rate": rate}

        found = measure.repeat(repeats, once, "memory")
    report = Report(
        "memory: a long file",
        "`farebox run` on `echo:echo`, lines of 1 KB, a new data directory each time; the most that the process had "
        "resident at any time, its embedded server apart. FAREBOX_BENCH_LINES=1000000 measures a million lines.",
    )
    report.add(f"peak MB: {FEW:,} lines", found["few"])
    report.add(f"peak MB: {MANY:,} lines", found["many"])
    report.add(f"{MANY:,} lines to {FEW:,}", found["ratio"], "≤ 1.3 at 1,000,000")
    report.add(f"lines/s of the whole command, {MANY:,} lines", found["rate"])
    return report


def _peak(folder, lines):
    with measure.folder() as place:
        arguments = ["run", f"{lines}.jsonl", "-m", "echo:echo", "--budget", "10000", "-o", str(place / "out.jsonl")]
        arguments += ["--data-dir", str(place / "data"), "--json", "--quiet"]
        began = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "farebox_worker", *arguments], cwd=folder, stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        out = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        rate = lines / (time.perf_counter() - began)
    assert json.loads(out)["succeeded"] == lines
    return usage.ru_maxrss / 1024, rate
