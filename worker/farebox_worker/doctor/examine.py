"""The whole examination, in the order in which a run would meet what is wrong."""

from __future__ import annotations

from contextlib import ExitStack

from redis.exceptions import RedisError

from farebox.commands import Redis
from farebox.connection import connect
from farebox.errors import ConfigError, ServerError
from farebox.ledger import Ledger
from farebox_worker.doctor.check import Check
from farebox_worker.doctor.fleet import check_lanes, check_ledger, check_workers
from farebox_worker.doctor.machine import check_config, check_disk, check_keys, check_prices, check_providers
from farebox_worker.doctor.server import check_redis
from farebox_worker.heartbeats import read_heartbeats
from farebox_worker.lanes import read_lanes
from farebox_worker.server.embedded import EmbeddedServer, find_server_binary, holds_no_data
from farebox_worker.settings import Settings


async def examine(settings: Settings, *, offline: bool = False) -> list[Check]:
    """Check everything; what cannot be looked at is a failed check, not an error. `offline` asks no provider."""
    checks = [check_config(settings)]
    busy: set[str] = set()
    if settings.redis.url is None:
        checks.append(check_disk(settings.redis.data_dir))
    if settings.redis.url is None and holds_no_data(settings.redis.data_dir):
        checks += _first_use(settings)
    else:
        checks += await _bus(settings, busy)
    checks += check_keys(settings)
    checks += check_prices(settings, busy)
    if not offline:
        checks += await check_providers(settings)
    return checks


def _first_use(settings: Settings) -> list[Check]:
    try:
        binary = find_server_binary()
    except ServerError as error:
        return [Check("server", "fail", str(error))]
    message = f"nothing in {settings.redis.data_dir} yet: the first `farebox run IN --budget USD` begins it"
    return [Check("server", "ok", f"{binary.name} is here to be embedded"), Check("ledger", "ok", message)]


async def _bus(settings: Settings, busy: set[str]) -> list[Check]:
    """Check the server and what it holds; `busy` takes the lanes that have jobs."""
    with ExitStack() as stack:
        url = settings.redis.url
        try:
            if url is None:
                url = stack.enter_context(EmbeddedServer(settings.redis.data_dir)).url
            redis: Redis = connect(url)
        except (ServerError, ConfigError) as error:
            return [Check("server", "fail", str(error))]
        try:
            checks = await check_redis(redis, url)
            if any(check.name == "server" and check.level == "fail" for check in checks):
                return checks
            return [*checks, *await _fleet(redis, settings, busy)]
        except (RedisError, OSError) as error:
            return [Check("server", "fail", f"it could not be looked at: {error or type(error).__name__}")]
        finally:
            await redis.aclose(close_connection_pool=True)


async def _fleet(redis: Redis, settings: Settings, busy: set[str]) -> list[Check]:
    ledger = Ledger(redis, settings.redis.namespace)
    beats = await read_heartbeats(redis, ledger.keys)
    lanes = await read_lanes(redis, ledger.keys, beats)
    busy.update(lane.name for lane in lanes if lane.has_work)
    return [
        *await check_ledger(ledger, settings, is_used=bool(lanes)),
        *check_workers(beats),
        *check_lanes(lanes, settings, has_workers=bool(beats)),
    ]
