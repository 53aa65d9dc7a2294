"""`farebox retry`: put what failed back, of a batch on the bus or of the output file of a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import click

from farebox.amend import count_failures, is_of_class, retry_failed
from farebox.batch import Batch
from farebox.errors import BatchClosedError, InputError, NoLedgerError
from farebox_worker.cli import suggest
from farebox_worker.cli.options import common, json_option, print_json, run_async, say
from farebox_worker.cli.place import at_the_earlier_place
from farebox_worker.files import sidecar as sidecars
from farebox_worker.files.failures_in import CANCELLED, INVALID
from farebox_worker.files.fit import Fit
from farebox_worker.files.output import OutputFile, default_output
from farebox_worker.files.sidecar import Sidecar, sidecar_path
from farebox_worker.run.retried import TakenOut, take_out_failed
from farebox_worker.session import Session, open_session
from farebox_worker.settings import Settings


@click.command()
@click.argument("what", metavar="BATCH|FILE", shell_complete=suggest.batches_or_files)
@click.option("--class", "classes", multiple=True, metavar="CLASS",
              help="Only failures of this class, or with this error code of the provider's; repeatable.")  # fmt: skip
@json_option
@common
def retry(settings: Settings, what: str, classes: tuple[str, ...], as_json: bool) -> None:
    """Put the failed jobs of BATCH back, as new; their lines are replaced when results are collected again.

    With the FILE of a `farebox run` (IN or OUT), its failed lines are taken out of OUT, and the same `farebox run`
    command asks them again. Answered jobs are left alone; what failed attempts cost stays counted. A run that was
    cancelled goes on likewise after --class cancelled.

    \b
    farebox retry nightly                       all that failed
    farebox retry nightly --class overloaded    only what failed because the provider was overloaded
    farebox retry prompts.jsonl                 then repeat the `farebox run prompts.jsonl ...` it came from
    """
    out = _output_of(what)
    work = _retry_batch(settings, what, classes) if out is None else _retry_file(settings, out, classes)
    counts = run_async(work)
    taken = counts.taken.total()
    if as_json:
        print_json({"retried": taken, "classes": dict(counts.taken), "left_failed": dict(counts.others)})
    elif not taken and counts.reopened:
        say(f"{what} goes on: run the same `farebox run` command again.")
    elif not taken:
        say(f"nothing to retry: no job of {what} has failed, or their results were collected and deleted.")
        if out is None and INVALID in classes:
            say(f"Answers marked `{INVALID}` are answers, and stay: submit their lines anew, as another batch.")
        if out is None and CANCELLED in classes:
            say("What was cancelled is taken out of memory: submit those lines anew, as another batch.")
    elif out is None:
        say(f"{_jobs(taken)} of {what} put back ({_listed(counts.taken)}); what becomes of them replaces their lines.")
    else:
        say(
            f"{_jobs(taken)} taken out of {out} ({_listed(counts.taken)}): "
            "run the same `farebox run` command again, and they are asked anew."
        )


def _output_of(what: str) -> Path | None:
    """The output file that is meant; None when a batch is. Raises: InputError."""
    for path in (Path(what), default_output(what)):
        if sidecar_path(path).is_file():
            return path
    if Path(what).is_file():
        raise InputError(
            f"{what} has no {sidecar_path(Path(what)).name} beside it, so it is no output of `farebox run`: name the "
            "batch instead, `farebox retry BATCH`, and then collect it again with `farebox results BATCH -o FILE`."
        )
    return None


async def _retry_batch(settings: Settings, name: str, classes: tuple[str, ...]) -> TakenOut:
    async with open_session(settings) as session:
        batch = Batch(session.redis, name, namespace=session.namespace)
        await batch.progress()
        counts = _sorted_out(await count_failures(batch), classes)
        if counts.others and not counts.taken:
            raise _no_such_class(classes, counts.others)
        try:
            await retry_failed(batch, classes=classes)
        except BatchClosedError as error:
            raise InputError(f"{name} is cancelled: nothing of it runs any more. Submit it as a new batch.") from error
    return counts


def _sorted_out(failures: Mapping[tuple[str, str], int], classes: tuple[str, ...]) -> TakenOut:
    counts = TakenOut()
    for (failure_class, code), count in failures.items():
        is_wanted = is_of_class(failure_class, code, classes)
        (counts.taken if is_wanted else counts.others)[failure_class or code or "unknown"] += count
    return counts


async def _retry_file(settings: Settings, out_path: Path, classes: tuple[str, ...]) -> TakenOut:
    known = sidecars.read(sidecar_path(out_path))
    assert known is not None  # noqa: S101 - _output_of found it
    with OutputFile.open(out_path) as out:
        out.fit = Fit(known.schema) if known.schema else None
        async with open_session(at_the_earlier_place(settings, known), creates=True) as session:
            counts = await take_out_failed(await _batch_of(session, known), out, classes)
    if counts.others and not counts.taken and not counts.reopened:
        raise _no_such_class(classes, counts.others)
    return counts


async def _batch_of(session: Session, known: Sidecar) -> Batch | None:
    """The batch of a run; None when the bus knows nothing of it, and OUT alone says what is done."""
    batch = Batch(session.redis, known.batch_id, namespace=session.namespace)
    with suppress(NoLedgerError, InputError):
        await batch.progress()
        return batch
    return None


def _no_such_class(classes: tuple[str, ...], known: Mapping[str, int]) -> InputError:
    return InputError(f"no failure of class {' or '.join(classes)}: there are {_listed(known)}.")


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in Counter(counts).most_common())


def _jobs(count: int) -> str:
    return "1 job" if count == 1 else f"{count:,} jobs"
