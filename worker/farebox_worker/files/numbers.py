"""Many line numbers in little memory: neighbours are kept as one run, so a million of them are two numbers."""

from __future__ import annotations

from bisect import bisect_right

SHOWN_RUNS = 8


class LineNumbers:
    """Line numbers, added in ascending order."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __contains__(self, number: object) -> bool:
        if not isinstance(number, int):
            return False
        place = bisect_right(self._starts, number)
        return place > 0 and number <= self._ends[place - 1]

    def __str__(self) -> str:
        runs = list(zip(self._starts[:SHOWN_RUNS], self._ends[:SHOWN_RUNS], strict=True))
        words = [f"{start:,}" if start == end else f"{start:,}-{end:,}" for start, end in runs]
        return ", ".join([*words, "…"] if len(self._starts) > SHOWN_RUNS else words)

    def add(self, number: int) -> None:
        """Add a number that is larger than all before, or the last once more."""
        if self._ends and number == self._ends[-1]:
            return
        self._count += 1
        if self._ends and number == self._ends[-1] + 1:
            self._ends[-1] = number
            return
        self._starts.append(number)
        self._ends.append(number)
