"""One worker process as seen from outside: its metrics, whether it lives, whether it works.

Being asked costs Redis nothing, and needs none: everything told here is known to the process.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.metadata import version

from aiohttp import web
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.metrics_core import Metric

from farebox.money import usd_from_nusd
from farebox_worker.events import event, scrubbed
from farebox_worker.meters import LAG_S, Histogram
from farebox_worker.observe.endpoints import Endpoints, Page, metrics_response, text_response
from farebox_worker.observe.families import counter, gauge, histogram, one, total
from farebox_worker.observe.progress import tell_progress
from farebox_worker.process.process import Process

log = logging.getLogger(__name__)

LAG_EVERY_S = 0.5
STARTING = "starting: nothing is served yet"


@asynccontextmanager
async def observed(
    host: str, port: int | None, secrets: tuple[str, ...] = ()
) -> AsyncIterator[Callable[[Process], None]]:
    """Tell the log of a process's progress, and serve its metrics and health where a port is named.

    Yields whom to hand the process to; until then it is alive, not ready. Raises: ConfigError when the port is taken.
    """
    pages = WorkerPages(secrets)
    tasks: list[asyncio.Task[None]] = []

    def observe(process: Process) -> None:
        pages.process = process
        tasks.append(asyncio.create_task(tell_progress(process)))

    async with AsyncExitStack() as stack:
        if port is not None:
            endpoints = await stack.enter_async_context(Endpoints(host, port, pages.pages))
            tasks.append(asyncio.create_task(pages.watch_lag()))
            log.info("metrics and health at %s", endpoints.url, extra=event("listening", url=endpoints.url))
        try:
            yield observe
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


class WorkerPages:
    """The pages of one worker process. `process` is None until there is one to ask.

    Args:
        secrets: what no answer may hold.
    """

    def __init__(self, secrets: tuple[str, ...] = ()) -> None:
        self.process: Process | None = None
        self._secrets = secrets
        self._lag = Histogram(LAG_S)
        self._usage = ProcessCollector(registry=CollectorRegistry())

    @property
    def pages(self) -> dict[str, Page]:
        """What answers each path."""
        return {"/metrics": self._metrics, "/healthz": self._healthz, "/readyz": self._readyz}

    async def watch_lag(self) -> None:
        """Measure for ever how late the event loop wakes those who sleep."""
        while True:
            due = time.monotonic() + LAG_EVERY_S
            await asyncio.sleep(LAG_EVERY_S)
            self._lag.add(max(0.0, time.monotonic() - due))

    async def _healthz(self, request: web.Request) -> web.Response:
        del request
        return text_response("alive")  # that it was said is the proof: the event loop turns

    async def _readyz(self, request: web.Request) -> web.Response:
        del request
        why = self._why_unready()
        return text_response(scrubbed(why, self._secrets) or "ready", is_well=not why)

    async def _metrics(self, request: web.Request) -> web.Response:
        return await metrics_response(request, self.collect())

    def _why_unready(self) -> str:
        return self.process.why_unready() if self.process else STARTING

    def collect(self) -> Iterator[Metric]:
        """Make metrics of what the process has counted."""
        yield gauge("farebox_build_info", "The version of Farebox.", ["version"], {version("farebox"): 1})
        yield one("farebox_ready", "1 when /readyz says ready.", not self._why_unready())
        yield histogram(
            "farebox_event_loop_lag_seconds", "How late the event loop wakes those who sleep.", [], [([], self._lag)]
        )
        yield from self._usage.collect()
        if self.process:
            yield from _work(self.process)
            yield from _settling(self.process)
            yield from _surroundings(self.process)


def _work(process: Process) -> Iterator[Metric]:
    meters, slots = process.dispatch.witness.meters, process.dispatch.slots()
    lane = ["lane"]
    yield counter("farebox_claimed_jobs_total", "Jobs leased to this process.", lane, meters.claimed)
    yield counter("farebox_admissions_total", "What the ledger said to holds.", ["lane", "verdict"], meters.admissions)
    yield counter("farebox_calls_total", "Calls that came to an end, by class.", ["lane", "class"], meters.calls)
    yield histogram(
        "farebox_call_duration_seconds", "How long calls took.", lane,
        [([name], found) for name, found in meters.call_s.items()],
    )  # fmt: skip
    yield counter("farebox_attempts_total", "Attempts by how they were settled.", ["lane", "outcome"], meters.attempts)
    yield counter("farebox_pauses_total", "Pauses that failures asked for, by class.", ["lane", "class"], meters.pauses)
    yield counter("farebox_tokens_total", "Tokens booked.", ["lane", "direction"], meters.tokens)
    cost = {name: usd_from_nusd(amount) for name, amount in meters.cost_nusd.items()}
    owed = {name: usd_from_nusd(amount) for name, amount in meters.unconfirmed_nusd.items()}
    yield counter("farebox_cost_usd_total", "Dollars booked as spent.", lane, cost)
    yield counter("farebox_unconfirmed_usd_total", "Dollars of calls with unknown outcome.", lane, owed)
    yield gauge(
        "farebox_in_flight", "Attempts claimed and not yet settled.", lane, {name: n for name, (n, _) in slots.items()}
    )
    yield gauge("farebox_slots", "How many there may be.", lane, {name: most for name, (_, most) in slots.items()})


def _settling(process: Process) -> Iterator[Metric]:
    settler = process.dispatch.settler
    yield histogram("farebox_settle_group_jobs", "Attempts per settled group.", [], [([], settler.group_jobs)])
    yield histogram(
        "farebox_settle_duration_seconds", "From sending a group to its acknowledgement.", [], [([], settler.group_s)]
    )
    yield one("farebox_unsettled", "Finished attempts that wait to be acknowledged.", settler.pending)


def _surroundings(process: Process) -> Iterator[Metric]:
    health = process.health
    outage = health.outage
    now_s = time.monotonic() - outage.began_s if outage.is_on else 0.0
    yield one("farebox_redis_up", "1 while the server answers this process.", health.hears_redis)
    yield total("farebox_redis_outages_total", "How often the server went away.", outage.times)
    yield total(
        "farebox_redis_outage_seconds_total", "For how long, the outage of now included.", outage.past_s + now_s
    )
    yield one("farebox_draining", "1 once nothing more is claimed.", process.is_draining)
    stopped = dict.fromkeys(health.unusable_providers(), 1.0)
    yield gauge("farebox_provider_unusable", "1 for providers without a usable key here.", ["provider"], stopped)
