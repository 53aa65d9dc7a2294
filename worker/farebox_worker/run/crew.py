"""The workers of a run: one in this process, more as processes of their own; none when a fleet does the work."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress

from redis.exceptions import RedisError

from farebox.errors import FareboxError
from farebox_worker.process.process import Process


class Crew:
    """Starts, watches and stops the workers of one batch.

    Args:
        make_process: makes the worker of this process for a batch.
        processes: how many in all; 0 leaves the work to a fleet.
        flags, environment: what leads a child process to the same server.
    """

    def __init__(
        self,
        make_process: Callable[[str], Process],
        processes: int,
        flags: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._make_process = make_process
        self._processes = processes
        self._flags = flags
        self._environment = environment
        self._process: Process | None = None
        self._working: asyncio.Task[None] | None = None
        self._children: list[subprocess.Popen[bytes]] = []

    def start(self, batch_id: str) -> None:
        """Start serving the batch, and nothing else."""
        if self._processes == 0:
            return
        self._process = self._make_process(batch_id)
        self._working = asyncio.create_task(self._process.main())
        command = [sys.executable, "-m", "farebox_worker", "worker", "--parent", str(os.getpid())]
        command += ["--quiet", "--batch", batch_id, *self._flags]
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # a child inherits it: Ctrl-C is ours to hand on
        try:
            for _ in range(self._processes - 1):
                self._children.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, env=self._environment))  # noqa: S603 - us
        finally:
            signal.signal(signal.SIGINT, before)

    @property
    def is_fleet(self) -> bool:
        """Whether others do the work."""
        return self._processes == 0

    @property
    def is_over(self) -> bool:
        """Whether there is nobody left to wait for: drained, or there never was anybody."""
        return self._working is None or self._working.done()

    def check(self) -> None:
        """Raise what ended the worker. Raises: LedgerError, FareboxError."""
        if self._working is not None and self._working.done() and not self._working.cancelled():
            self._working.result()

    def drain(self) -> None:
        """Claim nothing more; running calls may finish."""
        if self._process:
            self._process.drain()
        self._signal(signal.SIGTERM)

    def leave(self) -> None:
        """End now; calls in flight stay unconfirmed."""
        if self._process:
            self._process.leave()
        self._signal(signal.SIGTERM)

    async def stop(self) -> None:
        """Drain and wait for the end."""
        if self._children or self._process:
            self.drain()
        if self._working is not None and self._process is not None:
            with suppress(FareboxError):
                await self._working
            with suppress(RedisError, OSError):
                await self._process.depart()
        for child in self._children:
            await asyncio.to_thread(child.wait)

    def why_unserved(self, lanes: Iterable[str]) -> str:
        """Why none of these lanes is served here; "" when one is, or a fleet does the work."""
        if self._process is None:
            return ""
        routes = self._process.routes
        if any(routes.find(lane) for lane in lanes):
            return ""
        return "; ".join(sorted({routes.unserved[lane] for lane in lanes if lane in routes.unserved}))

    def unreachable(self, lanes: Collection[str], *, for_s: float) -> str:
        """Why no call of any of these lanes has found its provider's server for so long; "" when some have."""
        if self._process is None:
            return ""
        reach, errors = self._process.dispatch.reach, self.errors()
        if not lanes or any(reach.failing_s(lane) <= for_s for lane in lanes):
            return ""
        return "; ".join(sorted({errors[lane] for lane in lanes if lane in errors}))

    def errors(self) -> Mapping[str, str]:
        """The newest failure of each lane in this process, for people."""
        return self._process.dispatch.steering.last_error if self._process else {}

    def _signal(self, signum: signal.Signals) -> None:
        for child in self._children:
            if child.poll() is None:
                child.send_signal(signum)
