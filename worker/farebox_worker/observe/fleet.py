"""The whole fleet as Redis knows it: scopes and lanes, read anew for every scrape, with bounded commands.

Scopes of batches and tags are left out unless asked for, for there may be any number of them; and of each kind, as of
lanes, no more than 1,000 are shown. How many were left out is told.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from prometheus_client.metrics_core import Metric
from redis.exceptions import RedisError

from farebox.ledger import Ledger, Limit, Scope
from farebox.money import usd_from_nusd
from farebox_worker.events import event
from farebox_worker.heartbeats import read_heartbeats
from farebox_worker.lanes import Lane, read_lanes
from farebox_worker.observe.families import gauge, one

log = logging.getLogger(__name__)

MOST = 1000  # series of one kind
PATIENCE_S = 8.0  # Prometheus gives a scrape 10 s by default
SCAN = 1000


@dataclass(slots=True)
class Fleet:
    """What Redis knew at one moment.

    Attributes:
        seq: the ledger's count of changes; None when there is no ledger.
        is_lost: whether the ledger counts as lost until it is adopted.
        left_out: by kind, how many scopes or lanes were more than can be shown.
    """

    lanes: list[Lane] = field(default_factory=list)
    scopes: list[Scope] = field(default_factory=list)
    limits: list[Limit] = field(default_factory=list)
    workers: int = 0
    seq: int | None = None
    is_lost: bool = False
    left_out: dict[str, int] = field(default_factory=dict)

    @property
    def runnable(self) -> int:
        """Jobs that more workers could run now: due, not running, not parked, in a lane neither paused nor away."""
        return sum(lane.runnable for lane in self.lanes if lane.pause is None and not lane.away)


async def read_fleet(ledger: Ledger, kinds: Sequence[str]) -> Fleet:
    """Read everything. `kinds` are those of scopes, such as "model". Redis errors pass through."""
    redis, keys = ledger.redis, ledger.keys
    fleet = Fleet()
    seq, lost = await redis.hmget(keys.ledger, ["seq", "lost"])
    fleet.seq, fleet.is_lost = None if seq is None else int(seq), lost is not None
    names: dict[str, list[str]] = {kind: [] for kind in kinds}
    async for name in redis.sscan_iter(keys.scopes, count=SCAN):
        text = name.decode(errors="replace")
        if (kind := text.partition(":")[0]) in names:
            names[kind].append(text)
    shown = [name for kind, found in names.items() for name in sorted(found)[:MOST]]
    fleet.left_out = {kind: max(0, len(found) - MOST) for kind, found in names.items()}
    fleet.scopes = await ledger.scopes(shown)
    fleet.limits = await ledger.limits(shown)
    beats = await read_heartbeats(redis, keys)
    fleet.workers = len(beats)
    fleet.lanes = await read_lanes(redis, keys, beats)
    return fleet


def fleet_metrics(fleet: Fleet | None, took_s: float) -> Iterator[Metric]:
    """Make metrics of what was read; of a server that is away only that it is."""
    yield one("farebox_up", "1 when Redis answered this scrape.", fleet is not None)
    yield one("farebox_scrape_duration_seconds", "How long reading took.", took_s)
    if fleet is None:
        return
    yield one("farebox_ledger_present", "1 when there is a ledger that did not lose writes.",
              fleet.seq is not None and not fleet.is_lost)  # fmt: skip
    if fleet.seq is not None:
        yield one("farebox_ledger_seq", "How often the ledger was changed; it never falls.", fleet.seq)
    yield one("farebox_workers", "Worker processes that live.", fleet.workers)
    yield one("farebox_runnable_jobs", "Jobs that more workers could run now.", fleet.runnable)
    shown = sorted(fleet.lanes, key=lambda lane: (not lane.has_work, lane.name))[:MOST]
    left_out = {**fleet.left_out, "lane": len(fleet.lanes) - len(shown)}
    yield gauge("farebox_left_out", "Scopes or lanes beyond what is shown.", ["kind"], left_out)
    yield from _scopes(fleet)
    yield from _lanes(shown)


def _scopes(fleet: Fleet) -> Iterator[Metric]:
    def amounts(name: str, about: str, of: dict[str, int]) -> Metric:
        found = {scope: usd_from_nusd(amount) for scope, amount in of.items()}
        return gauge(f"farebox_scope_{name}", about, ["scope"], found)

    scopes = fleet.scopes
    limited = {scope.name: scope.limit_nusd for scope in scopes if scope.limit_nusd is not None}
    yield amounts("limit_usd", "The hard limit; none where it is missing.", limited)
    yield amounts("spent_usd", "What calls have cost.", {scope.name: scope.spent_nusd for scope in scopes})
    yield amounts("held_usd", "Set aside for calls that run.", {scope.name: scope.held_nusd for scope in scopes})
    yield amounts(
        "unconfirmed_usd", "Owed for calls with unknown outcome.", {s.name: s.unconfirmed_nusd for s in scopes}
    )
    yield amounts("overrun_usd", "Billed above what was held.", {scope.name: scope.overrun_nusd for scope in scopes})
    yield gauge("farebox_scope_calls", "Calls booked.", ["scope"], {scope.name: scope.calls for scope in scopes})
    windows = [limit for limit in fleet.limits if limit.per]
    of_window = [(limit.scope, str(limit.per)) for limit in windows]
    for name, about, found in (
        ("limit_usd", "The limit of this UTC day or month.", [limit.limit_nusd for limit in windows]),
        ("spent_usd", "What was spent in it.", [limit.spent_nusd for limit in windows]),
        ("unconfirmed_usd", "What became unconfirmed in it.", [limit.unconfirmed_nusd for limit in windows]),
    ):
        of = dict(zip(of_window, map(usd_from_nusd, found), strict=True))
        yield gauge(f"farebox_window_{name}", about, ["scope", "per"], of)


def _lanes(lanes: Sequence[Lane]) -> Iterator[Metric]:
    def each(name: str, about: str, of: dict[str, float]) -> Metric:
        return gauge(f"farebox_lane_{name}", about, ["lane"], of)

    yield each("runnable_jobs", "Jobs that are due now and not parked.", {lane.name: lane.runnable for lane in lanes})
    yield each("later_jobs", "Jobs that are due later.", {lane.name: lane.later for lane in lanes})
    yield each("parked_jobs", "Jobs that wait for a limit.", {lane.name: lane.parked_jobs for lane in lanes})
    yield each("in_flight", "Jobs leased to workers, everywhere.", {lane.name: lane.in_flight for lane in lanes})
    targets = {lane.name: lane.pace.target for lane in lanes if lane.pace.target is not None}
    yield each("target", "Calls that may be in flight, everywhere, as was learned.", dict(targets))
    limits: dict[tuple[str, ...], float] = {}
    used: dict[tuple[str, ...], float] = {}
    for lane in lanes:
        for unit, limit, taken in (
            ("requests", lane.pace.rates.rpm, lane.pace.requests),
            ("tokens", lane.pace.rates.tpm, lane.pace.tokens),
        ):
            if limit:
                limits[lane.name, unit], used[lane.name, unit] = limit, taken
    yield gauge("farebox_lane_rate_limit", "What its provider allows per minute.", ["lane", "unit"], limits)
    yield gauge("farebox_lane_rate_used", "What of it the last minute took.", ["lane", "unit"], used)
    yield each("workers", "Processes that serve it.", {lane.name: lane.workers for lane in lanes})
    yield each("away", "1 while none of its calls is answered.", {lane.name: float(bool(lane.away)) for lane in lanes})
    yield each("unserved_jobs", "Runnable jobs that nobody serves.", {lane.name: lane.unserved for lane in lanes})
    yield gauge(
        "farebox_lane_paused", "1 while nothing is claimed, by who said so.", ["lane", "by"],
        {(lane.name, by): float(lane.pause is not None and lane.pause.by == by)
         for lane in lanes for by in ("operator", "provider")},
    )  # fmt: skip
    yield each(
        "oldest_job_age_seconds", "How long the oldest of the jobs next in line has waited.",
        {lane.name: max(0.0, lane.oldest_s) for lane in lanes if lane.oldest_s is not None},
    )  # fmt: skip


class Timed:
    """Reads the fleet for one scrape at a time: scrapes that come meanwhile share its answer.

    Attributes:
        why: why the last reading failed, in words; "" when it did not. It is logged once.
    """

    def __init__(self, ledger: Ledger, kinds: Sequence[str]) -> None:
        self._ledger = ledger
        self._kinds = kinds
        self._reading: asyncio.Task[tuple[Fleet | None, float]] | None = None
        self._failed_s = 0.0
        self.why = ""

    async def read(self) -> tuple[Fleet | None, float]:
        """What Redis knows, or None, and the seconds it took."""
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read())
        return await asyncio.shield(self._reading)

    async def _read(self) -> tuple[Fleet | None, float]:
        began_s = time.monotonic()
        fleet = None
        try:
            async with asyncio.timeout(PATIENCE_S):
                fleet = await read_fleet(self._ledger, self._kinds)
        except TimeoutError:
            self._fail(f"Redis took longer than {PATIENCE_S:.0f} s")
        except (RedisError, OSError) as error:
            self._fail(f"Redis: {error or type(error).__name__}")
        else:
            self._succeed()
        return fleet, time.monotonic() - began_s

    def _fail(self, why: str) -> None:
        if not self.why:
            self._failed_s = time.monotonic()
            log.warning("the fleet cannot be read: %s", why, extra=event("redis_away", why=why))
        self.why = why

    def _succeed(self) -> None:
        if self.why:
            seconds = round(time.monotonic() - self._failed_s, 3)
            log.warning("the fleet can be read again", extra=event("redis_back", seconds=seconds))
        self.why = ""
