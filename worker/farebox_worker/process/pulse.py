"""The pulse of a process: renews its leases, ends those of the dead, and shows that it lives."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version

from redis.exceptions import RedisError

from farebox.commands import server_now_ms
from farebox.errors import LedgerError, LedgerLostError
from farebox.scripts import Tongue
from farebox_worker.attempts.attempt import Attempt
from farebox_worker.bus.lapse import Lapsed, lapse
from farebox_worker.bus.reassert import reassert
from farebox_worker.bus.renew import renew
from farebox_worker.clock import clock
from farebox_worker.dispatch.recent import known
from farebox_worker.events import event
from farebox_worker.outage import Outage
from farebox_worker.process.half_open import HalfOpen

log = logging.getLogger(__name__)

TICK_S = 1.0
HEARTBEAT_S = 10.0
HEARTBEAT_TTL_MS = 30_000  # three beats missed: it is dead, or cut off
INDEX_TTL_MS = 3_600_000


class Pulse:
    """Beats until it is cancelled.

    Args:
        tongue: speaks to the bus.
        outage: told when the server is away.
        lease_s: how long a lease lasts; it is renewed every third of that.
        running: the attempts that are leased to this process; their `deadline` moves with each renewal.
        sending: those of them, by token, whose call is on its way.
        worker_id: the name of the heartbeat.
        describe: what the heartbeat says.
    """

    def __init__(
        self,
        tongue: Tongue,
        outage: Outage,
        *,
        lease_s: float,
        running: dict[str, Attempt],
        sending: Mapping[str, object],
        worker_id: str,
        describe: Callable[[], dict[str, str | int]],
    ) -> None:
        self._tongue = tongue
        self._outage = outage
        self._half_open = HalfOpen(tongue.redis, outage)
        self._lease_s = lease_s
        self._running = running
        self._sending = sending
        self._worker_id = worker_id
        self._describe = describe
        self._lanes: str | int = ""
        self._origin: dict[str, str | int] = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "version": version("farebox"),
            "started_ms": int(time.time() * 1000),
        }

    async def beat(self) -> None:
        """Lapse once a second, renew every third of a lease, show a heartbeat every 10 s. Raises: LedgerError."""
        renewed = shown = clock() - HEARTBEAT_S
        tick_s = min(TICK_S, self._lease_s / 3)
        while True:
            now, asked_s = clock(), time.monotonic()
            try:
                async with self._half_open.watch():
                    if now - renewed >= self._lease_s / 3 - tick_s / 2:
                        await self._renew()
                        renewed = now
                    _tell(await lapse(self._tongue))
                    state = self._describe()
                    if now - shown >= HEARTBEAT_S or state["lanes"] != self._lanes:
                        await self._show(state)
                        shown = now
                self._outage.end(asked_s)
            except LedgerError:
                raise
            except (RedisError, OSError) as error:
                self._outage.begin(error)
            await asyncio.sleep(tick_s)

    async def _renew(self) -> None:
        before, lease_ms = clock(), int(self._lease_s * 1000)
        running = list(self._running.values())
        lost = await renew(self._tongue, [one.claimed for one in running], lease_ms=lease_ms)
        gone = {claimed.token for claimed in lost}
        # a settlement whose acknowledgement was lost, and its mark forgotten since, is no proof of anything
        missed = [one for one in running if one.deadline and one.claimed.token in gone & self._sending.keys()]
        for one in running:
            if one.deadline:  # else it was lost, or we were halted, be it meanwhile: then it is never sent
                one.deadline = 0.0 if one.claimed.token in gone else before + self._lease_s
        if missed and (unknown := await reassert(self._tongue, [known(one) for one in missed], lease_ms=lease_ms)):
            # its seq can have caught up with ours meanwhile: a hold that is nowhere is the proof
            raise LedgerLostError(f"the server's ledger does not know {len(unknown)} running calls: it lost writes.")

    async def _show(self, state: dict[str, str | int]) -> None:
        """Write the heartbeat, and a line in the index of all workers, by the server's clock."""
        redis, keys = self._tongue.redis, self._tongue.keys
        now_ms = await server_now_ms(redis)
        async with redis.pipeline(transaction=True) as pipe:
            pipe.hset(keys.worker(self._worker_id), mapping={**self._origin, **state})
            pipe.pexpire(keys.worker(self._worker_id), HEARTBEAT_TTL_MS)
            pipe.zadd(keys.workers, {self._worker_id: now_ms})
            pipe.zremrangebyscore(keys.workers, "-inf", now_ms - INDEX_TTL_MS)
            pipe.pexpire(keys.workers, INDEX_TTL_MS)
            await pipe.execute()
        self._lanes = state["lanes"]


def _tell(lapsed: list[Lapsed]) -> None:
    if lapsed:
        owed = sum(one.hold_nusd is not None for one in lapsed)
        extra = event("lapsed", jobs=len(lapsed), unconfirmed=owed)
        words = "%d leases of workers that are gone were ended; %d of their calls are unconfirmed"
        log.warning(words, len(lapsed), owed, extra=extra)
