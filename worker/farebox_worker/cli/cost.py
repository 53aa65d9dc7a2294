"""`farebox cost`: what was spent, on what, and when."""

from __future__ import annotations

import click

from farebox.ledger import Scope
from farebox.money import dollars_from_nusd, usd_from_nusd
from farebox_worker.cli.options import common, json_option, print_json, print_table, run_async, say
from farebox_worker.cli.summary import money_fields
from farebox_worker.run.screen import money_line
from farebox_worker.session import Session, open_session
from farebox_worker.settings import Settings


@click.group(invoke_without_command=True)
@json_option
@common
@click.pass_context
def cost(ctx: click.Context, settings: Settings, as_json: bool) -> None:
    """Show what was spent, in all and by provider and model."""
    if ctx.invoked_subcommand is None:
        run_async(_cost(settings, as_json=as_json))


async def _cost(settings: Settings, *, as_json: bool) -> None:
    async with open_session(settings) as session:
        await session.ledger.epoch()
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
    for entry in owed[:20]:
        click.echo(f"unconfirmed {dollars_from_nusd(entry.amount_nusd)}: job {entry.job_id}, {entry.why}")


@cost.command("reset")
@common
def reset(settings: Settings) -> None:
    """Zero what is spent, everywhere; held and unconfirmed money stays, for it is still owed."""
    run_async(_reset(settings))


async def _reset(settings: Settings) -> None:
    async with open_session(settings) as session:
        await _require(session)
        spent = await session.ledger.reset()
    say(f"{dollars_from_nusd(spent)} spent are forgotten; the limit has that much room again.")


async def _require(session: Session) -> None:
    await session.ledger.epoch()


def _of_kind(scopes: list[Scope], kind: str) -> dict[str, Scope]:
    head = f"{kind}:"
    return {scope.name.removeprefix(head): scope for scope in scopes if scope.name.startswith(head)}


def _spent(scope: Scope) -> dict[str, int | float]:
    return {
        "spent_nusd": scope.spent_nusd,
        "spent_usd": usd_from_nusd(scope.spent_nusd),
        "unconfirmed_nusd": scope.unconfirmed_nusd,
        "unconfirmed_usd": usd_from_nusd(scope.unconfirmed_nusd),
        "calls": scope.calls,
        "input_tokens": scope.input_tokens,
        "output_tokens": scope.output_tokens,
    }
