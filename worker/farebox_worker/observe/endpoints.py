"""A small HTTP server beside the work, on the same event loop: it answers GET on a few paths, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from types import TracebackType
from typing import Self

from aiohttp import web
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from farebox.errors import ConfigError

Page = Callable[[web.Request], Awaitable[web.Response]]
LEAVING_S = 1.0  # for a scrape that is under way


class Endpoints:
    """Serves pages while it is open: `async with Endpoints("127.0.0.1", 9464, pages) as endpoints: endpoints.url`.

    Args:
        host: the address to listen on.
        port: 0 takes a free one.
        pages: what answers each path.
    """

    def __init__(self, host: str, port: int, pages: Mapping[str, Page]) -> None:
        self._host = host
        self._port = port
        app = web.Application()
        app.add_routes([web.get(path, page) for path, page in pages.items()])
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=LEAVING_S)
        self.url = ""

    async def __aenter__(self) -> Self:
        """Listen. Raises: ConfigError when the port or the address cannot be had."""
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self._host, self._port).start()
        except OSError as error:
            await self._runner.cleanup()
            raise ConfigError(
                f"metrics and health cannot be served at {self._host} port {self._port}: {error.strerror or error}. "
                "Name another with --metrics-port or --port (0 takes a free one)."
            ) from None
        host = f"[{self._host}]" if ":" in self._host else self._host
        self.url = f"http://{host}:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop listening."""
        await self._runner.cleanup()


class _Found(Collector):
    """Metrics that were made already, as the library's encoders take them."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = list(metrics)

    def collect(self) -> Iterable[Metric]:
        """Return them."""
        return self._metrics


async def metrics_response(request: web.Request, metrics: Iterable[Metric]) -> web.Response:
    """Write metrics in the format the scraper asked for; thousands take a while, so the work goes on beside it."""
    encode, content_type = choose_encoder(request.headers.get("Accept", ""))
    body = await asyncio.to_thread(encode, _Found(metrics))
    return web.Response(body=body, headers={"Content-Type": content_type})


def text_response(text: str, *, is_well: bool = True) -> web.Response:
    """Answer a probe in words: 200, or 503 when it is not well."""
    return web.Response(text=f"{text}\n", status=200 if is_well else 503, headers={"Cache-Control": "no-store"})
