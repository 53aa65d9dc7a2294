"""What a worker costs that has nothing to do: one process, fifty lanes, no job."""

from __future__ import annotations

import asyncio
import time

import measure
from fleet import fleet, rss_mb
from measure import Report

LANES = measure.sized(50, 3)
SETTLE_S, WATCH_S = measure.sized(6), measure.sized(15, 2)


def measured(repeats: int) -> Report:
    """Watch an idle worker and its server."""
    found = measure.repeat(repeats, lambda: asyncio.run(_once()), "idle")
    report = Report(
        "idle: a worker with nothing to do",
        f"`farebox worker`, one process, {LANES} lanes that each had one job, watched for {WATCH_S} s from "
        f"{SETTLE_S} s after the last one. Requests as the server counts what it reads from its connections.",
    )
    report.add("% of a core: the worker", found["worker"], "< 1")
    report.add("% of a core: the server", found["server"])
    report.add("requests per second to Redis", found["requests"], "< 5")
    report.add("commands per second, those inside its scripts counted", found["inner"])
    report.add("MB resident", found["rss"], "≤ 150")
    return report


async def _once() -> dict[str, float]:
    names = [f"echo:m{number}" for number in range(LANES)]
    async with fleet() as bus:
        bus.price(names)
        for name in names:
            await bus.fill(1, lane=name)
        await bus.start()
        await bus.work_off(LANES)
        await asyncio.sleep(SETTLE_S)
        pid = bus.pids()[0]
        began, worker_s, server_s = time.perf_counter(), measure.cpu_s(pid), measure.cpu_s(bus.server.pid)
        requests, inner = await _counts(bus.redis)
        await asyncio.sleep(WATCH_S)
        seconds = time.perf_counter() - began
        more_requests, more_inner = await _counts(bus.redis)
        return {
            "worker": 100 * (measure.cpu_s(pid) - worker_s) / seconds,
            "server": 100 * (measure.cpu_s(bus.server.pid) - server_s) / seconds,
            "requests": (more_requests - requests - 1) / seconds,
            "inner": (more_inner - inner) / seconds,
            "rss": rss_mb(pid),
        }


async def _counts(redis) -> tuple[int, int]:
    """Requests that came over connections, a pipeline being one, and commands, those inside scripts among them."""
    stats = await redis.info("stats")
    return stats["total_reads_processed"], stats["total_commands_processed"]
