"""`farebox unconfirmed`: money of calls whose outcome nobody could know, and what became of it."""

from __future__ import annotations

from datetime import UTC, datetime

import click

from farebox.ledger import Unconfirmed
from farebox.money import dollars_from_nusd, usd_from_nusd
from farebox_worker.cli.options import common, json_option, print_json, print_table, run_async, say
from farebox_worker.session import Session, open_session
from farebox_worker.settings import Settings


@click.group()
def unconfirmed() -> None:
    """List calls whose outcome is unknown, and say what they cost.

    \b
    farebox unconfirmed list
    farebox unconfirmed release --batch nightly   the provider's bill shows that they were not billed
    farebox unconfirmed charge TOKEN              it was billed: book its worst case
    """  # noqa: D301 - \b is click's mark for "do not wrap"


@unconfirmed.command("list")
@json_option
@common
def show(settings: Settings, as_json: bool) -> None:
    """List them, oldest first: when, what it may have cost, which job, why."""
    run_async(_show(settings, as_json=as_json))


async def _show(settings: Settings, *, as_json: bool) -> None:
    async with open_session(settings) as session:
        entries = await session.ledger.unconfirmed()
        batches = {entry.token: _batch_of(session, entry) for entry in entries}
    if as_json:
        print_json({"unconfirmed": [_entry_json(entry, batches[entry.token]) for entry in entries]})
        return
    rows = [
        (entry.token, _when(entry), dollars_from_nusd(entry.amount_nusd), batches[entry.token], entry.job_id, entry.why)
        for entry in entries
    ]
    print_table(("attempt", "since", "at most", "batch", "job", "why"), rows)


@unconfirmed.command("release")
@click.argument("tokens", nargs=-1)
@click.option("--batch", metavar="BATCH", help="All of one batch.")
@click.option("--all", "everything", is_flag=True, help="All there are.")
@common
def release(settings: Settings, tokens: tuple[str, ...], batch: str | None, everything: bool) -> None:
    """They were not billed: their money is free again, and parked jobs that fit go on."""
    run_async(_confirm(settings, tokens, batch, everything=everything, is_charge=False))


@unconfirmed.command("charge")
@click.argument("tokens", nargs=-1)
@click.option("--batch", metavar="BATCH", help="All of one batch.")
@click.option("--all", "everything", is_flag=True, help="All there are.")
@common
def charge(settings: Settings, tokens: tuple[str, ...], batch: str | None, everything: bool) -> None:
    """They were billed: book them as spent, at their worst case."""
    run_async(_confirm(settings, tokens, batch, everything=everything, is_charge=True))


async def _confirm(
    settings: Settings, tokens: tuple[str, ...], batch: str | None, *, everything: bool, is_charge: bool
) -> None:
    if bool(tokens) + bool(batch) + everything != 1:
        raise click.UsageError("name attempts (see `farebox unconfirmed list`), or --batch BATCH, or --all.")
    async with open_session(settings) as session:
        if not tokens:
            entries = await session.ledger.unconfirmed()
            tokens = tuple(e.token for e in entries if everything or _batch_of(session, e) == batch)
        known, amount = await session.ledger.confirm(tokens, is_charge=is_charge) if tokens else (0, 0)
    word = "charged" if is_charge else "released"
    say(f"{known} attempts {word}: {dollars_from_nusd(amount)}")


def _batch_of(session: Session, entry: Unconfirmed) -> str:
    return session.ledger.keys.parts_of_flow(entry.flow)[1]


def _when(entry: Unconfirmed) -> str:
    return datetime.fromtimestamp(entry.since_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


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
