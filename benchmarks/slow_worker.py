"""A worker whose echo takes a while: `slow_worker.py URL SECONDS`. Calls in flight, and no HTTP to pay for."""

from __future__ import annotations

import asyncio
import sys

from farebox_worker.cli.options import run_async
from farebox_worker.process.process import Process
from farebox_worker.providers.echo import EchoProvider
from farebox_worker.routes import Routes
from farebox_worker.session import open_session
from farebox_worker.settings import load
from farebox_worker.shop import Shop


async def serve(url: str, seconds: float) -> None:
    """Serve until SIGTERM."""

    class Slow(EchoProvider):
        async def post(self, prepared, *, timeout_s):
            await asyncio.sleep(seconds)
            return await super().post(prepared, timeout_s=timeout_s)

    settings = load(redis_url=url)
    async with open_session(settings) as session, Shop(settings) as shop:
        routes = Routes(shop.catalogue, shop.prices, lambda _: Slow())
        process = Process(session.redis, settings, routes)
        await process.main()
        await process.depart()


if __name__ == "__main__":
    run_async(serve(sys.argv[1], float(sys.argv[2])))
