"""Writes down what a cancelled batch left waiting, when nobody else does; a cancelled batch sends nothing meanwhile."""

from __future__ import annotations

import asyncio
import sys
import time
from contextlib import suppress

from redis.exceptions import NoPermissionError

from farebox.batch import Batch
from farebox_worker.bus.sweep import sweep
from farebox_worker.cli.options import say
from farebox_worker.heartbeats import read_heartbeats
from farebox_worker.session import Session

BESIDE_S = 1.0  # for so long a command helps workers that live, so that small batches are over when it ends
STILL_S = 2.0  # after which a sweep that finds nothing to do gives up
TELL_EVERY_S = 2.0


async def write_down(session: Session, batch: Batch) -> tuple[int, int]:
    """Let jobs that wait in a cancelled batch end as `cancelled`; how many did so here, and how many wait still.

    Where workers live the rest is theirs, for they sweep every few seconds; else all of it is done here, and told.
    """
    began = told = time.monotonic()
    total, left = 0, await _left(batch)
    least, fell_s = sys.maxsize, began
    has_workers = None
    with suppress(NoPermissionError):  # an ACL keeps producers from writing results: the workers sweep
        while left:
            swept = await sweep(session.ledger.tongue, results_ttl_ms=session.settings.retention.results_ttl_ms,
                                batch=batch.batch_id)  # fmt: skip
            total += swept
            now = time.monotonic()
            if not swept:  # it is over, or a worker did the same slice
                left = await _left(batch)
                least, fell_s = (left, now) if left < least else (least, fell_s)
                if now - fell_s > STILL_S:
                    break
                await asyncio.sleep(0.05)
            if now - began > BESIDE_S and has_workers is None:
                has_workers = bool(await read_heartbeats(session.redis, session.ledger.tongue.keys))
                if not has_workers:
                    say(f"{batch.batch_id} is cancelled: nothing of it is sent any more. No worker lives, so what "
                        "waited is written down here; Ctrl-C is safe, whoever comes next goes on.")  # fmt: skip
            if has_workers:
                break
            if now - told > TELL_EVERY_S:
                told, left = now, await _left(batch)
                say(f"{total:,} of {total + left:,} jobs are written down as cancelled …")
    return total, await _left(batch)


async def _left(batch: Batch) -> int:
    parked, waiting, _ = await batch.waiting()
    return parked + waiting
