"""Submitting: how fast one producer process fills a lane, and what a waiting job takes of the server's memory."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import measure
from measure import Report

from farebox.batch import Batch
from farebox.connection import connect
from farebox.ledger import Ledger
from farebox.records import VERSION, Job

JOBS = measure.sized(50_000, 500)
BODY = b'{"messages":[{"role":"user","content":"' + b"x" * 960 + b'"}],"max_tokens":100}'


def measured(repeats: int) -> Report:
    """Submit to a new server each time."""
    found = measure.repeat(repeats, lambda: asyncio.run(_once()), "submit")
    report = Report(
        "submit: filling a lane",
        f"`Batch.submit` of {JOBS:,} jobs of 1 KB from one process on asyncio's own loop, as a producer without the "
        "worker's extra has it. Memory is the growth of the server's used_memory, everything counted, per job.",
    )
    report.add("jobs/s", found["rate"], "≥ 40,000")
    report.add("CPU ms per job: producer", found["producer"])
    report.add("CPU ms per job: server", found["server"])
    report.add("bytes of Redis memory per waiting 1 KB job", found["bytes"], "≤ 1,600")
    return report


async def _once() -> dict[str, float]:
    with measure.server() as server:
        redis = connect(server.url)
        await Ledger(redis).create()
        batch = Batch(redis, "submit")
        await batch.open()
        await batch.submit(_jobs(-1))
        empty = (await redis.info("memory"))["used_memory"]
        began, own, theirs = time.perf_counter(), time.process_time(), measure.cpu_s(server.pid)
        await batch.submit(_jobs(JOBS))
        took, own = time.perf_counter() - began, time.process_time() - own
        theirs = measure.cpu_s(server.pid) - theirs
        full = (await redis.info("memory"))["used_memory"]
        await redis.aclose()
    return {
        "rate": JOBS / took,
        "producer": 1000 * own / JOBS,
        "server": 1000 * theirs / JOBS,
        "bytes": (full - empty) / JOBS,
    }


def _jobs(count: int) -> Iterator[Job]:
    """Make jobs as they are sent; a negative count makes a single other one."""
    for number in range(count) if count > 0 else [count]:
        yield Job(VERSION, f"job-{number:07}", "echo:echo", "chat", BODY)
