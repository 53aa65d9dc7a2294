"""streaQ: `enqueue_many`, a worker with `concurrency` slots that reads twice as many ahead, its default."""

from __future__ import annotations

import asyncio
import os
import sys

import uvloop
from clock import Clock
from streaq import Worker


async def main(url: str, jobs: int, concurrency: int) -> None:
    """Enqueue, then work."""
    clock = Clock(jobs, "streaq", "coredis")
    worker = Worker(redis_url=url, concurrency=concurrency, handle_signals=False)

    @worker.task
    async def noop(number: int) -> None:
        del number
        clock.tick()

    async with worker:
        for start in range(0, jobs, 1000):
            await worker.enqueue_many([noop.enqueue(number) for number in range(start, start + 1000)])
    asyncio.create_task(worker.run_async())  # noqa: RUF006 - the process ends with it
    await clock.over.wait()
    clock.tell()
    sys.stdout.flush()
    os._exit(0)  # it has no other way to stop from within


uvloop.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
