"""One worker process: claims, admits, sends and settles over all its lanes. A subclass of `arq.Worker`.

arq keeps the lifecycle, hooks, signals, health key and cron (on a queue of its own, for housekeeping); its polling,
its claim and its finish are replaced by the bus. Money is never touched here but through the bus's verbs.

Loops: `_serve` claims and admits; each admitted attempt is a task; the `Settler` settles; `_tick` renews and lapses;
`_listen` hears the doorbells; `_hear_control` hears new lanes, limits, cancels; `_keep_house` runs arq's own poll.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import secrets
import signal
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec
from arq.connections import ArqRedis
from arq.cron import cron
from arq.worker import Worker, func
from redis.exceptions import RedisError, ResponseError

from farebox.connection import AWAY
from farebox.errors import FareboxError, LedgerError
from farebox.keys import Keys
from farebox.records import FUNCTION
from farebox.scripts import Tongue
from farebox_worker import attempt as attempts
from farebox_worker.attempt import Attempt
from farebox_worker.bus.admit import Fare, admit
from farebox_worker.bus.claim import Ask, Claimed, claim
from farebox_worker.bus.lapse import lapse
from farebox_worker.bus.pause import pause
from farebox_worker.bus.renew import renew
from farebox_worker.bus.settle import Settlement
from farebox_worker.bus.sweep import sweep
from farebox_worker.failures import Verdict
from farebox_worker.routes import Route, Routes
from farebox_worker.settings import Settings
from farebox_worker.settler import Settler

log = logging.getLogger(__name__)

T = TypeVar("T")

BELL_WAIT_S = 5
HEAL_S = 3.0  # a lost doorbell is found by then, jittered
MOST_PER_CLAIM = 256
HEARTBEAT_S = 10.0


class Process(Worker):
    """Serves lanes until it is drained, stopped, or the ledger is lost.

    Args:
        redis: the connection pool's client; closed by `close`.
        settings: what farebox.toml says.
        routes: which lanes can be served.
        only_batch: serve this batch and nothing else.
        burst: end when nothing is left to do.
        handle_signals: SIGTERM and SIGINT drain; a second one leaves at once.

    Attributes:
        failure: the error that made it stop sending, or None.
        last_error: the newest failure of a call, per lane, for people.
    """

    def __init__(
        self,
        redis: ArqRedis,
        settings: Settings,
        routes: Routes,
        *,
        only_batch: str = "",
        burst: bool = False,
        handle_signals: bool = True,
    ) -> None:
        namespace = settings.redis.namespace
        self.keys = Keys(namespace)
        self.settings = settings
        self.routes = routes
        self.only_batch = only_batch
        self.worker_id = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        super().__init__(
            [func(_never_by_arq, name=FUNCTION)],
            queue_name=self.keys.housekeeping,
            cron_jobs=[cron(self._sweep_cancelled, name=f"{namespace}:sweep", second=set(range(0, 60, 10)))],
            redis_pool=redis,
            burst=burst,
            handle_signals=False,
            poll_delay=5.0,
            health_check_interval=60,
            health_check_key=f"{self.keys.worker(self.worker_id)}:health-check",
            job_serializer=msgspec.msgpack.encode,
            job_deserializer=msgspec.msgpack.decode,
            log_results=False,
        )
        redis.job_serializer, redis.job_deserializer = msgspec.msgpack.encode, msgspec.msgpack.decode  # never pickle
        self.tongue = Tongue(redis, self.keys)
        self.settler = Settler(
            self.tongue,
            results_ttl_ms=int(settings.retention.results_days * 86_400_000),
            on_settled=self._on_settled,
        )
        self.failure: FareboxError | None = None
        self.last_error: dict[str, str] = {}
        self.lanes: set[str] = set()
        self._lease_s = settings.worker.lease_s
        self._in_flight: dict[str, int] = {}
        self._running: dict[str, Attempt] = {}
        self._sending: dict[str, asyncio.Task[None]] = {}
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._leaving = asyncio.Event()
        self._signals = 0
        self._listener: asyncio.Task[None] | None = None
        self._away = False
        self._catch_signals = handle_signals

    # --- life ---------------------------------------------------------------------------------------------------

    async def main(self) -> None:
        """Serve until drained. Raises: LedgerError when the ledger was lost (after stopping), ServerError."""
        if self._catch_signals:
            for signum in (signal.SIGTERM, signal.SIGINT):
                self._add_signal_handler(signum, self.handle_sig)
        self.ctx["redis"] = self.pool
        await self._learn_lanes()
        if self.on_startup:
            await self.on_startup(self.ctx)
        settling = self.loop.create_task(self.settler.run())
        loops = [self._serve(), self._tick(), self._hear_control(), self._keep_house()]
        tasks = [self.loop.create_task(loop) for loop in loops]
        try:
            await self._until_over(settling, tasks)
        finally:
            for task in [*tasks, settling, *([self._listener] if self._listener else [])]:
                task.cancel()
            await asyncio.gather(*tasks, settling, return_exceptions=True)
        if self.failure:
            raise self.failure

    async def _until_over(self, settling: asyncio.Task[None], tasks: list[asyncio.Task[None]]) -> None:
        """Wait for the end of serving, then for what runs to be settled."""
        leaving = self.loop.create_task(self._leaving.wait())
        done, _ = await asyncio.wait([settling, leaving, *tasks], return_when=asyncio.FIRST_COMPLETED)
        leaving.cancel()
        self.allow_pick_jobs = False
        for task in done:
            if task is not leaving and not task.cancelled() and (error := task.exception()):
                self._fail(error)
        tasks[0].cancel()
        await self._drain()
        while self.settler.pending and not settling.done():
            await asyncio.sleep(0.005)
        if settling.done() and not settling.cancelled() and (error := settling.exception()):
            self._fail(error)

    async def _drain(self) -> None:
        """Let running calls finish for up to `drain_s`, then cut them off: their holds become unconfirmed."""
        ends = time.monotonic() + (self.settings.worker.drain_s if not self.failure else 0.0)
        while self._sending and time.monotonic() < ends and self._signals < 2:
            await asyncio.wait(list(self._sending.values()), timeout=0.1)
        for task in self._sending.values():
            task.cancel()
        await asyncio.gather(*self._sending.values(), return_exceptions=True)

    def _fail(self, error: BaseException) -> None:
        if self.failure is None:
            self.failure = error if isinstance(error, FareboxError) else FareboxError(f"worker failed: {error!r}")
            log.error("worker stops: %s", error, exc_info=None if isinstance(error, FareboxError) else error)
        self._leaving.set()

    def drain(self) -> None:
        """Claim nothing more, let running calls finish and settle, then end."""
        self.allow_pick_jobs = False
        self._leaving.set()
        self._wake.set()

    def leave(self) -> None:
        """End now: calls in flight are cut off, their holds stay owed as unconfirmed."""
        self._signals = 2
        self.drain()

    def handle_sig(self, signum: signal.Signals) -> None:
        """Drain at the first signal, leave at the second."""
        self._signals += 1
        log.info("%s: %s", signal.Signals(signum).name, "draining" if self._signals == 1 else "leaving now")
        self.drain()

    async def depart(self) -> None:
        """Say farewell: the heartbeat goes, arq's hook runs. Connections stay open, they may be others' too."""
        try:
            await self.pool.delete(self.keys.worker(self.worker_id), self.health_check_key)
        except (RedisError, OSError) as error:
            log.info("leaving without a farewell: %s", error)
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

    # --- claim and admit ----------------------------------------------------------------------------------------

    async def _serve(self) -> None:
        """Claim what there are free slots for; sleep until a bell, a freed slot, a due job or the heal poll."""
        while self.allow_pick_jobs:
            self._wake.clear()
            asks = self._asks()
            found = None
            if asks:
                name = secrets.token_urlsafe(9)
                found = await self._insist(
                    lambda name=name, asks=asks: claim(  # type: ignore[misc]
                        self.tongue, asks, lease_ms=self._lease_ms, only_batch=self.only_batch, name=name
                    )
                )
            if found and found.jobs:
                await self._start(found.jobs)
                continue
            if self.burst and not self._sending and not self.settler.pending and not (found and found.due_in_s):
                self.drain()
                return
            pause_s = HEAL_S * (0.75 + random.random() / 2)
            if found and found.due_in_s is not None:
                pause_s = min(pause_s, max(0.001, found.due_in_s))
            await self._sleep(pause_s, is_idle=bool(asks) or not self.in_flight)

    def _asks(self) -> list[Ask]:
        asks = []
        room = MOST_PER_CLAIM
        for lane in self.lanes:
            route = self.routes.find(lane)
            if route is None:
                continue
            slots = min(self.settings.worker.concurrency - self._in_flight.get(lane, 0), room)
            if slots > 0:
                asks.append(Ask(lane, slots, route.entry.max_concurrency or 0))
        return asks

    async def _sleep(self, seconds: float, *, is_idle: bool) -> None:
        if is_idle:
            if self._listener is None or self._listener.done():
                self._listener = self.loop.create_task(self._listen())
            self._idle.set()
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            pass
        finally:
            self._idle.clear()
        if self.only_batch and is_idle:
            await self._insist(self._learn_lanes)

    async def _start(self, jobs: list[Claimed]) -> None:
        """Prepare claimed jobs, admit them, and start a task for each that may be sent."""
        deadline = time.monotonic() + self._lease_s
        ready: list[Attempt] = []
        for claimed in jobs:
            _, batch_id, lane = self.keys.parts_of_flow(claimed.flow)
            self._in_flight[lane] = self._in_flight.get(lane, 0) + 1
            route = self.routes.find(lane)
            made = self._prepare(claimed, batch_id, lane, route, deadline)
            if isinstance(made, Attempt):
                ready.append(made)
            else:
                self.settler.put(made)
        if not ready:
            return
        fares = [Fare(one.claimed, one.hold_nusd, one.scopes) for one in ready]
        verdicts = await self._insist(lambda: admit(self.tongue, fares))
        for one, verdict in zip(ready, verdicts, strict=True):
            self._admitted(one, verdict.word)

    def _prepare(
        self, claimed: Claimed, batch_id: str, lane: str, route: Route | None, deadline: float
    ) -> Attempt | Settlement:
        if route is None:  # its provider was stopped between the claim and here
            return Settlement(claimed.job_id, claimed.flow, claimed.token, "return", "release", due=claimed.score)
        try:
            return attempts.prepare(claimed, batch_id, route, deadline=deadline)
        except Exception as error:  # a payload must never kill a worker
            log.exception("preparing %s of %s failed", claimed.job_id, lane)
            return attempts.refuse(claimed, "unprepared", f"{type(error).__name__} while preparing the request")

    def _admitted(self, one: Attempt, word: str) -> None:
        if word == "ok":
            self._running[one.claimed.token] = one
            task = self.loop.create_task(self._send(one))
            self._sending[one.claimed.token] = task
        elif word == "cancelled":
            message = "the batch was cancelled before this job was sent"
            self.settler.put(
                attempts.refuse(one.claimed, "cancelled", message, one.envelope, outcome="cancelled")
            )
        elif word == "unpriced":
            message = (
                f"no price is known for {one.route.entry.model_ref}, and a budget applies: "
                f'state one in farebox.toml under [models."{one.route.entry.model_ref}"]'
            )
            self.settler.put(attempts.refuse(one.claimed, "no_price", message, one.envelope))
        else:  # no_room: it is back in its place; lost: it is somebody else's
            self._free(one.claimed.flow)

    # --- send and settle ----------------------------------------------------------------------------------------

    async def _send(self, one: Attempt) -> None:
        token = one.claimed.token
        worker = self.settings.worker
        try:
            settlement, verdict = await attempts.send(
                one, timeout_s=worker.request_timeout_s, max_attempts=worker.max_attempts
            )
        except Exception as error:  # an adapter's bug: the call may have been sent, so its money stays owed
            log.exception("sending %s failed", one.claimed.job_id)
            settlement, verdict = attempts.broken(one, error), None
        self._sending.pop(token, None)
        self.settler.put(settlement)
        if verdict is not None:
            await self._heed(one.route, verdict)

    async def _heed(self, route: Route, verdict: Verdict) -> None:
        """Do what a failure means for others: pause the lane or the provider, or stop serving it here."""
        self.last_error[route.lane] = verdict.message
        provider_id = route.entry.provider_id
        if verdict.action == "stop_provider":
            if self.routes.stop(provider_id, verdict.message):
                log.error("provider %s is not served here any more: %s", provider_id, verdict.message)
            self._wake.set()
        elif verdict.action in ("pause_lane", "pause_provider"):
            lanes = [route.lane]
            if verdict.action == "pause_provider":
                lanes = [lane for lane in self.lanes if lane.partition(":")[0] == provider_id]
            for lane in lanes:
                await self._pause(lane, verdict)

    async def _pause(self, lane: str, verdict: Verdict) -> None:
        try:
            await pause(self.tongue, lane, seconds=verdict.delay_s or 1.0, why=verdict.failure_class)
        except (RedisError, OSError, LedgerError) as error:
            log.warning("lane %s could not be paused: %s", lane, error)

    def _on_settled(self, settlement: Settlement, word: str) -> None:
        self._running.pop(settlement.token, None)
        self._free(settlement.flow)
        if settlement.action == "retry":
            self.jobs_retried += 1
        elif settlement.action == "finish" and word == "done":
            if settlement.outcome.startswith("succeeded"):
                self.jobs_complete += 1
            else:
                self.jobs_failed += 1

    def _free(self, flow: str) -> None:
        lane = self.keys.parts_of_flow(flow)[2]
        self._in_flight[lane] -= 1
        self._wake.set()

    # --- leases, bells, control, house --------------------------------------------------------------------------

    @property
    def _lease_ms(self) -> int:
        return int(self._lease_s * 1000)

    @property
    def in_flight(self) -> int:
        """Attempts claimed and not yet settled."""
        return sum(self._in_flight.values())

    async def _tick(self) -> None:
        """Once a second: end the leases of the dead; every third of a lease: renew ours; every 10 s: a heartbeat."""
        renewed = beat = time.monotonic() - HEARTBEAT_S
        while True:
            now = time.monotonic()
            try:
                if now - renewed >= self._lease_s / 3 - 0.05:
                    await self._renew()
                    renewed = now
                await lapse(self.tongue)
                if now - beat >= HEARTBEAT_S:
                    await self._beat()
                    self.routes.refresh_prices()
                    beat = now
            except LedgerError:
                raise
            except (RedisError, OSError) as error:
                self._say_away(error)
            await asyncio.sleep(min(1.0, self._lease_s / 3))

    async def _renew(self) -> None:
        before = time.monotonic()
        running = list(self._running.values())
        lost = await renew(self.tongue, [one.claimed for one in running], lease_ms=self._lease_ms)
        gone = {claimed.token for claimed in lost}
        for one in running:
            if one.claimed.token not in gone:
                one.deadline = before + self._lease_s

    async def _beat(self) -> None:
        key = self.keys.worker(self.worker_id)
        state = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "in_flight": self.in_flight,
            "lanes": ",".join(sorted(lane for lane in self.lanes if self.routes.find(lane))),
        }
        async with self.pool.pipeline(transaction=True) as pipe:
            pipe.hset(key, mapping=state)
            pipe.pexpire(key, int(HEARTBEAT_S * 3000))
            await pipe.execute()

    async def _listen(self) -> None:
        """Block on the doorbells while there are free slots; a token taken too late is put back."""
        while True:
            await self._idle.wait()
            bells = [self.keys.batch_bell(self.only_batch)] if self.only_batch else []
            bells = bells or [self.keys.lane_bell(lane) for lane in self.lanes if self.routes.find(lane)]
            try:
                heard = await self.pool.blpop(bells, timeout=BELL_WAIT_S) if bells else None  # type: ignore[misc]
                if not bells:
                    await asyncio.sleep(1.0)
                if heard and not self._idle.is_set():
                    await self.pool.rpush(heard[0], heard[1])  # type: ignore[misc]
            except (RedisError, OSError) as error:
                self._say_away(error)
                await asyncio.sleep(0.5)
                continue
            if heard:
                self._wake.set()

    async def _hear_control(self) -> None:
        while True:
            try:
                async with self.pool.pubsub() as channel:
                    await channel.subscribe(self.keys.control)
                    await self._learn_lanes()
                    while True:
                        message = await channel.get_message(ignore_subscribe_messages=True, timeout=None)
                        if message:
                            await self._heard(message["data"].decode())
            except (RedisError, OSError) as error:
                self._say_away(error)
                await asyncio.sleep(0.5)

    async def _heard(self, message: str) -> None:
        if message.startswith("lane "):
            await self._learn_lanes()
        self._wake.set()

    async def _learn_lanes(self) -> None:
        """Learn which lanes there are: all of them, or those of the one batch this process serves."""
        if self.only_batch:
            flows = await self.pool.smembers(self.keys.flows(self.only_batch))  # type: ignore[misc]
            found = {self.keys.parts_of_flow(flow.decode())[2] for flow in flows}
        else:
            found = {lane.decode() for lane in await self.pool.smembers(self.keys.lanes)}  # type: ignore[misc]
        if found != self.lanes:
            self.lanes = found
            if self._listener and not self.only_batch:
                self._listener.cancel()
                self._listener = None

    async def _keep_house(self) -> None:
        """arq's own poll, for its cron jobs and its health key."""
        while True:
            try:
                await self._poll_iteration()
            except (RedisError, OSError) as error:
                self._say_away(error)
            await asyncio.sleep(self.poll_delay_s)

    async def _sweep_cancelled(self, ctx: dict[Any, Any]) -> int:
        """Housekeeping: finish what cancelled batches left waiting."""
        del ctx
        total = 0
        while swept := await sweep(self.tongue, results_ttl_ms=int(self.settings.retention.results_days * 86_400_000)):
            total += swept
        return total

    async def _insist(self, act: Callable[[], Awaitable[T]]) -> T:
        """Do a verb until the server answers; every verb is safe to send again."""
        delay_s = 0.05
        while True:
            try:
                answer = await act()
            except LedgerError:
                raise
            except ResponseError as error:
                self._say_away(error)
            except AWAY as error:
                self._say_away(error)
            else:
                if self._away:
                    self._away = False
                    log.warning("Redis is back")
                return answer
            await asyncio.sleep(delay_s * (0.5 + random.random()))
            delay_s = min(2.0, delay_s * 2)

    def _say_away(self, error: Exception) -> None:
        if not self._away:
            self._away = True
            log.warning("Redis is away (%s): nothing is sent until it is back", str(error) or type(error).__name__)


async def _never_by_arq(ctx: dict[Any, Any], *args: object) -> None:
    """Stand for our jobs in arq's table of functions; the bus runs them, arq never does."""
    raise NotImplementedError
