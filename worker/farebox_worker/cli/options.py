"""What every command takes: --config, --data-dir, --redis, --json; and how commands run on an event loop."""

from __future__ import annotations

import logging
import math
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import click
import msgspec

from farebox_worker.configuration import load
from farebox_worker.events import JsonLines, PlainLines, secrets_in
from farebox_worker.settings import MAX_USD, Settings

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])
Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


_COMMON: tuple[Decorator, ...] = (
    click.option("--config", type=click.Path(path_type=Path, dir_okay=False), help="farebox.toml to use."),
    click.option(
        "--data-dir", type=click.Path(path_type=Path, file_okay=False), help="Directory of the embedded server."
    ),
    click.option("--redis", metavar="URL", help="A shared Redis instead of the embedded server."),
)


def with_options(command: Callable[..., Any], called: Callable[..., Any], options: Sequence[Decorator]) -> Any:
    """Put options before those of a command; `called` is called in its place, under its name."""
    wrapped: Any = wraps(command)(called)  # click's own list of options is among what it takes over
    for option in reversed(options):
        wrapped = option(wrapped)
    return wrapped


def common(command: F) -> F:
    """Add --config, --data-dir and --redis; the command takes the loaded `settings`."""

    def with_settings(*args: Any, config: Path | None, data_dir: Path | None, redis: str | None, **kwargs: Any) -> Any:
        settings = load(config, data_dir=data_dir, redis_url=redis)
        return command(*args, settings=settings, **kwargs)

    return cast("F", with_options(command, with_settings, _COMMON))


def unread(*flags: str) -> Callable[[T], T]:
    """Take flags that every command takes, and that this one has no use for."""

    def taking(command: T) -> T:
        for flag in flags:
            click.option(flag, expose_value=False, hidden=True)(cast("Any", command))
        return command

    return taking


class UsdType(click.ParamType[float]):
    """An amount of dollars that the ledger can hold."""

    name = "usd"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the amount."""
        try:
            amount = float(value)
        except ValueError:
            amount = math.nan
        if not 0 <= amount <= MAX_USD:
            self.fail(f"{value!r} is not an amount of dollars from 0 to {MAX_USD:,}", param, ctx)
        return amount


USD = UsdType()
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")


reuse_option = click.option(
    "--reuse",
    is_flag=True,
    help="Take the answers that identical requests had, at no cost, where both say --reuse.",
)


def refuse_early_flags(ctx: click.Context, words: str) -> None:
    """Refuse flags before a subcommand, where they would lead nowhere. Raises: UsageError."""
    if any(ctx.params.values()):
        raise click.UsageError(f"put the flags after the word: farebox {words} --flag")


def run_async(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on uvloop where it is installed, else on asyncio's own loop."""
    import asyncio  # noqa: PLC0415 - heavy, and a TAB and --help need it not

    try:
        import uvloop  # noqa: PLC0415 - the same
    except ImportError:
        return asyncio.run(work)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


@contextmanager
def ended_by_ctrl_c() -> Iterator[None]:
    """Let Ctrl-C end work that awaits nothing, at once: the event loop would not hear of it before the end.

    Where a shell's background job ignores it, it stays ignored.
    """
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def print_json(value: object) -> None:
    """Print one JSON object on stdout."""
    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def say(message: str) -> None:
    """Tell people something, on stderr."""
    click.echo(message, err=True)


def plain(text: str) -> str:
    """What may be shown on a terminal: names and errors are others' words, and may hold control characters."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, text: Sequence[str] = ()) -> None:
    """Print a table on stdout: the first column and those named in `text` to the left, numbers to the right.

    When stdout is no terminal, cells are parted by tabs. Cells are shown whole and as they are, without control
    characters; on a narrow terminal the first column, which people copy, is the last to be broken.
    """
    cells = [[plain(cell) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        click.echo("\n".join("\t".join(row) for row in [columns, *cells]))
        return
    from rich.console import Console  # noqa: PLC0415 - only tables need it
    from rich.table import Table  # noqa: PLC0415 - the same
    from rich.text import Text  # noqa: PLC0415 - the same

    table = Table(box=None, pad_edge=False, header_style="dim")
    for number, name in enumerate(columns):
        justify: Literal["left", "right"] = "right" if number and name not in text else "left"
        table.add_column(name, justify=justify, no_wrap=not number, overflow="fold")
    for row in cells:
        table.add_row(*map(Text, row))
    Console(highlight=False).print(table)


def child_flags(settings: Settings) -> list[str]:
    """The flags that lead a child process to the same server."""
    flags = ["--config", str(settings.path)] if settings.path else []
    if settings.redis.url is not None:
        return flags  # the URL may hold a password: a child gets it by its environment
    return [*flags, "--data-dir", str(settings.redis.data_dir)]


def child_environment(settings: Settings) -> dict[str, str]:
    """The environment that leads a child process to the same Redis, to work there as the flags of this one say.

    A URL may hold a password, so it is no flag.
    """
    worker = {name: str(getattr(settings.worker, name)) for name in ("concurrency", "fallback_after_s")}
    said = {f"FAREBOX_WORKER_{name.upper()}": value for name, value in worker.items()}
    return os.environ | said | ({"FAREBOX_REDIS_URL": settings.redis.url} if settings.redis.url else {})


def secrets_of(settings: Settings) -> tuple[str, ...]:
    """What no log line and no page may hold: the providers' keys, and the password of Redis."""
    return secrets_in(os.environ, [one.api_key_env for one in settings.providers.values()], settings.redis.url)


class _StderrHandler(logging.Handler):
    """Writes to what stderr is at the moment: the live screen takes it over, and keeps its lines apart."""

    def emit(self, record: logging.LogRecord) -> None:
        sys.stderr.write(f"{self.format(record)}\n")  # at once: other processes write there too
        sys.stderr.flush()


def log_to_stderr(
    *, is_quiet: bool = False, is_verbose: bool = False, is_json: bool = False, secrets: Iterable[str] = ()
) -> None:
    """Send our own log to stderr, one line per event, plain or JSON; `secrets` are never shown.

    Warnings alone when quiet, what happens to each job when verbose.
    """
    level = logging.WARNING if is_quiet else logging.DEBUG if is_verbose else logging.INFO
    handler = _StderrHandler()
    handler.setFormatter(JsonLines(secrets) if is_json else PlainLines(secrets))
    logging.basicConfig(level=max(level, logging.INFO), handlers=[handler])
    logging.captureWarnings(is_json)
    logging.getLogger("farebox_worker").setLevel(level)
    for noisy in ("arq", "httpx2", "httpcore2", "openai", "anthropic", "aiohttp"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
