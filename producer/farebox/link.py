"""A client's hold on the bus: its connection, what waits on it, and one place where Redis's errors become ours."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import TypeVar

from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from farebox.batch import Batch
from farebox.commands import Redis
from farebox.complaint import Complaint
from farebox.connection import break_connections, passes, refuses_login
from farebox.errors import ServerAwayError, ServerError
from farebox.keys import Keys
from farebox.ledger import Ledger
from farebox.reuse import Reuse, batch_of
from farebox.waiting import Waiting

T = TypeVar("T")
RESEND_S = 5.0  # how long a server may be away before a call fails
MOST_AT_ONCE = 32  # connections that calls of one client use; waiting has one of its own
MOST_BATCHES = 256


class Link:
    """One namespace of one server, as the handles of one client share it.

    Args:
        redis: an asyncio client that does not decode responses.
        namespace: which bus on that server.
        where: the server's address as it may be shown.
    """

    def __init__(self, redis: Redis, namespace: str, where: str) -> None:
        self.redis = redis
        self.where = where
        self.keys = Keys(namespace)
        self.ledger = Ledger(redis, namespace)
        self.waiting = Waiting(redis, self.keys)
        self.complaint = Complaint()
        self._batches: OrderedDict[tuple[str, Reuse | None], Batch] = OrderedDict()
        self._calls = asyncio.Semaphore(MOST_AT_ONCE)

    def batch(self, batch_id: str, reuse: Reuse | None = None) -> Batch:
        """The batch of this id; the last ones are kept, with what they know of the ledger. Raises: InputError."""
        key: tuple[str, Reuse | None] = (batch_id, reuse)
        namespace = self.keys.namespace
        batch = self._batches.pop(key, None) or batch_of(self.redis, batch_id, namespace=namespace, reuse=reuse)
        self._batches[key] = batch
        if len(self._batches) > MOST_BATCHES:
            self._batches.popitem(last=False)
        return batch

    async def do(self, act: Callable[[], Awaitable[T]]) -> T:
        """Do what may be done twice; again, for up to 5 s, while the server is away, and once at the least.

        Raises: ServerError when it stays away, or refuses; Farebox's own errors pass through.
        """
        ends, pause_s, is_first = time.monotonic() + RESEND_S, 0.05, True
        while True:
            try:
                async with self._calls:
                    return await act()
            except (RedisError, OSError) as error:
                if refuses_login(error):
                    raise ServerError(f"{self.where} refuses the password or user in its URL.") from None
                if not passes(error):
                    raise ServerError(f"{self.where}: {error}") from error
                if not is_first and time.monotonic() + pause_s > ends:
                    reason = str(error) or type(error).__name__
                    raise ServerAwayError(f"{self.where} is away ({reason}): nothing was lost, try again.") from error
                if isinstance(error, RedisTimeoutError):  # the idle ones may lead nowhere too
                    break_connections(self.redis, also_used=False)
            await asyncio.sleep(pause_s)
            pause_s, is_first = pause_s * 2, False
