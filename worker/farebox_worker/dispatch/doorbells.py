"""How a process hears that there is work: doorbells while it has free slots, control messages always.

A doorbell token wakes exactly one idle process of the fleet; one that is taken by a process that became busy is put
back. What is lost (a dead process, a lost connection) the heal poll finds. Whoever asked for a lane asks again when a
slot of it is free or its bell rings, and for all of them from time to time: so a busy process can have hundreds.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterable

from redis.exceptions import RedisError

from farebox.scripts import Tongue
from farebox_worker.clock import clock
from farebox_worker.outage import Outage

BELL_WAIT_S = 5
AGAIN_S = 0.5
LOOK_S = 0.025  # between two looks at all lanes by who is too busy to hear bells


class Doorbells:
    """The ears of one process.

    Args:
        tongue: its server and keys; each of the two loops holds one connection.
        only_batch: listen to this batch's bell alone, or "" for the lanes'.
        lanes: the lanes that are served now.
        with_slots: those of them that have a free slot.
        outage: told when the server is away.
    """

    def __init__(
        self,
        tongue: Tongue,
        outage: Outage,
        *,
        only_batch: str,
        lanes: Callable[[], Iterable[str]],
        with_slots: Callable[[], set[str]],
    ) -> None:
        self._redis = tongue.redis
        self._keys = tongue.keys
        self._outage = outage
        self._only_batch = only_batch
        self._lanes = lanes
        self._with_slots = with_slots
        self._rung = asyncio.Event()
        self._worth: set[str] = set()
        self._is_news = True
        self._looked_s = -math.inf
        self._has_room = asyncio.Event()
        self._listener: asyncio.Task[None] | None = None

    def ring(self, lanes: Iterable[str] | None = None) -> None:
        """Wake the process from within: these lanes are worth a claim, or all, for something has changed."""
        if lanes is None:
            self._is_news = True
        else:
            self._worth.update(lanes)
        self._rung.set()

    def heard(self, due_s: float) -> set[str] | None:
        """Say which lanes are worth a claim now, None for all, as from `due_s` on; older rings are forgotten."""
        worth, self._worth = self._worth, set()
        self._rung.clear()
        if not self._is_news and clock() < min(due_s, self._looked_s + LOOK_S):
            return worth
        self._is_news, self._looked_s = False, clock()
        return None

    async def sleep(self, seconds: float, *, has_room: bool) -> None:
        """Wait for a ring, at most so long: then all lanes are due. With `has_room` hear the fleet's bells too."""
        if has_room:
            if self._listener is None or self._listener.done():
                self._listener = asyncio.create_task(self._listen())
            self._has_room.set()
        try:
            async with asyncio.timeout(seconds):
                await self._rung.wait()
        except TimeoutError:
            self._is_news = True
        finally:
            self._has_room.clear()

    def stop_listening(self) -> None:
        """Stop, or start anew at the next sleep because the lanes changed."""
        if self._listener:
            self._listener.cancel()
            self._listener = None

    async def _listen(self) -> None:
        is_for_others = False  # what was heard last: then lanes without a slot are left to them for a moment
        while True:
            await self._has_room.wait()
            bells = self._bells(self._with_slots() if is_for_others else self._lanes())
            try:
                wait_s = AGAIN_S if is_for_others else BELL_WAIT_S
                heard = await self._redis.blpop(list(bells), wait_s) if bells else None
                if not bells:
                    await asyncio.sleep(AGAIN_S)
                lanes = bells[heard[0].decode()] if heard else None
                is_for_others = lanes is not None and not self._with_slots().intersection(lanes)
                if heard and (is_for_others or not self._has_room.is_set()):
                    await self._redis.rpush(heard[0], heard[1])
                elif heard:
                    self.ring(lanes)
            except (RedisError, OSError) as error:
                self._outage.begin(error)
                await asyncio.sleep(AGAIN_S)

    def _bells(self, lanes: Iterable[str]) -> dict[str, list[str] | None]:
        """By the key of each bell: those of the lanes that it is rung for, None for all."""
        if self._only_batch:
            return {self._keys.batch_bell(self._only_batch): None}
        return {self._keys.lane_bell(lane): [lane] for lane in lanes}

    async def hear_control(self, on_message: Callable[[str], Awaitable[None]]) -> None:
        """Hear control messages for ever: "lane …", "limit …", "cancel …", "pause …"."""
        while True:
            try:
                async with self._redis.pubsub() as channel:
                    await channel.subscribe(self._keys.control)
                    await on_message("hello")
                    is_asked = False
                    while True:
                        message = await channel.get_message(ignore_subscribe_messages=True, timeout=BELL_WAIT_S)
                        if message and message["type"] == "message":
                            await on_message(message["data"].decode())
                        if message is None:  # a peer that vanished without a word is silent too
                            if is_asked:
                                raise TimeoutError("the connection of control messages is dead")
                            await channel.ping()
                        is_asked = message is None
            except (RedisError, OSError) as error:
                self._outage.begin(error)
                await asyncio.sleep(AGAIN_S)
