"""Waiting in tests for what sets no event: something in Redis, a log, a plain number."""

import asyncio
import inspect


async def until(is_so, within_s=30):
    """Ask again and again, until it is so; `is_so` may be a coroutine function. Raises: TimeoutError."""
    async with asyncio.timeout(within_s):
        while True:
            found = is_so()
            if await found if inspect.isawaitable(found) else found:
                return
            await asyncio.sleep(0.01)
