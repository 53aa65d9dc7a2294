"""`farebox submit`: enqueue a file for a fleet."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import click
from redis.exceptions import RedisError

from farebox.errors import InputError, JobConflictError, ModelNotFoundError, ServerError
from farebox.ledger import GLOBAL
from farebox.money import nusd_from_usd
from farebox.records import Tier
from farebox.reuse import Reuse, batch_of
from farebox_worker.cli.lines import LineFlags, line_options, tell_bad
from farebox_worker.cli.options import USD, common, json_option, log_to_stderr, print_json, reuse_option, run_async, say
from farebox_worker.files.lines import Line
from farebox_worker.files.summary import summarize
from farebox_worker.run.ask import Ask
from farebox_worker.run.screen import Screen
from farebox_worker.session import Session, flags_from_here, open_session
from farebox_worker.settings import Settings
from farebox_worker.shop import Shop


@dataclass(frozen=True, slots=True)
class _Named:
    """A model that this machine cannot look up, taken at its word: the workers know it."""

    model_ref: str


@click.command()
@click.argument("source", metavar="IN", type=click.Path(path_type=Path))
@click.option("--batch", metavar="NAME", help="The batch's id; submitting again adds what is new. Default: a new one.")
@click.option("--budget", type=USD, metavar="USD", help="Hard limit of the batch in dollars.")
@click.option("--no-budget", is_flag=True, help="Say nothing when no limit holds for paid models.")
@click.option("--priority", type=click.IntRange(0, 9), default=0, show_default=True, metavar="N", help="9 goes first.")
@click.option("--tag", "tags", multiple=True, help="Count the cost under this tag too; repeatable.")
@line_options
@reuse_option
@json_option
@common
def submit(  # noqa: PLR0913, PLR0917 - the flags of a command
    settings: Settings,
    source: Path,
    batch: str | None,
    budget: float | None,
    no_budget: bool,
    priority: int,
    tags: tuple[str, ...],
    lines: LineFlags,
    reuse: bool,
    as_json: bool,
) -> None:
    """Enqueue every line of IN for the workers; prints the batch id.

    \b
    farebox submit prompts.jsonl -m openai:gpt-5-mini --budget 50 --tag nightly
    """
    log_to_stderr(is_quiet=True)
    if budget is not None and no_budget:
        raise click.UsageError("--budget and --no-budget contradict each other.")
    ask = lines.ask(source, tags=tags)
    source = ask.source.path
    shop = Shop(settings)

    def resolve(name: str, of: str | None) -> _Named:
        try:
            return _Named(shop.catalogue.resolve(name, provider=of).model_ref)
        except ModelNotFoundError:
            if ":" in name and name.partition(":")[0] not in settings.providers:
                return _Named(name)
            raise

    def cheapest(model_ref: str) -> Tier:
        if model_ref.partition(":")[0] not in settings.providers:
            raise InputError(
                f"--tier cheapest: nothing is known here of the provider of {model_ref}: configure it, or choose "
                "--tier standard or flex"
            )
        return shop.catalogue.cheapest_tier(model_ref)

    def read() -> Iterator[Line]:
        return ask.read(resolve=resolve, cheapest_tier=cheapest)

    with Screen(plain_after_s=2.0) as screen:
        summary = summarize(screen.follow(read()))
    tell_bad(source, summary, skips=lines.skip_invalid, unsent="Nothing was submitted.")
    name = batch or f"{source.stem[:40].translate(_SAFE)}-{secrets.token_hex(4)}"
    is_decided = no_budget or budget is not None
    paid = set() if is_decided else {ref for ref in summary.models if _is_paid(shop, ref)}
    run_async(_submit(settings, name, ask, read, budget, priority, paid=paid, reuses=reuse, as_json=as_json))


def _is_paid(shop: Shop, model_ref: str) -> bool:
    """Tell whether a model may cost money: all do that are not known here."""
    try:
        entry = shop.catalogue.resolve(model_ref)
    except ModelNotFoundError:
        return True
    return not (entry.free or (entry.price and entry.price.pretend))


async def _say_without_limit(session: Session, name: str, ask: Ask, paid: Collection[str]) -> None:
    """Point out that no limit of any kind holds paid models: whoever made the ledger so decided it, for all."""
    scopes = [GLOBAL, f"batch:{name}", *(f"tag:{tag}" for tag in ask.tags)]
    scopes += {scope for ref in paid for scope in (f"model:{ref}", f"provider:{ref.partition(':')[0]}")}
    if paid and not await session.ledger.limits(scopes):
        flags = flags_from_here(session.settings)
        say(
            f"No limit holds for these jobs. `farebox estimate {ask.source.path}` says what they can cost, "
            f"`farebox budget set USD --batch {name}{flags}` limits them, and --no-budget leaves this out."
        )


class _SafeTable(dict[int, str]):
    def __missing__(self, key: int) -> str:
        return chr(key) if chr(key).isascii() and (chr(key).isalnum() or chr(key) in "._-") else "-"


_SAFE = _SafeTable()


async def _submit(  # noqa: PLR0913 - what the flags say
    settings: Settings,
    name: str,
    ask: Ask,
    lines: Callable[[], Iterator[Line]],
    budget: float | None,
    priority: int,
    *,
    paid: Collection[str],
    reuses: bool,
    as_json: bool,
) -> None:
    async with open_session(settings) as session:
        await _say_without_limit(session, name, ask, paid)
        reuse: Reuse | None = "content" if reuses else None
        batch = batch_of(session.redis, name, namespace=session.namespace, reuse=reuse)
        retention = settings.retention
        seal = partial(batch.seal, ids_days=retention.ids_days, results_days=retention.results_days)
        was_sealed = await batch.open(ask.source.path.name)
        if budget is not None:
            await session.ledger.set_limit(f"batch:{name}", nusd_from_usd(budget))
        try:
            with Screen(plain_after_s=2.0) as screen:
                known = screen.follow(lines(), doing="submitting")
                done = await batch.submit((line.job for line in known if line.job), priority=priority)
        except JobConflictError as error:
            if was_sealed:  # else whoever follows it waits for the rest of a file that is refused
                await seal()
            ids = frozenset(error.job_ids)
            other = [line for line in lines() if batch.job_id(line.custom_id) in ids]
            named = ", ".join(f"{line.number} ({line.custom_id})" for line in other[:10]) + (" …" if other[10:] else "")
            raise InputError(
                f"line {named} was submitted to {name} before with another body: restore it, give it a new custom_id, "
                "or submit to another --batch."
            ) from error
        except (RedisError, OSError, ServerError):
            say(f"{name} is incomplete; with --batch {name} the same command submits the rest and nothing twice.")
            raise
        total = await seal()
    if as_json:
        counts = {"submitted": done.created, "existing": done.existing, "reused": done.reused, "total": total}
        print_json({"batch_id": name, **counts})
        return
    flags = flags_from_here(settings)
    existing = f", {done.existing:,} were there already" if done.existing else ""
    existing += f", {done.reused:,} have the answer of an identical one" if done.reused else ""
    say(f"{done.created:,} jobs submitted{existing}. Follow them with: farebox results {name}{flags} -o OUT --follow")
    click.echo(name)
