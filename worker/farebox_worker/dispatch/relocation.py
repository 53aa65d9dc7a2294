"""Reads jobs that wait in a flow with the lanes that may answer them, and moves them there.

Both who relieves lanes that cannot go on (`moves.py`) and who balances equals (`balance.py`) stand on it.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from farebox.batch import CHUNK_BYTES
from farebox.commands import server_now_ms
from farebox.fallback import lanes_after
from farebox.records import decode_job
from farebox.scripts import Tongue
from farebox_worker.bus.move import Kind, move

SLICE = 256  # jobs that are looked at together


class Relocation:
    """Moves jobs of one kind between the flows of their batches.

    Args:
        tongue: speaks to the bus.
        kind: what the flows are noted as: "movable" (their jobs name fallbacks) or "spread" (their lanes are equals).
    """

    def __init__(self, tongue: Tongue, kind: Kind) -> None:
        self._tongue = tongue
        self._kind = kind

    async def flows(self) -> list[str]:
        """The flows that are noted as holding such jobs."""
        found = await self._tongue.redis.smembers(self._tongue.keys.flows_to_move(self._kind))
        return sorted(flow.decode() for flow in found)

    async def forget_if_empty(self, flow: str) -> None:
        """Note a flow no more when nothing waits or runs in it."""
        await move(self._tongue, flow, flow, self._kind, ())

    async def read(self, ids: list[str], lane: str) -> tuple[list[str], list[tuple[str, ...]]]:
        """Read jobs, as many as are read in one go; return them with the lanes each may go to."""
        redis, keys = self._tongue.redis, self._tongue.keys
        async with redis.pipeline(transaction=False) as pipe:
            for job in ids:
                pipe.strlen(keys.job(job))
            lengths = await pipe.execute() if ids else []
        size = count = 0
        for length in lengths:
            size += length
            if count and size > 4 * CHUNK_BYTES:
                break
            count += 1
        ids = ids[:count]
        payloads = await redis.mget([keys.job(job) for job in ids]) if ids else []
        return ids, [_choices(payload, lane) for payload in payloads]

    async def move(self, flow: str, lane: str, ids: Sequence[str], *, is_last: bool = False) -> int:
        """Move those of these jobs that are due and wait in a flow to another lane; return how many.

        `is_last`: there is none that they may go to from there.
        """
        keys = self._tongue.keys
        priority, batch, _ = keys.parts_of_flow(flow)
        return await move(self._tongue, flow, keys.flow(priority, batch, lane), "last" if is_last else self._kind, ids)

    async def now_ms(self) -> int:
        """The server's clock, in ms."""
        return await server_now_ms(self._tongue.redis)


def _choices(payload: bytes | None, lane: str) -> tuple[str, ...]:
    try:
        return lanes_after(decode_job(payload), lane) if payload is not None else ()
    except msgspec.DecodeError:  # its worker will say so
        return ()
