"""`farebox results`: write a batch's results to a file, now or as they come."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from farebox.batch import Batch
from farebox.errors import InputError
from farebox_worker.cli.options import common, json_option, print_json, run_async, say
from farebox_worker.files.answers import output_line
from farebox_worker.files.output import OutputFile
from farebox_worker.run.follow import Follow
from farebox_worker.session import open_session
from farebox_worker.settings import Settings


@click.command()
@click.argument("batch")
@click.option("-o", "--output", metavar="OUT", required=True, type=click.Path(path_type=Path, allow_dash=True),
              help="File to append to, or - for stdout.")  # fmt: skip
@click.option("--follow", is_flag=True, help="Wait until the batch is complete.")
@click.option("--delete", is_flag=True, help="Delete results from Redis once they are safe in OUT.")
@click.option("--overwrite", is_flag=True, help="Replace OUT even when Farebox did not write it.")
@json_option
@common
def results(
    settings: Settings, batch: str, output: Path, follow: bool, delete: bool, overwrite: bool, as_json: bool
) -> None:
    """Write the results of BATCH to OUT, one line per finished job; lines that are there already are skipped."""
    if str(output) == "-" and (delete or as_json):
        raise click.UsageError("-o - goes with neither --delete nor --json: name a file.")
    run_async(_results(settings, batch, output, follow=follow, delete=delete, overwrite=overwrite, as_json=as_json))


async def _results(
    settings: Settings, name: str, output: Path, *, follow: bool, delete: bool, overwrite: bool, as_json: bool
) -> None:
    async with open_session(settings) as session:
        batch = Batch(session.redis, name, namespace=session.namespace)
        await batch.progress()
        if str(output) == "-":
            await _to_stdout(batch, is_following=follow)
            return
        with OutputFile.open(output, overwrite=overwrite) as out:
            writer = Follow(batch, out, deletes=delete)
            await _write(batch, writer, is_following=follow)
            written, lost = writer.written, writer.lost
            lines = out.lines
    if as_json:
        print_json({"batch_id": name, "written": written, "lines": lines, "expired": lost})
    else:
        say(f"{written:,} results written; {output} holds {lines:,}.")
    if lost:
        raise InputError(f"{lost:,} results had expired ([retention] results_days) before they were collected.")


async def _write(batch: Batch, writer: Follow, *, is_following: bool) -> None:
    while True:
        is_last = not is_following or (await batch.progress()).complete
        while await writer.step(block_ms=1 if is_last else 1000):
            pass
        if is_last:
            break
    await writer.sync()


async def _to_stdout(batch: Batch, *, is_following: bool) -> None:
    after = "0-0"
    while True:
        is_last = not is_following or (await batch.progress()).complete
        while entries := await batch.read(after, block_ms=1 if is_last else 1000):
            after = entries[-1].entry_id
            for entry in entries:
                sys.stdout.buffer.writelines(output_line(job, result, batch.batch_id) for job, result in entry.results)
            sys.stdout.buffer.flush()
        if is_last:
            return
