"""The command `farebox`: one small file per group of commands, loaded when it is asked for.

Exit codes: 0 all answered, 1 error, 2 bad input or usage, 3 some jobs failed, 4 parked at a limit, 130 interrupted.
"""

from __future__ import annotations

import difflib
import gc
import importlib
import os
import sys
from typing import Any

import click
from click.shell_completion import CompletionItem

from farebox.errors import ConfigError, FareboxError, InputError, ModelNotFoundError, UntranslatableError
from farebox_worker.cli.stderr import outlive_stderr

_HOMES = {"status": "batches", "cancel": "batches"}  # modules of commands that have none of their own

# How often garbage is looked for. An SDK is 250,000 objects that stay for good: to look through them again for every
# thousand calls took 0.07 ms of each, and 0.14 s at a time, in which nothing is sent. What we drop has no cycles.
GARBAGE = (10_000, 20, 20)


class _Commands(click.Group):
    """Imports a command's file when the command is named: `farebox --help` loads no SDK."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(_HELP)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in _HELP:
            return None
        module = importlib.import_module(f"farebox_worker.cli.{_HOMES.get(cmd_name, cmd_name)}")
        command: click.Command = getattr(module, cmd_name)
        return command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem[Any]]:
        """Offer commands by their names, without importing them."""
        if incomplete.startswith("-"):
            return super().shell_complete(ctx, incomplete)
        return [CompletionItem(name, help=told) for name, told in _HELP.items() if name.startswith(incomplete)]

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Name the nearest commands where there is none of this name."""
        near = difflib.get_close_matches(args[0], _HELP, n=2)
        if near and args[0] not in _HELP and not ctx.resilient_parsing:
            ctx.fail(f"No such command {args[0]!r}. Did you mean {' or '.join(near)}?")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl(list(_HELP.items()))


_HELP = {
    "run": "Answer a file of prompts on this machine; run it again to go on.",
    "estimate": "Say what a file will cost, by model and tier; sends nothing.",
    "submit": "Enqueue a file for a fleet of workers; prints the batch id.",
    "worker": "Serve jobs until told to stop.",
    "exporter": "Serve the fleet's metrics: limits, lanes, what could be scaled to.",
    "batches": "List batches.",
    "status": "Show one batch, or all.",
    "watch": "Follow a batch live until it is complete.",
    "results": "Write a batch's results to a file.",
    "export": "Write finished lines as a table, packed, or as OpenAI's batch files.",
    "cancel": "Stop everything of a batch that is not sent.",
    "retry": "Put back what failed: of a batch, or of a run's file.",
    "job": "Show one job: where it is, what was tried, what it cost.",
    "lanes": "Show what waits, runs and is paused, by model; pause or resume it.",
    "workers": "List the worker processes that live.",
    "budget": "Show or set spending limits.",
    "cost": "Show what was spent; `cost reset` zeroes it.",
    "audit": "Check every money counter against the journal of bookings.",
    "unconfirmed": "List calls whose outcome is unknown; release or charge them.",
    "ledger": "Look at the money counters; go on after a server lost writes.",
    "models": "List the models that can be asked for, with their prices.",
    "doctor": "Check the configuration, the server, the providers and the fleet; say what to do.",
    "init": "Write a commented farebox.toml from what is found here.",
    "completion": "Print the script that completes commands in your shell.",
    "simulate": "Run a local provider to rehearse with, no money involved.",
}


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="farebox")
def command() -> None:
    """Farebox: LLM calls through a bus where every job pays its fare, under one hard limit.

    \b
    farebox run prompts.jsonl -m openai:gpt-5-mini --budget 20
    farebox run prompts.jsonl -m echo:echo --no-budget      (offline, to try it)
    """


def main() -> None:
    """Run the command line; every error ends in one sentence and an exit code."""
    _prepare()
    try:
        command.main(standalone_mode=False, prog_name="farebox")
    except click.exceptions.Exit as leaving:
        sys.exit(leaving.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        _interrupted()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (ConfigError, InputError, ModelNotFoundError, UntranslatableError) as error:
        _end(str(error), 2)
    except (FareboxError, OSError) as error:
        _end(str(error), 1)
    except Exception as error:  # people get a sentence; FAREBOX_DEBUG=1 shows the traceback
        if _is_of_redis(error):
            reason_of = importlib.import_module("farebox.connection").reason_of
            _end(f"Redis: {reason_of(error)}", 1)
        if os.environ.get("FAREBOX_DEBUG"):
            raise
        _end(f"unexpected {type(error).__name__}: {error}. FAREBOX_DEBUG=1 shows where.", 1)


def _prepare() -> None:
    gc.set_threshold(*GARBAGE)
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:  # closed by who called us (`>&-`): else a socket gets its number, and our words
            os.open(os.devnull, os.O_RDWR)
    outlive_stderr()
    if "_FAREBOX_COMPLETE" in os.environ:
        importlib.import_module("farebox_worker.cli.completion")  # it knows bash better than click


def _is_of_redis(error: Exception) -> bool:
    """Tell a RedisError by its name: importing redis takes longer than all the rest of `farebox --help`."""
    return any((kind.__module__, kind.__name__) == ("redis.exceptions", "RedisError") for kind in type(error).__mro__)


def _interrupted() -> None:
    if "_FAREBOX_COMPLETE" not in os.environ:  # a shell that completes a word has its prompt on the screen
        click.echo("farebox: interrupted", err=True)
    sys.exit(130)


def _end(message: str, code: int) -> None:
    click.echo(f"farebox: {message}", err=True)
    sys.exit(code)
