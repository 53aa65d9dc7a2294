"""A table from text to a small number in sorted arrays: 13 bytes a name, or 10 where no number is above 255.

A million names take 10 to 13 MB and it grows by a few bytes at a time, where a `dict[str, int]` takes 120. Names are
kept as their 64-bit hash only: two different ones among a million are taken for the same with a chance of 1 in 37
million. It belongs to one thread.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left

_PARTS = 4096  # a few hundred names each of a million: what is inserted moves two kilobytes at most
_MASK = _PARTS - 1


class NameTable:
    """Numbers under names; a number is at least 1 and at most `largest`, and 0 says that the name is not here."""

    def __init__(self, *, largest: int = 2**32 - 1) -> None:
        self._used = 0
        self._digests = [array("q") for _ in range(_PARTS)]
        self._numbers = [array("B" if largest < 256 else "I") for _ in range(_PARTS)]

    def __len__(self) -> int:
        return self._used

    def get(self, name: str) -> int:
        """Return the name's number, or 0."""
        digest = hash(name)  # SipHash with a key of the process's own, so no file can aim at it
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
