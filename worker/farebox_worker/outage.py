"""Redis may go away: says so once, tries again until it is back, and says that once too."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from redis.exceptions import RedisError

from farebox.errors import LedgerError

log = logging.getLogger(__name__)

T = TypeVar("T")
Errors = type[Exception] | tuple[()]

FIRST_WAIT_S = 0.05
LONGEST_WAIT_S = 2.0


class Outage:
    """What a process knows of its server's absence."""

    def __init__(self) -> None:
        self.is_on = False

    def begin(self, error: Exception) -> None:
        """Note a failure; only the first of an outage is logged."""
        if not self.is_on:
            self.is_on = True
            reason = str(error) or type(error).__name__
            log.warning("Redis is away (%s): nothing is sent, finished calls are kept until it is back", reason)

    def end(self) -> None:
        """Note an answer."""
        if self.is_on:
            self.is_on = False
            log.warning("Redis is back")

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
