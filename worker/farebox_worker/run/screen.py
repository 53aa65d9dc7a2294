"""Shows a run, or a watched batch: live rows on a terminal, a plain line every 10 seconds on a pipe, or nothing.

A terminal that knows no escape codes (TERM=dumb) is like a pipe. It writes to stderr only; stdout belongs to --json.
"""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Self, TypeVar

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from farebox_worker.run.picture import picture, plain_line
from farebox_worker.run.sight import Sight, Speed

T = TypeVar("T")

PLAIN_EVERY_S = 10.0
TOLD_EVERY = 5000  # lines


class Screen:
    """The screen of one command.

    Args:
        is_quiet: show nothing at all.
        plain_after_s: when a pipe gets its first line; the next ones come every 10 seconds.
    """

    def __init__(self, *, is_quiet: bool = False, plain_after_s: float = PLAIN_EVERY_S) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._is_quiet = is_quiet
        self._is_live = self._console.is_terminal and not self._console.is_dumb_terminal and not is_quiet
        self._live: Live | None = None
        self._speeds: defaultdict[str, Speed] = defaultdict(Speed)
        self._plain_at = time.monotonic() - PLAIN_EVERY_S + plain_after_s

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
        """Tell something at once, above the rows."""
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
            self._say_plain(lambda: [f"farebox: {words}"])

    def follow(self, lines: Iterable[T], *, doing: str = "reading") -> Iterator[T]:
        """Pass lines on, showing now and then how many there were."""
        for number, line in enumerate(lines, 1):
            if number % TOLD_EVERY == 0:
                self.reading(number, doing=doing)
            yield line

    def show(self, *sights: Sight) -> None:
        """Show a moment of one batch, or of several."""
        rates = [self._speeds[sight.name].note(sight.counts) for sight in sights]
        if self._live:
            width = self._console.width
            self._live.update(_apart([picture(*seen, width) for seen in zip(sights, rates, strict=True)]))
        else:
            self._say_plain(lambda: [plain_line(*seen) for seen in zip(sights, rates, strict=True)])

    def _say_plain(self, lines: Callable[[], list[str]]) -> None:
        if not self._is_quiet and time.monotonic() - self._plain_at >= PLAIN_EVERY_S:
            self._plain_at = time.monotonic()
            print(*lines(), sep="\n", file=sys.stderr, flush=True)  # noqa: T201 - a pipe gets plain text


def _apart(pictures: Sequence[RenderableType]) -> RenderableType:
    rows: list[RenderableType] = []
    for one in pictures:
        rows += [*([Text()] if rows else []), one]
    return Group(*rows)
