"""Connections whose peer vanished without a word: a forgetful NAT, a proxy that was replaced, a cable that was pulled.

The pulse asks once a second what is answered at once. When that stays unanswered, while a new connection is answered,
the old ones lead nowhere: all are dropped, and whoever waits on one asks again. A server that is merely slow (a long
script, a disk that stalls, a busy network) lets the new connection wait too, and nothing is dropped.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from farebox.commands import Redis
from farebox.connection import break_connections
from farebox_worker.outage import Outage

SILENCE_S = 2.0  # of what is answered within milliseconds
NEWCOMER_S = 2.0  # to connect and be answered
GRACE_S = 0.5  # in which a server that was slow answers its older questions too
AGAIN_S = 0.5


class HalfOpen:
    """Notices dead connections of one pool.

    Args:
        redis: the client of the pool.
        outage: told before connections are dropped, so that it is said once.
    """

    def __init__(self, redis: Redis, outage: Outage) -> None:
        self._redis = redis
        self._outage = outage
        self._was_silent = False

    @asynccontextmanager
    async def watch(self) -> AsyncIterator[None]:
        """Watch over questions that are answered at once; when they are not, and others are, they meet an error."""
        watching = asyncio.create_task(self._watch())
        try:
            yield
        except RedisTimeoutError:
            self._was_silent = True
            raise
        else:
            if self._was_silent:  # what others asked in the silence is lost too, and they would wait for it still
                self._was_silent = False
                self._drop()
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    async def _watch(self) -> None:
        pause_s, is_answered = SILENCE_S, False
        while not is_answered:
            await asyncio.sleep(pause_s)
            pause_s, is_answered = AGAIN_S, await self._answers_a_newcomer()
        await asyncio.sleep(GRACE_S)
        self._was_silent = False
        self._outage.begin(RedisTimeoutError("its connections are dead, a new one is answered: all are replaced"))
        self._drop()

    async def _answers_a_newcomer(self) -> bool:
        connection = self._redis.connection_pool.make_connection()
        try:
            async with asyncio.timeout(NEWCOMER_S):
                await connection.connect()
                await connection.send_command("PING")
                await connection.read_response()
        except (RedisError, OSError):
            return False
        else:
            return True
        finally:
            await connection.disconnect(nowait=True)

    def _drop(self) -> None:
        self._outage.expect()
        break_connections(self._redis, also_used=True)
