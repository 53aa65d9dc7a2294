"""What every command that reads a file of prompts takes: how its lines are to be understood."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast, get_args

import click
import msgspec

from farebox.errors import InputError
from farebox.keys import check_tag
from farebox_worker.cli import suggest
from farebox_worker.cli.options import say, with_options
from farebox_worker.files.source import Format, take
from farebox_worker.files.summary import Summary, bad_line_report, how_to_mend
from farebox_worker.files.template import Template
from farebox_worker.files.wording import Wording, read_schema, text_or_file
from farebox_worker.run.ask import TIER_HELP, TIERS, Ask
from farebox_worker.run.screen import Screen

F = TypeVar("F", bound=Callable[..., Any])

_OPTIONS = (
    click.option(
        "-m",
        "--model",
        "models",
        multiple=True,
        metavar="REF",
        shell_complete=suggest.models,
        help="provider:model for every line, e.g. openai:gpt-5-mini; several -m ask each line of each.",
    ),
    click.option("--provider", metavar="P", shell_complete=suggest.providers, help="Whose model a bare name is."),
    click.option(
        "--max-tokens", type=click.IntRange(1, 100_000_000), metavar="N", help="Output cap of lines that have none."
    ),
    click.option("--tier", type=click.Choice(TIERS), default="standard", show_default=True, help=TIER_HELP),
    click.option("--drop-params", metavar="A,B", default="", help="Drop these where a provider cannot say them."),
    click.option("--template", metavar="TEXT", help='The prompt of a row, such as "Classify: {text}"; or @FILE.'),
    click.option("--id-column", metavar="NAME", default="", help="The column that names a row. Default: custom_id."),
    click.option("--system", metavar="TEXT", help="System message of lines that have none; or @FILE."),
    click.option("--schema", type=click.Path(path_type=Path), metavar="FILE", help="JSON schema of every answer."),
    click.option(
        "--input-format",
        type=click.Choice(get_args(Format)),
        help="Default: csv where the name ends in .csv or .tsv, also packed.",
    ),
    click.option(
        "--fallback",
        "fallbacks",
        multiple=True,
        metavar="REF",
        shell_complete=suggest.models,
        help="Ask this model where the one before failed for good, or is paused for long; repeatable, in order.",
    ),
    click.option("--spread", metavar="A,B,C", default="", help="Share lines over these models: whichever has room."),
    click.option("--skip-invalid", is_flag=True, help="Leave bad lines out instead of refusing the file."),
)


class LineFlags(msgspec.Struct, frozen=True, kw_only=True):
    """How the flags say that lines are to be understood; one field for each of the options above."""

    models: tuple[str, ...]
    provider: str | None
    max_tokens: int | None
    tier: str
    drop_params: str
    template: str | None
    id_column: str
    system: str | None
    schema: Path | None
    input_format: Format | None
    fallbacks: tuple[str, ...]
    spread: str
    skip_invalid: bool

    def ask(self, path: Path, *, tags: tuple[str, ...] = (), first: int | None = None) -> Ask:
        """What is asked of a file; a pipe is read to its end. Raises: InputError."""
        for tag in tags:
            check_tag(tag)
        wording = self._wording()
        with Screen(plain_after_s=2.0) as screen:
            source = take(path, self.input_format, tell=screen.tell)
        if self.id_column and wording.template is None and source.format != "csv":
            raise click.UsageError("--id-column names a column of a CSV table, or a field of rows with a --template.")
        drops = tuple(name.strip() for name in self.drop_params.split(",") if name.strip())
        models, fallbacks = self._refs()
        return Ask(
            source, models, self.provider, self.max_tokens, self.tier, tags, drops, first, wording=wording,
            fallbacks=fallbacks, spread=bool(self.spread),
        )  # fmt: skip

    def _refs(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Which models are asked, and what may answer in their place."""
        if not self.spread:
            return self.models, self.fallbacks
        if self.models or self.fallbacks:
            raise click.UsageError("--spread names all models: leave -m and --fallback out.")
        first, *others = [name.strip() for name in self.spread.split(",")]
        if not others or not first:
            raise click.UsageError("--spread shares lines over several models: name two or more, with commas between.")
        if first.endswith("@flex"):
            raise click.UsageError("--spread: the first model's tier is --tier; write @flex behind the others only.")
        return (first,), tuple(others)

    def _wording(self) -> Wording:
        template = None if self.template is None else Template(text_or_file(self.template, "--template"))
        if template and not template.names:
            raise InputError("the template names no field, so every row would ask the same: write {name} in it.")
        return Wording(
            template=template,
            id_column=self.id_column,
            system="" if self.system is None else text_or_file(self.system, "--system"),
            schema=read_schema(self.schema) if self.schema else None,
            schema_name=self.schema.stem if self.schema else "",
        )


def line_options(command: F) -> F:
    """Add the options of lines; the command takes them together, as `lines`."""

    def with_lines(*args: Any, **kwargs: Any) -> Any:
        lines = LineFlags(**{name: kwargs.pop(name) for name in LineFlags.__struct_fields__})
        return command(*args, lines=lines, **kwargs)

    return cast("F", with_options(command, with_lines, _OPTIONS))


def tell_bad(path: Path, summary: Summary, *, skips: bool, advice: str = "", unsent: str = "") -> None:
    """Tell the bad lines of a file, if it has any. Raises: InputError unless they are to be skipped."""
    report = bad_line_report(path, summary, advice=advice)
    if report and not skips:
        raise InputError(f"{report}\n{unsent} {how_to_mend(summary)}".strip())
    if report:
        say(report)
