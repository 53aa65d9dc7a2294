"""taskiq: RedisStreamBroker, which acknowledges as we do; `max_async_tasks` at the concurrency, no result backend."""

from __future__ import annotations

import asyncio
import os
import sys

import uvloop
from clock import Clock
from taskiq.api import run_receiver_task
from taskiq_redis import RedisStreamBroker


async def main(url: str, jobs: int, concurrency: int) -> None:
    """Enqueue, then work."""
    clock = Clock(jobs, "taskiq", "taskiq-redis", "redis")
    broker = RedisStreamBroker(url, consumer_id="0", xread_count=concurrency)

    @broker.task(task_name="noop")
    async def noop(number: int) -> None:
        del number
        clock.tick()

    await broker.startup()
    for start in range(0, jobs, 100):
        await asyncio.gather(*[noop.kiq(number) for number in range(start, start + 100)])
    asyncio.create_task(run_receiver_task(broker, max_async_tasks=concurrency, max_prefetch=concurrency))  # noqa: RUF006
    await clock.over.wait()
    clock.tell()
    sys.stdout.flush()
    os._exit(0)


uvloop.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
