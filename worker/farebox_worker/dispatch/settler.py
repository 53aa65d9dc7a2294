"""Settles finished attempts in groups: as many as came in a few milliseconds, at most 64 or 1 MB.

It never gives up: while Redis is away everything is kept and settled when it is back. A group that errs is settled
one by one; what Redis refuses alone, too, is put aside and tried again from time to time, while the others go on. It
keeps its slot and its lease, so no more are put aside than there are slots. At the end it is tried a last time, and
then its lease lapses as if its worker had died. A call's slot is free again when its group goes on its way: one group
at a time is on it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable

from redis.exceptions import ResponseError

from farebox.errors import LedgerError
from farebox.scripts import Tongue
from farebox_worker.bus.settle import Settlement, settle
from farebox_worker.events import event
from farebox_worker.meters import GROUP_JOBS as GROUP_BOUNDS
from farebox_worker.meters import SETTLE_S, Histogram
from farebox_worker.outage import Outage, is_of_the_server

log = logging.getLogger(__name__)

GROUP_JOBS = 64
GROUP_BYTES = 1_000_000
LINGER_S = 0.002
AGAIN_S = 5.0  # until what Redis refused is tried again


class Settler:
    """A queue of settlements and the task that writes them.

    Args:
        tongue: where to settle.
        outage: told when the server is away.
        results_ttl_ms: how long results are kept.
        on_sent: told when a group goes on its way.
        on_settled: told of each acknowledged settlement and its word ("done", "money", "repeat").

    Attributes:
        group: what is being written now.
        group_jobs, group_s: how large acknowledged groups were, and how long they took to be acknowledged.
    """

    def __init__(
        self,
        tongue: Tongue,
        outage: Outage,
        *,
        results_ttl_ms: int,
        on_settled: Callable[[Settlement, str], None],
        on_sent: Callable[[], None] = lambda: None,
    ) -> None:
        self._tongue = tongue
        self._outage = outage
        self._results_ttl_ms = results_ttl_ms
        self._on_sent = on_sent
        self._on_settled = on_settled
        self.group: list[Settlement] = []
        self._queue: deque[Settlement] = deque()
        self._aside: list[Settlement] = []
        self._refused: set[str] = set()  # tokens of those that go alone
        self._is_ending = False
        self._filled = asyncio.Event()
        self._pending = 0
        self._empty = asyncio.Event()
        self._empty.set()
        self.group_jobs = Histogram(GROUP_BOUNDS)
        self.group_s = Histogram(SETTLE_S)

    @property
    def pending(self) -> int:
        """Settlements that are not acknowledged yet."""
        return self._pending

    def put(self, settlement: Settlement) -> None:
        """Take over a settlement; it will be written."""
        self._queue.append(settlement)
        self._pending += 1
        self._empty.clear()
        self._filled.set()

    def speak(self, tongue: Tongue) -> None:
        """Write from now on by another tongue."""
        self._tongue = tongue

    async def flushed(self) -> None:
        """Wait until everything that was put is acknowledged, or refused a last time."""
        self._is_ending = True
        self._try_again()
        await self._empty.wait()

    async def run(self) -> None:
        """Write settlements until cancelled. Raises: LedgerError when the ledger is lost; the queue is kept."""
        while True:
            if not self._queue:
                self._filled.clear()
                await self._filled.wait()
            if len(self._queue) < GROUP_JOBS:
                await asyncio.sleep(LINGER_S)
            self.group = self._next_group()
            self._on_sent()
            try:
                await self._settle(self.group)
            except LedgerError:
                self._queue.extendleft(reversed(self.group))
                raise
            finally:
                self.group = []

    def _next_group(self) -> list[Settlement]:
        group: list[Settlement] = []
        size = 0
        while self._queue and len(group) < GROUP_JOBS:
            first = self._queue[0]
            size += GROUP_BYTES if first.token in self._refused else len(first.result)
            if group and size > GROUP_BYTES:
                break
            group.append(self._queue.popleft())
        return group

    async def _settle(self, group: list[Settlement]) -> None:
        def verb() -> Awaitable[list[str]]:
            return settle(self._tongue, group, results_ttl_ms=self._results_ttl_ms)

        def is_refusal(error: Exception) -> bool:
            return isinstance(error, ResponseError) and not is_of_the_server(error)

        began_s = time.monotonic()
        try:
            words = await self._outage.insist(verb, unless=is_refusal)
        except ResponseError as error:
            if len(group) == 1:
                self._set_aside(group[0], str(error))
                return
            extra = event("settle_split", jobs=len(group), why=str(error))
            message = "settling %d attempts together failed (%s): one by one"
            log.error(message, len(group), error, extra=extra)  # noqa: TRY400 - the server's word says it all
            while group:  # what is not settled when the ledger is lost meanwhile stays in the group
                await self._settle(group[:1])
                del group[0]
            return
        seconds = time.monotonic() - began_s
        self.group_jobs.add(len(group))
        self.group_s.add(seconds)
        if log.isEnabledFor(logging.DEBUG):
            extra = event("settled", jobs=len(group), seconds=round(seconds, 6))
            log.debug("settled %d attempts in %.1f ms", len(group), seconds * 1000, extra=extra)
        self._let_go(group)
        for settlement, word in zip(group, words, strict=True):
            self._on_settled(settlement, word)

    def _let_go(self, group: list[Settlement]) -> None:
        self._refused.difference_update([one.token for one in group] if self._refused else ())
        self._pending -= len(group)
        if not self._pending:
            self._empty.set()

    def _set_aside(self, one: Settlement, why: str) -> None:
        if self._is_ending:
            extra = event("settle_given_up", job=one.job_id, why=why)
            log.error("Redis refuses to settle %s to the end (%s): its lease will lapse", one.job_id, why, extra=extra)
            self._let_go([one])
            return
        self._outage.refused(f"{why} (settling {one.job_id}; the others go on)")
        self._refused.add(one.token)
        if not self._aside:
            asyncio.get_running_loop().call_later(AGAIN_S, self._try_again)
        self._aside.append(one)

    def _try_again(self) -> None:
        self._queue.extend(self._aside)
        self._aside.clear()
        if self._queue:
            self._filled.set()
