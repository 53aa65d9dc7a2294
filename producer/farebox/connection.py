"""Opens a connection to Redis and refuses servers that cannot hold money; knows which refusals pass by themselves.

Addresses are shown without their passwords, always.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeVar, cast
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

T = TypeVar("T")
AWAY = (RedisConnectionError, RedisTimeoutError, OSError)  # the server may come back: verbs are safe to send again
ANSWER_S = 10.0  # a connection that says nothing for so long is dead: its server was replaced, its network cut
CONNECT_S = 3.0  # a first packet that was lost is sent again after 1 s
_KEPT_ALIVE = {  # a machine that acknowledges nothing for 5 s is gone: that of a busy server does
    "TCP_KEEPIDLE": 3,
    "TCP_KEEPINTVL": 1,
    "TCP_KEEPCNT": 2,
    "TCP_USER_TIMEOUT": 5000,
}
OLDEST = (6, 2)  # ZADD GT/LT, and a COUNT that keeps its order
PASSING = {  # refusals that end by themselves, or by an operator's hand on the server, and what they mean
    "LOADING": "it reads its data",
    "BUSY": "a long script runs there: `SCRIPT KILL` ends it",
    "READONLY": "it is a replica, or was just demoted",
    "MASTERDOWN": "it is a replica that lost its primary",
    "NOREPLICAS": "fewer replicas follow it than min-replicas-to-write",
    "OOM": "it is full: collect results, or raise its maxmemory",
    "MISCONF": "it cannot write to its disk: look at the disk and at its log",
    "UNBLOCKED": "it was just demoted",
    "CLUSTERDOWN": "it is a cluster, and part of it is down",
    "TRYAGAIN": "it is a cluster that moves keys",
}
_WORD = re.compile(rf"(?:^-?|: -)({'|'.join(PASSING)})\b")  # older servers quote it after "Error running script …"
_PIPED = re.compile(r"Command # \d+ \(.*\) of pipeline caused error: (.*)", re.DOTALL)
_CLASSES = {  # redis-py takes these words away
    "BusyLoadingError": "LOADING",
    "ReadOnlyError": "READONLY",
    "MasterDownError": "MASTERDOWN",
    "OutOfMemoryError": "OOM",
    "ClusterDownError": "CLUSTERDOWN",
    "TryAgainError": "TRYAGAIN",
}


def reason_of(error: BaseException) -> str:
    """What an error says, without the command of a pipeline that met it: its arguments may be prompts or answers."""
    said = str(error) or type(error).__name__
    piped = _PIPED.fullmatch(said)
    return piped[1].strip("(),'\"") if piped else said  # redis-py 5 writes the words as a tuple


def word_of(error: BaseException) -> str:
    """The word of PASSING that a refusal begins with, "" for any other error."""
    found = _WORD.search(reason_of(error)) if isinstance(error, RedisError) else None
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
    tcp = {} if url.startswith("unix:") else {"socket_keepalive": True, "socket_keepalive_options": _kept_alive()}
    tls = {"ssl_check_hostname": True} if url.startswith("rediss:") else {}  # redis-py < 6 does not by itself
    options: dict[str, Any] = {
        **tcp,
        **tls,
        "socket_connect_timeout": CONNECT_S,
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
    pool.connection_class = _STURDY.get(pool.connection_class, pool.connection_class)
    return cast("Redis", made)


def _kept_alive() -> dict[int, int]:
    """What this system's sockets know of `_KEPT_ALIVE`: all of it on Linux."""
    known = hasattr(socket, "SOL_TCP")  # redis-py sets them by this name
    return {getattr(socket, name): value for name, value in _KEPT_ALIVE.items() if known and hasattr(socket, name)}


def _by_sentinel(url: str, client: type[AnyRedis], options: dict[str, Any]) -> AnyRedis:
    made = client(connection_pool=sentinel_pool(url, **options))
    made.auto_close_connection_pool = True  # the pool is its own, as with from_url
    return made


def break_connections(redis: Redis, *, also_used: bool) -> None:
    """Shut the idle connections of a client, or all, as a network would: who waits on one meets its end at once.

    redis-py's own `disconnect` takes a connection away under whoever is about to write to it.
    """
    pool = redis.connection_pool
    connections: list[Any] = [*pool._available_connections]  # noqa: SLF001 - redis-py shows them nowhere else
    if also_used:
        connections += pool._in_use_connections  # noqa: SLF001 - the same
    for connection in connections:
        writer = connection._writer  # noqa: SLF001 - the same
        if isinstance(writer, asyncio.StreamWriter) and (number := writer.get_extra_info("socket").fileno()) >= 0:
            with socket.socket(fileno=os.dup(number)) as same, suppress(OSError):
                same.shutdown(socket.SHUT_RDWR)


async def _heeding(act: Callable[..., Awaitable[T]], *arguments: Any) -> T:
    """Do what swallows a cancellation when one comes at the wrong moment, and heed it all the same.

    Python 3.11's `wait_for`, in which redis-py writes, and its `timeout(0)`, in which it looks for unread bytes, do so:
    always when the task was cancelled while it computed, as by Ctrl-C.
    """
    task = asyncio.current_task()
    before = task.cancelling() if task else 0
    if before:
        await asyncio.sleep(0)  # one that is to come comes here
    done = await act(*arguments)
    if task and task.cancelling() > before:
        raise asyncio.CancelledError
    return done


def _sturdy(connection: type[AbstractConnection]) -> type[AbstractConnection]:
    """Give every lost connection one name, lose no cancellation, and let hiredis pack, at a sixth of the cost."""

    class Sturdy(connection):  # type: ignore[misc,valid-type]  # a base that is known at run time only
        async def can_read_destructive(self) -> bool:
            return bool(await _heeding(super().can_read_destructive))

        async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
            try:
                await _heeding(super().send_packed_command, command, check_health)
            except (RuntimeError, AttributeError) as error:  # uvloop's, and redis-py's, when it was closed meanwhile
                raise RedisConnectionError("the connection was lost before anything was written") from error
            except asyncio.CancelledError:
                await self.disconnect(nowait=True)  # a reply may be on its way
                raise

        if hiredis:

            def pack_command(self, name: str, *arguments: Any) -> list[bytes]:
                return [hiredis.pack_command((*name.encode().split(), *arguments))]  # "CONFIG GET" is two words

    return Sturdy


_KINDS: tuple[type[AbstractConnection], ...] = (
    Connection,
    UnixDomainSocketConnection,
    SSLConnection,
    SentinelManagedConnection,
    SentinelManagedSSLConnection,
)
_STURDY = {kind: _sturdy(kind) for kind in _KINDS}


async def check_server(redis: Redis, *, url: str = "") -> None:
    """Refuse a server that could lose or split the money.

    Raises: ServerAwayError when it is unreachable or refuses for a while; ServerError when it is evicting, too old or
    a cluster, or refuses the password. The message says what to do.
    """
    where = shown(url) if url else "the Redis server"
    try:
        info = await redis.info("server")
        memory = await redis.info("memory")
    except (RedisError, OSError) as error:
        if isinstance(error, ResponseError) and "unknown command" in str(error):
            return  # a fake server has no INFO and needs no check
        if word := word_of(error):
            raise ServerAwayError(f"{where} answers {word}: {PASSING[word]}.") from None
        if refuses_login(error):
            raise ServerError(f"{where} refuses the password or user in [redis] url.") from None
        if isinstance(error, ResponseError):
            raise ServerError(f"{where}: {error}") from None
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
