"""Shows a run: a live bar on a terminal, one plain line every 10 seconds on a pipe, nothing when quiet.

It writes to stderr only; stdout belongs to --json.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from types import TracebackType
from typing import Self, TypeVar

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from farebox.ledger import Scope
from farebox.money import NUSD_PER_USD, dollars, dollars_from_nusd
from farebox_worker.files.tally import Tally
from farebox_worker.limits import in_words, money_line
from farebox_worker.run.forecast import Outlook

T = TypeVar("T")

PLAIN_EVERY_S = 10.0
TOLD_EVERY = 5000  # lines


@dataclass(frozen=True, slots=True)
class Sight:
    """What there is to see at one moment. `done` counts every line of OUT, `fresh` those of this run.

    `outlook` is None until an answer says what answers are like.
    """

    done: int
    fresh: int
    total: int
    running: int
    parked: int
    scope: Scope
    tally: Tally
    notes: tuple[str, ...] = ()
    outlook: Outlook | None = None


class Screen:
    """The screen of one run.

    Args:
        is_quiet: show nothing at all.
        plain_after_s: when a pipe gets its first line; the next ones come every 10 seconds.
    """

    def __init__(self, *, is_quiet: bool = False, plain_after_s: float = PLAIN_EVERY_S) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._is_quiet = is_quiet
        self._is_live = self._console.is_terminal and not is_quiet
        self._live: Live | None = None
        self._began = time.monotonic()
        self._plain_at = self._began - PLAIN_EVERY_S + plain_after_s

    def __enter__(self) -> Self:
        if self._is_live:
            self._live = Live(console=self._console, refresh_per_second=4, transient=True)
            self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.__exit__(kind, error, trace)
            self._live = None

    def say(self, message: str) -> None:
        """Tell something at once, above the bar."""
        if not self._is_quiet:
            self._console.print(message, markup=False, soft_wrap=not self._console.is_terminal)

    def reading(self, lines: int, *, doing: str = "reading") -> None:
        """Show how many lines of the input were judged, before anything is sent, or what else is done with them."""
        self.tell(f"{doing}: {lines:,} lines")

    def tell(self, words: str) -> None:
        """Show how far something is, in place of what was shown before."""
        if self._live:
            self._live.update(Text(words))
        else:
            self._say_plain(lambda: f"farebox: {words}")

    def follow(self, lines: Iterable[T], *, doing: str = "reading") -> Iterator[T]:
        """Pass lines on, showing now and then how many there were."""
        for number, line in enumerate(lines, 1):
            if number % TOLD_EVERY == 0:
                self.reading(number, doing=doing)
            yield line

    def show(self, sight: Sight) -> None:
        """Show a moment."""
        if self._live:
            self._live.update(self._picture(sight))
        else:
            self._say_plain(lambda: self._plain(sight))

    def _say_plain(self, line: Callable[[], str]) -> None:
        if not self._is_quiet and time.monotonic() - self._plain_at >= PLAIN_EVERY_S:
            self._plain_at = time.monotonic()
            print(line(), file=sys.stderr, flush=True)  # noqa: T201 - a pipe gets plain text

    def _rate(self, sight: Sight) -> float:
        return sight.fresh / max(0.001, time.monotonic() - self._began)

    def _left(self, sight: Sight) -> str:
        rate = self._rate(sight)
        is_stuck = not sight.running and (sight.parked or sight.notes)
        if not sight.fresh or sight.done >= sight.total or is_stuck:
            return ""
        return f"{span((sight.total - sight.done) / rate)} left"

    def _plain(self, sight: Sight) -> str:
        failed = sight.tally.outcomes["failed"]
        parts = [
            f"{sight.done:,}/{sight.total:,} done",
            f"{self._rate(sight):,.1f}/s",
            f"{sight.running:,} running",
            *([f"{failed:,} failed"] if failed else []),
            *([f"{sight.parked:,} parked"] if sight.parked else []),
            money_line(sight.scope),
            *outlook_lines(sight.outlook),
            self._left(sight),
            *sight.notes,
        ]
        return "farebox: " + ", ".join(part for part in parts if part)

    def _picture(self, sight: Sight) -> RenderableType:
        table = Table.grid(padding=(0, 1))
        bar = ProgressBar(total=max(1, sight.total), completed=sight.done, width=max(10, self._console.width // 3))
        share = f"{sight.done / max(1, sight.total):.0%}"
        table.add_row(bar, f"{sight.done:,}/{sight.total:,} {share}", f"{self._rate(sight):,.0f}/s", self._left(sight))
        tally = sight.tally
        counts = [f"{sight.running:,} running"]
        counts += [
            f"[red]{tally.outcomes[word]:,} {word}[/red]" for word in ("failed", "cancelled") if tally.outcomes[word]
        ]
        if tally.finishes["truncated"]:
            counts.append(f"[yellow]{tally.finishes['truncated']:,} truncated[/yellow]")
        if sight.parked:
            counts.append(f"[yellow]{sight.parked:,} parked[/yellow]")
        counts.append(f"{tally.input_tokens:,} tokens in, {tally.output_tokens:,} out")
        money = money_line(sight.scope), *outlook_lines(sight.outlook)[:1]
        joined = " · ".join(money)
        rows = [joined] if len(joined) <= self._console.width else money
        lines: list[RenderableType] = [table, Text.from_markup(" · ".join(counts)), *map(Text, rows)]
        if sight.outlook and sight.outlook.ends_at is not None:
            lines.append(Text(outlook_lines(sight.outlook)[1], style="yellow"))
        lines += [Text(note, style="yellow") for note in sight.notes]
        return Group(*lines)


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
