"""`farebox watch`: follow batches live, wherever they run, until they are complete."""

from __future__ import annotations

import asyncio
import shlex
import sys
from dataclasses import replace

import click
from rich.console import Console

from farebox.batch import Batch
from farebox.ledger import GLOBAL
from farebox.money import dollars_from_nusd
from farebox.progress import Progress, list_batches
from farebox_worker.cli import suggest
from farebox_worker.cli.amounts import money_fields
from farebox_worker.cli.by_model import causes, model_table, models_json, tally_of
from farebox_worker.cli.options import common, json_option, print_json, run_async, say
from farebox_worker.files.tally import Tally
from farebox_worker.limits import in_words, money_line, raise_command
from farebox_worker.run.forecast import Cost, Outlook, look_ahead
from farebox_worker.run.screen import Screen
from farebox_worker.run.sight import Sight, counts_in, look_at_lanes
from farebox_worker.session import Session, flags_from_here, open_session
from farebox_worker.settings import Settings

LOOK_EVERY_S = 1.0
STILL_LOOKS = 3  # everything is parked for so many looks before it counts as the end


@click.command()
@click.argument("batch", required=False, shell_complete=suggest.batches)
@click.option("--quiet", is_flag=True, help="Show nothing; wait for the end and its exit code.")
@json_option
@common
def watch(settings: Settings, batch: str | None, quiet: bool, as_json: bool) -> None:
    """Follow BATCH live until it is complete; without BATCH, all batches that are not.

    It only looks: what is watched goes on without it, and Ctrl-C ends the watching alone. On a pipe it says one line
    per batch every 10 seconds. --json prints one object, at the end. Exit codes: 0 all answered, 3 some failed or were
    cancelled, 4 everything that is left waits for money, 130 interrupted.

    \b
    farebox watch support-tickets-7f3a
    farebox watch nightly --quiet && echo done
    """
    sys.exit(run_async(_watch(settings, batch, is_quiet=quiet, as_json=as_json)))


async def _watch(settings: Settings, name: str | None, *, is_quiet: bool, as_json: bool) -> int:
    async with open_session(settings) as session:
        names = [name] if name else await _unfinished(session)
        if not names:
            say("nothing to watch: every batch is complete, or there is none. `farebox batches` lists them.")
        with Screen(is_quiet=is_quiet, plain_after_s=1.0) as screen:
            last, limits = await _follow(session, names, screen, is_one=name is not None)
        told = last if as_json or not is_quiet else []
        tallies = [await tally_of(Batch(session.redis, one.batch_id, namespace=session.namespace)) for one in told]
    code = 4 if limits else 3 if any(one.failed or one.cancelled_jobs for one in last) else 0
    if as_json:
        ended = [_json(one) | {"by_model": models_json(tally)} for one, tally in zip(last, tallies, strict=True)]
        print_json({"batches": ended, "parked": bool(limits), "exit_code": code})
    if not is_quiet:
        for one, tally in zip(last, tallies, strict=True):
            _print_end(one, tally, flags_from_here(settings))
        for limit, need in sorted(limits.items()):
            say(
                f"parked at {in_words(limit)}: the next job needs {dollars_from_nusd(need)}; "
                f"`{raise_command(limit, flags_from_here(settings))}` moves it. Nothing is lost."
            )
    return code


async def _unfinished(session: Session) -> list[str]:
    known = await list_batches(session.redis, namespace=session.namespace)
    return [one.batch_id for one in known if not one.complete and one.submitted > one.finished]


async def _follow(
    session: Session, names: list[str], screen: Screen, *, is_one: bool
) -> tuple[list[Progress], dict[str, int]]:
    """Show these batches until they are complete, or all that is left of them waits for money.

    Returns what they came to, and by limit what it would have to leave room for, in nano-dollars.
    """
    batches = [Batch(session.redis, name, namespace=session.namespace) for name in names]
    still, has_told = 0, False
    while True:
        last = [await batch.progress() for batch in batches]
        going = [(batch, one) for batch, one in zip(batches, last, strict=True) if not one.complete]
        if not going:
            return last, {}
        sights = [await _sight(batch, one) for batch, one in going]
        is_parked = all(sight.parked and not sight.running and not sight.waiting for sight in sights)
        still = still + 1 if is_parked else 0
        if still >= STILL_LOOKS:
            return last, await _needs([batch for batch, _ in going])
        lanes = {lane for batch, _ in going for lane in await batch.lanes(even_parked=True)} if is_one else None
        sights[-1] = replace(sights[-1], lanes=await look_at_lanes(session.redis, session.ledger.keys, lanes))
        screen.show(*sights)
        is_idle = not any(one.running or one.waiting or one.parked for one in sights)
        if is_one and is_idle and not has_told and last[0].total is None:
            screen.say(f"{names[0]} is open: its producer has not said yet that this is all.")
            has_told = True
        await asyncio.sleep(LOOK_EVERY_S)


async def _sight(batch: Batch, progress: Progress) -> Sight:
    parked, waiting, running = await batch.waiting()
    total = progress.submitted if progress.total is None else progress.total
    limits = await batch.ledger.limits([GLOBAL, f"batch:{batch.batch_id}"])
    own = progress.scope
    outlook: Outlook | None = None
    if progress.succeeded:
        left = max(0, total - progress.finished)
        expected = own.spent_nusd * left // progress.succeeded
        outlook = look_ahead(Cost(left, expected, expected, expected), progress.finished, own, *limits)
    return Sight(counts_in(progress), total, running, waiting, parked, own, name=batch.batch_id, outlook=outlook)


async def _needs(batches: list[Batch]) -> dict[str, int]:
    needs: dict[str, int] = {}
    for batch in batches:
        for _, limit, need in await batch.parked():
            needs[limit] = min(need, needs.get(limit, need))
    return needs


def _print_end(one: Progress, tally: Tally, flags: str) -> None:
    """Tell how a batch ended, and what each model did as far as its results are still on the bus."""
    say(_told(one, flags))
    console = Console(stderr=True, highlight=False)
    if counted := sum(tally.outcomes.values()):
        if counted < one.finished:
            say(f"of the {counted:,} results that are newest and not collected:")
        console.print(model_table(tally))
    for cause in causes(tally):
        console.print(cause, markup=False, soft_wrap=not console.is_terminal)


def _told(one: Progress, flags: str) -> str:
    """Say how far a batch is, in a line, and what can be done about its failures."""
    total = one.submitted if one.total is None else one.total
    said = [f"{one.batch_id}: {one.finished:,} of {total:,} done"]
    said += [f"{n:,} {word}" for n, word in ((one.failed, "failed"), (one.cancelled_jobs, "cancelled")) if n]
    said += [f"{one.finishes[word]:,} {word}" for word in ("truncated",) if one.finishes.get(word)]
    said += [f"{one.reused:,} reused"] if one.reused else []
    again = (
        f"; `farebox retry {shlex.quote(one.batch_id)}{flags}` asks what failed again"
        if one.failed and not one.cancelled
        else ""
    )
    return f"{', '.join(said)}, {money_line(one.scope)}{again}"


def _json(one: Progress) -> dict[str, object]:
    return {
        "batch_id": one.batch_id,
        "total": one.total,
        "submitted": one.submitted,
        "succeeded": one.succeeded,
        "failed": one.failed,
        "cancelled": one.cancelled_jobs,
        "reused": one.reused,
        "finishes": one.finishes,
        "complete": one.complete,
        "input_tokens": one.scope.input_tokens,
        "output_tokens": one.scope.output_tokens,
        **money_fields(one.scope),
    }
