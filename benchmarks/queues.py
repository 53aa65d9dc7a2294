"""The bus beside other queues on Redis: jobs that do nothing, one worker process, the same server.

A no-op of arq, SAQ, streaQ and taskiq (`peers/*_noop.py`, each in an environment of its own) counts calls; our job
carries 1 KB, a price and a hold, is answered by the echo adapter, booked in four scopes and stored with its result.
taskiq keeps no result by itself; how fast it is when it does is a row of its own.
"""

from __future__ import annotations

import asyncio
import json
import subprocess

import measure
import venvs
from fleet import fleet
from measure import HERE, Report

JOBS = measure.sized(20_000, 400)
PEER_JOBS = measure.sized(3_000, 300)
CONCURRENCY = 100
PEERS = {
    "arq": "arq",
    "saq": "SAQ",
    "streaq": "streaQ",
    "taskiq": "taskiq",
    "taskiq results": "taskiq that keeps results",
}
MORE_THAN_ASKED = {"taskiq results"}  # no target of the design's


def measured(repeats: int) -> Report:
    """Work off as many no-ops as each does in some seconds."""
    pythons = {name: python for name in PEERS if (python := venvs.python_of(name.split()[0]))}
    versions: dict[str, str] = {}

    def once() -> dict[str, float]:
        ours = asyncio.run(_ours())
        figures = {"rate": ours.rate, "cpu": 1000 * ours.worker_s / ours.jobs}
        for name, python in pythons.items():
            theirs = _theirs(name, python)
            versions[name] = theirs["versions"]
            figures |= {f"{name} rate": theirs["rate"], f"{name} cpu": theirs["cpu"]}
            figures[f"{name} ratio"] = ours.rate / theirs["rate"]
        return figures

    found = measure.repeat(repeats, once, "queues")
    report = Report(
        "queues: the bus beside other queues",
        f"One worker process, uvloop, jobs that wait already, {CONCURRENCY} at once, a server on 127.0.0.1 with the "
        f"settings of the embedded one. Peers: {PEER_JOBS:,} no-ops, from the first to the last, by the worker's own "
        f"clock; Farebox: {JOBS:,} echo jobs of 1 KB with holds, bookings and stored results, from the resume of the "
        f"lane to the last settle. {'; '.join(dict.fromkeys(versions.values()))}.",
    )
    report.add("jobs/s: Farebox", found["rate"], "≥ 5,000")
    report.add("CPU ms per job: Farebox, the worker", found["cpu"])
    for name, called in PEERS.items():
        if name not in pythons:
            report.add(f"jobs/s: {called}", "could not be installed here")
            continue
        report.add(f"jobs/s: {called}", found[f"{name} rate"])
        report.add(f"CPU ms per job: {called}, the worker", found[f"{name} cpu"])
        target = "" if name in MORE_THAN_ASKED else "≥ 4"
        report.add(f"jobs/s, times those of {called}", found[f"{name} ratio"], target)
    return report


async def _ours():
    async with fleet(port=measure.free_port()) as bus:
        await bus.pause()
        await bus.fill(JOBS)
        await bus.start(FAREBOX_WORKER_CONCURRENCY=str(CONCURRENCY))
        return await bus.work_off(JOBS)


def _theirs(name, python):
    with measure.server(port=measure.free_port()) as server:
        peer, *options = name.split()
        command = [python, HERE / "peers" / f"{peer}_noop.py", server.url, str(PEER_JOBS), str(CONCURRENCY), *options]
        ended = subprocess.run(command, check=False, capture_output=True, text=True)
    if ended.returncode:
        raise SystemExit(f"{name}: {ended.stderr[-2000:]}")
    return json.loads(ended.stdout)
