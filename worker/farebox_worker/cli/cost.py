"""`farebox cost`: what was spent, on what, and when."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from decimal import Decimal

import click

from farebox.journal import By, Row, Spend, rows, spend_by
from farebox.ledger import Scope
from farebox.money import dollars_from_nusd, usd_from_nusd
from farebox_worker.cli.amounts import money_fields
from farebox_worker.cli.options import common, json_option, print_json, print_table, refuse_early_flags, run_async, say
from farebox_worker.limits import money_line
from farebox_worker.session import flags_from_here, open_session
from farebox_worker.settings import Settings

BY: tuple[By, ...] = ("model", "provider", "batch", "tag", "day")
BOOKING = (
    *("time", "day", "kind", "job", "attempt", "provider", "model", "batch", "tags", "amount_usd", "input_tokens"),
    *("output_tokens", "cache_read_tokens", "cache_write_tokens", "tier", "price_version", "request_id", "note"),
)


@click.group(invoke_without_command=True)
@click.option("--by", type=click.Choice(BY), multiple=True, help="By one of these; day also together with another.")
@click.option("--csv", "as_csv", is_flag=True, help="Comma-separated on stdout; without --by, a line per booking.")
@json_option
@common
@click.pass_context
def cost(ctx: click.Context, settings: Settings, by: tuple[By, ...], as_csv: bool, as_json: bool) -> None:
    """Show what was spent: in all, by provider, model, batch, tag or UTC day, or booking by booking.

    \b
    farebox cost
    farebox cost --by tag
    farebox cost --by day --by model --csv    to lay beside the provider's invoice
    farebox cost --csv                        every booking that the journal still holds
    """
    if ctx.invoked_subcommand is not None:
        refuse_early_flags(ctx, f"cost {ctx.invoked_subcommand}")
        return
    if as_csv and as_json:
        raise click.UsageError("choose one of --csv and --json.")
    if by:
        run_async(_by(settings, by, as_csv=as_csv, as_json=as_json))
    elif as_csv:
        run_async(_bookings(settings))
    else:
        run_async(_cost(settings, as_json=as_json))


async def _cost(settings: Settings, *, as_json: bool) -> None:
    async with open_session(settings) as session:
        await session.ledger.epoch(even_lost=True)
        overall = await session.ledger.scope()
        scopes = await session.ledger.scopes()
        owed = await session.ledger.unconfirmed()
    providers, models = _of_kind(scopes, "provider"), _of_kind(scopes, "model")
    if as_json:
        by = {f"by_{kind}": {n: _spent(s) for n, s in found.items()} for kind, found in
              (("provider", providers), ("model", models))}  # fmt: skip
        totals = {"input_tokens": overall.input_tokens, "output_tokens": overall.output_tokens, "calls": overall.calls}
        print_json({**money_fields(overall), **by, **totals, "unpriced_calls": overall.unpriced})
        return
    click.echo(money_line(overall))
    rows = [
        (
            name,
            f"{scope.calls:,}",
            f"{scope.input_tokens:,}",
            f"{scope.output_tokens:,}",
            dollars_from_nusd(scope.spent_nusd),
        )
        for name, scope in models.items()
    ]
    print_table(("model", "calls", "tokens in", "tokens out", "cost"), rows)
    if overall.unpriced:
        say(f"{overall.unpriced:,} calls had no known price, and are in no sum.")
    if owed:
        calls = "1 call's outcome is" if len(owed) == 1 else f"{len(owed):,} calls' outcomes are"
        say(f"{calls} unknown: `farebox unconfirmed list{flags_from_here(settings)}` names them.")


async def _by(settings: Settings, by: tuple[By, ...], *, as_csv: bool, as_json: bool) -> None:
    async with open_session(settings) as session:
        await session.ledger.epoch(even_lost=True)
        found = await spend_by(session.redis, session.ledger.keys, by)
    kind = next((kind for kind in by if kind != "day"), "")
    names = [name for name in ("day", kind) if name in by and name]

    def heads(one: Spend) -> list[str]:
        return [*([str(one.day)] if one.day else []), *([one.name] if kind else [])]

    if as_json:
        print_json({"by": [dict(zip(names, heads(one), strict=True)) | _spent(one) for one in found]})
    elif as_csv:
        columns = ["calls", "input_tokens", "output_tokens", "spent_usd", "unconfirmed_usd"]
        _print_csv([*names, *columns], ([*heads(one), *(_exact(one)[name] for name in columns)] for one in found))
    elif not found:
        say(f"nothing was spent by {' and '.join(names)}.")
    else:
        print_table(
            (*names, "calls", "tokens in", "tokens out", "cost", "unconfirmed"),
            [(*heads(one), f"{one.calls:,}", f"{one.input_tokens:,}", f"{one.output_tokens:,}",
              dollars_from_nusd(one.spent_nusd), dollars_from_nusd(one.unconfirmed_nusd)) for one in found],
        )  # fmt: skip


async def _bookings(settings: Settings) -> None:
    """Print the journal as it is read: constant memory, whatever its length."""
    async with open_session(settings) as session:
        await session.ledger.epoch(even_lost=True)
        out = csv.writer(sys.stdout, lineterminator="\n")
        out.writerow(BOOKING)
        async for row in rows(session.redis, session.ledger.keys):
            out.writerow([_cell(value) for value in _booking(row)])


def _booking(row: Row) -> list[object]:
    """One line of the journal, in the order of BOOKING."""
    named = {kind: name for kind, _, name in (scope.partition(":") for scope in row.scopes)}
    tags = ";".join(scope.removeprefix("tag:") for scope in row.scopes if scope.startswith("tag:"))
    at = datetime.fromtimestamp(row.at_ms / 1000, UTC).isoformat(timespec="milliseconds")
    is_answer = row.kind in {"settle", "late"}
    part = row.note_parts if is_answer else None
    return [
        at, row.day, row.kind, row.job, row.token, named.get("provider", ""), named.get("model", ""),
        named.get("batch", ""), tags, _usd(row.amount_nusd), row.input_tokens, row.output_tokens,
        *((part.cache_read_tokens, part.cache_write_tokens, part.tier, part.price_version, part.request_id, "") if part
          else ("", "", "", "", "", " ".join(row.note.split()))),
    ]  # fmt: skip


def _print_csv(columns: Sequence[str], lines: Iterable[Sequence[object]]) -> None:
    out = csv.writer(sys.stdout, lineterminator="\n")
    out.writerow(columns)
    out.writerows([_cell(value) for value in line] for line in lines)


def _cell(value: object) -> object:
    """Keep a spreadsheet from running what a tag, a batch or a provider wrote: a formula gets an apostrophe."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


def _exact(one: Spend) -> dict[str, object]:
    return _spent(one) | {"spent_usd": _usd(one.spent_nusd), "unconfirmed_usd": _usd(one.unconfirmed_nusd)}


def _usd(nusd: int) -> str:
    """Every digit of an amount: 1e-9 dollars are not lost to rounding."""
    return f"{Decimal(nusd).scaleb(-9):f}"


@cost.command("reset")
@json_option
@common
def reset(settings: Settings, as_json: bool) -> None:
    """Zero what is spent, everywhere; held and unconfirmed money stays, for it is still owed."""
    run_async(_reset(settings, as_json=as_json))


async def _reset(settings: Settings, *, as_json: bool) -> None:
    async with open_session(settings) as session:
        await session.ledger.epoch()
        spent = await session.ledger.reset()
    if as_json:
        print_json({"forgotten_nusd": spent, "forgotten_usd": usd_from_nusd(spent)})
    say(f"{dollars_from_nusd(spent)} spent are forgotten; the limit has that much room again.")


def _of_kind(scopes: list[Scope], kind: str) -> dict[str, Scope]:
    head = f"{kind}:"
    return {scope.name.removeprefix(head): scope for scope in scopes if scope.name.startswith(head)}


def _spent(scope: Scope | Spend) -> dict[str, int | float]:
    return {
        "spent_nusd": scope.spent_nusd,
        "spent_usd": usd_from_nusd(scope.spent_nusd),
        "unconfirmed_nusd": scope.unconfirmed_nusd,
        "unconfirmed_usd": usd_from_nusd(scope.unconfirmed_nusd),
        "calls": scope.calls,
        "input_tokens": scope.input_tokens,
        "output_tokens": scope.output_tokens,
    }
