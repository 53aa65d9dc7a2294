"""Opens a connection to Redis and refuses servers that cannot hold money.

Addresses are shown without their passwords, always.
"""

from __future__ import annotations

from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection, Connection, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, RedisError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from farebox.errors import ConfigError, ServerError

try:
    import hiredis
except ImportError:  # a producer without the worker's extra
    hiredis = None  # type: ignore[assignment]

AWAY = (RedisConnectionError, RedisTimeoutError, OSError)  # the server may come back: verbs are safe to send again
Client = TypeVar("Client", bound=Redis)
ANSWER_S = 10.0  # a connection that says nothing for so long is dead: its server was replaced, its network cut
OLDEST = (6, 2)  # ZADD GT/LT, and a COUNT that keeps its order


def shown(url: str) -> str:
    """A URL that may be shown: user and password replaced; all of it when it cannot be told where they are."""
    scheme, separator, _ = url.partition("://")
    hidden = f"{scheme}://***" if separator else "***"
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - raises when a password with a bare / ? # [ or ] was taken for something else
    except ValueError:
        return hidden
    if "@" in f"{parts.path}{parts.query}{parts.fragment}":
        return hidden
    said = parse_qsl(parts.query)
    options = [(name, value) for name, value in said if name not in {"password", "username"}]
    _, at, host = parts.netloc.rpartition("@")
    if not at and options == said:
        return url
    return urlunsplit(parts._replace(netloc=f"***@{host}", query=urlencode(options)))


def connect(url: str, *, client: type[Client] = Redis) -> Client:  # type: ignore[assignment]  # mypy 2 #3737
    """Make a client for a URL (redis://, rediss://, unix://). Nothing is sent yet.

    Raises: ConfigError when the URL cannot be read.
    """
    tcp = {} if url.startswith("unix:") else {"socket_keepalive": True}
    tls = {"ssl_check_hostname": True} if url.startswith("rediss:") else {}  # redis-py < 6 does not by itself
    try:
        made: Client = client.from_url(
            url,
            **tcp,
            **tls,
            socket_connect_timeout=5.0,
            socket_timeout=ANSWER_S,  # longer than any blocking read of ours, shorter than a lease
            health_check_interval=30,
            retry=Retry(NoBackoff(), 0),  # verbs are resent by those who know what it means
            max_connections=1000,
        )
    except ValueError as error:
        where = shown(url)
        reason = str(error)
        if where.endswith("://***"):  # the reason may quote a piece of the password
            reason = "it cannot be read. In a password, write / ? # [ ] @ and : as %2F %3F %23 %5B %5D %40 and %3A"
        raise ConfigError(f"[redis] url {where!r}: {reason}") from None
    pool = made.connection_pool
    pool.connection_class = _PACKED.get(pool.connection_class, pool.connection_class)
    return made


def _packed(connection: type[AbstractConnection]) -> type[AbstractConnection]:
    """Let hiredis pack commands: redis-py's asyncio connections do it in Python, at six times the cost."""

    class Packed(connection):  # type: ignore[misc,valid-type]
        def pack_command(self, name: str, *arguments: Any) -> list[bytes]:
            return [hiredis.pack_command((*name.encode().split(), *arguments))]  # "CONFIG GET" is two words

    return Packed


_KINDS: tuple[type[AbstractConnection], ...] = (Connection, UnixDomainSocketConnection, SSLConnection)
_PACKED = {kind: _packed(kind) for kind in _KINDS} if hiredis else {}


async def check_server(redis: Redis, *, url: str = "") -> None:
    """Refuse a server that could lose or split the money.

    Raises: ServerError when it is unreachable, evicting, too old or a cluster; the message says what to do.
    """
    where = shown(url) if url else "the Redis server"
    try:
        info = await redis.info("server")
        memory = await redis.info("memory")
    except AuthenticationError:
        raise ServerError(f"{where} refuses the password or user in [redis] url.") from None
    except ResponseError as error:
        if "unknown command" in str(error):  # a fake server has no INFO and needs no check
            return
        raise ServerError(f"{where}: {error}") from None
    except (RedisError, OSError) as error:
        reason = str(error).rstrip(".") or type(error).__name__
        raise ServerError(
            f"cannot reach {where}: {reason}. Start it, or correct [redis] url (environment: FAREBOX_REDIS_URL)."
        ) from None
    if "cluster" in (info.get("server_mode"), info.get("redis_mode")):  # Valkey says the first, Redis the second
        raise ServerError(f"{where} is a Redis Cluster: money needs one primary. Use a server without cluster mode.")
    version = str(info.get("valkey_version") or info.get("redis_version", "0"))
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST:
        raise ServerError(f"{where} runs version {version}: Redis 6.2 or newer, or Valkey, is needed.")
    policy = str(memory.get("maxmemory_policy", "noeviction"))
    if policy != "noeviction":
        raise ServerError(
            f"{where} evicts keys when full (maxmemory-policy {policy}), which would lose jobs and money. "
            "Set `maxmemory-policy noeviction`."
        )
