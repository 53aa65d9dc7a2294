"""Redis may go away: says so once, tries again until it is back, and says that once too."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from redis.exceptions import RedisError, ResponseError

from farebox.errors import LedgerError
from farebox_worker.events import event

log = logging.getLogger(__name__)

T = TypeVar("T")
Errors = type[Exception] | tuple[()]

FIRST_WAIT_S = 0.05
LONGEST_WAIT_S = 2.0


class Outage:
    """What a process knows of its server's absence.

    Attributes:
        began_s: when the newest outage was noticed, by this machine's monotonic clock.
        times: how many there were.
        past_s: for how many seconds, the one of now left out.
    """

    def __init__(self) -> None:
        self.is_on = False
        self.began_s = 0.0
        self.times = 0
        self.past_s = 0.0

    def begin(self, error: Exception) -> None:
        """Note a failure; only the first of an outage is logged."""
        if not self.is_on:
            self.is_on = True
            self.began_s, self.times = time.monotonic(), self.times + 1
            why = str(error) or type(error).__name__
            what = "refuses a verb" if isinstance(error, ResponseError) else "is away"
            words = "Redis %s (%s): nothing is sent, finished calls are kept until it answers"
            log.warning(words, what, why, extra=event("redis_away", why=why))

    def end(self) -> None:
        """Note an answer."""
        if self.is_on:
            self.is_on = False
            seconds = time.monotonic() - self.began_s
            self.past_s += seconds
            log.warning("Redis is back", extra=event("redis_back", seconds=round(seconds, 3)))

    async def insist(self, act: Callable[[], Awaitable[T]], *, unless: Errors = ()) -> T:
        """Do a verb until the server answers: every verb is safe to send again. Raises: LedgerError, and `unless`."""
        wait_s = FIRST_WAIT_S
        while True:
            try:
                answer = await act()
            except LedgerError:
                raise
            except unless:
                raise
            except (RedisError, OSError) as error:
                self.begin(error)
            else:
                self.end()
                return answer
            await asyncio.sleep(wait_s * (0.5 + random.random()))
            wait_s = min(LONGEST_WAIT_S, wait_s * 2)
