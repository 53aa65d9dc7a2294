"""`farebox batches`, `status`, `cancel`: what is there, how far it is, and how to stop it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import click

from farebox.batch import DEFAULT_BATCH, Batch
from farebox.errors import InputError
from farebox.money import dollars_from_nusd, usd_from_nusd
from farebox.progress import Progress, list_batches
from farebox_worker.cli import suggest
from farebox_worker.cli.amounts import money_fields
from farebox_worker.cli.options import common, json_option, plain, print_json, print_table, run_async, say
from farebox_worker.cli.sweeping import write_down
from farebox_worker.limits import in_words, money_line, raise_command, room_again
from farebox_worker.session import Session, flags_from_here, open_session
from farebox_worker.settings import Settings

ENDED_S = 3.0  # a worker ends calls within a second


@click.command()
@json_option
@common
def batches(settings: Settings, as_json: bool) -> None:
    """List the batches that are still remembered, newest first.

    \b
    farebox batches
    farebox batches --json | jq '.batches[].batch_id'
    """
    run_async(_batches(settings, as_json=as_json))


async def _batches(settings: Settings, *, as_json: bool) -> None:
    async with open_session(settings) as session:
        known = await list_batches(session.redis, namespace=session.namespace)
        found = [(one, await _state(session, one)) for one in known]
    if as_json:
        print_json({"batches": [_progress_json(one, state) for one, state in found]})
        return
    rows = [
        (
            one.batch_id,
            one.name,
            state,
            f"{one.finished:,}/{_total(one)}",
            f"{one.failed:,}",
            money_line(one.scope),
        )
        for one, state in found
    ]
    print_table(("batch", "input", "state", "done", "failed", "money"), rows, text=("input", "state", "money"))
    if not found:
        say("no batches yet: `farebox run` or `farebox submit` begins one.")


@click.command()
@click.argument("batch", required=False, shell_complete=suggest.batches)
@json_option
@common
def status(settings: Settings, batch: str | None, as_json: bool) -> None:
    """Show one batch: counts, what runs, what waits, its money. Without BATCH, all of them.

    \b
    farebox status
    farebox status nightly
    """
    run_async(_status(settings, batch, as_json=as_json) if batch else _batches(settings, as_json=as_json))


async def _status(settings: Settings, name: str, *, as_json: bool) -> None:
    async with open_session(settings) as session:
        batch = Batch(session.redis, name, namespace=session.namespace)
        progress = await batch.progress()
        counts = parked, waiting, running = await batch.waiting()
        state = _state_of(progress, *counts)
        blocked = await batch.parked()
    if as_json:
        now = {"parked": parked, "waiting": waiting, "running": running}
        limits = [
            {"flow": flow, "scope": scope, "need_nusd": need, "need_usd": usd_from_nusd(need)}
            for flow, scope, need in blocked
        ]
        print_json(_progress_json(progress, state) | now | {"blocked": limits})
        return
    click.echo(f"{progress.batch_id} ({plain(progress.name)}): {state}")
    click.echo(f"  {progress.finished:,} of {_total(progress)} done, {progress.failed:,} failed, "
               f"{progress.cancelled_jobs:,} cancelled")  # fmt: skip
    click.echo(f"  {running:,} running, {waiting:,} waiting, {parked:,} parked")
    click.echo(f"  {money_line(progress.scope)}")
    flags = flags_from_here(settings)
    for limit, need in sorted(_needs(blocked).items()):
        again = room_again(limit, datetime.now(UTC))
        click.echo(f"  parked at {in_words(limit)}: the next job needs {dollars_from_nusd(need)}; "
                   f"`{raise_command(limit, flags)}` moves it{again and f', {again}'}")  # fmt: skip


@click.command()
@click.argument("batch", shell_complete=suggest.batches)
@click.option("--now", is_flag=True, help="End calls that run too, on every worker: what they cost stays unconfirmed.")
@json_option
@common
def cancel(settings: Settings, batch: str, now: bool, as_json: bool) -> None:
    """Stop everything of BATCH that is not sent yet; running calls finish and are paid, unless --now.

    \b
    farebox cancel nightly
    """
    run_async(_cancel(settings, batch, now=now, as_json=as_json))


async def _cancel(settings: Settings, name: str, *, now: bool, as_json: bool) -> None:
    if name == DEFAULT_BATCH:
        flags = flags_from_here(settings)
        raise InputError(
            f"every program's single jobs go to {name}, which would take no more of them once it is cancelled. "
            f"`farebox budget set 0 --batch {name}{flags}` stops what is not sent, and `handle.cancel()` cancels one."
        )
    async with open_session(settings) as session:
        batch = Batch(session.redis, name, namespace=session.namespace)
        was_over = (await batch.progress()).complete
        *_, before = await batch.waiting()
        await batch.cancel(now=now)
        swept, left = await write_down(session, batch)
        running = await _running(batch, before, within_s=ENDED_S if now else 0.0)
        progress = await batch.progress()
    if as_json:
        print_json(
            _progress_json(progress, "cancelled" if progress.cancelled else "complete")
            | {"swept": swept, "waiting": left, "running": running, "ended": before - running}
        )
        return
    if was_over:
        say(f"{name} had ended before: there was nothing to cancel.")
        return
    say(f"{name} is cancelled: {progress.cancelled_jobs:,} jobs have no answer, {progress.finished:,} have ended.")
    if left:
        say(f"{left:,} more that wait are never sent; workers write them down as cancelled: `farebox status {name}`.")
    if running:
        say(f"{running:,} calls still run: " + ("their workers are away." if now else "they finish and are paid."))
    if now and before > running:
        owed = dollars_from_nusd(progress.scope.unconfirmed_nusd)
        say(f"{before - running:,} calls were ended; of this batch {owed} is unconfirmed: `farebox unconfirmed list`.")


async def _running(batch: Batch, before: int, *, within_s: float) -> int:
    """Count the calls that still run; wait for their end for so long."""
    ends, running = time.monotonic() + within_s, before
    while running:
        *_, running = await batch.waiting()
        if time.monotonic() >= ends:
            break
        await asyncio.sleep(0.05)
    return running


def _needs(blocked: Iterable[tuple[str, str, int]]) -> dict[str, int]:
    """Say what the smallest of the jobs next in line needs at each limit."""
    needs: dict[str, int] = {}
    for _, name, need in blocked:
        needs[name] = min(need, needs.get(name, need))
    return needs


async def _state(session: Session, one: Progress) -> str:
    """Say where a batch stands in a word; those that have ended are not looked at."""
    if one.cancelled or one.complete:
        return _state_of(one, 0, 0, 0)
    return _state_of(one, *await Batch(session.redis, one.batch_id, namespace=session.namespace).waiting())


def _state_of(one: Progress, parked: int, waiting: int, running: int) -> str:
    if one.cancelled:
        return "cancelled"
    if one.complete:
        return "complete"
    if parked and not waiting and not running:
        return "parked"
    if one.total is None:
        return "open"
    return "running" if running else "waiting"


def _total(one: Progress) -> str:
    return f"{one.total if one.total is not None else one.submitted:,}"


def _progress_json(one: Progress, state: str) -> dict[str, Any]:
    return {
        "batch_id": one.batch_id,
        "name": one.name,
        "state": state,
        "created_ms": one.created_ms,
        "total": one.total,
        "submitted": one.submitted,
        "succeeded": one.succeeded,
        "failed": one.failed,
        "cancelled": one.cancelled_jobs,
        "finishes": one.finishes,
        "truncated": one.finishes.get("truncated", 0),
        "input_tokens": one.scope.input_tokens,
        "output_tokens": one.scope.output_tokens,
        **money_fields(one.scope),
    }
