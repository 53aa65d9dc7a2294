"""`farebox ledger`: what the money counters say, and going on with them after a server lost writes."""

from __future__ import annotations

from dataclasses import dataclass

import click

from farebox.errors import InputError
from farebox.ledger import GLOBAL, Limit, Scope
from farebox.money import dollars_from_nusd, nusd_from_usd, usd_from_nusd
from farebox_worker.cli.amounts import money_fields
from farebox_worker.cli.options import USD, common, json_option, print_json, run_async, say
from farebox_worker.limits import in_words, money_line
from farebox_worker.session import Session, end_the_dead, open_session
from farebox_worker.settings import Settings


@click.group()
def ledger() -> None:
    """Look at the money counters, and go on with them after a server lost writes.

    \b
    farebox ledger show
    farebox ledger adopt                what is there counts from now on
    farebox ledger adopt --budget 500   the same on a server that was emptied
    """


@dataclass(frozen=True, slots=True)
class Look:
    """A ledger at one moment: its epoch and why it counts as lost ("" when neither), its total and its limits."""

    epoch: str
    lost: str
    total: Scope
    limits: tuple[Limit, ...]

    def as_json(self) -> dict[str, object]:
        """The fields of `--json`."""
        limits = [
            {
                "scope": limit.scope,
                "per": limit.per,
                "limit_nusd": limit.limit_nusd,
                "limit_usd": usd_from_nusd(limit.limit_nusd),
            }
            for limit in self.limits
        ]
        return {"epoch": self.epoch or None, "lost": self.lost or None, **money_fields(self.total), "limits": limits}

    def tell(self) -> None:
        """Say it to people."""
        state = f"it lost writes: {self.lost}" if self.lost else "all is well" if self.epoch else "there is none yet"
        click.echo(f"ledger{' ' * bool(self.epoch)}{self.epoch}: {state}")
        click.echo(f"global: {money_line(self.total)}")
        for limit in self.limits:
            click.echo(f"{in_words(limit.name)}: {dollars_from_nusd(limit.limit_nusd)}")
        if not self.limits:
            click.echo("no limit")


async def _look(session: Session) -> Look:
    money = session.ledger
    epoch, lost = await money.identity()
    return Look(epoch, lost, await money.scope(GLOBAL), tuple(await money.limits()))


@ledger.command("show")
@json_option
@common
def show(settings: Settings, as_json: bool) -> None:
    """Show what the ledger says, also one that lost writes: its state, its total, its limits."""
    run_async(_show(settings, as_json=as_json))


async def _show(settings: Settings, *, as_json: bool) -> None:
    async with open_session(settings, adopts=True) as session:
        look = await _look(session)
    if as_json:
        print_json(look.as_json())
    else:
        look.tell()


@ledger.command("adopt")
@click.option("--budget", type=USD, metavar="USD", help="The global limit from now on.")
@click.option("--no-budget", is_flag=True, help="Go on without a global limit.")
@json_option
@common
def adopt(settings: Settings, budget: float | None, no_budget: bool, as_json: bool) -> None:
    """Go on with what the server holds now, after it lost writes or was emptied.

    The ledger gets a new identity, so whoever knew the old one stops; what the workers knew of it is in it already.
    Then start the workers, or the run, again. Calls that nobody runs any more become unconfirmed.
    """
    if budget is not None and no_budget:
        raise click.UsageError("--budget and --no-budget exclude each other.")
    stated = settings.budget.limit_usd if budget is None and not no_budget else budget
    limit_nusd = None if stated is None else nusd_from_usd(stated)
    is_asked = budget is not None or no_budget
    run_async(_adopt(settings, limit_nusd, is_asked=is_asked, as_json=as_json))


async def _adopt(settings: Settings, limit_nusd: int | None, *, is_asked: bool, as_json: bool) -> None:
    """Adopt it. A limit that was not asked for is the file's, and counts only where there is none."""
    async with open_session(settings, adopts=True) as session:
        before = await _look(session)
        if before.epoch and not before.lost:
            raise InputError(
                "there is nothing to adopt: this ledger lost nothing that anybody knows of, and a new identity would "
                "stop all that work with it. Limits are moved with `farebox budget set USD`."
            )
        if not as_json:
            before.tell()
        if not is_asked and not before.limits and limit_nusd is None:
            raise InputError("this ledger has no limit: say what may be spent with --budget USD, or --no-budget.")
        sets_limit = is_asked or not before.limits
        if not await session.ledger.adopt(before.epoch, limit_nusd=limit_nusd, sets_limit=sets_limit):
            raise InputError("somebody else adopted this ledger a moment ago: look at it with `farebox ledger show`.")
        dead = await end_the_dead(session)
        after = await _look(session)
    if as_json:
        print_json({"before": before.as_json(), **after.as_json(), "ended_calls": len(dead)})
        return
    if dead:
        say(f"{len(dead)} calls that nobody runs any more: {dollars_from_nusd(sum(dead))} are unconfirmed now")
    say(f"adopted as {after.epoch}: {money_line(after.total)}. Start the workers, or the run, again.")
