"""Opens a connection to Redis and refuses servers that cannot hold money; knows which refusals pass by themselves.

Addresses are shown without their passwords, always.
"""

from __future__ import annotations

import re
import ssl
from typing import Any, cast
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from redis.asyncio import Redis as AnyRedis
from redis.asyncio.connection import AbstractConnection, Connection, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import MasterNotFoundError, SentinelManagedConnection, SentinelManagedSSLConnection
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, AuthorizationError, RedisError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from farebox.commands import Redis
from farebox.errors import ConfigError, ServerAwayError, ServerError
from farebox.sentinel import SECRETS, addresses, is_sentinel
from farebox.sentinel import pool as sentinel_pool

try:
    import hiredis
except ImportError:  # a producer without the worker's extra
    hiredis = None  # type: ignore[assignment]  # it stands for its absence

AWAY = (RedisConnectionError, RedisTimeoutError, OSError)  # the server may come back: verbs are safe to send again
ANSWER_S = 10.0  # a connection that says nothing for so long is dead: its server was replaced, its network cut
OLDEST = (6, 2)  # ZADD GT/LT, and a COUNT that keeps its order
PASSING = {  # refusals that end by themselves, or by an operator's hand on the server, and what they mean
    "LOADING": "it reads its data",
    "BUSY": "a long script runs there: `SCRIPT KILL` ends it",
    "READONLY": "it is a replica, or was just demoted",
    "MASTERDOWN": "it is a replica that lost its primary",
    "NOREPLICAS": "fewer replicas follow it than min-replicas-to-write",
    "OOM": "it is full: collect results, or raise its maxmemory",
    "MISCONF": "it cannot write to its disk: look at the disk and at its log",
    "CLUSTERDOWN": "it is a cluster, and part of it is down",
    "TRYAGAIN": "it is a cluster that moves keys",
}
_WORD = re.compile(rf"(?:^-?|: -)({'|'.join(PASSING)})\b")  # older servers quote it after "Error running script …"
_CLASSES = {  # redis-py takes these words away
    "BusyLoadingError": "LOADING",
    "ReadOnlyError": "READONLY",
    "MasterDownError": "MASTERDOWN",
    "OutOfMemoryError": "OOM",
    "ClusterDownError": "CLUSTERDOWN",
    "TryAgainError": "TRYAGAIN",
}


def word_of(error: BaseException) -> str:
    """The word of PASSING that a refusal begins with, "" for any other error."""
    found = _WORD.search(str(error)) if isinstance(error, ResponseError) else None
    return found[1] if found else _CLASSES.get(type(error).__name__, "")


def passes(error: BaseException) -> bool:
    """Whether an error of Redis's may end without a change of ours: it is away, or refuses for a while.

    A wrong password, a certificate that is not trusted and a server that speaks something else do not.
    """
    if refuses_login(error) or isinstance(_inner(error), ssl.SSLCertVerificationError):
        return False
    return isinstance(error, AWAY) or bool(word_of(error))


def refuses_login(error: BaseException) -> bool:
    """Whether the server, or every sentinel, refuses the user or the password."""
    if isinstance(error, MasterNotFoundError):
        return "AuthenticationError" in str(error)
    return any(isinstance(one, AuthenticationError | AuthorizationError) for one in (error, _inner(error)))


def _inner(error: BaseException) -> BaseException | None:
    """What an error comes from; not further, for the chain of an error that is raised again has no end."""
    return error.__cause__ or error.__context__


def shown(url: str) -> str:
    """A URL that may be shown: user and password replaced; all of it when it cannot be told where they are."""
    scheme, separator, _ = url.partition("://")
    hidden = f"{scheme}://***" if separator else "***"
    try:
        parts = urlsplit(url)
        if is_sentinel(url):
            addresses(parts.netloc)
        else:
            parts.port  # noqa: B018 - raises when a password with a bare / ? # [ or ] was taken for something else
    except ValueError:
        return hidden
    if "@" in f"{parts.path}{parts.query}{parts.fragment}":
        return hidden
    said = parse_qsl(parts.query)
    options = [(name, value) for name, value in said if name not in SECRETS]
    _, at, host = parts.netloc.rpartition("@")
    if not at and options == said:
        return url
    return urlunsplit(parts._replace(netloc=f"***@{host}", query=urlencode(options)))


def connect(url: str, *, client: type[AnyRedis] = AnyRedis) -> Redis:
    """Make a client for a URL (redis://, rediss://, unix://, sentinel://, sentinels://). Nothing is sent yet.

    Raises: ConfigError when the URL cannot be read.
    """
    tcp = {} if url.startswith("unix:") else {"socket_keepalive": True}
    tls = {"ssl_check_hostname": True} if url.startswith("rediss:") else {}  # redis-py < 6 does not by itself
    options: dict[str, Any] = {
        **tcp,
        **tls,
        "socket_connect_timeout": 5.0,
        "socket_timeout": ANSWER_S,  # longer than any blocking read of ours, shorter than a lease
        "health_check_interval": 30,
        "retry": Retry(NoBackoff(), 0),  # verbs are resent by those who know what it means
        "max_connections": 1000,
    }
    try:
        made = _by_sentinel(url, client, options) if is_sentinel(url) else client.from_url(url, **options)
    except ValueError as error:
        where = shown(url)
        reason = str(error)
        if where.endswith("://***"):  # the reason may quote a piece of the password
            reason = "it cannot be read. In a password, write / ? # [ ] @ and : as %2F %3F %23 %5B %5D %40 and %3A"
        raise ConfigError(f"[redis] url {where!r}: {reason}") from None
    pool = made.connection_pool
    pool.connection_class = _PACKED.get(pool.connection_class, pool.connection_class)
    return cast("Redis", made)


def _by_sentinel(url: str, client: type[AnyRedis], options: dict[str, Any]) -> AnyRedis:
    made = client(connection_pool=sentinel_pool(url, **options))
    made.auto_close_connection_pool = True  # the pool is its own, as with from_url
    return made


def _packed(connection: type[AbstractConnection]) -> type[AbstractConnection]:
    """Let hiredis pack commands: redis-py's asyncio connections do it in Python, at six times the cost."""

    class Packed(connection):  # type: ignore[misc,valid-type]  # a base that is known at run time only
        def pack_command(self, name: str, *arguments: Any) -> list[bytes]:
            return [hiredis.pack_command((*name.encode().split(), *arguments))]  # "CONFIG GET" is two words

    return Packed


_KINDS: tuple[type[AbstractConnection], ...] = (
    Connection,
    UnixDomainSocketConnection,
    SSLConnection,
    SentinelManagedConnection,
    SentinelManagedSSLConnection,
)
_PACKED = {kind: _packed(kind) for kind in _KINDS} if hiredis else {}


async def check_server(redis: Redis, *, url: str = "") -> None:
    """Refuse a server that could lose or split the money.

    Raises: ServerAwayError when it is unreachable or refuses for a while; ServerError when it is evicting, too old or
    a cluster, or refuses the password. The message says what to do.
    """
    where = shown(url) if url else "the Redis server"
    try:
        info = await redis.info("server")
        memory = await redis.info("memory")
    except ResponseError as error:
        if "unknown command" in str(error):  # a fake server has no INFO and needs no check
            return
        if word := word_of(error):
            raise ServerAwayError(f"{where} answers {word}: {PASSING[word]}.") from None
        raise ServerError(f"{where}: {error}") from None
    except (RedisError, OSError) as error:
        if refuses_login(error):
            raise ServerError(f"{where} refuses the password or user in [redis] url.") from None
        reason = str(error).rstrip(".") or type(error).__name__
        kind = ServerAwayError if passes(error) else ServerError
        raise kind(
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
