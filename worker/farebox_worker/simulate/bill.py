"""What was billed, to the pico-dollar, and the journal it can be rebuilt from.

A line reaches the journal before the answer leaves, so a killed simulator has forgotten no call a client saw.
"""

import os
import time
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec

from farebox_worker.simulate.options import PUSD, Options

_START = b'{"time":'


class Entry(msgspec.Struct, frozen=True):
    """One billed call: a line of the journal. `time` is Unix seconds."""

    time: float
    model: str
    key: str
    input_tokens: int
    output_tokens: int
    cost_nusd: int
    cost_pusd: int
    fate: str
    marker: str
    tier: str = "default"


class Tally:
    """Sums over billed calls."""

    __slots__ = ("billed_calls", "calls", "cost_nusd", "cost_pusd", "input_tokens", "output_tokens")

    def __init__(self) -> None:
        self.calls = self.billed_calls = self.input_tokens = self.output_tokens = self.cost_nusd = self.cost_pusd = 0

    def add(self, input_tokens: int, output_tokens: int, cost_nusd: int, cost_pusd: int) -> None:
        """Count one billed call."""
        self.billed_calls += 1
        self.input_tokens += input_tokens
        self.output_tokens += output_tokens
        self.cost_nusd += cost_nusd
        self.cost_pusd += cost_pusd

    def report(self) -> dict[str, Any]:
        """Return the sums; `cost_usd` is the exact decimal, `cost_nusd` has each call rounded up."""
        return {
            "calls": self.calls,
            "billed_calls": self.billed_calls,
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "cost_usd": f"{Decimal(self.cost_pusd) / PUSD:.12f}",
            "cost_nusd": self.cost_nusd,
        }


class Bill:
    """All tallies and the journal.

    Raises:
        ValueError: the journal holds a whole line that is not an entry.
        OSError: the journal cannot be read or written.
    """

    def __init__(self, options: Options) -> None:
        self._input_pusd, self._output_pusd = options.input_pusd, options.output_pusd
        self._call_pusd = options.call_pusd
        self._clear()
        self._journal = None if options.journal is None else self._reopen(options.journal)

    def _clear(self) -> None:
        self.total = Tally()
        self._by_model: dict[str, Tally] = {}
        self._by_key: dict[str, Tally] = {}
        self._by_tier: dict[str, Tally] = {}
        self.faults: Counter[str] = Counter()
        self.peak_in_flight = 0

    @property
    def journaled(self) -> bool:
        """Whether entries are written down, so that markers are worth making."""
        return self._journal is not None

    def arrive(self, in_flight: int) -> None:
        """Count a completion request of any fate; `in_flight` includes it."""
        self.total.calls += 1
        self.peak_in_flight = max(self.peak_in_flight, in_flight)

    def accept(self, model: str, key: str) -> None:
        """Count a request for a model that exists, by a key that is valid."""
        self._tally(self._by_model, model).calls += 1
        self._tally(self._by_key, key).calls += 1

    def charge(self, model: str, key: str, tokens: tuple[int, int], fate: str, *, marker: str, tier: str) -> None:
        """Bill one call of `tokens` = (input, output), the journal first; flex costs half.

        Raises:
            OSError: the journal could not be written; nothing is billed.
        """
        input_tokens, output_tokens = tokens
        pusd = self._call_pusd
        if pusd is None:
            pusd = input_tokens * self._input_pusd + output_tokens * self._output_pusd
        if tier == "flex":
            pusd = -(-pusd // 2)
        cost_nusd = -(-pusd // 1000)
        entry = Entry(time.time(), model, key, input_tokens, output_tokens, cost_nusd, pusd, fate, marker, tier)
        if self._journal is not None:
            _append(self._journal, msgspec.json.encode(entry) + b"\n")
        self._book(entry)

    def _book(self, entry: Entry) -> None:
        by_name = ((self._by_model, entry.model), (self._by_key, entry.key), (self._by_tier, entry.tier))
        for tally in (self.total, *(self._tally(tallies, name) for tallies, name in by_name)):
            tally.add(entry.input_tokens, entry.output_tokens, entry.cost_nusd, entry.cost_pusd)
        if entry.fate != "answered":
            self.faults[entry.fate] += 1

    @staticmethod
    def _tally(tallies: dict[str, Tally], name: str) -> Tally:
        tally = tallies.get(name)
        if tally is None:
            tally = tallies[name] = Tally()
        return tally

    def report(self) -> dict[str, Any]:
        """Return the bill as `GET /bill` shows it."""
        return self.total.report() | {
            "by_model": {name: tally.report() for name, tally in self._by_model.items()},
            "by_key": {name: tally.report() for name, tally in self._by_key.items()},
            "by_tier": {name: tally.report() | {"calls": tally.billed_calls} for name, tally in self._by_tier.items()},
            "faults": dict(self.faults),
            "peak_in_flight": self.peak_in_flight,
        }

    def reset(self) -> None:
        """Forget everything, the journal's lines too."""
        if self._journal is not None:
            os.ftruncate(self._journal, 0)
        self._clear()

    def close(self) -> None:
        """Close the journal; the sums stay readable."""
        if self._journal is not None:
            os.close(self._journal)
            self._journal = None

    def _reopen(self, path: Path) -> int:
        """Book what the journal holds and open it for more; a half-written last line was never answered: cut it."""
        lines = path.read_bytes().split(b"\n") if path.exists() else [b""]
        half = lines.pop()
        for number, line in enumerate(lines, 1):
            entry = _entry(path, number, line)
            self.total.calls += 1
            self.accept(entry.model, entry.key)
            self._book(entry)
        if not half.startswith(_START[: len(half)]):
            _entry(path, len(lines) + 1, half)
        journal = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.ftruncate(journal, os.fstat(journal).st_size - len(half))
        return journal


def _entry(path: Path, number: int, line: bytes) -> Entry:
    try:
        return msgspec.json.decode(line, type=Entry)
    except msgspec.DecodeError as error:
        raise ValueError(f"{path}, line {number} is not an entry of a simulator's journal: {error}") from error


def _append(journal: int, line: bytes) -> None:
    """Write the whole line or none of it."""
    size = os.fstat(journal).st_size
    try:
        written = os.write(journal, line)
    except OSError:
        os.ftruncate(journal, size)
        raise
    if written != len(line):
        os.ftruncate(journal, size)
        raise OSError(f"the journal took {written} of {len(line)} bytes")
