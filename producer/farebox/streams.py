"""Reads result streams: which jobs ended, entry by entry, whatever protocol the connection speaks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from redis.asyncio import Redis

Ended = tuple[str, list[str]]  # an entry's id, and the ids of the jobs in it, in their order
Stream = tuple[str, list[Ended]]  # a stream's key and its entries, oldest first
_Entries = list[tuple[bytes, dict[bytes, bytes]]]


async def read_streams(
    redis: Redis, places: Mapping[str, str], *, count: int = 1000, block_ms: int | None = None
) -> list[Stream]:
    """Read up to `count` entries of each stream after its place; wait up to `block_ms` for the first one."""
    found = await redis.xread(cast("Any", places), count=count, block=block_ms)
    if isinstance(found, dict):  # RESP3
        pairs = [(key, _unwrapped(entries)) for key, entries in found.items()]
    else:
        pairs = [(key, entries) for key, entries in found or []]
    return [
        (key.decode(), [(entry_id.decode(), [job.decode() for job in jobs]) for entry_id, jobs in entries])
        for key, entries in cast("list[tuple[bytes, _Entries]]", pairs)
    ]


def _unwrapped(entries: list[object]) -> list[object]:
    """Some versions of redis-py give a stream's entries as a list in a list."""
    return entries[0] if len(entries) == 1 and isinstance(entries[0], list) else entries
