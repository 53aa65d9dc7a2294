"""`farebox exporter`: the metrics of the whole fleet, read from Redis at each scrape."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import click
from aiohttp import web

from farebox.commands import Redis
from farebox.connection import connect
from farebox.ledger import Ledger
from farebox_worker.cli.options import common, log_to_stderr, run_async, secrets_of
from farebox_worker.events import event, scrubbed
from farebox_worker.observe.endpoints import Endpoints, metrics_response, text_response
from farebox_worker.observe.fleet import Timed, fleet_metrics
from farebox_worker.session import open_session
from farebox_worker.settings import Settings

log = logging.getLogger(__name__)

PORT = 9465


@click.command()
@click.option(
    "--port", type=click.IntRange(0, 65_535), default=PORT, show_default=True, help="Where to listen; 0: a free port."
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--tags", is_flag=True, help="Show the scopes of tags too; there may be many.")
@click.option("--batches", is_flag=True, help="Show the scopes of batches too; there may be very many.")
@click.option("--log-json", is_flag=True, help="Log one JSON object per line.")
@common
def exporter(settings: Settings, port: int, host: str, tags: bool, batches: bool, log_json: bool) -> None:
    """Serve the fleet's metrics for Prometheus at /metrics, and at /runnable the number to scale workers by.

    \b
    farebox exporter --redis redis://bus:6379/0 --host 0.0.0.0
    """
    secrets = secrets_of(settings)
    log_to_stderr(is_json=log_json, secrets=secrets)
    kinds = ["global", "provider", "model", *(["tag"] if tags else []), *(["batch"] if batches else [])]
    run_async(_export(settings, host, port, kinds, secrets))


async def _export(settings: Settings, host: str, port: int, kinds: list[str], secrets: tuple[str, ...]) -> None:
    over = asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signum, over.set)
    async with _ledger(settings) as ledger:
        fleet = Timed(ledger, kinds)

        def away() -> web.Response:
            return text_response(scrubbed(fleet.why, secrets), is_well=False)

        async def metrics(request: web.Request) -> web.Response:
            return await metrics_response(request, fleet_metrics(*await fleet.read()))

        async def runnable(request: web.Request) -> web.Response:
            del request
            found, _ = await fleet.read()
            return web.json_response({"runnable": found.runnable}) if found else away()

        async def healthz(request: web.Request) -> web.Response:
            del request
            return text_response("alive")

        async def readyz(request: web.Request) -> web.Response:
            del request
            found, _ = await fleet.read()
            return text_response("ready") if found else away()

        pages = {"/metrics": metrics, "/runnable": runnable, "/healthz": healthz, "/readyz": readyz}
        async with Endpoints(host, port, pages) as endpoints:
            log.info("the fleet's metrics at %s/metrics", endpoints.url, extra=event("listening", url=endpoints.url))
            await over.wait()


@asynccontextmanager
async def _ledger(settings: Settings) -> AsyncIterator[Ledger]:
    """The ledger to read. A shared Redis may be away, now or later; an embedded server is started."""
    if settings.redis.url is None:
        async with open_session(settings) as session:
            yield session.ledger
        return
    redis: Redis = connect(settings.redis.url)
    try:
        yield Ledger(redis, settings.redis.namespace)
    finally:
        await redis.aclose(close_connection_pool=True)
