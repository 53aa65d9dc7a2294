"""One worker process: a subclass of `arq.Worker`.

arq keeps the lifecycle, hooks, signals, health key and cron (on a queue of its own, for housekeeping); its polling,
its claim and its finish are replaced by the bus. `Dispatch` claims, admits and sends, its `Settler` settles, the
`Pulse` renews and lapses, the `Doorbells` wake, `Housekeeping` does the fleet's chores. This file owns the beginning
and the end; when the ledger has lost writes, `Salvage` tells it what this process knows before the end.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import signal
import socket
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, cast

import msgspec
from arq.connections import ArqRedis
from arq.worker import Worker, func
from redis.exceptions import RedisError

from farebox.commands import Redis
from farebox.errors import FareboxError, LedgerError
from farebox.keys import Keys
from farebox.records import FUNCTION
from farebox.scripts import Tongue
from farebox_worker.dispatch.dispatch import Dispatch
from farebox_worker.events import event
from farebox_worker.heartbeats import lines_by_lane
from farebox_worker.outage import Outage, Revive
from farebox_worker.process.health import Health
from farebox_worker.process.housekeeping import Housekeeping
from farebox_worker.process.pulse import Pulse
from farebox_worker.process.salvage import Salvage
from farebox_worker.routes import Routes
from farebox_worker.settings import Settings

log = logging.getLogger(__name__)

HOUSEKEEPING_S = 5.0
STOP_S = 3.0  # for the claim that is under way; longer only while Redis is away


class Process(Worker):
    """Serves lanes until it is drained, stopped, or the ledger is lost.

    Args:
        redis: the client of the connection pool; `close` closes it, `depart` does not.
        settings: what farebox.toml says.
        routes: which lanes can be served.
        only_batch: serve this batch and nothing else.
        burst: end when nothing is left to do.
        revive: brings the server back when it died and is ours.
        handle_signals: SIGTERM and SIGINT drain; a second one leaves at once.

    Attributes:
        failure: the error that made it stop sending, or None.
        dispatch: what it works on.
        health: whether it can work.
    """

    def __init__(
        self,
        redis: Redis,
        settings: Settings,
        routes: Routes,
        *,
        only_batch: str = "",
        burst: bool = False,
        revive: Revive | None = None,
        handle_signals: bool = True,
    ) -> None:
        self.keys = Keys(settings.redis.namespace)
        self.worker_id = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        self._tongue = Tongue(redis, self.keys)
        self._outage = Outage(revive)
        self.dispatch = Dispatch(self._tongue, self._outage, settings, routes, only_batch=only_batch)
        self._housekeeping = Housekeeping(self._tongue, self.dispatch.moves, settings.retention)
        pool = cast("ArqRedis", redis)
        super().__init__(
            [func(_never_by_arq, name=FUNCTION)],
            queue_name=self.keys.housekeeping,
            cron_jobs=self._housekeeping.crons(),
            redis_pool=pool,
            burst=burst,
            handle_signals=False,
            poll_delay=HOUSEKEEPING_S,
            health_check_interval=60,
            health_check_key=f"{self.keys.worker(self.worker_id)}:health-check",
            job_serializer=msgspec.msgpack.encode,
            job_deserializer=msgspec.msgpack.decode,
            log_results=False,
        )
        pool.job_serializer, pool.job_deserializer = msgspec.msgpack.encode, msgspec.msgpack.decode  # never pickle
        self.settings = settings
        self.routes = routes
        self.failure: FareboxError | None = None
        self.health = Health(self._tongue, self._outage, routes, settings.providers)
        self._pulse = Pulse(
            self._tongue,
            self._outage,
            lease_s=settings.worker.lease_s,
            running=self.dispatch.running,
            sending=self.dispatch.sending,
            worker_id=self.worker_id,
            describe=self._describe,
        )
        self._salvage = Salvage(
            self._tongue,
            self._outage,
            lease_ms=int(settings.worker.lease_s * 1000),
            running=self.dispatch.running,
        )
        self._salvaging: asyncio.Task[None] | None = None
        self._leaving = asyncio.Event()
        self._signals = 0
        self._catches_signals = handle_signals

    @property
    def in_flight(self) -> int:
        """Attempts claimed and not yet settled."""
        return self.dispatch.in_flight

    @property
    def is_draining(self) -> bool:
        """Whether it claims nothing more."""
        return self._leaving.is_set()

    def why_unready(self) -> str:
        """Why it should not be counted on, in words; "" when it works."""
        if self.failure:
            return f"stopping: {self.failure}"
        return "draining: nothing more is claimed" if self.is_draining else self.health.why_unready()

    # --- the beginning ------------------------------------------------------------------------------------------

    async def main(self) -> None:
        """Serve until drained; what runs then is settled. Raises: LedgerError when the ledger was lost."""
        if self._catches_signals:
            for signum in (signal.SIGTERM, signal.SIGINT):
                self._add_signal_handler(signum, self.handle_sig)
        self.ctx["redis"] = self.pool
        await self._outage.insist(self.dispatch.learn_lanes)
        if self.on_startup:
            await self.on_startup(self.ctx)
        work = self.dispatch
        settling = asyncio.create_task(self._guard(work.settler.run, goes_on=True))
        serving = asyncio.create_task(self._guard(lambda: work.serve(until_empty=self.burst)))
        loops = [self._guard(self._pulse.beat), work.bells.hear_control(self._heard), self._keep_house()]
        others = [asyncio.create_task(loop) for loop in loops]
        try:
            await self._until_over(settling, serving, others)
        finally:
            work.bells.stop_listening()
            chores = self.tasks.values()  # which arq has begun: they need the connections that are closed next
            await _end({serving, settling, *others, *chores, *([self._salvaging] if self._salvaging else [])})
            if report := self._salvage.report():
                log.error("ledger lost: %s", report, extra=event("ledger_told", report=report))
            self.jobs_complete, self.jobs_failed, self.jobs_retried = work.complete, work.failed, work.retried
        if self.failure:
            raise self.failure

    async def _heard(self, message: str) -> None:
        word, _, lane = message.partition(" ")
        if word == "hello" or (word == "lane" and lane not in self.dispatch.lanes):  # a resume names each of its lanes
            await self.dispatch.learn_lanes()
        if message.startswith(("abort ", "hello")):
            await self.dispatch.abort_cancelled()
        self.dispatch.bells.ring()

    def _describe(self) -> dict[str, str | int]:
        self.routes.refresh_prices()
        lanes = "\n".join(sorted(self.dispatch.served()))
        meters, errors = self.dispatch.witness.meters, self.dispatch.steering.last_error
        said: dict[str, str | int] = {"in_flight": self.in_flight, "batch": self.dispatch.only_batch, "lanes": lanes}
        said["retried"] = lines_by_lane({lane: n for (lane, how), n in meters.attempts.items() if how == "retried"})
        said["errors"] = lines_by_lane(errors)
        recent = {lane: words for lane, one in meters.latency.items() if (words := str(one.look()))}
        said["latencies"] = lines_by_lane(recent, most=4_000)
        away = [lane for lane in self.dispatch.served() if self.dispatch.reach.is_away(lane)]
        said["away"] = lines_by_lane({lane: errors.get(lane, "") for lane in away})
        said["stopped"] = lines_by_lane(self.routes.stopped)
        said["unserved"] = lines_by_lane(self.routes.unserved)
        return said

    # --- the end ------------------------------------------------------------------------------------------------

    async def _until_over(
        self, settling: asyncio.Task[None], serving: asyncio.Task[None], others: list[asyncio.Task[None]]
    ) -> None:
        """Wait until serving ends or something fails; then for what runs to be settled."""
        leaving = asyncio.create_task(self._leaving.wait())
        done, _ = await asyncio.wait([settling, serving, leaving, *others], return_when=asyncio.FIRST_COMPLETED)
        leaving.cancel()
        self.allow_pick_jobs = False
        for task in (settling, serving, *others):
            self._note_failure(task, among=done)
        await self._drain(serving, settling)
        self._note_failure(settling)

    async def _drain(self, serving: asyncio.Task[None], settling: asyncio.Task[None]) -> None:
        """Let running calls finish for up to `drain_s`, then cut them off: their holds become unconfirmed."""
        self.dispatch.stop()
        await asyncio.wait([serving], timeout=0.0 if self._signals > 1 else STOP_S)
        sending = self.dispatch.sending
        is_broken = self.failure is not None and self._salvaging is None
        ends = time.monotonic() + (0.0 if is_broken else self.settings.worker.drain_s)
        while sending and time.monotonic() < ends and self._signals < 2:
            await asyncio.wait(list(sending.values()), timeout=0.1)
        for task in list(sending.values()):
            task.cancel()
        await asyncio.gather(*sending.values(), return_exceptions=True)
        flushed = asyncio.create_task(self._all_told())
        while not (flushed.done() or settling.done() or (self._signals > 1 and self._outage.is_on)):
            await asyncio.wait([flushed, settling], timeout=0.5, return_when=asyncio.FIRST_COMPLETED)
        flushed.cancel()

    async def _all_told(self) -> None:
        """Wait until everything is settled, and a ledger that lost writes was told what it has to know."""
        await self.dispatch.settler.flushed()
        if self._salvaging:
            await self._salvage.told.wait()

    async def _guard(self, work: Callable[[], Awaitable[None]], *, goes_on: bool = False) -> None:
        """Do work until it meets a lost ledger; what `goes_on` is begun again, by now on what is left of it."""
        try:
            await work()
        except LedgerError as error:
            self._lose(error)
            if goes_on:
                await work()

    def _lose(self, error: LedgerError) -> None:
        """Stop sending at once, and begin to tell what this process knows; whoever notices first calls it."""
        if self._salvaging:
            return
        self.failure = self.failure or error
        sending = len(self.dispatch.sending)
        extra = event("ledger_lost", why=error.what, in_flight=sending)
        log.error("worker stops: %s %d calls that are on their way may finish", error.what, sending, extra=extra)
        self.dispatch.halt()
        self.dispatch.settler.speak(self._salvage.remains)
        settled = self.dispatch.recent.before(self._tongue.heard_s)
        results_ttl_ms = self.settings.retention.results_ttl_ms
        self._salvaging = asyncio.create_task(self._salvage.run(settled, results_ttl_ms=results_ttl_ms))
        self.drain()

    def _note_failure(self, task: asyncio.Task[None], among: set[asyncio.Task[Any]] | None = None) -> None:
        if among is not None and task not in among:
            return
        if not task.done() or task.cancelled() or (error := task.exception()) is None or self.failure:
            return
        self.failure = error if isinstance(error, FareboxError) else FareboxError(f"worker failed: {error!r}")
        is_ours = isinstance(error, FareboxError)
        extra = event("stopped", why=str(error) if is_ours else type(error).__name__)
        log.error("worker stops: %s", error, exc_info=None if is_ours else error, extra=extra)

    def drain(self) -> None:
        """Claim nothing more, let running calls finish and settle, then end."""
        self.allow_pick_jobs = False
        self._leaving.set()

    def leave(self) -> None:
        """End now: calls in flight are cut off, their holds stay owed as unconfirmed."""
        self._signals = 2
        self.drain()

    def handle_sig(self, signum: signal.Signals) -> None:
        """Drain at the first signal, leave at the second."""
        self._signals += 1
        name, is_first = signal.Signals(signum).name, self._signals == 1
        extra = event("draining" if is_first else "leaving", signal=name, in_flight=self.in_flight)
        log.info("%s: %s", name, "draining" if is_first else "leaving now", extra=extra)
        self.drain()

    async def depart(self) -> None:
        """Say farewell: the heartbeat goes, arq's hook runs. Connections stay open, they may be others' too."""
        try:
            await self.pool.delete(self.keys.worker(self.worker_id), self.health_check_key)
        except (RedisError, OSError) as error:
            log.info("leaving without a farewell: %s", error, extra=event("farewell_failed", why=str(error)))
        if self.on_shutdown:
            await self.on_shutdown(self.ctx)

    async def close(self) -> None:
        """Depart, and close the adapters and the connection pool."""
        if self._pool is None:
            return
        await self.depart()
        await self.routes.aclose()
        await self.pool.aclose(close_connection_pool=True)
        self._pool = None

    # --- housekeeping -------------------------------------------------------------------------------------------

    async def _keep_house(self) -> None:
        """Run arq's own poll, for its cron jobs and its health key, and look for lanes."""
        with suppress(RedisError, OSError):
            await self._housekeeping.fold()  # a process may end before its cron's time comes
        while True:
            try:
                await self._poll_iteration()
                await self.dispatch.learn_lanes()  # the messages that told of one, or of a cancel, may be lost
                await self.dispatch.abort_cancelled()
                if self.dispatch.only_batch:  # nobody else may do it
                    await self._housekeeping.move()
            except (RedisError, OSError) as error:
                self._outage.begin(error)
            await asyncio.sleep(self.poll_delay_s)


async def _end(tasks: set[asyncio.Task[None]]) -> None:
    """Cancel tasks until they are done: redis-py can swallow a cancellation that comes while it times out."""
    while tasks:
        for task in tasks:
            task.cancel()
        done, tasks = await asyncio.wait(tasks, timeout=0.5)
        await asyncio.gather(*done, return_exceptions=True)  # what they raised was noted before


async def _never_by_arq(ctx: dict[Any, Any], *args: object) -> None:
    """Stand for our jobs in arq's table of functions; the bus runs them, arq never does."""
    raise NotImplementedError
