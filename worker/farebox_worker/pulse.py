"""The pulse of a process: renews its leases, ends those of the dead, and shows that it lives."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable

from redis.exceptions import RedisError

from farebox.errors import LedgerError
from farebox.scripts import Tongue
from farebox_worker.attempt import Attempt
from farebox_worker.bus.lapse import lapse
from farebox_worker.bus.renew import renew
from farebox_worker.outage import Outage

TICK_S = 1.0
HEARTBEAT_S = 10.0


class Pulse:
    """Beats until it is cancelled.

    Args:
        tongue: speaks to the bus.
        outage: told when the server is away.
        lease_s: how long a lease lasts; it is renewed every third of that.
        running: the attempts that are leased to this process; their `deadline` moves with each renewal.
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
        worker_id: str,
        describe: Callable[[], dict[str, str | int]],
    ) -> None:
        self._tongue = tongue
        self._outage = outage
        self._lease_s = lease_s
        self._running = running
        self._key = tongue.keys.worker(worker_id)
        self._describe = describe

    async def beat(self) -> None:
        """Lapse once a second, renew every third of a lease, show a heartbeat every 10 s. Raises: LedgerError."""
        renewed = shown = time.monotonic() - HEARTBEAT_S
        tick_s = min(TICK_S, self._lease_s / 3)
        while True:
            now = time.monotonic()
            try:
                if now - renewed >= self._lease_s / 3 - tick_s / 2:
                    await self._renew()
                    renewed = now
                await lapse(self._tongue)
                if now - shown >= HEARTBEAT_S:
                    await self._show()
                    shown = now
            except LedgerError:
                raise
            except (RedisError, OSError) as error:
                self._outage.begin(error)
            await asyncio.sleep(tick_s)

    async def _renew(self) -> None:
        before = time.monotonic()
        running = list(self._running.values())
        lost = await renew(self._tongue, [one.claimed for one in running], lease_ms=int(self._lease_s * 1000))
        gone = {claimed.token for claimed in lost}
        for one in running:
            one.deadline = 0.0 if one.claimed.token in gone else before + self._lease_s

    async def _show(self) -> None:
        state: dict[str, str | int] = {"host": socket.gethostname(), "pid": os.getpid(), **self._describe()}
        async with self._tongue.redis.pipeline(transaction=True) as pipe:
            pipe.hset(self._key, mapping=state)
            pipe.pexpire(self._key, int(HEARTBEAT_S * 3000))
            await pipe.execute()
