"""Lines that can never fit into a budget, and what would let them through."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from farebox.errors import InputError
from farebox.money import dollars_from_nusd
from farebox.records import Job
from farebox_worker.files.numbers import LineNumbers
from farebox_worker.prices.rates import Price
from farebox_worker.providers.base import Prepared


@dataclass(frozen=True, slots=True)
class Ceiling:
    """The least limit that will hold: how much, and what it is: the `budget`, or `global limit` and the like."""

    nusd: int
    kind: str = "budget"


class NeverFitsError(InputError):
    """A line whose worst case is above a whole limit. All say the same, so that many are told as one."""

    def __init__(self, limit: Ceiling) -> None:
        super().__init__(f"never fits into the {limit.kind} of {dollars_from_nusd(limit.nusd)}: alone it can cost more")


class _Caps(msgspec.Struct):
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    max_output_tokens: int | None = None
    n: int | None = None


_caps = msgspec.json.Decoder(_Caps)


class Misfits:
    """The lines that can never fit into a limit."""

    def __init__(self, limit: Ceiling) -> None:
        self.limit = limit
        self.numbers = LineNumbers()
        self.largest_nusd = 0
        self.cap: int | None = None  # with at most so many output tokens each would fit, but for the hopeless
        self.hopeless = 0  # whose input alone is too dear
        self._shrinkable = self._own_caps = 0

    def __len__(self) -> int:
        return len(self.numbers)

    def judge(self, job: Job, prepared: Prepared, price: Price, hold_nusd: int) -> None:
        """Count a job whose hold is above the limit."""
        self.largest_nusd = max(self.largest_nusd, hold_nusd)
        caps = _caps.decode(job.body)
        bare_nusd = price.worst_nusd(prepared.input_bound, 0, prepared.fees)
        room_nusd = self.limit.nusd - bare_nusd
        fits = prepared.output_bound * room_nusd // max(1, hold_nusd - bare_nusd) // (caps.n or 1)
        if fits < 1:
            self.hopeless += 1
            return
        self._shrinkable += 1
        self._own_caps += any((caps.max_tokens, caps.max_completion_tokens, caps.max_output_tokens))
        self.cap = fits if self.cap is None else min(self.cap, fits)

    def advice(self) -> str:
        """Say what would let these lines through; "" when there are none."""
        if not self.numbers:
            return ""
        count = len(self)
        budget = f"a {self.limit.kind} of at least {dollars_from_nusd(self.largest_nusd)} lets all through"
        who = f"{count:,} {'line' if count == 1 else 'lines'} ({self.numbers}) can never fit: {budget}"
        if self.cap is None:
            return f"{who}; a smaller --max-tokens would not, their input alone can cost more."
        where = f"--max-tokens {self.cap}"
        if self._own_caps:
            own = "max_tokens in the lines, which have their own"
            where = own if self._own_caps == self._shrinkable else f"{where}, and {own.replace('which', 'where they')}"
        but = f", but for {self.hopeless:,} whose input alone can cost more" if self.hopeless else ""
        return f"{who}, or at most {self.cap:,} output tokens each ({where}){but}."
