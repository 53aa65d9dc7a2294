"""`farebox unconfirmed`: money of calls whose outcome nobody could know, and what became of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from farebox.errors import InputError
from farebox.ledger import Unconfirmed
from farebox.money import dollars_from_nusd, usd_from_nusd
from farebox_worker.cli import suggest
from farebox_worker.cli.amounts import moment, money_fields
from farebox_worker.cli.options import common, json_option, print_json, print_table, run_async, say, with_options
from farebox_worker.limits import money_line
from farebox_worker.session import Session, flags_from_here, open_session
from farebox_worker.settings import Settings


@click.group()
def unconfirmed() -> None:
    """List calls whose outcome is unknown, and say what they cost.

    \b
    farebox unconfirmed list
    farebox unconfirmed release --batch nightly   the provider's bill shows that they were not billed
    farebox unconfirmed charge ATTEMPT            it was billed: book its worst case
    """


@unconfirmed.command("list")
@json_option
@common
def show(settings: Settings, as_json: bool) -> None:
    """List them, oldest first: when, what it may have cost, which job, why."""
    run_async(_show(settings, as_json=as_json))


async def _show(settings: Settings, *, as_json: bool) -> None:
    async with open_session(settings) as session:
        entries = await session.ledger.unconfirmed()
        total = await session.ledger.scope()
        batches = {entry.token: _batch_of(session, entry) for entry in entries}
    if as_json:
        listed = [_entry_json(entry, batches[entry.token]) for entry in entries]
        print_json({"unconfirmed": listed, "total": money_fields(total)})
        return
    rows = [
        (
            entry.token,
            moment(entry.since_ms),
            dollars_from_nusd(entry.amount_nusd),
            entry.why,
            batches[entry.token],
            entry.job_id,
        )
        for entry in entries
    ]
    if not entries:
        say("no call's outcome is unknown.")
        return
    print_table(("attempt", "since", "at most", "why", "batch", "job"), rows, text=("since", "why", "batch", "job"))
    flags = flags_from_here(settings)
    say(
        f"{_attempts(len(entries))}; in all {money_line(total)}. Not billed: `farebox unconfirmed release{flags} "
        f"ATTEMPT`; billed: `farebox unconfirmed charge{flags} ATTEMPT`; or --batch BATCH, or --all."
    )


def _which(command: Callable[..., Any]) -> Any:
    """Add what names attempts, and --json."""
    options = (
        click.argument("tokens", nargs=-1, metavar="[ATTEMPT]..."),
        click.option("--batch", metavar="BATCH", shell_complete=suggest.batches, help="All of one batch."),
        click.option("--all", "everything", is_flag=True, help="All there are."),
        json_option,
    )
    return with_options(command, command, options)


@unconfirmed.command("release")
@_which
@common
def release(settings: Settings, **which: Any) -> None:
    """They were not billed: their money is free again, and parked jobs that fit go on."""
    run_async(_confirm(settings, **which, is_charge=False))


@unconfirmed.command("charge")
@_which
@common
def charge(settings: Settings, **which: Any) -> None:
    """They were billed: book them as spent, at their worst case."""
    run_async(_confirm(settings, **which, is_charge=True))


async def _confirm(
    settings: Settings, *, tokens: tuple[str, ...], batch: str | None, everything: bool, as_json: bool, is_charge: bool
) -> None:
    if bool(tokens) + bool(batch) + everything != 1:
        raise click.UsageError("name attempts (see `farebox unconfirmed list`), or --batch BATCH, or --all.")
    named = dict.fromkeys(tokens)
    async with open_session(settings) as session:
        if not tokens:
            if batch and not await session.redis.exists(session.ledger.keys.batch(batch)):
                raise InputError(f"no batch {batch!r} here; `farebox batches` lists them.")
            entries = await session.ledger.unconfirmed()
            tokens = tuple(e.token for e in entries if everything or _batch_of(session, e) == batch)
        known, amount = await session.ledger.confirm(tokens, is_charge=is_charge) if tokens else (0, 0)
    if known < len(named):
        hint = f"`farebox unconfirmed list{flags_from_here(settings)}` shows those there are"
        missing = f"not unconfirmed (any more): {len(named) - known:,} of {_attempts(len(named))} named"
        if not known:
            raise InputError(f"{missing}: {hint}.")
        say(f"{missing}; {hint}.")
    word = "charged" if is_charge else "released"
    if as_json:
        print_json({word: known, "amount_nusd": amount, "amount_usd": usd_from_nusd(amount)})
    say(f"{_attempts(known)} {word}: {dollars_from_nusd(amount)}")


def _attempts(count: int) -> str:
    return "1 attempt" if count == 1 else f"{count:,} attempts"


def _batch_of(session: Session, entry: Unconfirmed) -> str:
    return session.ledger.keys.parts_of_flow(entry.flow)[1]


def _entry_json(entry: Unconfirmed, batch: str) -> dict[str, object]:
    return {
        "attempt": entry.token,
        "job": entry.job_id,
        "batch": batch,
        "amount_nusd": entry.amount_nusd,
        "amount_usd": usd_from_nusd(entry.amount_nusd),
        "since_ms": entry.since_ms,
        "why": entry.why,
    }
