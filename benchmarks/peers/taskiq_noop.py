"""taskiq: RedisStreamBroker, which acknowledges as we do; `max_async_tasks` at the concurrency.

It keeps no results, but with a fourth argument: then in its RedisAsyncResultBackend, for an hour.
"""

from __future__ import annotations

import asyncio
import os
import sys

import uvloop
from clock import Clock
from taskiq.api import run_receiver_task
from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker


async def main(url: str, jobs: int, concurrency: int, *results: str) -> None:
    """Enqueue, then work."""
    clock = Clock(jobs, "taskiq", "taskiq-redis", "redis")
    broker = RedisStreamBroker(url, consumer_id="0", xread_count=concurrency)
    if results:
        broker = broker.with_result_backend(RedisAsyncResultBackend(url, result_ex_time=3600))

    @broker.task(task_name="noop")
    async def noop(number: int) -> None:
        del number
        clock.tick()

    await broker.startup()
    for start in range(0, jobs, 100):
        await asyncio.gather(*[noop.kiq(number) for number in range(start, start + 100)])
    receiving = run_receiver_task(broker, max_async_tasks=concurrency, max_prefetch=concurrency)
    asyncio.create_task(receiving)  # noqa: RUF006 - the process ends with it
    await clock.over.wait()
    clock.tell()
    sys.stdout.flush()
    os._exit(0)


uvloop.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:]))
