"""`farebox batches`, `status`, `cancel`: what is there, how far it is, and how to stop it."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import click
from redis.exceptions import NoPermissionError

from farebox.batch import Batch, Progress, list_batches
from farebox_worker.bus.sweep import sweep
from farebox_worker.cli.options import common, json_option, plain, print_json, print_table, run_async, say
from farebox_worker.cli.summary import money_fields
from farebox_worker.run.screen import money_line
from farebox_worker.session import Session, open_session
from farebox_worker.settings import Settings


@click.command()
@json_option
@common
def batches(settings: Settings, as_json: bool) -> None:
    """List the batches that are still remembered, newest first."""
    run_async(_batches(settings, as_json=as_json))


async def _batches(settings: Settings, *, as_json: bool) -> None:
    async with open_session(settings) as session:
        found = await list_batches(session.redis, namespace=session.namespace)
    if as_json:
        print_json({"batches": [_progress_json(one) for one in found]})
        return
    rows = [
        (
            one.batch_id,
            one.name,
            _state(one),
            f"{one.finished:,}/{_total(one)}",
            f"{one.failed:,}",
            money_line(one.scope),
        )
        for one in found
    ]
    print_table(("batch", "input", "state", "done", "failed", "money"), rows)


@click.command()
@click.argument("batch", required=False)
@json_option
@common
def status(settings: Settings, batch: str | None, as_json: bool) -> None:
    """Show one batch: counts, what runs, what waits, its money. Without BATCH, all of them."""
    run_async(_status(settings, batch, as_json=as_json) if batch else _batches(settings, as_json=as_json))


async def _status(settings: Settings, name: str, *, as_json: bool) -> None:
    async with open_session(settings) as session:
        batch = Batch(session.redis, name, namespace=session.namespace)
        progress = await batch.progress()
        parked, waiting, running = await batch.waiting()
        blocked = await batch.parked()
    if as_json:
        state = {"parked": parked, "waiting": waiting, "running": running}
        limits = [
            {"flow": flow, "scope": scope, "need_nusd": need, "need_usd": need / 1e9} for flow, scope, need in blocked
        ]
        print_json(_progress_json(progress) | state | {"blocked": limits})
        return
    click.echo(f"{progress.batch_id} ({plain(progress.name)}): {_state(progress)}")
    click.echo(f"  {progress.finished:,} of {_total(progress)} done, {progress.failed:,} failed, "
               f"{progress.cancelled_jobs:,} cancelled")  # fmt: skip
    click.echo(f"  {running:,} running, {waiting:,} waiting, {parked:,} parked")
    click.echo(f"  {money_line(progress.scope)}")
    for _, scope, need in blocked:
        click.echo(f"  parked at the limit of {scope}: the next job needs ${need / 1e9:.6f}")


@click.command()
@click.argument("batch")
@json_option
@common
def cancel(settings: Settings, batch: str, as_json: bool) -> None:
    """Stop everything of BATCH that is not sent yet; running calls finish and are paid."""
    run_async(_cancel(settings, batch, as_json=as_json))


async def _cancel(settings: Settings, name: str, *, as_json: bool) -> None:
    async with open_session(settings) as session:
        batch = Batch(session.redis, name, namespace=session.namespace)
        await batch.progress()
        await batch.cancel()
        swept = await _sweep_all(session, name)
        progress = await batch.progress()
    if as_json:
        print_json(_progress_json(progress) | {"swept": swept})
    else:
        say(f"{name} is cancelled: {progress.cancelled_jobs:,} jobs were not sent, {progress.finished:,} have ended.")


async def _sweep_all(session: Session, name: str) -> int:
    ttl_ms = int(session.settings.retention.results_days * 86_400_000)
    total = 0
    with suppress(NoPermissionError):  # an ACL keeps producers from writing results: the workers sweep
        while swept := await sweep(session.ledger.tongue, results_ttl_ms=ttl_ms, batch=name):
            total += swept
    return total


def _state(one: Progress) -> str:
    if one.cancelled:
        return "cancelled"
    return "complete" if one.complete else "running" if one.total is not None else "open"


def _total(one: Progress) -> str:
    return f"{one.total if one.total is not None else one.submitted:,}"


def _progress_json(one: Progress) -> dict[str, Any]:
    return {
        "batch_id": one.batch_id,
        "name": one.name,
        "state": _state(one),
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
