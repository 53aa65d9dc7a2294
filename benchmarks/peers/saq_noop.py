"""SAQ: a worker with `concurrency` slots, each of which blocks on the queue with a connection of its own."""

from __future__ import annotations

import asyncio
import os
import sys

import uvloop
from clock import Clock
from redis.asyncio import Redis
from saq import Worker
from saq.queue.redis import RedisQueue


async def main(url: str, jobs: int, concurrency: int) -> None:
    """Enqueue, then work."""
    clock = Clock(jobs, "saq", "redis")

    async def noop(ctx: dict, *, number: int) -> None:
        del ctx, number
        clock.tick()

    queue = RedisQueue(Redis.from_url(url, max_connections=2 * concurrency + 50))
    await queue.connect()
    for start in range(0, jobs, 100):
        await asyncio.gather(*[queue.enqueue("noop", number=number) for number in range(start, start + 100)])
    worker = Worker(queue, functions=[("noop", noop)], concurrency=concurrency)
    asyncio.create_task(worker.start())  # noqa: RUF006 - the process ends with it
    await clock.over.wait()
    clock.tell()
    sys.stdout.flush()
    os._exit(0)


uvloop.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
