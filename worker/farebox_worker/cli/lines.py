"""What every command that reads a file of prompts takes: how its lines are to be understood."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from farebox_worker.run.plan import TIER_HELP, TIERS

F = TypeVar("F", bound=Callable[..., Any])

_OPTIONS = (
    click.option("--provider", metavar="P", help="Whose model a bare name is."),
    click.option("--max-tokens", type=click.IntRange(min=1), metavar="N", help="Output cap of lines that have none."),
    click.option("--tier", type=click.Choice(TIERS), default="standard", show_default=True, help=TIER_HELP),
    click.option("--drop-params", metavar="A,B", default="", help="Drop these where a provider cannot say them."),
    click.option("--skip-invalid", is_flag=True, help="Leave bad lines out instead of refusing the file."),
)


def line_options(command: F) -> F:
    """Add --provider, --max-tokens, --tier, --drop-params and --skip-invalid."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command
