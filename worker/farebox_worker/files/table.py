"""Names in sorted arrays: 9 bytes each in a set, 14 in a table that leads from them to numbers.

A million names take 9 to 14 MB and it grows by a few bytes at a time, where a `dict[str, int]` takes 120. Names are
kept as their 64-bit hash only: two different ones among a million are taken for the same with a chance of 1 in 37
million. It belongs to one thread.
"""

from __future__ import annotations

import ctypes
from array import array
from bisect import bisect_left
from contextlib import suppress

_PARTS = 4096  # a few hundred names each of a million: what is inserted moves two kilobytes at most
_MASK = _PARTS - 1


class NameSet:
    """Names, each once."""

    def __init__(self) -> None:
        self._used = 0
        self._digests = [array("q") for _ in range(_PARTS)]

    def __len__(self) -> int:
        return self._used

    def __contains__(self, name: object) -> bool:
        digest = hash(name)  # SipHash with a key of the process's own, so no file can aim at it
        digests = self._digests[digest & _MASK]
        place = bisect_left(digests, digest)
        return place < len(digests) and digests[place] == digest

    def add(self, name: str) -> bool:
        """Keep the name; False when it is here already."""
        digest = hash(name)
        digests = self._digests[digest & _MASK]
        place = bisect_left(digests, digest)
        if place < len(digests) and digests[place] == digest:
            return False
        digests.insert(place, digest)
        self._used += 1
        return True


class NameTable:
    """Numbers under names; a number is at least 1 and below 2**32, and 0 says that the name is not here."""

    def __init__(self) -> None:
        self._used = 0
        self._digests = [array("q") for _ in range(_PARTS)]
        self._numbers = [array("I") for _ in range(_PARTS)]

    def __len__(self) -> int:
        return self._used

    def get(self, name: str) -> int:
        """Return the name's number, or 0."""
        digest = hash(name)
        part = digest & _MASK
        digests = self._digests[part]
        place = bisect_left(digests, digest)
        return self._numbers[part][place] if place < len(digests) and digests[place] == digest else 0

    def add(self, name: str, number: int) -> int:
        """Keep the number unless the name has one already; return the earlier number, or 0 when it was new."""
        digest = hash(name)
        part = digest & _MASK
        digests = self._digests[part]
        place = bisect_left(digests, digest)
        if place < len(digests) and digests[place] == digest:
            return self._numbers[part][place]
        digests.insert(place, digest)
        self._numbers[part].insert(place, number)
        self._used += 1
        return 0


def give_back() -> None:
    """Give the memory of tables that are gone back to the system; glibc keeps what lies between other things.

    Other C libraries do so by themselves, or not at all.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
