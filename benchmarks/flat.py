"""Whether a job's cost grows with what lies around it: queue depth, flows, lanes, bodies, calls in flight."""

from __future__ import annotations

import asyncio

import measure
from fleet import fleet, rss_mb
from measure import HERE, Report

JOBS = 10_000
SHALLOW, DEEP = 1_000, 1_000_000
FLOWS = 1_000
LANES = 200
LARGE, FEW_LARGE = 1_000_000, 200
IN_FLIGHT, FEW_IN_FLIGHT = 10_000, 256


def measured(repeats: int) -> Report:
    """Compare each with its plain opposite, one after the other."""
    found = measure.repeat(min(repeats, 3), lambda: asyncio.run(_once()), "flat")
    report = Report(
        "flat: what a job costs, whatever surrounds it",
        f"CPU of one `farebox worker` and the server per echo job, over {JOBS:,} jobs of 1 KB each. Depth: rounds of "
        f"{SHALLOW:,} jobs on an empty lane, and the first {JOBS:,} of {DEEP:,}. Lanes: {LANES} with "
        f"{JOBS // LANES} jobs each. Bodies: {FEW_LARGE} of 1 MB, per KB. In flight: an echo that takes 2 s with "
        f"{IN_FLIGHT:,} slots, and one that takes 0.05 s with {FEW_IN_FLIGHT}; memory is what the process grew by "
        f"beyond its bodies while {IN_FLIGHT:,} ran.",
    )
    for name, words in (
        ("shallow", f"{SHALLOW:,} queued"), ("deep", f"{DEEP:,} queued"), ("plain", "1 flow, 1 lane"),
        ("flows", f"{FLOWS:,} flows"), ("lanes", f"{LANES} lanes"), ("few", f"{FEW_IN_FLIGHT} in flight"),
        ("many", f"{IN_FLIGHT:,} in flight"),
    ):  # fmt: skip
        report.add(f"CPU ms per job: {words}", found[name])
    report.add(f"CPU per job, {DEEP:,} queued to {SHALLOW:,}", found["deep ratio"], "≤ 1.2")
    report.add(f"CPU per job, {FLOWS:,} flows to 1", found["flows ratio"], "≤ 1.2")
    report.add(f"CPU per job, {LANES} lanes to 1", found["lanes ratio"], "flat")
    report.add(f"CPU per job, {IN_FLIGHT:,} in flight to {FEW_IN_FLIGHT}", found["many ratio"], "flat")
    report.add("CPU per KB, bodies of 1 MB to bodies of 1 KB", found["large ratio"], "< 1")
    report.add("KB of memory per job in flight beyond its body", found["kb"], "≤ 3")
    return report


async def _once() -> dict[str, float]:
    figures = {"shallow": await _shallow(), "plain": await _plain(flows=1), "flows": await _plain(flows=FLOWS)}
    figures |= {"deep": await _deep(), "lanes": await _lanes(), "large": await _large()}
    figures["few"], _ = await _slow(FEW_IN_FLIGHT, 0.05)
    figures["many"], figures["kb"] = await _slow(IN_FLIGHT, 2.0)
    return figures | {
        "deep ratio": figures["deep"] / figures["shallow"],
        "flows ratio": figures["flows"] / figures["plain"],
        "lanes ratio": figures["lanes"] / figures["plain"],
        "many ratio": figures["many"] / figures["few"],
        "large ratio": figures["large"] / 1000 / figures["plain"],
    }


async def _shallow() -> float:
    async with fleet() as bus:
        await bus.start()
        cpu_ms = 0.0
        for done in range(0, JOBS, SHALLOW):
            await bus.pause()
            await bus.fill(SHALLOW, batch_id=f"b{done}")
            cpu_ms += (await bus.work_off(SHALLOW, already=done)).cpu_ms
    return cpu_ms / (JOBS // SHALLOW)


async def _deep() -> float:
    async with fleet() as bus:
        await bus.pause()
        await bus.fill(DEEP)
        await bus.start()
        return (await bus.work_off(JOBS)).cpu_ms


async def _plain(flows: int) -> float:
    async with fleet() as bus:
        await bus.pause()
        for number in range(flows):
            await bus.fill(JOBS // flows, batch_id=f"b{number}")
        await bus.start()
        return (await bus.work_off(JOBS)).cpu_ms


async def _lanes() -> float:
    names = [f"echo:m{number}" for number in range(LANES)]
    async with fleet() as bus:
        bus.price(names)
        await bus.pause(*names)
        for name in names:
            await bus.fill(JOBS // LANES, lane=name)
        await bus.start()
        return (await bus.work_off(JOBS, *names)).cpu_ms


async def _large() -> float:
    async with fleet() as bus:
        await bus.pause()
        await bus.fill(FEW_LARGE, size=LARGE)
        await bus.start()
        return (await bus.work_off(FEW_LARGE)).cpu_ms


async def _slow(slots: int, seconds: float) -> tuple[float, float]:
    """CPU ms per job, and KB per job in flight beyond its body."""
    async with fleet() as bus:
        await bus.pause()
        await bus.fill(2 * JOBS)
        command = [str(HERE / "slow_worker.py"), bus.server.url, str(seconds)]
        await bus.start_command(command, FAREBOX_WORKER_CONCURRENCY=str(slots))
        before_mb = rss_mb(bus.pids()[0])
        took = await bus.work_off(2 * JOBS)
        grown_kb = 1024 * (took.peak_mb - before_mb) / slots
    return took.cpu_ms, grown_kb - 1
