"""What a shell offers on TAB for names that only the bus or the configuration knows.

A shell waits for it with the cursor in the line: it never starts a server, waits a quarter of a second for one at most,
and says nothing where there is nothing to say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import click
import msgspec
from click.shell_completion import CompletionItem

from farebox_worker.configuration import load, with_vendors
from farebox_worker.settings import Settings

Suggest = Callable[[click.Context, click.Parameter, str], list[CompletionItem[str]]]

PATIENCE_S = 0.25
NEWEST = 200


def batches(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Offer the newest batches of the bus, and those of the output files here."""
    del param
    return _starting(incomplete, dict.fromkeys([*_on_the_bus(ctx), *_of_files_here()]))


def batches_or_files(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Offer batches; where none begins so, the shell offers files."""
    return [CompletionItem(incomplete, type="file"), *batches(ctx, param, incomplete)]


def models(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Offer the models of the configured providers; where none begins so, those of vendors without a key too."""
    del param
    with suppress(Exception):  # a TAB complains of nothing
        settings = _settings(ctx)
        return _starting(incomplete, _refs(settings)) or _starting(incomplete, _refs(with_vendors(settings)))
    return []


def providers(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Offer the configured providers."""
    del param
    with suppress(Exception):
        return _starting(incomplete, _settings(ctx).providers)
    return []


def _settings(ctx: click.Context) -> Settings:
    given = ctx.params
    return load(given.get("config"), data_dir=given.get("data_dir"), redis_url=given.get("redis"))


def _refs(settings: Settings) -> Iterable[str]:
    from farebox_worker.prices.catalogue import Catalogue  # noqa: PLC0415 - the price list takes a moment
    from farebox_worker.prices.table import PriceTable  # noqa: PLC0415 - likewise

    return Catalogue(settings, PriceTable(settings)).refs()


def _on_the_bus(ctx: click.Context) -> list[str]:
    from redis import Redis  # noqa: PLC0415 - takes longer than `farebox --help`

    from farebox.keys import Keys  # noqa: PLC0415 - likewise
    from farebox_worker.server.server_process import socket_path, url_of  # noqa: PLC0415 - likewise

    with suppress(Exception):
        settings = _settings(ctx).redis
        url = settings.url or url_of(str(socket_path(settings.data_dir)))
        tls = {"ssl_check_hostname": True} if url.startswith("rediss:") else {}
        redis = Redis.from_url(url, socket_timeout=PATIENCE_S, socket_connect_timeout=PATIENCE_S, **tls)
        with redis:
            found = redis.zrevrange(Keys(settings.namespace).batches, 0, NEWEST - 1)
        return [name.decode() for name in found]  # type: ignore[union-attr]  # not asynchronous
    return []


def _of_files_here() -> list[str]:
    names = []
    for path in Path().glob("*.farebox"):
        with suppress(Exception):
            names.append(msgspec.json.decode(path.read_bytes(), type=_Sidecar).batch_id)
    return names


class _Sidecar(msgspec.Struct):
    """What counts here of `OUT.farebox`."""

    batch_id: str


def _starting(incomplete: str, names: Iterable[str]) -> list[CompletionItem[str]]:
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]
