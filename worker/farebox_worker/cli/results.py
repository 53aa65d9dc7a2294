"""`farebox results`: write a batch's results to a file, now or as they come."""

from __future__ import annotations

import math
import sys
import time
from pathlib import Path
from typing import Any

import click
import msgspec

from farebox.batch import Batch
from farebox.errors import InputError
from farebox_worker.cli import suggest
from farebox_worker.cli.options import common, json_option, print_json, run_async, say
from farebox_worker.cli.sweeping import write_down
from farebox_worker.files.answers import output_line
from farebox_worker.files.fit import Fit
from farebox_worker.files.output import OutputFile
from farebox_worker.files.source import is_packed, is_table
from farebox_worker.files.wording import read_schema
from farebox_worker.limits import in_words, money_line
from farebox_worker.run.follow import Follow
from farebox_worker.run.retried import take_out_retried
from farebox_worker.run.screen import Screen
from farebox_worker.session import flags_from_here, open_session
from farebox_worker.settings import Settings

TOLD_EVERY_S = 1.0


@click.command()
@click.argument("batch", shell_complete=suggest.batches)
@click.option("-o", "--output", metavar="OUT", required=True, type=click.Path(path_type=Path, allow_dash=True),
              help="File to append to, or - for stdout.")  # fmt: skip
@click.option("--follow", is_flag=True, help="Wait until the batch is complete.")
@click.option("--delete", is_flag=True, help="Delete results from Redis once they are safe in OUT.")
@click.option("--schema", type=click.Path(path_type=Path), metavar="FILE",
              help="Mark answers in OUT that do not match this JSON schema.")  # fmt: skip
@click.option("--overwrite", is_flag=True, help="Replace OUT even when Farebox did not write it.")
@json_option
@common
def results(settings: Settings, batch: str, as_json: bool, **flags: Any) -> None:
    """Write the results of BATCH to OUT, one line per finished job; lines that are there already are skipped.

    \b
    farebox results nightly -o answers.jsonl
    farebox results nightly -o answers.jsonl --follow --delete

    Exits 3 when OUT holds jobs that failed, were cancelled, or whose answers do not match the --schema.
    """
    given = Flags(**flags)
    if str(given.output) == "-" and (given.delete or given.schema or as_json):
        raise click.UsageError("-o - goes with none of --delete, --schema and --json: name a file.")
    if is_packed(given.output) or is_table(given.output):
        raise InputError(
            f"results are lines of JSON, appended one by one: write them to {given.output}.jsonl, or all at once in "
            f"another form with `farebox export {batch}{flags_from_here(settings)} -o {given.output}`."
        )
    sys.exit(run_async(_results(settings, batch, given, as_json=as_json)))


class Flags(msgspec.Struct, frozen=True, kw_only=True):
    """The flags of `farebox results`."""

    output: Path
    follow: bool
    delete: bool
    schema: Path | None
    overwrite: bool


async def _results(settings: Settings, name: str, flags: Flags, *, as_json: bool) -> int:
    fit = Fit(read_schema(flags.schema)) if flags.schema else None
    async with open_session(settings) as session:
        batch = Batch(session.redis, name, namespace=session.namespace)
        progress = await batch.progress()
        if progress.cancelled and not progress.complete:
            await write_down(session, batch)
        if str(flags.output) == "-":
            return 0 if await _to_stdout(batch, is_following=flags.follow) else 3
        with OutputFile.open(flags.output, overwrite=flags.overwrite) as out:
            out.fit = fit
            await take_out_retried(batch, out)
            writer = Follow(batch, out, deletes=flags.delete)
            with Screen(plain_after_s=2.0) as screen:
                await _write(batch, writer, screen, is_following=flags.follow)
            written, lost = writer.written, await writer.lost()
            lines, tally = out.lines, out.tally
    if as_json:
        counts = {"written": written, "lines": lines, "expired": lost, "invalid": tally.invalid}
        print_json({"batch_id": name, **counts})
    else:
        say(f"{written:,} results written; {flags.output} holds {lines:,}.")
        if progress.finished and not lines:
            say(f"{progress.finished:,} jobs have ended; a `farebox run`, or `--delete`, took their results elsewhere.")
        if tally.invalid:
            say(f"{tally.invalid:,} of them do not match the schema, marked `invalid`: {tally.misfit[:200]}")
    if lost:
        raise InputError(f"{lost:,} results had expired ([retention] results_days) before they were collected.")
    return 3 if tally.has_flaws else 0


async def _write(batch: Batch, writer: Follow, screen: Screen, *, is_following: bool) -> None:
    told = -math.inf
    while True:
        is_last = not is_following or (await batch.progress()).complete
        came = True
        while came:
            if not is_last and time.monotonic() - told >= TOLD_EVERY_S:
                told = time.monotonic()
                screen.tell(await _how_far(batch))
            came = bool(await writer.step(block_ms=1 if is_last else 1000))
        if is_last:
            break
    await writer.sync()


async def _how_far(batch: Batch) -> str:
    progress, (parked, waiting, running) = await batch.progress(), await batch.waiting()
    total = progress.submitted if progress.total is None else progress.total
    counts = [f"{progress.finished:,} of {total:,} done", f"{running:,} running", f"{waiting:,} waiting"]
    limits = sorted({in_words(limit) for _, limit, _ in await batch.parked()})
    counts += [f"{parked:,} parked at {' and '.join(limits)}"] if limits else []
    return f"{', '.join(counts)}; {money_line(progress.scope)}"


async def _to_stdout(batch: Batch, *, is_following: bool) -> bool:
    """Write lines as they are; tell whether all of them are answers."""
    after, are_answers = "0-0", True
    while True:
        is_last = not is_following or (await batch.progress()).complete
        while entries := await batch.read(after, block_ms=1 if is_last else 1000):
            after = entries[-1].entry_id
            for entry in entries:
                are_answers &= all(result.outcome == "succeeded" for _, result in entry.results)
                sys.stdout.buffer.writelines(output_line(job, result, batch.batch_id) for job, result in entry.results)
            sys.stdout.buffer.flush()
        if is_last:
            return are_answers
