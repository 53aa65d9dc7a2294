"""How busy the slots are when a call takes a second: waiting for the provider must be all that is waited for."""

from __future__ import annotations

import asyncio

import measure
from fleet import fleet
from measure import MODEL, Report

SLOTS = measure.sized(200, 8)
CALL_S = 1.0
ROUNDS = measure.sized(30, 2)


def measured(repeats: int) -> Report:
    """Let a lane of slow calls be worked off over HTTP."""
    found = measure.repeat(repeats, lambda: asyncio.run(_once()), "slots")
    report = Report(
        "slots: calls of one second",
        f"`farebox worker`, one process, {SLOTS} slots, {SLOTS * ROUNDS:,} calls over HTTP to `farebox simulate`, "
        f"which answers each after {CALL_S:.0f} s; {SLOTS} calls went before, so that its connections are open. "
        "Busy is the share of all slots' time in which a call ran: calls times 1 s, by slots times seconds.",
    )
    report.add("% of slot time that a call runs", found["busy"], "≥ 97")
    report.add("CPU ms per call, worker and server", found["cpu"])
    return report


async def _once() -> dict[str, float]:
    with measure.simulator(latency_ms=int(1000 * CALL_S)) as url:
        async with fleet() as bus:
            measure.configuration(bus.place, url)
            await bus.pause(MODEL)
            await bus.fill(SLOTS, lane=MODEL, batch_id="warm")
            await bus.start(FAREBOX_WORKER_CONCURRENCY=str(SLOTS))
            await bus.work_off(SLOTS, MODEL)
            await bus.pause(MODEL)
            await bus.fill(SLOTS * ROUNDS, lane=MODEL)
            took = await bus.work_off(SLOTS * ROUNDS, MODEL, already=SLOTS)
    return {"busy": 100 * CALL_S * ROUNDS / took.wall_s, "cpu": took.cpu_ms}
