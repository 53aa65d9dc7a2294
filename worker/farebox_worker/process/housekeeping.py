"""What is done now and then for the whole fleet: arq's cron lets one process at a time do each chore.

A chore works in slices and may be done twice. None of them sends a request to a provider, and none ends a process: when
the ledger is lost the pulse meets it too, and does.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from arq.cron import CronJob, cron
from arq.typing import WorkerCoroutine
from redis.exceptions import RedisError

from farebox.errors import LedgerError
from farebox.scripts import Tongue
from farebox_worker.bus.expire import expire
from farebox_worker.bus.fold import fold
from farebox_worker.bus.sweep import sweep
from farebox_worker.dispatch.moves import Moves
from farebox_worker.outage import is_of_the_server
from farebox_worker.settings import RetentionSettings


class Housekeeping:
    """The chores of a fleet, as one process does them. Redis errors pass through all of them, an outage never into arq.

    Args:
        tongue: speaks to the bus.
        moves: brings jobs away from lanes that cannot go on.
        retention: for how long what is over is kept.
    """

    def __init__(self, tongue: Tongue, moves: Moves, retention: RetentionSettings) -> None:
        self._tongue = tongue
        self._moves = moves
        self._retention = retention

    def crons(self) -> list[CronJob]:
        """When what is done, in seconds of the minute. A run costs arq some 15 commands, so there are few."""
        namespace = self._tongue.keys.namespace
        chores = [("tidy", self.tidy, set(range(0, 60, 10))), ("fold", self.fold, {35})]
        return [cron(_by_cron(chore), name=f"{namespace}:{name}", second=seconds) for name, chore, seconds in chores]

    async def tidy(self) -> int:
        """Sweep, expire and move; return how many jobs."""
        return await self.sweep() + await self.expire() + await self.move()

    async def sweep(self) -> int:
        """Finish what cancelled batches left waiting; return how many jobs."""
        ttl_ms = self._retention.results_ttl_ms
        return await _until_none_is_left(lambda: sweep(self._tongue, results_ttl_ms=ttl_ms))

    async def expire(self) -> int:
        """Fail jobs whose deadline passed while they waited; return how many."""
        ttl_ms = self._retention.results_ttl_ms
        return await _until_none_is_left(lambda: expire(self._tongue, results_ttl_ms=ttl_ms))

    async def move(self) -> int:
        """Move jobs with fallbacks out of lanes that cannot go on; return how many."""
        with suppress(LedgerError):
            return await self._moves.relieve()
        return 0

    async def fold(self) -> int:
        """Sum bookings that are old, or too many, into the checkpoints; return how many entries."""
        return await _until_none_is_left(lambda: fold(self._tongue, keep_days=self._retention.journal_days))


async def _until_none_is_left(chore: Callable[[], Awaitable[int]]) -> int:
    """Do slice after slice."""
    total = 0
    with suppress(LedgerError):
        while done := await chore():
            total += done
    return total


def _by_cron(chore: Callable[[], Awaitable[int]]) -> WorkerCoroutine:
    """Give a chore the shape that arq calls. An outage ends it for now: others say so, arq would with a traceback."""

    async def run(ctx: dict[Any, Any], *args: Any, **kwargs: Any) -> int:
        del ctx, args, kwargs
        try:
            return await chore()
        except (RedisError, OSError) as error:
            if not is_of_the_server(error):
                raise
            return 0

    return run
