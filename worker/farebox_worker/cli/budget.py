"""`farebox budget`: the limits, for good or per UTC day or month."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import click

from farebox.errors import InputError
from farebox.ledger import GLOBAL, PERIODS, Limit, Per
from farebox.money import dollars, dollars_from_nusd, nusd_from_usd, usd_from_nusd
from farebox_worker.cli.amounts import money_fields
from farebox_worker.cli.options import USD, common, json_option, print_json, run_async, say, with_options
from farebox_worker.configuration import with_vendors
from farebox_worker.limits import money_line
from farebox_worker.session import open_session
from farebox_worker.settings import Settings

F = TypeVar("F", bound=Callable[..., Any])
KINDS = ("batch", "provider", "model", "tag")


@click.group()
def budget() -> None:
    """Show or set spending limits.

    \b
    farebox budget set 500                  what everything together may cost
    farebox budget set 20 --batch nightly   what one batch may cost; also --provider, --model, --tag
    farebox budget set 50 --per day         what a UTC day may cost, beside the limit for good
    farebox budget off                      no limit for good; those per day or month stay
    """


@budget.command("show")
@json_option
@common
def show(settings: Settings, as_json: bool) -> None:
    """Show every limit and what counts against it."""
    run_async(_show(settings, as_json=as_json))


async def _show(settings: Settings, *, as_json: bool) -> None:
    async with open_session(settings) as session:
        await session.ledger.epoch(even_lost=True)
        overall = await session.ledger.scope()
        limits = await session.ledger.limits()
    if as_json:
        print_json({**money_fields(overall), "limits": [_limit_json(limit) for limit in limits]})
        return
    if overall.limit_nusd is None:
        click.echo(f"global: {money_line(overall)} (no limit for good)")
    for limit in limits:
        click.echo(f"{limit.scope}{_per(limit)}: {money_line(limit)}{_over(limit)}")


def _limit_json(limit: Limit) -> dict[str, Any]:
    headroom = {"headroom_nusd": limit.headroom_nusd, "headroom_usd": usd_from_nusd(limit.headroom_nusd)}
    return {"scope": limit.scope, "per": limit.per, **money_fields(limit), **headroom}


def _per(limit: Limit) -> str:
    return f" per UTC {limit.per}" if limit.per else ""


def _over(limit: Limit) -> str:
    over = -limit.headroom_nusd
    return f"; {dollars_from_nusd(over)} over it: nothing more is admitted" if over > 0 else ""


def _scope_options(command: F) -> F:
    """Add the flags that name one scope; the command takes its name as `scope`."""

    def with_scope(**flags: Any) -> Any:
        named = [(kind, flags.pop(kind)) for kind in KINDS]
        given = [_scope(kind, name) for kind, name in named if name is not None]
        if len(given) > 1:
            raise click.UsageError("name one of --batch, --provider, --model and --tag.")
        return command(scope=given[0] if given else GLOBAL, **flags)

    options = [click.option(f"--{kind}", metavar=kind.upper(), help=f"The limit of one {kind}.") for kind in KINDS]
    period = click.Choice(PERIODS)
    options.append(click.option("--per", type=period, help="The limit of each UTC day or month, not for good."))
    return cast("F", with_options(command, with_scope, options))


def _scope(kind: str, name: str) -> str:
    """Name the scope of a flag. An empty name, as of a variable that is not set, must not move the global limit."""
    if not name:
        raise click.UsageError(f"--{kind} is empty: say which, or leave it out for the limit of everything.")
    if kind == "model" and ":" not in name:
        raise click.UsageError(f"a model is named provider:model, and {name!r} is not: for a provider say --provider.")
    if kind == "provider" and ":" in name:
        raise click.UsageError(f"{name!r} is a model: say --model, or --provider {name.partition(':')[0]}.")
    if kind == "model" and (model_ref := name.removesuffix("@flex")) != name:
        raise click.UsageError(f"a model's limit counts all its tiers: say --model {model_ref}.")
    return f"{kind}:{name}"


@budget.command("set")
@click.argument("usd", type=USD)
@_scope_options
@json_option
@common
def set_limit(settings: Settings, usd: float, scope: str, per: Per | None, as_json: bool) -> None:
    """Set a limit to USD dollars, of everything unless a flag names less.

    It counts at once: jobs that wait for money go on when it leaves them room.
    """
    run_async(_set(settings, nusd_from_usd(usd), scope, per, as_json=as_json))


@budget.command("off")
@_scope_options
@json_option
@common
def off(settings: Settings, scope: str, per: Per | None, as_json: bool) -> None:
    """Remove a limit, the global one for good unless flags name another."""
    run_async(_set(settings, None, scope, per, as_json=as_json))


async def _set(settings: Settings, limit_nusd: int | None, name: str, per: Per | None, *, as_json: bool) -> None:
    in_file = settings.budget.limit_usd
    async with open_session(settings, creates=True) as session:
        is_global = (name, per) == (GLOBAL, None)
        if session.server and is_global and in_file is not None and limit_nusd != nusd_from_usd(in_file):
            message = f"[budget] limit_usd says {dollars(in_file)}, and on the embedded server that counts"
            raise InputError(f"{message}: change it there, or take it out to set the limit by command.")
        ledger = session.ledger
        if await ledger.create() and session.server is None:
            say(f"a new ledger was created in namespace {session.namespace}")
        before = await ledger.set_limit(name, limit_nusd, per)
        kind, _, batch_id = name.partition(":")
        is_known = kind != "batch" or await session.redis.exists(ledger.keys.batch(batch_id))
        provider_id = batch_id.partition(":")[0]
        limit = next((limit for limit in await ledger.limits([name]) if limit.per == per), None)
        scope = await ledger.scope(name)
    if as_json:
        as_set = {"limit_nusd": limit_nusd, "limit_usd": None if limit_nusd is None else usd_from_nusd(limit_nusd)}
        print_json({"scope": name, "per": per, **money_fields(limit or scope), **as_set})
    was = f" (was {dollars_from_nusd(before)})" if before is not None else ""
    now = "no limit" if limit_nusd is None else f"limit {dollars_from_nusd(limit_nusd)}"
    say(f"{name}: {now}{f' per UTC {per}' if per else ''}{was}; {money_line(limit or scope)}")
    if not is_known:
        say(f"there is no batch {batch_id!r} yet; `farebox batches` lists those there are.")
    if kind in {"provider", "model"} and provider_id not in with_vendors(settings).providers:
        say(f"no provider {provider_id!r} is configured here; other machines may have one.")
    if limit and limit.headroom_nusd < 0:
        say(f"{dollars_from_nusd(-limit.headroom_nusd)} over it already: nothing more is admitted.")
