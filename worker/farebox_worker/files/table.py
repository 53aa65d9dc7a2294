"""A hash table from text to a small number in two flat arrays: 12 bytes a slot, at least one slot in three free.

A million names take 25 MB (38 while it grows), where a `dict[str, int]` takes 120. Names are kept
as their 64-bit hash only: two different ones among a million are taken for the same with a chance of 1 in 37 million.
"""

from __future__ import annotations

from array import array

_FIRST_SLOTS = 1024  # a power of two, as every later size
_MASK_64 = 2**64 - 1


class NameTable:
    """Numbers under names; a number is 1 to 4,294,967,295, and 0 says that the name is not here."""

    def __init__(self) -> None:
        self._used = 0
        self._resize(_FIRST_SLOTS)

    def __len__(self) -> int:
        return self._used

    def get(self, name: str) -> int:
        """Return the name's number, or 0."""
        return self._numbers[self._slot(_digest(name))]

    def add(self, name: str, number: int) -> int:
        """Keep the number unless the name has one already; return the earlier number, or 0 when it was new."""
        digest = _digest(name)
        slot = self._slot(digest)
        if earlier := self._numbers[slot]:
            return earlier
        self._digests[slot] = digest
        self._numbers[slot] = number
        self._used += 1
        if self._used * 3 > len(self._numbers) * 2:
            self._grow()
        return 0

    def _slot(self, digest: int) -> int:
        """Find the slot of a digest, or the free slot where it belongs."""
        numbers, digests, mask = self._numbers, self._digests, self._mask
        slot = digest & mask
        while numbers[slot] and digests[slot] != digest:
            slot = (slot + 1) & mask
        return slot

    def _grow(self) -> None:
        digests, numbers = self._digests, self._numbers
        self._resize(len(numbers) * 2)
        for old, number in enumerate(numbers):
            if number:
                slot = self._slot(digests[old])
                self._digests[slot] = digests[old]
                self._numbers[slot] = number

    def _resize(self, slots: int) -> None:
        self._mask = slots - 1
        self._digests = array("Q", [0]) * slots
        self._numbers = array("I", [0]) * slots


def _digest(name: str) -> int:
    """Stand for a name inside this process: SipHash with a key of the process's own, so no file can aim at it."""
    return hash(name) & _MASK_64
