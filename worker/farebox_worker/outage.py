"""Redis may go away, or refuse for a while: says so once, tries again until it is back, and says that once too.

What a running process waits for: lost connections, timeouts, failovers, restarts, and the words of
`farebox.connection.PASSING` (LOADING, BUSY, READONLY, OOM …), which any command meets. Credentials that are refused
are waited for too, for calls are on their way and have to be settled; when a process starts they end it at once
(`check_server`). A refusal of one verb alone, which no other meets, is told apart and tried again as well.
Only a ledger that lost writes is never waited for.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from redis.exceptions import RedisError, WatchError

from farebox.connection import AWAY, PASSING, passes, reason_of, refuses_login, word_of
from farebox.errors import LedgerError, ServerError
from farebox_worker.events import event

log = logging.getLogger(__name__)

T = TypeVar("T")
Revive = Callable[[], Awaitable[None]]

FIRST_WAIT_S = 0.05
LONGEST_WAIT_S = 1.0
MOST_REFUSALS = 20  # that are told
AFTERMATH_S = 1.0  # in which connections that were lost in an outage may still be met


def is_of_the_server(error: Exception) -> bool:
    """Whether every command meets this error, and not one verb alone.

    A `WatchError` that gets here is a connection that arq lost in its poll; a watched key that changed it handles.
    """
    return passes(error) or refuses_login(error) or isinstance(error, WatchError)


def in_words(error: Exception) -> str:
    """Say what is the matter with the server."""
    why = reason_of(error)
    if word := word_of(error):
        return f"answers {word} ({PASSING[word]})"
    return f"refuses the password or user ({why})" if refuses_login(error) else f"is away ({why})"


class Outage:
    """What a process knows of its server's absence.

    Args:
        revive: brings a server of ours back when it can be; None for one that is others' to bring back.

    Attributes:
        began_s: when the newest outage was noticed, by this machine's monotonic clock.
        times: how many there were.
        past_s: for how many seconds, the one of now left out.
    """

    def __init__(self, revive: Revive | None = None) -> None:
        self._revive = revive
        self.is_on = False
        self.began_s = 0.0
        self.times = 0
        self.past_s = 0.0
        self._refusals: set[str] = set()
        self._aftermath_ends_s = 0.0

    def begin(self, error: Exception) -> None:
        """Note a failure; only the first of an outage is logged, and each refusal of one verb alone once."""
        if not is_of_the_server(error):
            self.refused(reason_of(error))
        elif not self.is_on and time.monotonic() >= self._aftermath_ends_s:
            self.is_on = True
            self.began_s, self.times = time.monotonic(), self.times + 1
            extra = event("redis_away", why=reason_of(error))
            words = "Redis %s: nothing is sent, finished calls are kept until it answers"
            log.warning(words, in_words(error), extra=extra)

    def refused(self, why: str) -> None:
        """Say that a verb is refused for this reason: once, and no more than so many reasons."""
        if why not in self._refusals and len(self._refusals) < MOST_REFUSALS:
            self._refusals.add(why)
            log.error("Redis refuses a verb, it is tried again: %s", why, extra=event("verb_refused", why=why))

    def expect(self) -> None:
        """Take what is met in the next second for no new outage: connections are broken here, to be made anew."""
        self._aftermath_ends_s = time.monotonic() + AFTERMATH_S

    def end(self, asked_s: float) -> None:
        """Note an answer to what was asked then; one that was on its way when the server went tells nothing."""
        if self.is_on and asked_s >= self.began_s:
            self.is_on = False
            seconds = time.monotonic() - self.began_s
            self.past_s += seconds
            self.expect()
            log.warning("Redis is back after %.1f s", seconds, extra=event("redis_back", seconds=round(seconds, 3)))

    async def insist(self, act: Callable[[], Awaitable[T]], *, unless: Callable[[Exception], bool] | None = None) -> T:
        """Do a verb until the server answers: every verb is safe to send again.

        Raises: LedgerError, and whatever error `unless` holds for.
        """
        wait_s = FIRST_WAIT_S
        while True:
            asked_s = time.monotonic()
            try:
                answer = await act()
            except LedgerError:
                raise
            except (RedisError, OSError) as error:
                if unless is not None and unless(error):
                    raise
                self.begin(error)
                await self._bring_back(error)
            else:
                self.end(asked_s)
                return answer
            await asyncio.sleep(wait_s * (0.5 + random.random()))
            wait_s = min(LONGEST_WAIT_S, wait_s * 2)

    async def _bring_back(self, error: Exception) -> None:
        if self._revive is None or not isinstance(error, AWAY):
            return
        try:
            await self._revive()
        except ServerError as problem:
            log.debug("the embedded server does not start: %s", problem, extra=event("server_stays", why=str(problem)))
