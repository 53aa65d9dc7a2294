"""`farebox export`: finished lines in the form that something else reads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import click

from farebox.batch import Batch
from farebox.errors import FareboxError, InputError
from farebox_worker.cli import suggest
from farebox_worker.cli.options import common, ended_by_ctrl_c, json_option, print_json, run_async, say
from farebox_worker.files.answers import output_line
from farebox_worker.files.destination import STDOUT
from farebox_worker.files.export import ERROR_NAME, FORMS, OUTPUT_NAME, Form, Writer
from farebox_worker.files.output import FULL
from farebox_worker.files.source import ArchiveError, Source, bare, is_table
from farebox_worker.files.written import own_of
from farebox_worker.run.screen import Screen
from farebox_worker.session import open_session
from farebox_worker.settings import Settings

_KNOWN = ("", ".jsonl", ".ndjson", ".json", ".txt", ".csv", ".tsv")
_WHERE = "collected with --delete, written by a run to its OUT, or expired ([retention] results_days)"


@click.command()
@click.argument("what", metavar="BATCH|OUT", shell_complete=suggest.batches_or_files)
@click.option("-o", "--output", required=True, metavar="PLACE", type=click.Path(path_type=Path, allow_dash=True),
              help="A folder for openai-files, else a file; .gz and .zst are packed; - is stdout.")  # fmt: skip
@click.option("--format", "form", type=click.Choice(get_args(Form)), help="Default: what PLACE is called.")
@click.option("--overwrite", is_flag=True, help="Replace what is there.")
@json_option
@common
def export(settings: Settings, what: str, output: Path, form: Form | None, overwrite: bool, as_json: bool) -> None:
    """Write the finished lines of a batch, or of a run's OUT, in another form. Nothing is changed or deleted.

    \b
    farebox export out.jsonl -o out.jsonl.zst
    farebox export out.jsonl -o answers.csv
    farebox export out.jsonl --format openai-files -o results/    (output.jsonl and error.jsonl)
    """
    if form is None and bare(output).suffix.lower() not in _KNOWN:
        raise click.UsageError(f"what shall {output.name} hold? Say --format {' or '.join(get_args(Form))}.")
    chosen: Form = form or ("csv" if is_table(bare(output)) else "jsonl")
    if as_json and str(output) == STDOUT:
        raise click.UsageError("-o - and --json both write to stdout: name a file.")
    _refuse_place(output, chosen, overwrite=overwrite)
    source = Path(what)
    try:
        with Screen(plain_after_s=2.0) as screen, ended_by_ctrl_c():
            if source.is_file():
                if output.exists() and output.is_file() and output.samefile(source):
                    raise InputError(f"{output} is what would be exported: name another place with -o.")
                with FORMS[chosen](output) as write:
                    count = _copy(screen.follow(_lines_of(source), doing="exporting"), write)
            else:
                count = run_async(_export_batch(settings, what, output, chosen, screen))
    except BrokenPipeError:
        raise
    except OSError as error:
        kind = FareboxError if error.errno in FULL else InputError
        raise kind(f"cannot write {output}: {error.strerror or error}") from error
    if str(output) != STDOUT:
        say(f"{count:,} lines exported to {output}.")
    if as_json:
        print_json({"lines": count, "output": str(output), "format": chosen})


def _refuse_place(output: Path, form: Form, *, overwrite: bool) -> None:
    if form == "openai-files":
        if str(output) == STDOUT:
            raise click.UsageError("openai-files are two files: name a folder with -o.")
        if output.exists() and not output.is_dir():
            raise InputError(f"{output} is a file: openai-files are two files, name a folder.")
        taken = [name for name in (OUTPUT_NAME, ERROR_NAME) if (output / name).exists()]
        if taken and not overwrite:
            raise InputError(f"{output / taken[0]} is there already: name another folder, or --overwrite it.")
    elif output.is_dir():
        raise InputError(f"{output} is a directory: name a file in it.")
    elif output.exists() and str(output) != STDOUT and not overwrite:
        raise InputError(f"{output} is there already: name another file, or --overwrite it.")


def _copy(lines: Iterator[bytes], write: Writer) -> int:
    count = 0
    for line in lines:
        write(line)
        count += 1
    return count


def _lines_of(path: Path) -> Iterator[bytes]:
    """Read the complete lines of a file of ours, packed or not; a last one that is being written is left out."""
    try:
        with Source(path).open() as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    return
                if own_of(line):
                    yield line
                elif not line.isspace():
                    raise InputError(f"{path}:{number}: not a line of Farebox's: export what `farebox run` wrote.")
    except ArchiveError as error:
        raise InputError(f"cannot read {path}: {error}") from None


async def _export_batch(settings: Settings, name: str, output: Path, form: Form, screen: Screen) -> int:
    async with open_session(settings) as session:
        batch = Batch(session.redis, name, namespace=session.namespace)
        total = (await batch.progress()).finished
        entries, count = await batch.read("0-0"), 0
        if not entries:
            raise InputError(f"batch {name!r} has no results here: {_why_none(total)}")
        with FORMS[form](output) as write:
            while entries:
                for entry in entries:
                    for job, result in entry.results:
                        write(output_line(job, result, name))
                        count += 1
                screen.tell(f"exporting: {count:,} of {total:,} lines")
                entries = await batch.read(entries[-1].entry_id)
    if count < total:
        say(f"{total - count:,} finished jobs have no result here any more: {_WHERE}.")
    return count


def _why_none(finished: int) -> str:
    return f"{_WHERE}. What a run wrote, `farebox export OUT` exports." if finished else "none of its jobs has ended."
