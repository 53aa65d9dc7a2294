"""Calls over HTTP: `farebox run` beside what people use instead, LiteLLM's router with its budget on, and Curator.

Each peer has an environment of its own (`venvs.py`), which is installed by the first run: a minute or two, 1.2 GB.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import measure
import venvs
from calls import FEW, farebox_s, per_call
from measure import HERE, MODEL, Report

JOBS = measure.sized(2_000, FEW + 10)
SLOTS = 64
PEERS = {"litellm": "LiteLLM's router", "curator": "Curator"}
OFFLINE = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True", "TELEMETRY_ENABLED": "false", "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
}  # fmt: skip


def measured(repeats: int) -> Report:
    """Run each with many prompts and with few: the difference is what the calls cost."""
    pythons = {name: python for name in PEERS if (python := venvs.python_of(name))}
    versions: dict[str, str] = {}
    with measure.folder() as folder, measure.simulator() as url:
        measure.configuration(folder, url)
        for jobs in (FEW, JOBS):
            measure.prompts(folder / f"{jobs}.jsonl", jobs)

        def once() -> dict[str, float]:
            figures = {"farebox": per_call(partial(farebox_s, folder, MODEL), JOBS)}
            for name, python in pythons.items():
                figures[name] = per_call(partial(_peer_s, name, python, folder, url, versions), JOBS)
                figures[f"{name} ratio"] = figures[name] / figures["farebox"]
            return figures

        found = measure.repeat(repeats, once, "gateways")
    report = Report(
        "gateways: the main job over HTTP, beside other tools",
        f"{JOBS:,} prompts of 1 KB against `farebox simulate` at 0 latency, {SLOTS} at once for the peers; CPU of the "
        "whole command, its children and its Redis server, start-up subtracted as in `calls`. LiteLLM's router has "
        "a budget per provider and Redis to share it, written once a second; it holds nothing back. Curator has "
        f"no limit; it writes a dataset. Neither retries. {'; '.join(versions.values())}.",
    )
    report.add("CPU ms per call: farebox run, one process", found["farebox"])
    for name, called in PEERS.items():
        if name not in pythons:
            report.add(f"CPU ms per call: {called}", "could not be installed here")
            continue
        report.add(f"CPU ms per call: {called}", found[name])
        report.add(f"calls per CPU second, times those of {called}", found[f"{name} ratio"])
    return report


def _peer_s(name: str, python: Path, folder: Path, url: str, versions: dict[str, str], jobs: int) -> float:
    """CPU seconds of a peer with so many prompts, in a directory that it may fill."""
    port = measure.free_port()
    with measure.folder() as place, measure.server(port=port) as server:
        command = [python, HERE / "peers" / f"{name}_calls.py", url, folder / f"{jobs}.jsonl", str(SLOTS), str(port)]
        own = {"HOME": str(place), "HF_HOME": str(place), "CURATOR_CACHE_DIR": str(place / "cache")}
        spent = measure.run(list(map(str, command)), cwd=place, environment=OFFLINE | own, is_silent=True)
        server_s = measure.cpu_s(server.pid)
    said = json.loads(spent.out.splitlines()[-1])
    assert said["answered"] == jobs
    versions[name] = said["versions"]
    return spent.cpu_s + server_s
