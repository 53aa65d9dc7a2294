"""Reaches the primary that Sentinel names: `sentinel://user:password@host:26379,host:26379/mymaster/0`.

User and password are the server's; the sentinels' own are the options `sentinel_username` and `sentinel_password`.
`sentinels://` speaks TLS to both. Every new connection asks the sentinels who is primary, so a failover needs no
restart; a primary that was demoted is left at its first refusal to write.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, parse_qsl, urlencode, urlsplit

from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import (
    Sentinel,
    SentinelConnectionPool,
    SentinelManagedConnection,
    SentinelManagedSSLConnection,
)
from redis.backoff import NoBackoff

from farebox.commands import Redis

SCHEMES = ("sentinel", "sentinels")
PORT = 26379
ASK_S = 2.0  # a sentinel that is slower is passed over
SECRETS = frozenset({"username", "password", "sentinel_username", "sentinel_password"})


@dataclass(frozen=True, slots=True)
class SentinelUrl:
    """What a sentinel URL says: where the sentinels are, the primary's name, and options of both as redis-py's."""

    hosts: tuple[tuple[str, int], ...]
    name: str
    options: dict[str, Any]
    sentinel_options: dict[str, Any]
    is_tls: bool


class SentinelPool(SentinelConnectionPool):
    """Connections to the primary; closing it closes those to the sentinels too."""

    async def disconnect(self, inuse_connections: bool = True) -> None:
        """Close the connections: the idle ones, or all."""
        await super().disconnect(inuse_connections)
        if inuse_connections:
            for sentinel in self.sentinel_manager.sentinels:
                await sentinel.aclose(close_connection_pool=True)


def is_sentinel(url: str) -> bool:
    """Whether a URL leads to sentinels."""
    return url.partition("://")[0] in SCHEMES


def addresses(netloc: str) -> tuple[tuple[str, int], ...]:
    """Read `host:port,[::1]:port`, after what stands before an `@`. Raises: ValueError."""
    parts = [urlsplit(f"//{part}") for part in netloc.rpartition("@")[2].split(",")]
    if not all(part.hostname for part in parts):
        raise ValueError("expected sentinel://HOST:PORT,HOST:PORT/NAME/DB")
    return tuple((part.hostname or "", part.port or PORT) for part in parts)


def read(url: str) -> SentinelUrl:
    """Read a URL. Raises: ValueError, whose words quote no more of it than the name of an option."""
    parts = urlsplit(url)
    is_tls = parts.scheme == "sentinels"
    hosts = addresses(parts.netloc)
    _, name, db, *more = [*parts.path.split("/"), "", ""]
    if not name or any(more) or not (db or "0").isdigit():
        raise ValueError("expected a primary's name and a database, like /mymaster/0, after the sentinels' addresses")
    said = parse_qsl(parts.query)
    own = {key.removeprefix("sentinel_"): value for key, value in said if key.startswith("sentinel_")}
    if unknown := own.keys() - {"username", "password"}:
        raise ValueError(f"unknown option sentinel_{min(unknown)}")
    options = _options(parts, db or "0", said)
    tls = {key: value for key, value in options.items() if key.startswith("ssl_")}
    return SentinelUrl(hosts, name, options, {**tls, **own}, is_tls)


def _options(parts: SplitResult, db: str, said: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """The server's options as redis-py itself reads them from the URL of one server."""
    query = urlencode([(key, value) for key, value in said if not key.startswith("sentinel_")])
    who = parts.netloc.rpartition("@")
    scheme = "rediss" if parts.scheme == "sentinels" else "redis"
    options: dict[str, Any] = dict(parse_url(f"{scheme}://{who[0]}{who[1]}x/{db}?{query}"))
    for place in ("host", "port", "connection_class"):
        options.pop(place, None)
    return options


def pool(url: str, **options: Any) -> SentinelPool:
    """Make the pool of connections to the primary. Raises: ValueError."""
    told = read(url)
    tls = {"ssl": True, "ssl_check_hostname": True} if told.is_tls else {}
    asking = {"socket_connect_timeout": ASK_S, "socket_timeout": ASK_S, "retry": Retry(NoBackoff(), 0)}
    sentinels = Sentinel(told.hosts, sentinel_kwargs={**asking, **tls, **told.sentinel_options})  # type: ignore[no-untyped-call]  # redis-py's
    kind = SentinelManagedSSLConnection if told.is_tls else SentinelManagedConnection
    checked = {"ssl_check_hostname": True} if told.is_tls else {}
    options = {**options, **checked, **told.options}
    return SentinelPool(told.name, sentinels, connection_class=kind, **options)  # type: ignore[no-untyped-call]  # redis-py's


async def primary_of(redis: Redis) -> str:
    """Where the primary is that the sentinels name now, "" for a client that has none. Raises: redis errors."""
    if not isinstance(redis.connection_pool, SentinelPool):
        return ""
    host, port = await redis.connection_pool.get_master_address()  # type: ignore[no-untyped-call]  # redis-py's
    return f"{host}:{port}"
