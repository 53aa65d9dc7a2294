"""Draws a sight: rows for a terminal of any width, and one plain line for a pipe.

A row is never wrapped: what does not fit goes to the next row at a separator, and is cut only where a single part is
wider than the terminal.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from decimal import Decimal

from rich.console import Group, RenderableType
from rich.text import Text

from farebox.ledger import Scope
from farebox.money import NUSD_PER_USD, dollars, dollars_from_nusd
from farebox_worker.limits import in_words, money_line
from farebox_worker.run.forecast import Outlook
from farebox_worker.run.sight import LaneSight, Rates, Sight

MOST_LANES = 8
LEAST_NAME = 20  # columns; where the lanes' names get fewer, what is said of them gives way:
GIVING_WAY = ("retries", "p50/p95", "rate limit")
Part = tuple[str, str]  # words, style


def picture(sight: Sight, rates: Rates, width: int) -> RenderableType:
    """Draw the rows of a moment on a terminal of so many columns."""
    rows = [
        _head(sight, rates, width),
        *_packed(_count_parts(sight), width),
        *_packed(_speed_parts(sight, rates), width),
        *_money_rows(sight.scope, sight.outlook, width),
        *_lane_rows(sight.lanes, width),
        *(Text(note, style="yellow") for note in sight.notes),
    ]
    for row in rows:
        row.no_wrap, row.overflow = True, "ellipsis"
    return Group(*rows)


def plain_line(sight: Sight, rates: Rates) -> str:
    """Say a moment in one line."""
    counts = [words for words, _ in _count_parts(sight)]
    parts = [
        f"{sight.counts.done:,}/{sight.total:,} done",
        f"{rates.jobs:,.1f}/s",
        *counts,
        money_line(sight.scope),
        *outlook_lines(sight.outlook),
        time_left(sight, rates),
        *(f"{lane.name}: p50/p95 {words}" for lane in sight.lanes[:3] if (words := _latency(lane))),
        *(f"{lane.name}: {lane.trouble}" for lane in sight.lanes[:3] if lane.trouble),
        *sight.notes,
    ]
    name = f"{sight.name}: " if sight.name else ""
    return f"farebox: {name}" + ", ".join(part for part in parts if part)


def time_left(sight: Sight, rates: Rates) -> str:
    """Say how long it will take at this speed; "" when nobody knows."""
    left = sight.total - sight.counts.done
    is_stuck = not sight.running and (sight.parked or sight.notes)
    return "" if left <= 0 or rates.jobs <= 0 or is_stuck else f"{span(left / rates.jobs)} left"


def outlook_lines(outlook: Outlook | None) -> list[str]:
    """Say what it will cost in all, and after how many answers the budget ends."""
    if outlook is None:
        return []
    ends = [] if outlook.ends_at is None else [ends_after(outlook)]
    return [f"about {about(outlook.total_nusd)} in all", *ends]


def ends_after(outlook: Outlook) -> str:
    """Say which budget ends, and after how many answers."""
    which = "the budget" if outlook.limit.startswith("batch:") else in_words(outlook.limit)
    return f"{which} ends after about {outlook.ends_at:,} answers" if outlook.fitting else f"{which} is used up"


def about(nusd: int) -> str:
    """Write an estimate for people: two digits, and cents where there are dollars."""
    if nusd >= NUSD_PER_USD or nusd <= 0:
        return dollars(Decimal(nusd) / NUSD_PER_USD)
    unit = 10 ** max(0, len(str(nusd)) - 2)
    return dollars_from_nusd(-(-nusd // unit) * unit)


def span(seconds: float) -> str:
    """Say how long, in the two largest units up to hours."""
    minutes, rest = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _head(sight: Sight, rates: Rates, width: int) -> Text:
    done, total = sight.counts.done, sight.total
    words = [f"{done:,}/{total:,} {done / max(1, total):.0%}" if total else f"{done:,}", time_left(sight, rates)]
    tail = "  ".join(word for word in words if word)
    name = f"{sight.name[: max(8, width // 4)]} " if sight.name else ""
    room = min(60, width - len(name) - len(tail) - 2)
    row = Text(name, style="bold")
    if room >= 8:
        _draw_bar(row, room, [(done, "green" if done >= total else "cyan")], total)
        row.append(" ")
    return row.append(tail, style="bold")


def _draw_bar(row: Text, width: int, shares: Sequence[tuple[int, str]], whole: int) -> None:
    """Draw shares of a whole, one after the other; each that is not nothing shows, for as long as there is room."""
    left = width
    for share, style in shares:
        if share > 0:
            cells = min(left, max(1, round(width * share / max(1, whole))))
            row.append("━" * cells, style=style)
            left -= cells
    row.append("━" * left, style="bright_black")


def _count_parts(sight: Sight) -> list[Part]:
    counts = sight.counts
    said = [
        (sight.running, "running", ""),
        (sight.waiting, "waiting", ""),
        (counts.failed, "failed", "red"),
        (counts.cancelled, "cancelled", "red"),
        (counts.truncated, "truncated", "yellow"),
        (sight.parked, "parked", "yellow"),
        (counts.reused, "reused", "green"),
    ]
    return [(f"{n:,} {word}", style) for n, word, style in said if n or word == "running"]


def _speed_parts(sight: Sight, rates: Rates) -> list[Part]:
    counts = sight.counts
    return [
        (f"{rates.jobs:,.{0 if rates.jobs >= 10 else 1}f} jobs/s", ""),
        (f"{counts.input_tokens:,} tokens in, {rates.input_tokens:,.0f}/s", ""),
        (f"{counts.output_tokens:,} out, {rates.output_tokens:,.0f}/s", ""),
    ]


def _money_rows(scope: Scope, outlook: Outlook | None, width: int) -> Iterator[Text]:
    if scope.limit_nusd:
        row = Text()
        shares = ((scope.spent_nusd, "green"), (scope.held_nusd, "yellow"), (scope.unconfirmed_nusd, "red"))
        of = f" {scope.used_nusd / scope.limit_nusd:.0%} of {dollars_from_nusd(scope.limit_nusd)}"
        _draw_bar(row, max(4, min(60, width - len(of))), shares, scope.limit_nusd)
        yield row.append(of)
    unbounded = replace(scope, limit_nusd=None) if scope.limit_nusd and not scope.unconfirmed_nusd else scope
    money: list[Part] = [(part, "") for part in money_line(unbounded).split(", ")]
    yield from _packed([*money, *((words, "") for words in outlook_lines(outlook)[:1])], width)
    if outlook and outlook.ends_at is not None:
        yield Text(ends_after(outlook), style="yellow")


def _lane_rows(lanes: Sequence[LaneSight], width: int) -> Iterator[Text]:
    shown = lanes[:MOST_LANES]
    if not shown:
        return
    columns = [["lane"], ["in flight"], ["queued"], ["p50/p95"], ["retries"], ["rate limit"]]
    for lane in shown:
        target = "" if lane.target is None else f"/{lane.target:,}"
        cells = (
            lane.name,
            f"{lane.in_flight:,}{target}",
            f"{lane.queued:,}",
            _latency(lane),
            f"{lane.retried:,}" if lane.retried else "",
            lane.pace,
        )
        for column, cell in zip(columns, cells, strict=True):
            column.append(cell)
    names, *others = columns
    others = [column for column in others if any(column[1:])]
    for name in GIVING_WAY:
        if width - _width(others) < min(LEAST_NAME, max(map(len, names))):
            others = [column for column in others if column[0] != name]
    widest = max(12, width - _width(others))
    names = [cell if len(cell) <= widest else cell[: widest - 1] + "…" for cell in names]
    for number, cells in enumerate(zip(names, *others, strict=True)):
        row = Text(cells[0].ljust(max(map(len, names))), style="bright_black" if number == 0 else "")
        for cell, column in zip(cells[1:], others, strict=True):
            size = max(map(len, column))
            row.append("  ").append(cell if column[0] == "rate limit" else cell.rjust(size))
        yield row
        if number and (trouble := shown[number - 1].trouble):
            yield Text(f"  {trouble}", style="yellow" if shown[number - 1].is_paused else "red")
    if len(lanes) > MOST_LANES:
        yield Text(f"and {len(lanes) - MOST_LANES:,} more lanes", style="bright_black")


def _width(columns: Sequence[Sequence[str]]) -> int:
    return sum(max(map(len, column)) + 2 for column in columns)


def _latency(lane: LaneSight) -> str:
    """Say in few letters how long half of a lane's calls took at most, and nearly all; "" before the first answer."""
    half, most = lane.latency.share_ms(0.5), lane.latency.share_ms(0.95)
    if half is None or most is None:
        return ""
    if most < 1000:
        return f"{half}/{most} ms"
    return "/".join(f"{ms / 1000:.{1 if ms < 10_000 else 0}f}" for ms in (half, most)) + " s"


def _packed(parts: Sequence[Part], width: int) -> Iterator[Text]:
    """Put parts into rows, as many in each as fit."""
    row = Text()
    for words, style in parts:
        if row and row.cell_len + 3 + len(words) > width:
            yield row
            row = Text()
        row.append(" · " if row else "").append(words, style=style or None)
    if row:
        yield row
