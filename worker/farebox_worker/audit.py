"""audit: recompute every money counter from the journal and the records, and say where the counters differ.

It reads one atomic snapshot of the counters, then the journal up to that moment, in pages: memory grows with the
scopes, never with the bookings. It writes nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any

from farebox.commands import Redis
from farebox.errors import FareboxError
from farebox.journal import LIFETIME, add, rows
from farebox.keys import Keys
from farebox.ledger import PERIODS, Per

COUNTERS = (*LIFETIME, "unconfirmed")
_TRIES = 20
_IDLE_S = 30 * 86_400


@dataclass(frozen=True, slots=True)
class Difference:
    """A counter that is not what the books say. `counter` names a window where it is one's: "spent (day)"."""

    counter: str
    scope: str
    counted: int
    booked: int


@dataclass(frozen=True, slots=True)
class AuditReport:
    """What an audit found.

    differences: empty when the books agree. missing_rows: journal rows that are neither folded nor there.
    rows: how many rows were read. scopes: how many were compared. forgotten: batches whose retention is over.
    limits: how many limits there are, and which are passed by what is used, with the amounts over in nano-dollars.
    day: the UTC day, and month, whose windows were compared: that of the ledger's last verb in the last month.
    """

    differences: tuple[Difference, ...]
    missing_rows: int
    rows: int
    scopes: int
    forgotten: int
    limits: int
    passed: dict[str, int]
    day: date

    @property
    def agrees(self) -> bool:
        """Whether every counter is what the books say, and no row is missing."""
        return not self.differences and not self.missing_rows


@dataclass(slots=True)
class _Books:
    """The counters as they are, and as they must be, at one moment."""

    names: list[str]
    day: date
    last: str = ""
    until: str = ""
    total_rows: int = 0
    folded_rows: int = 0
    rows: int = 0
    counted: dict[str, dict[str, int]] = field(default_factory=dict)
    booked: defaultdict[str, dict[str, int]] = field(default_factory=lambda: defaultdict(dict))
    since: dict[str, int] = field(default_factory=dict)
    records: dict[str, dict[str, int]] = field(default_factory=dict)
    windows: dict[Per, dict[str, int]] = field(default_factory=dict)
    booked_windows: dict[Per, dict[str, int]] = field(default_factory=dict)
    limits: dict[str, int] = field(default_factory=dict)


async def audit(redis: Redis, keys: Keys) -> AuditReport:
    """Compare every counter with the books. While the journal is folded or a scope is new, it looks again.

    Raises: FareboxError when the books did not stand still for long enough in twenty tries.
    """
    for _ in range(_TRIES):
        books = await _snapshot(redis, keys)
        if books is not None and await _read_journal(redis, keys, books):
            return _report(books)
    raise FareboxError("the journal was folded during every one of 20 tries to audit it: try again")


async def _snapshot(redis: Redis, keys: Keys) -> _Books | None:
    """Read all counters at one moment; None when a scope or a day came up in between."""
    names = await _names(redis, keys)
    books = _Books(names, await _today(redis, keys))
    month = [date(books.day.year, books.day.month, n).isoformat() for n in range(1, 32) if _is_day(books.day, n)]
    async with redis.pipeline(transaction=True) as pipe:
        pipe.smembers(keys.scopes)
        pipe.hmget(keys.ledger, ["journal", "clock"])
        pipe.time()
        pipe.xrevrange(keys.journal, count=1)
        pipe.hmget(keys.checkpoint, ["until", "rows"])
        pipe.hvals(keys.holds)
        pipe.hvals(keys.unconfirmed)
        for per in PERIODS:
            pipe.hgetall(keys.window(per, books.day.isoformat()))
        for day in month:
            pipe.hgetall(keys.checkpoint_of_day(day))
        for name in names:
            pipe.hgetall(keys.scope(name))
            pipe.hgetall(keys.checkpoint_of_scope(name))
            for kind in ("", *(f"{per}:" for per in PERIODS)):
                pipe.get(keys.limit(kind + name))
        found = iter(await pipe.execute())
    scopes, ledger, clock, newest, checkpoint = (next(found) for _ in range(5))
    if sorted(map(_text, scopes)) != names or _day_of(ledger[1], clock) != books.day:
        return None
    books.total_rows = int(ledger[0] or 0)
    books.last = _text(newest[0][0]) if newest else ""
    books.until, books.folded_rows = _text(checkpoint[0] or ""), int(checkpoint[1] or 0)
    books.records = {"held": _owed(next(found), 3), "unconfirmed": _owed(next(found), 5)}
    books.windows = {per: _numbers(next(found)) for per in PERIODS}
    _add_folded_days(books, {day: _numbers(next(found)) for day in month})
    for name in names:
        _add_scope(books, name, _numbers(next(found)), _numbers(next(found)))
        for kind in ("", *(f"{per}:" for per in PERIODS)):
            if (limit := next(found)) is not None:
                books.limits[kind + name] = int(limit)
    return books


async def _names(redis: Redis, keys: Keys) -> list[str]:
    return sorted(_text(name) for name in await redis.smembers(keys.scopes))


async def _today(redis: Redis, keys: Keys) -> date:
    clock_ms = await redis.hget(keys.ledger, "clock")
    return _day_of(clock_ms, await redis.time())


def _day_of(clock_ms: bytes | str | None, server: tuple[int, int]) -> date:
    """Tell the day of the ledger's last verb; after a month without one, whose window will expire, that of now."""
    seconds = int(clock_ms or 0) / 1000
    return datetime.fromtimestamp(seconds if server[0] - seconds < _IDLE_S else server[0], UTC).date()


def _is_day(day: date, number: int) -> bool:
    try:
        day.replace(day=number)
    except ValueError:
        return False
    return True


def _add_folded_days(books: _Books, days: Mapping[str, dict[str, int]]) -> None:
    today = books.day.isoformat()
    books.booked_windows = {"day": {}, "month": {}}
    for day, counted in days.items():
        of_windows = {name: n for name, n in counted.items() if name.startswith(("spent ", "unconfirmed "))}
        add(books.booked_windows["month"], of_windows)
        if day == today:
            add(books.booked_windows["day"], of_windows)


def _add_scope(books: _Books, name: str, counted: dict[str, int], checkpoint: dict[str, int]) -> None:
    """Take in a scope's counters, unless its retention is over; and its checkpoint, if it is of the same life."""
    if name.startswith("batch:"):
        if not counted:
            return
        books.since[name] = counted.pop("since", 0)
        if checkpoint.pop("since", 0) != books.since[name]:
            checkpoint = {}
    books.counted[name] = counted
    add(books.booked[name], checkpoint)


async def _read_journal(redis: Redis, keys: Keys, books: _Books) -> bool:
    """Sum the journal up to the snapshot; False when it was folded meanwhile."""
    if books.last:
        async for row in rows(redis, keys, after=books.until, until=books.last):
            books.rows += 1
            if row.kind == "reset":
                for totals in books.booked.values():
                    totals.update(dict.fromkeys(LIFETIME, 0))
            changes = row.changes()
            for scope in row.scopes:
                if scope in books.counted and row.number > books.since.get(scope, 0):
                    add(books.booked[scope], changes)
                of_window = {f"{name} {scope}": changes.get(name, 0) for name in ("spent", "unconfirmed")}
                if row.day == books.day:
                    add(books.booked_windows["day"], of_window)
                if (row.day.year, row.day.month) == (books.day.year, books.day.month):
                    add(books.booked_windows["month"], of_window)
    until = await redis.hget(keys.checkpoint, "until")
    return _text(until or "") == books.until


def _report(books: _Books) -> AuditReport:
    differences = []

    def compare(counter: str, scope: str, counted: int, booked: int) -> None:
        if counted != booked:
            differences.append(Difference(counter, scope, counted, booked))

    for scope, counted in books.counted.items():
        for counter in COUNTERS:
            compare(counter, scope, counted.get(counter, 0), books.booked[scope].get(counter, 0))
        for kind, owed in books.records.items():
            compare(f"{kind} (records)", scope, counted.get(kind, 0), owed.get(scope, 0))
    for per in PERIODS:
        counts, booked = books.windows[per], books.booked_windows[per]
        for name in sorted({*counts, *booked}):
            counter, _, scope = name.partition(" ")
            compare(f"{counter} ({per})", scope, counts.get(name, 0), booked.get(name, 0))
    return AuditReport(
        differences=tuple(differences),
        missing_rows=books.total_rows - books.folded_rows - books.rows,
        rows=books.rows,
        scopes=len(books.counted),
        forgotten=len(books.names) - len(books.counted),
        limits=len(books.limits),
        passed=_passed(books),
        day=books.day,
    )


def _passed(books: _Books) -> dict[str, int]:
    over = {}
    for name, limit in books.limits.items():
        kind, _, rest = name.partition(":")
        per, scope = (kind, rest) if kind in PERIODS else ("", name)
        counted = books.counted.get(scope, {})
        window = books.windows[per] if per else counted  # type: ignore[index]  # one of PERIODS
        ending = f" {scope}" if per else ""
        used = counted.get("held", 0) + sum(window.get(counter + ending, 0) for counter in ("spent", "unconfirmed"))
        if used > limit:
            over[name] = used - limit
    return over


def _owed(records: list[Any], first: int) -> dict[str, int]:
    """Sum records per scope; scopes begin at their field `first`."""
    owed: dict[str, int] = {}
    for record in records:
        fields = _text(record).split("\t")
        for scope in fields[first:]:
            add(owed, {scope: int(fields[0])})
    return owed


def _numbers(found: Mapping[Any, Any]) -> dict[str, int]:
    return {_text(name): int(value) for name, value in found.items()}


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
