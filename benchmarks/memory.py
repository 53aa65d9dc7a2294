"""Memory of `farebox run`: a million lines beside 10,000. `FAREBOX_BENCH_LINES` takes another number than a million."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import measure
from measure import Report

FEW = measure.sized(10_000, 100)
MANY = measure.sized(int(os.environ.get("FAREBOX_BENCH_LINES", "1000000")), 200)


def measured(repeats: int) -> Report:
    """Run both files; memory is the most the process had at any time."""
    repeats = repeats if MANY <= 200_000 else 1  # it takes minutes, and memory varies little
    with measure.folder() as folder:
        for lines in (FEW, MANY):
            measure.prompts(folder / f"{lines}.jsonl", lines)

        def once() -> dict[str, float]:
            few, many = _peaks(folder, FEW), _peaks(folder, MANY)
            mb = {"few": few["run"], "many": many["run"], "server few": few["server"], "server many": many["server"]}
            return {**mb, "ratio": many["run"] / few["run"], "rate": many["rate"]}

        found = measure.repeat(repeats, once, "memory")
    report = Report(
        "memory: a long file",
        "`farebox run` on `echo:echo`, lines of 1 KB, a new data directory each time; the most that the process, which "
        "is the worker too, and its embedded server each had resident at any time (the kernel's VmHWM). The server "
        "keeps a tombstone of every line. A file of a million lines is run once, not as often as is said below.",
    )
    report.add(f"peak MB: {FEW:,} lines", found["few"])
    report.add(f"peak MB: {MANY:,} lines", found["many"])
    report.add(f"{MANY:,} lines to {FEW:,}", found["ratio"], "≤ 1.3")
    report.add(f"peak MB of the server: {FEW:,} lines", found["server few"])
    report.add(f"peak MB of the server: {MANY:,} lines", found["server many"])
    report.add(f"lines/s of the whole command, {MANY:,} lines", found["rate"])
    return report


def _peaks(folder, lines) -> dict[str, float]:
    with measure.folder() as place:
        arguments = ["run", f"{lines}.jsonl", "-m", "echo:echo", "--budget", "10000", "-o", str(place / "out.jsonl")]
        arguments += ["--data-dir", str(place / "data"), "--json", "--quiet"]
        began = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "farebox_worker", *arguments], cwd=folder, stdout=subprocess.PIPE
        )
        found = {"run": 0.0, "server": 0.0}
        while process.poll() is None:  # wait4 tells the largest of a process and its children
            with suppress(OSError, ValueError):  # not there yet, or no more
                found["run"] = _peak_mb(process.pid)
                found["server"] = _peak_mb(int((place / "data" / "server.pid").read_text(encoding="ascii")))
            time.sleep(0.02)
        found["rate"] = lines / (time.perf_counter() - began)
        assert process.stdout is not None
        assert json.loads(process.stdout.read())["succeeded"] == lines
    return found


def _peak_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    peak = re.search(r"VmHWM:\s+(\d+) kB", status)
    if peak is None:
        raise ValueError("it has ended")
    return int(peak[1]) / 1024
