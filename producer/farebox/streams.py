"""Reads result streams: which jobs ended, entry by entry, whatever protocol the connection speaks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import cast

from farebox.commands import Entry, Redis
from farebox.errors import InputError

Ended = tuple[str, list[str]]  # an entry's id, and the ids of the jobs in it, in their order
Stream = tuple[str, list[Ended]]  # a stream's key and its entries, oldest first
_LAST = 2**64 - 1
_CURSOR = re.compile(r"(?!0+-0+/)([0-9]{1,19}-[0-9]{1,19})/([0-9]{1,19})")  # no stream has an entry 0-0


def taken_apart(cursor: str) -> tuple[str, int]:
    """Say which entry a cursor names, and how many of its jobs are done with. Raises: InputError."""
    if not (parts := _CURSOR.fullmatch(cursor)):
        raise InputError(f"after={cursor!r} is no cursor of a result: hand in the `cursor` of an answer as it is.")
    return parts[1], int(parts[2])


def before(entry_id: str) -> str:
    """The largest id that an entry before this one can have."""
    ms, _, number = entry_id.partition("-")
    return f"{ms}-{int(number) - 1}" if int(number) else f"{int(ms) - 1}-{_LAST}"


async def read_streams(
    redis: Redis, places: Mapping[str, str], *, count: int = 1000, block_ms: int | None = None
) -> list[Stream]:
    """Read up to `count` entries of each stream after its place; wait up to `block_ms` for the first one."""
    found = await redis.xread(places, count=count, block=block_ms)
    if isinstance(found, dict):  # RESP3
        pairs = [(key, _unwrapped(entries)) for key, entries in found.items()]
    else:
        pairs = [(key, entries) for key, entries in found or []]
    return [
        (key.decode(), [(entry_id.decode(), [job.decode() for job in jobs]) for entry_id, jobs in entries])
        for key, entries in cast("list[tuple[bytes, list[Entry]]]", pairs)
    ]


def _unwrapped(entries: list[object]) -> list[object]:
    """Some versions of redis-py give a stream's entries as a list in a list."""
    return entries[0] if len(entries) == 1 and isinstance(entries[0], list) else entries
