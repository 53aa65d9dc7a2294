"""The client: how soon a result is known, what it costs to wait for many, and how fast a batch is filled."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from statistics import quantiles
from typing import Self

import measure
from measure import Report

import farebox
from farebox.connection import connect
from farebox.ledger import Ledger
from farebox.records import FUNCTION, VERSION, Result, ResultEnvelope, encode_result, job_id
from farebox_worker.bus.settle import Settlement, settle

WAITING = measure.sized(10_000, 100)
ITEMS = measure.sized(100_000, 1_000)
FEW_ITEMS = measure.sized(10_000, 100)
ROUNDS = measure.sized(300, 10)


def measured(repeats: int) -> Report:
    """Use a new server each time, and a new process for each figure of memory."""
    found = measure.repeat(repeats, _once, "client")
    report = Report(
        "client: awaiting results, filling batches",
        f"Latency: from before the settle is sent by another connection until `handle.result()` returns, "
        f"{ROUNDS} times, the settle's own round trip included. Waiting: {WAITING:,} handles of one client, each in a "
        f"task of its own. Filling: `submit_batch` of dicts of 1 KB from a generator, with no worker beside it.",
    )
    report.add("ms from settle to result, p50", found["p50"], "≤ 5")
    report.add("ms from settle to result, p99", found["p99"])
    report.add(f"connections that wait for {WAITING:,} handles", found["connections"], "1")
    report.add("KB of memory per waiting handle, its task included", found["kb"])
    report.add(f"seconds until all {WAITING:,} have their results, settled in groups of 64", found["all_s"])
    report.add("submit_batch: jobs/s", found["rate"])
    report.add(f"peak MB of memory for {ITEMS:,} items", found["many_mb"])
    report.add(f"the same, times that for {FEW_ITEMS:,}", found["growth"], "≤ 1.3")
    return report


def _once() -> dict[str, float]:
    figures: dict[str, float] = {}
    for what in ("latency", "waiting", f"fill {ITEMS}", f"fill {FEW_ITEMS}"):
        with measure.server() as server:
            command = [sys.executable, __file__, server.url, *what.split()]
            out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        figures |= json.loads(out)
    return figures | {"growth": figures["many_mb"] / figures.pop("few_mb")}


async def _latency(url: str) -> dict[str, float]:
    async with farebox.Client(url) as client, _Bus(url) as bus:
        taken_ms = []
        for number in range(-20, ROUNDS):
            handle = await client.submit("echo:echo", prompt="Hi", job_id=f"j{number}")
            waiting = asyncio.create_task(handle.result())
            await asyncio.sleep(0.01)
            began = time.perf_counter()
            settling = asyncio.create_task(bus.settle([handle.job_id]))
            await waiting
            if number >= 0:
                taken_ms.append(1000 * (time.perf_counter() - began))
            await settling
    cuts = quantiles(taken_ms, n=100)
    return {"p50": cuts[49], "p99": cuts[98]}


async def _waiting(url: str) -> dict[str, float]:
    async with farebox.Client(url) as client, _Bus(url) as bus:
        items = ({"custom_id": f"j{n}", "prompt": "Hi"} for n in range(WAITING))
        await client.submit_batch(items, name="default", model="echo:echo")
        before = _rss_kb()
        tasks = [asyncio.create_task(client.job(f"j{n}").result()) for n in range(WAITING)]
        await asyncio.sleep(3)
        kb = (_rss_kb() - before) / WAITING
        waiting = [one for one in await bus.redis.client_list() if one["cmd"] == "xread"]
        began = time.perf_counter()
        for start in range(0, WAITING, 64):
            await bus.settle([f"j{n}" for n in range(start, min(start + 64, WAITING))])
        await asyncio.gather(*tasks)
        return {"connections": len(waiting), "kb": kb, "all_s": time.perf_counter() - began}


async def _fill(url: str, count: int) -> dict[str, float]:
    items = ({"custom_id": f"j{n:07}", "prompt": "x" * 950} for n in range(count))
    async with farebox.Client(url) as client:
        async with _Bus(url):
            began = time.perf_counter()
        await client.submit_batch(items, name="b", model="echo:echo", window_jobs=10 * ITEMS, window_bytes=1 << 40)
        rate = count / (time.perf_counter() - began)
    mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"rate": rate, "many_mb": mb} if count == ITEMS else {"few_mb": mb}


class _Bus:
    """The workers' side: settles jobs without running them."""

    def __init__(self, url: str) -> None:
        self.redis = connect(url)
        self._ledger = Ledger(self.redis)

    async def __aenter__(self) -> Self:
        await self._ledger.create()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.redis.aclose()

    async def settle(self, names: list[str]) -> None:
        flow = self._ledger.keys.flow(0, "default", "echo:echo")
        group = []
        for name in names:
            identity = job_id("farebox", "default", name)
            result = Result(VERSION, name, "echo:echo", "succeeded", "answered", 200, "", b'{"choices":[]}')
            envelope = ResultEnvelope(
                t=1, f=FUNCTION, a=(), k={}, et=0, s=True, r=result, st=0, ft=0, q=flow, id=identity
            )
            group.append(
                Settlement(identity, flow, "", "sweep", "release", outcome="succeeded answered",
                           result=encode_result(envelope))
            )  # fmt: skip
        await settle(self._ledger.tongue, group, results_ttl_ms=600_000)


def _rss_kb() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1024


async def _main(url: str, what: str, *count: str) -> None:
    acts = {"latency": _latency, "waiting": _waiting, "fill": _fill}
    print(json.dumps(await acts[what](url, *map(int, count))))


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
