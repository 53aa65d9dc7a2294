"""What the Redis server is fit for: reachable, durable, not evicting, not full, a primary."""

from __future__ import annotations

import time
from typing import Any

from redis.exceptions import RedisError

from farebox.batch import FULL_SHARE
from farebox.commands import Redis
from farebox.connection import check_server, shown
from farebox.errors import ServerError
from farebox.sentinel import primary_of
from farebox_worker.doctor.check import Check


async def check_redis(redis: Redis, url: str) -> list[Check]:
    """Check the server; a single failed check when it cannot be reached."""
    started = time.monotonic()
    try:
        info: dict[str, Any] = await redis.info()
    except (RedisError, OSError):
        info = {}
    took_ms = (time.monotonic() - started) * 1000
    try:
        await check_server(redis, url=url)
    except ServerError as error:
        unfit = [Check("server", "fail", str(error))]
    else:
        unfit = []
    if not info:
        return unfit or [Check("server", "warn", f"{shown(url)} answers, but not INFO: nothing about it can be told")]
    name = "Valkey" if "valkey_version" in info else "Redis"
    number = info.get("valkey_version") or info.get("redis_version", "of unknown version")
    if info.get("role", "master") != "master":
        unfit.append(Check("server", "fail", f"{shown(url)} is a replica: name its primary in [redis] url"))
    primary = await primary_of(redis)
    where = f"{shown(url)}{primary and f', primary {primary}'}"
    reached = Check("server", "ok", f"{name} {number} at {where}, INFO took {took_ms:.0f} ms")
    return [*(unfit or [reached]), await _persistence(redis, info), _memory(info)]


async def _persistence(redis: Redis, info: dict[str, Any]) -> Check:
    """Say what a crash of the server may cost."""
    if not int(info.get("aof_enabled", 0)):
        saves = await _setting(redis, "save")
        forgotten = (
            "it forgets everything, money too" if saves == "" else "it forgets what came after its last snapshot"
        )
        message = f"appendonly is off: when the server ends, {forgotten}. Set `appendonly yes`"
        return Check("durability", "fail" if saves == "" else "warn", message)
    for field in ("aof_last_write_status", "aof_last_bgrewrite_status"):
        if info.get(field, "ok") != "ok":
            return Check("durability", "fail", f"{field} is {info[field]}: look at the server's disk and its log")
    fsync = await _setting(redis, "appendfsync")
    if fsync == "always":
        return Check("durability", "ok", "appendonly, synced with every write: what was admitted is never forgotten")
    if fsync == "no":
        return Check("durability", "warn", "appendonly, synced when the kernel likes: set `appendfsync everysec`")
    how = "every second" if fsync == "everysec" else "at an interval that the server does not tell"
    message = f"appendonly, synced {how}: a crash of its machine may forget the last second, and workers notice"
    return Check("durability", "ok", message)


async def _setting(redis: Redis, name: str) -> str | None:
    """Read a setting of the server's; None where that is not allowed, as on many managed ones."""
    try:
        found = await redis.config_get(name)
    except (RedisError, OSError):
        return None
    value = found.get(name)
    return None if value is None else str(value)


def _memory(info: dict[str, Any]) -> Check:
    used, limit = int(info.get("used_memory", 0)), int(info.get("maxmemory", 0))
    total = limit or int(info.get("total_system_memory", 0))
    said = f"{used / 1e6:,.0f} MB used"
    if not total:
        return Check("memory", "ok", said)
    of = "maxmemory" if limit else "the machine's memory, there is no maxmemory"
    share = used / total
    said = f"{said}, {share:.0%} of {of} ({total / 1e6:,.0f} MB)"
    if share > FULL_SHARE:
        return Check("memory", "fail", f"{said}: above {FULL_SHARE:.0%} nothing is submitted. Collect results")
    if share > 0.8 * FULL_SHARE:
        return Check("memory", "warn", f"{said}: above {FULL_SHARE:.0%} nothing is submitted")
    return Check("memory", "ok", said)
