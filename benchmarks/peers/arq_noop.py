"""arq: `max_jobs` at the concurrency, a poll every 10 ms instead of every 500 (it fetches 5 x max_jobs ids each)."""

from __future__ import annotations

import asyncio
import sys

import uvloop
from arq.connections import RedisSettings, create_pool
from arq.worker import Worker, func
from clock import Clock


async def main(url: str, jobs: int, concurrency: int) -> None:
    """Enqueue, then work."""
    clock = Clock(jobs, "arq", "redis")

    async def noop(ctx: dict, number: int) -> None:
        del ctx, number
        clock.tick()

    pool = await create_pool(RedisSettings.from_dsn(url))
    for start in range(0, jobs, 100):
        await asyncio.gather(*[pool.enqueue_job("noop", number) for number in range(start, start + 100)])
    worker = Worker(
        [func(noop, name="noop")], redis_pool=pool, max_jobs=concurrency, poll_delay=0.01, handle_signals=False,
        burst=True, log_results=False,
    )  # fmt: skip
    await worker.main()
    clock.tell()


uvloop.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
