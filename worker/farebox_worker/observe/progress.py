"""Tells the log now and then what a worker process did: sums, so that a busy worker costs no line per job."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter

from farebox.money import dollars_from_nusd, usd_from_nusd
from farebox_worker.events import event
from farebox_worker.process.process import Process

log = logging.getLogger(__name__)

EVERY_S = 10.0


async def tell_progress(process: Process, every_s: float = EVERY_S) -> None:
    """Log for ever, every 10 s, what was settled since; nothing when nothing was."""
    before: Counter[str] = Counter()
    while True:
        await asyncio.sleep(every_s)
        now = _sums(process)
        done = {name: count - before[name] for name, count in now.items()}
        before = now
        if not any(done.values()):
            continue
        cost = done.pop("cost_nusd")
        words = ", ".join(f"{count:,} {name}" for name, count in sorted(done.items()) if count)
        log.info(
            "in %.0f s: %s; %s spent, %d in flight", every_s, words or "nothing settled", dollars_from_nusd(cost),
            process.in_flight,
            extra=event("progress", seconds=every_s, cost_usd=usd_from_nusd(cost), in_flight=process.in_flight, **done),
        )  # fmt: skip


def _sums(process: Process) -> Counter[str]:
    meters = process.dispatch.witness.meters
    sums: Counter[str] = Counter(cost_nusd=meters.cost_nusd.total())
    for (_, outcome), count in meters.attempts.items():
        sums[outcome] += count
    return sums
