"""`farebox models`: what can be asked for, and what it costs."""

from __future__ import annotations

import click

from farebox.errors import FareboxError
from farebox_worker.cli.options import common, json_option, log_to_stderr, print_json, print_table, run_async, say
from farebox_worker.prices.catalogue import Catalogue, Entry
from farebox_worker.prices.table import Price
from farebox_worker.settings import KEY_VARIABLES, Settings
from farebox_worker.shop import Shop


@click.command()
@click.argument("pattern", required=False, default="")
@click.option("--discover", is_flag=True, help="Ask every provider, not only the compatible servers.")
@json_option
@common
def models(settings: Settings, pattern: str, discover: bool, as_json: bool) -> None:
    """List the models of the configured providers; PATTERN keeps those whose name contains it.

    \b
    farebox models
    farebox models mini
    """
    log_to_stderr(is_quiet=True)
    run_async(_models(settings, pattern, everyone=discover, as_json=as_json))


async def _models(settings: Settings, pattern: str, *, everyone: bool, as_json: bool) -> None:
    async with Shop(settings) as shop:
        await shop.discover(everyone=everyone)
        found: list[Entry] = []
        for ref in shop.catalogue.refs():
            if pattern.lower() in ref.lower():
                try:
                    found.append(shop.catalogue.resolve(ref))
                except FareboxError as error:
                    say(str(error))
    if as_json:
        print_json({"models": [_entry_json(shop.catalogue, entry) for entry in found]})
        return
    if not found and pattern:
        say(f"no model of {', '.join(settings.providers)} has {pattern!r} in its name.")
        return
    rows = [
        (
            entry.model_ref,
            *_rates(entry.price, is_free=entry.free),
            _flex(shop.catalogue, entry),
            f"{entry.facts.context_window:,}" if entry.facts.context_window else "unknown",
            f"{entry.facts.default_max_tokens:,}",
        )
        for entry in found
    ]
    print_table(("model", "$/Mtok in", "$/Mtok out", "flex in / out", "context", "default cap"), rows)
    missing = [f"{name} ({key})" for name, key in KEY_VARIABLES.items() if name not in settings.providers]
    if missing and not pattern:
        say(f"not configured: {', '.join(missing)}")


def _rates(price: Price | None, *, is_free: bool = False) -> tuple[str, str]:
    if price is None:
        return "unknown", "unknown"
    if is_free:
        return "free", "free"
    return f"{price.input_pusd / 1e6:g}", f"{price.output_pusd / 1e6:g}"


def _flex_price(catalogue: Catalogue, entry: Entry) -> Price | None:
    """The price of tier flex, where the model can be asked for in it."""
    return entry.prices.get("flex") if "flex" in catalogue.tiers(entry) else None


def _flex(catalogue: Catalogue, entry: Entry) -> str:
    price = _flex_price(catalogue, entry)
    return " / ".join(_rates(price)) if price else ""


def _entry_json(catalogue: Catalogue, entry: Entry) -> dict[str, object]:
    price, flex = entry.price, _flex_price(catalogue, entry)
    return {
        "model_ref": entry.model_ref,
        "provider_id": entry.provider_id,
        "model_id": entry.model_id,
        "context_window": entry.facts.context_window,
        "max_output_tokens": entry.facts.max_output_tokens,
        "default_max_tokens": entry.facts.default_max_tokens,
        "input_usd_per_mtok": price.input_pusd / 1e6 if price else None,
        "output_usd_per_mtok": price.output_pusd / 1e6 if price else None,
        "flex_input_usd_per_mtok": flex.input_pusd / 1e6 if flex else None,
        "flex_output_usd_per_mtok": flex.output_pusd / 1e6 if flex else None,
        "price_version": price.version if price else None,
        "free": entry.free,
        "pretend": bool(price and price.pretend),
    }
