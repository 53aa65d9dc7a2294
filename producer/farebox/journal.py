"""The journal of bookings, as everybody may read it: one row for every time money moved, and sums of what was folded.

A row is written in the step that moves the counters (`lua/tally.lua`). Old rows are summed into checkpoints
(`fold`), so that checkpoint and journal together are always the counters. All amounts are nano-dollars.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, Literal

import msgspec

from farebox.commands import Redis
from farebox.errors import InputError
from farebox.keys import Keys
from farebox.ledger import GLOBAL, Ledger

Kind = Literal["settle", "late", "doubt", "release", "charge", "book", "reset", "limit"]
By = Literal["model", "provider", "batch", "tag", "day"]
KINDS: dict[str, Kind] = {
    "s": "settle",
    "l": "late",
    "d": "doubt",
    "r": "release",
    "c": "charge",
    "b": "book",
    "z": "reset",
    "m": "limit",
}
LIFETIME = ("spent", "overrun", "calls", "input_tokens", "output_tokens", "unpriced")  # what a reset zeroes
OF_DAY = ("spent", "unconfirmed", "calls", "input_tokens", "output_tokens")  # what is kept of a day, too
_NOBODY = "-"  # the field of rows that are of no attempt
_EPOCH = date(1970, 1, 1)
_PAGE = 200
Sums = dict[tuple[date, str], dict[str, int]]


class Row(msgspec.Struct, frozen=True):
    """One booking.

    kind: settle (an answer was booked), late (a settle that replaced unconfirmed money: `hold_nusd` of it), doubt
        (money became unconfirmed), release or charge (an operator's word on it), book (spent outside the bus), reset
        (`amount_nusd` was spent in all), limit (`note`: its name, the amount before and after; "" for none).
    at_ms: the server's clock. number: its place among all rows of the ledger, from 1.
    entry_id: the stream's entry, which holds all rows of one verb.
    day: the UTC day in whose windows it is booked; for late, release and charge the day since which it was owed.
    job: the job's id without its namespace, "" when there is none. hold_nusd: None when it is not known.
    note: of a settle, what `note_parts` gives apart; of a doubt, why.
    """

    kind: Kind
    entry_id: str
    number: int
    at_ms: int
    token: str
    job: str
    scopes: tuple[str, ...]
    day: date
    amount_nusd: int
    hold_nusd: int | None
    input_tokens: int
    output_tokens: int
    calls: int
    unpriced: int
    note: str

    @property
    def note_parts(self) -> NoteParts:
        """What the worker noted of an answer."""
        parts = [*self.note.split("\t"), "", "", "", "", ""]
        return NoteParts(parts[0], parts[1], _int(parts[2]), _int(parts[3]), parts[4] or "standard")

    def changes(self) -> dict[str, int]:
        """How it moved the counters of its scopes; a reset and a limit move none this way."""
        amount, hold = self.amount_nusd, self.hold_nusd
        of_call = {
            "calls": self.calls,
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "unpriced": self.unpriced,
        }
        match self.kind:
            case "settle" | "late":
                over = 0 if hold is None else max(0, amount - hold)
                owed = -(hold or 0) if self.kind == "late" else 0
                return {"spent": amount, "overrun": over, "unconfirmed": owed, **of_call}
            case "doubt":
                return {"unconfirmed": amount}
            case "release":
                return {"unconfirmed": -amount}
            case "charge":
                return {"unconfirmed": -amount, "spent": amount}
            case "book":
                return {"spent": amount, **of_call}
        return {}


class NoteParts(msgspec.Struct, frozen=True):
    """Where an answer's price came from, and what to look for on the provider's side."""

    price_version: str
    request_id: str
    cache_read_tokens: int
    cache_write_tokens: int
    tier: str


@dataclass(frozen=True, slots=True)
class Spend:
    """What was spent on one thing, on one UTC day or, with None, since the last reset; `name` is "" for all."""

    day: date | None
    name: str
    spent_nusd: int
    unconfirmed_nusd: int
    calls: int
    input_tokens: int
    output_tokens: int


async def rows(redis: Redis, keys: Keys, *, after: str = "", until: str = "+") -> AsyncIterator[Row]:
    """Read the journal from its beginning, or after an entry's id, up to an entry's id; in pages, oldest first."""
    start = f"({after}" if after else "-"
    while page := await redis.xrange(keys.journal, start, until, count=_PAGE):
        for entry_id, fields in page:
            for row in _rows_of(_text(entry_id), fields):
                yield row
        start = f"({_text(page[-1][0])}"


async def sums(redis: Redis, keys: Keys) -> Sums:
    """What was booked per UTC day and scope: spent, unconfirmed, calls, input_tokens, output_tokens, if not zero.

    Days of the last 400 are known. What a reset zeroed is here all the same.
    """
    while True:
        checkpoint = await folded(redis, keys)
        until = checkpoint.get("until", "")
        days = [name.removeprefix("day ") for name in checkpoint if name.startswith("day ")]
        totals: defaultdict[tuple[date, str], dict[str, int]] = defaultdict(dict)
        for day in days:
            counted = await redis.hgetall(keys.checkpoint_of_day(day))
            for field, amount in counted.items():
                counter, _, scope = _text(field).partition(" ")
                add(totals[date.fromisoformat(day), scope], {counter: int(amount)})
        async for row in rows(redis, keys, after=until):
            for scope in row.scopes:
                add(totals[row.day, scope], row.changes())
        if (await folded(redis, keys)).get("until", "") == until:  # else rows may be missing, or there twice
            return {key: told for key, of in totals.items() if (told := _of_day(of))}


async def spend_by(redis: Redis, keys: Keys, by: Sequence[By]) -> list[Spend]:
    """What was spent by model, provider, batch or tag since the last reset; by day, alone or with one of them, ever.

    Raises: InputError for any other combination.
    """
    kinds = [kind for kind in by if kind != "day"]
    if not by or len(kinds) > 1 or len(set(by)) != len(by):
        raise InputError(
            f"cost by {', '.join(by) or 'nothing'}: name one of model, provider, batch, tag, or day, or day and one."
        )
    head = f"{kinds[0]}:" if kinds else GLOBAL
    if "day" not in by:
        scopes = await Ledger(redis, keys.namespace).scopes()
        return [
            Spend(
                None,
                scope.name.removeprefix(head),
                scope.spent_nusd,
                scope.unconfirmed_nusd,
                scope.calls,
                scope.input_tokens,
                scope.output_tokens,
            )
            for scope in scopes
            if scope.name.startswith(head) and (scope.spent_nusd or scope.unconfirmed_nusd or scope.calls)
        ]
    found = sorted((await sums(redis, keys)).items())
    return [_spend(day, scope.removeprefix(head), n) for (day, scope), n in found if scope.startswith(head)]


async def folded(redis: Redis, keys: Keys) -> dict[str, str]:
    """Up to where the journal was folded: `until` (an entry's id), `rows`, and a field for each day with sums."""
    found = await redis.hgetall(keys.checkpoint)
    return {_text(name): _text(value) for name, value in found.items()}


def add(totals: dict[str, int], changes: Mapping[str, int]) -> None:
    """Add changes to the counters of one scope."""
    for counter, amount in changes.items():
        totals[counter] = totals.get(counter, 0) + amount


def _of_day(totals: Mapping[str, int]) -> dict[str, int]:
    return {counter: totals[counter] for counter in OF_DAY if totals.get(counter)}


def _spend(day: date, name: str, n: Mapping[str, int]) -> Spend:
    tokens = n.get("input_tokens", 0), n.get("output_tokens", 0)
    return Spend(day, name, n.get("spent", 0), n.get("unconfirmed", 0), n.get("calls", 0), *tokens)


def _rows_of(entry_id: str, fields: Mapping[Any, Any]) -> Iterator[Row]:
    """Read the rows of one entry; see `lua/tally.lua` for its layout."""
    values = {_text(name): _text(value) for name, value in fields.items()}
    last, day = int(values.pop("n")), int(values.pop("d"))
    sets: dict[str, tuple[str, ...]] = {}
    while (name := f"s{len(sets) + 1}") in values:
        sets[name] = tuple(scope for scope in values.pop(name).split("\t") if scope)
    at_ms = int(entry_id.partition("-")[0])
    for number, (token, value) in enumerate(values.items(), last - len(values) + 1):
        kind, job, of, on, amount, hold, tokens_in, tokens_out, calls, unpriced, *note = value.split("\t") + [""] * max(
            0, 10 - value.count("\t") - 1
        )
        yield Row(
            KINDS[kind],
            entry_id,
            number,
            at_ms,
            "" if token == _NOBODY else token,
            job,
            sets.get(f"s{of}", ()),
            _EPOCH + timedelta(days=int(on) if on else day),
            _int(amount),
            int(hold) if hold else None,
            _int(tokens_in),
            _int(tokens_out),
            _int(calls),
            _int(unpriced),
            "\t".join(note),
        )


def _int(text: str) -> int:
    return int(text) if text.isdigit() else 0


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
