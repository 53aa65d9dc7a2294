"""Whether a job's cost grows with what lies around it: queue depth, flows, lanes, bodies, calls in flight."""

from __future__ import annotations

import asyncio
import statistics

import measure
from fleet import Fleet, fleet, rss_mb
from measure import HERE, Report, Spread

JOBS = measure.sized(10_000, 400)
SHALLOW, DEEP = measure.sized(1_000, 40), measure.sized(1_000_000)
FLOWS = measure.sized(1_000, 10)
LANES = measure.sized(200, 4)
MEDIUM, SOME_MEDIUM = 128_000, measure.sized(800, 20)
LARGE, FEW_LARGE = 1_000_000, measure.sized(200, 10)
IN_FLIGHT, FEW_IN_FLIGHT = measure.sized(10_000, 512), 256
TURNS = 3  # batches of the short queue, beside as many jobs of the long one
ROUNDS = measure.sized(3)  # in turn, for machines change their pace from one second to the next


def measured(repeats: int) -> Report:
    """Compare each with its plain opposite, one after the other."""
    found = asyncio.run(_repeated(repeats))
    report = Report(
        "flat: what a job costs, whatever surrounds it",
        f"CPU of one `farebox worker` and the server per echo job, over {JOBS:,} jobs of 1 KB each. Depth: {TURNS} "
        f"batches of {SHALLOW:,} jobs on an empty lane, as many of a batch of {DEEP:,}, with no rewrite of the "
        "AOF (one comes about every 160,000 jobs, and the server works a third more while it runs). Lanes: "
        f"{LANES} with {JOBS // LANES} jobs each. Depth, flows, lanes and one of each {ROUNDS} times in turn. "
        f"Bodies: {SOME_MEDIUM} of 128 KB, {FEW_LARGE} of 1 MB, per KB. "
        f"In flight: an echo that takes 2 s with {IN_FLIGHT:,} slots, and one that takes 0.05 s with {FEW_IN_FLIGHT}; "
        f"memory is what the process grew by while {IN_FLIGHT:,} ran, less the bodies, as they came and as they are "
        "sent, of 1 KB each. "
        "At its peak all are answered at once: their results wait to be settled, and the last 8 MB of those that were "
        "settled are kept for 5 s.",
    )
    for name, words in (
        ("shallow", f"{SHALLOW:,} queued"), ("deep", f"{DEEP:,} queued"), ("plain", "1 flow, 1 lane"),
        ("flows", f"{FLOWS:,} flows"), ("lanes", f"{LANES} lanes"), ("few", f"{FEW_IN_FLIGHT} in flight"),
        ("many", f"{IN_FLIGHT:,} in flight"),
    ):  # fmt: skip
        report.add(f"CPU ms per job: {words}", found[name])
    report.add(f"CPU per job, {DEEP:,} queued to {SHALLOW:,}", found["deep ratio"], "≤ 1.2")
    report.add(f"CPU per job, {FLOWS:,} flows to 1", found["flows ratio"], "≤ 1.2")
    report.add(f"CPU per job, {LANES} lanes to 1", found["lanes ratio"], "≤ 1.2")
    report.add(f"CPU per job, {IN_FLIGHT:,} in flight to {FEW_IN_FLIGHT}", found["many ratio"], "≤ 1.2")
    report.add("CPU per KB, bodies of 1 MB to bodies of 1 KB", found["large ratio"], "< 1")
    report.add("CPU per KB, bodies of 1 MB to bodies of 128 KB", found["medium ratio"], "≤ 1.2")
    report.add("KB of memory per job in flight beyond its bodies", found["kb"], "≤ 3")
    report.add("KB of memory per job in flight at the peak, bodies and all", found["peak kb"])
    return report


async def _repeated(repeats: int) -> dict[str, Spread]:
    """Fill the long queue once: all repeats take from it."""
    unwritten = ("--auto-aof-rewrite-percentage", "0")  # or a rewrite falls into some of the repeats
    async with fleet(*unwritten) as deep, fleet(*unwritten) as shallow:
        await deep.pause()
        await deep.fill(DEEP)
        await deep.start()
        await shallow.start()
        return await measure.repeat_async(repeats, lambda: _once(deep, shallow), "flat")


async def _once(deep: Fleet, shallow: Fleet) -> dict[str, float]:
    rounds = [
        {
            "plain": await _plain(flows=1),
            "flows": await _plain(flows=FLOWS),
            "lanes": await _lanes(),
            "shallow": await _shallow(shallow),
            "deep": await _deep(deep),
        }
        for _ in range(ROUNDS)
    ]
    figures = {name: statistics.mean(one[name] for one in rounds) for name in rounds[0]}
    figures |= {"medium": await _bodies(MEDIUM, SOME_MEDIUM), "large": await _bodies(LARGE, FEW_LARGE)}
    figures["few"], _, _ = await _slow(FEW_IN_FLIGHT, 0.05)
    figures["many"], in_flight_kb, figures["peak kb"] = await _slow(IN_FLIGHT, 2.0)
    figures["kb"] = in_flight_kb - 2  # the body as it came, and as it is sent
    return figures | {
        "deep ratio": figures["deep"] / figures["shallow"],
        "flows ratio": figures["flows"] / figures["plain"],
        "lanes ratio": figures["lanes"] / figures["plain"],
        "many ratio": figures["many"] / figures["few"],
        "large ratio": figures["large"] / (LARGE / 1024) / figures["plain"],
        "medium ratio": figures["large"] / LARGE / (figures["medium"] / MEDIUM),
    }


async def _shallow(bus: Fleet) -> float:
    cpu_ms = []
    for _ in range(TURNS):
        await bus.pause()
        done = await bus.answered()
        await bus.fill(SHALLOW, batch_id=f"b{done}")
        cpu_ms.append((await bus.work_off(SHALLOW, already=done)).cpu_ms)
    return statistics.mean(cpu_ms)


async def _deep(bus: Fleet) -> float:
    """Take more off the long queue, which hardly shortens it, and let what was claimed end."""
    took = await bus.work_off(TURNS * SHALLOW, already=await bus.answered())
    await bus.pause()
    await asyncio.sleep(1)
    return took.cpu_ms


async def _plain(flows: int) -> float:
    async with fleet() as bus:
        await bus.pause()
        for number in range(flows):
            await bus.fill(JOBS // flows, batch_id=f"b{number}")
        await bus.start()
        return (await bus.work_off(JOBS // flows * flows)).cpu_ms


async def _lanes() -> float:
    names = [f"echo:m{number}" for number in range(LANES)]
    async with fleet() as bus:
        bus.price(names)
        await bus.pause(*names)
        for name in names:
            await bus.fill(JOBS // LANES, lane=name)
        await bus.start()
        return (await bus.work_off(JOBS // LANES * LANES, *names)).cpu_ms


async def _bodies(size: int, count: int) -> float:
    async with fleet() as bus:
        await bus.pause()
        await bus.fill(count, size=size)
        await bus.start()
        return (await bus.work_off(count)).cpu_ms


async def _slow(slots: int, seconds: float) -> tuple[float, float, float]:
    """CPU ms per job, and KB that each in flight takes: when most were, and at the peak of the whole."""
    async with fleet() as bus:
        await bus.pause()
        await bus.fill(2 * JOBS)
        command = [str(HERE / "slow_worker.py"), bus.server.url, str(seconds)]
        await bus.start_command(command, FAREBOX_WORKER_CONCURRENCY=str(slots))
        before_mb = rss_mb(bus.pids()[0])
        working, most, most_mb = asyncio.create_task(bus.work_off(2 * JOBS)), 1, before_mb
        while not working.done():
            running = await bus.redis.hlen(bus.ledger.keys.holds)
            if running > most:
                most, most_mb = running, rss_mb(bus.pids()[0])
            await asyncio.sleep(0.05)
        took = await working
    return took.cpu_ms, 1024 * (most_mb - before_mb) / most, 1024 * (took.peak_mb - before_mb) / slots
