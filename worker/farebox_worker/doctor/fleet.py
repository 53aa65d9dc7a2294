"""How the bus is: its ledger, its lanes and who serves them, and the money that waits for somebody's word."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version

from farebox.ledger import Ledger
from farebox.money import dollars_from_nusd, nusd_from_usd
from farebox_worker.doctor.check import Check, at_most
from farebox_worker.heartbeats import Heartbeat
from farebox_worker.lanes import Lane
from farebox_worker.limits import in_words, raise_command, room_again
from farebox_worker.settings import Settings

AT_THE_RATE = 0.9  # from this share on a rate is what holds a lane


async def check_ledger(ledger: Ledger, settings: Settings, *, is_used: bool) -> list[Check]:
    """Say whether the money can be trusted, and which limits hold. `is_used`: jobs have been here."""
    epoch, lost = await ledger.identity()
    namespace = ledger.keys.namespace
    if lost:
        message = (
            f"the ledger of {namespace} lost writes ({lost}): nothing is sent. Compare it with the provider's bill, "
        )
        return [Check("ledger", "fail", message + "then `farebox ledger adopt`")]
    if not epoch and is_used:
        message = (
            f"the one of {namespace} is gone, though jobs are here: nothing is sent. `farebox ledger adopt` goes on"
        )
        return [Check("ledger", "fail", message)]
    if not epoch:
        message = f"there is none in namespace {namespace} yet: `farebox budget set USD` creates it"
        return [Check("ledger", "warn", message)]
    limits = await ledger.limits()
    scope = await ledger.scope()
    said = ", ".join(f"{in_words(limit.name)} {dollars_from_nusd(limit.limit_nusd)}" for limit in limits[:5]) or "none"
    if len(limits) > 5:
        said += f" and {len(limits) - 5:,} more"
    spent = dollars_from_nusd(scope.spent_nusd)
    checks = [Check("ledger", "ok", f"namespace {namespace}, epoch {epoch}, {spent} spent; limits: {said}")]
    stated = settings.budget.limit_usd
    if stated is not None and scope.limit_nusd != nusd_from_usd(stated) and settings.redis.url is not None:
        checks.append(
            Check("budget", "warn", f"[budget] limit_usd says {stated:g}, the ledger another: its own counts")
        )
    elif not limits:
        checks.append(Check("budget", "warn", "there is no limit at all: `farebox budget set USD` sets one"))
    checks += [
        Check(
            "budget",
            "warn",
            f"{in_words(limit.name)} is passed by {dollars_from_nusd(-limit.headroom_nusd)}: nothing more is admitted",
        )
        for limit in limits
        if limit.headroom_nusd < 0
    ]
    if scope.unconfirmed_nusd:
        message = (
            f"{dollars_from_nusd(scope.unconfirmed_nusd)} count against the limit, of calls whose outcome is unknown"
        )
        checks.append(Check("unconfirmed", "warn", f"{message}: `farebox unconfirmed list`"))
    if scope.overrun_nusd:
        message = f"{dollars_from_nusd(scope.overrun_nusd)} were billed above the worst case: check the models' prices"
        checks.append(Check("overrun", "warn", message))
    return checks


def check_workers(beats: Sequence[Heartbeat]) -> list[Check]:
    """Say who works, and with which versions."""
    if not beats:
        return [Check("workers", "ok", "none is running")]
    hosts = sorted({beat.host for beat in beats})
    ours = version("farebox")
    where = ", ".join(hosts[:3]) + (f" and {len(hosts) - 3:,} more hosts" if len(hosts) > 3 else "")
    checks = [Check("workers", "ok", f"{len(beats):,} running, on {where}")]
    others = sorted({beat.version or "unknown" for beat in beats} - {ours})
    if others:
        said = f"workers run version {', '.join(others)}, this is {ours}: bring them to one"
        checks.append(Check("workers", "warn", said))
    refused = [
        Check("workers", "warn", f"{beat.host} pid {beat.pid} serves {provider} no longer: {why}; mend its key")
        for beat in beats
        for provider, why in beat.stopped.items()
    ]
    return [*checks, *at_most(refused, of="whose key was refused")]


def check_lanes(lanes: Sequence[Lane], settings: Settings, *, has_workers: bool) -> list[Check]:
    """Say which lanes do not go on, and why."""
    waiting, flying = sum(lane.runnable for lane in lanes), sum(lane.in_flight for lane in lanes)
    checks = [Check("lanes", "ok", f"{len(lanes):,}, with {waiting:,} jobs runnable and {flying:,} in flight")]
    alone = not has_workers and settings.redis.url is None  # between two runs on one machine
    unserved = [
        Check("unserved", "warn" if alone or lane.pause else "fail", _unserved(lane, settings))
        for lane in lanes
        if lane.unserved
    ]
    paused = [
        Check("paused", "warn", f"{lane.name} is {lane.pause}: `farebox lanes resume {lane.name}` ends it")
        for lane in lanes
        if lane.pause
    ]
    unserved.sort(key=lambda check: check.level)  # failures first
    held = [
        Check("pace", "ok", f"{lane.runnable:,} jobs of {lane.name} wait: {why}")
        for lane in lanes
        if lane.runnable and not lane.pause and lane.workers and (why := _held_by(lane))
    ]
    return [
        *checks,
        *at_most(unserved, of="that nobody serves"),
        *at_most(paused, of="paused"),
        *at_most(held, of="held by their pace"),
        *_parked(lanes),
    ]


def _unserved(lane: Lane, settings: Settings) -> str:
    """Say what would serve a lane."""
    provider_id = lane.name.partition(":")[0]
    said = f"{lane.unserved:,} jobs of {lane.name} wait and no worker serves them: "
    provider = settings.providers.get(provider_id)
    if provider is None:
        return f"{said}start one that knows provider {provider_id}; this farebox.toml does not"
    if provider.api_key_env and not os.environ.get(provider.api_key_env):
        return f"{said}start `farebox worker` where {provider.api_key_env} is set"
    return f"{said}start `farebox worker`, or the `farebox run` that they belong to"


def _held_by(lane: Lane) -> str:
    """Say what holds a lane back that could send more: its rate, its provider's, or how many calls are let in."""
    for pace, whose in ((lane.pace, "it"), (lane.shared_pace, lane.name.partition(":")[0])):
        rpm, tpm = pace.rates.rpm, pace.rates.tpm
        if (rpm and pace.requests >= AT_THE_RATE * rpm) or (tpm and pace.tokens >= AT_THE_RATE * tpm):
            return f"{whose} sends as much as its rate allows ({pace}); `rpm` and `tpm` in farebox.toml set it"
    target = lane.pace.target
    if target is not None and lane.in_flight >= target:
        return (
            f"{target:,} calls at once are what its provider lets in, as refusals have shown; it tries more by itself"
        )
    return ""


def _parked(lanes: Sequence[Lane]) -> list[Check]:
    jobs: dict[str, int] = {}
    needs: dict[str, int] = {}
    for lane in lanes:
        for limit, blocked in lane.parked.items():
            jobs[limit] = jobs.get(limit, 0) + blocked.jobs
            needs[limit] = min(needs.get(limit, blocked.need_nusd), blocked.need_nusd)
    found = [
        Check(
            "parked",
            "warn",
            f"{count:,} jobs wait at {in_words(limit)}, and one needs {dollars_from_nusd(needs[limit])}: "
            f"raise it with `{raise_command(limit)}`{'; ' * bool(again)}{again}",
        )
        for limit, count in sorted(jobs.items())
        for again in (room_again(limit, datetime.now(UTC)),)
    ]
    return at_most(found, of="limits")
