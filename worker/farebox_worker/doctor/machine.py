"""What this machine has: configuration, keys, prices, disk, and a way to its providers."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

from farebox.connection import shown
from farebox.errors import ConfigError, FareboxError
from farebox.keys import parts_of_lane
from farebox_worker.doctor.check import Check, at_most
from farebox_worker.prices.table import PriceTable
from farebox_worker.prices.vendors import table_size
from farebox_worker.providers.base import Adapter
from farebox_worker.providers.factory import make_provider
from farebox_worker.settings import KEY_VARIABLES, ProviderSettings, Settings

REACH_S = 5.0
LITTLE_DISK, NO_DISK = 1_000_000_000, 100_000_000  # bytes


def check_config(settings: Settings) -> Check:
    """Say which file holds; a wrong one is refused before any check."""
    if settings.path is None:
        return Check("config", "ok", "no farebox.toml here or above: defaults and environment variables hold")
    return Check("config", "ok", f"{settings.path}")


def check_keys(settings: Settings) -> list[Check]:
    """Say of each provider whether its key is here; never the key."""
    checks = []
    for provider_id, provider in settings.providers.items():
        variable = provider.api_key_env
        if variable is None:
            checks.append(Check("key", "ok", f"{provider_id} needs no key"))
        elif os.environ.get(variable, "").strip():
            checks.append(Check("key", "ok", f"{provider_id}: {variable} is set"))
        else:
            message = f"{provider_id}: {variable} is not set, so a worker started here does not serve it: export it"
            checks.append(Check("key", "warn", message))
    missing = [f"{name} ({key})" for name, key in KEY_VARIABLES.items() if name not in settings.providers]
    if missing and set(settings.providers) <= {"echo"}:
        checks.append(Check("key", "warn", f"no provider but echo: set a key, of {' or '.join(missing)}"))
    return checks


def check_disk(data_dir: Path) -> Check:
    """Say how much room the embedded server's disk has."""
    place = next(folder for folder in (data_dir, *data_dir.parents) if folder.exists())
    free = shutil.disk_usage(place).free
    said = f"{free / 1e9:,.1f} GB free for {data_dir}"
    if not os.access(place, os.W_OK):
        return Check("disk", "fail", f"{place} cannot be written: choose another place with --data-dir")
    if free < NO_DISK:
        return Check("disk", "fail", f"{said}: free some, or choose another place with --data-dir")
    return Check("disk", "warn" if free < LITTLE_DISK else "ok", said)


def check_prices(settings: Settings, busy: Iterable[str]) -> list[Check]:
    """Say whether the models that are configured, or have jobs in the lanes `busy`, have a price."""
    try:
        listed = table_size()
    except ConfigError as error:
        return [Check("prices", "fail", str(error))]
    table = PriceTable(settings)
    lanes = {*settings.models, *busy}
    known = sorted(lane for lane in lanes if lane.partition(":")[0] in settings.providers)
    unknown = []
    for lane in known:
        try:
            if table.lookup(*parts_of_lane(lane)) is None:
                unknown.append(_unpriced(lane, is_busy=lane in busy))
        except ConfigError as error:
            unknown.append(Check("prices", "fail", str(error)))
    priced = len(known) - len(unknown)
    said = f"genai-prices {version('genai-prices')} lists {listed:,} models; {priced:,} of {len(known):,} in use priced"
    return [Check("prices", "ok", said), *at_most(unknown, of="without a price")]


def _unpriced(lane: str, *, is_busy: bool) -> Check:
    message = f'no price is known for {lane}: under a limit its jobs are refused. State one under [models."{lane}"]'
    return Check("prices", "fail" if is_busy else "warn", message)


async def check_providers(settings: Settings) -> list[Check]:
    """Ask each provider for its models, all at once. A provider whose key is missing is left out: that is said."""
    adapters = {}
    checks = []
    for provider_id, provider in settings.providers.items():
        if provider.kind == "echo":
            continue
        if provider.api_key_env and not os.environ.get(provider.api_key_env, "").strip():
            continue
        try:
            adapters[provider_id] = make_provider(provider_id, provider)
        except FareboxError as error:
            checks.append(Check("provider", "fail", str(error)))
    try:
        asked = [_reach(settings.providers[provider_id], adapter) for provider_id, adapter in adapters.items()]
        return [*checks, *await asyncio.gather(*asked)]
    finally:
        for adapter in adapters.values():
            await adapter.aclose()


async def _reach(provider: ProviderSettings, adapter: Adapter) -> Check:
    where = adapter.provider_id + (f" at {shown(provider.base_url)}" if provider.base_url else "")
    try:
        found = await asyncio.wait_for(adapter.list_models(), REACH_S)
    except TimeoutError:
        return Check("provider", "fail", f"{where} does not answer within {REACH_S:.0f} s: look at the network")
    except Exception as error:  # noqa: BLE001 - whatever an adapter raises is what is wrong
        said = str(error) or type(error).__name__
        return Check("provider", "fail", said if adapter.provider_id in said else f"{where}: {said}")
    return Check("provider", "ok", f"{where} answers, {len(found):,} models")
