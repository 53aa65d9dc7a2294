"""A worker whose echo takes a while: `slow_worker.py URL SECONDS`. Calls in flight, and no HTTP to pay for."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections import deque

from farebox_worker.cli import GARBAGE
from farebox_worker.cli.options import run_async
from farebox_worker.configuration import load
from farebox_worker.process.process import Process
from farebox_worker.providers.base import Prepared, Reply
from farebox_worker.providers.echo import EchoProvider
from farebox_worker.routes import Routes
from farebox_worker.session import open_session
from farebox_worker.shop import Shop


class Slow(EchoProvider):
    """Each call waits for its answer, as for that of a socket; one timer makes them all, and not one each."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds
        self._waiting: deque[tuple[float, asyncio.Future[None]]] = deque()

    async def post(self, prepared: Prepared, *, timeout_s: float) -> Reply:
        """Answer after a while."""
        loop = asyncio.get_running_loop()
        answer, at_s = loop.create_future(), loop.time() + self._seconds
        if not self._waiting:
            loop.call_at(at_s, self._answer)
        self._waiting.append((at_s, answer))
        await answer
        return await super().post(prepared, timeout_s=timeout_s)

    def _answer(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting and self._waiting[0][0] <= loop.time():
            _, answer = self._waiting.popleft()
            if not answer.done():
                answer.set_result(None)
        if self._waiting:
            loop.call_at(self._waiting[0][0], self._answer)


async def serve(url: str, seconds: float) -> None:
    """Serve until SIGTERM."""
    settings = load(redis_url=url)
    async with open_session(settings) as session, Shop(settings) as shop:
        routes = Routes(shop.catalogue, shop.prices, lambda _: Slow(seconds))
        process = Process(session.redis, settings, routes)
        await process.main()
        await process.depart()


if __name__ == "__main__":
    gc.set_threshold(*GARBAGE)  # as every command does
    run_async(serve(sys.argv[1], float(sys.argv[2])))
