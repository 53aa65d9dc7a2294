"""`farebox lanes`: what waits, runs, is parked or paused, by model; and how to pause and resume it."""

from __future__ import annotations

import re
import sys
from typing import Any

import click

from farebox.money import dollars_from_nusd, usd_from_nusd
from farebox_worker.bus.pace import Pace
from farebox_worker.bus.pause import Pause, pause, read_pauses, resume
from farebox_worker.cli import suggest
from farebox_worker.cli.options import (
    common,
    json_option,
    plain,
    print_json,
    print_table,
    refuse_early_flags,
    run_async,
    say,
)
from farebox_worker.heartbeats import read_heartbeats
from farebox_worker.lanes import Lane, find_lanes, read_lanes
from farebox_worker.limits import in_words
from farebox_worker.run.picture import span
from farebox_worker.session import Session, flags_from_here, open_session
from farebox_worker.settings import Settings

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_MOST_S = 365 * 86_400


class DurationType(click.ParamType[float]):
    """A time such as 90s, 30m, 2h or 1d, in seconds."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the seconds."""
        found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,3})?)([smhd])", str(value).strip())
        seconds = float(found[1]) * _UNITS[found[2]] if found else 0.0
        if not 0 < seconds <= _MOST_S:
            self.fail(f"{value!r} is no time: say 90s, 30m, 2h or 1d, at most 365d", param, ctx)
        return seconds


@click.group(invoke_without_command=True)
@json_option
@common
@click.pass_context
def lanes(ctx: click.Context, settings: Settings, as_json: bool) -> None:
    """Show every lane, the mailbox of one model: what waits, what runs, who serves it.

    \b
    farebox lanes pause openai:gpt-5-mini --for 30m   nothing of it is sent for 30 minutes
    farebox lanes pause openai --why "new key"        all its models, until resumed
    farebox lanes resume openai
    """
    if ctx.invoked_subcommand is not None:
        refuse_early_flags(ctx, f"lanes {ctx.invoked_subcommand} REF")
    else:
        run_async(_lanes(settings, as_json=as_json))


async def _lanes(settings: Settings, *, as_json: bool) -> None:
    async with open_session(settings) as session:
        await session.ledger.epoch(even_lost=True)
        keys = session.ledger.keys
        beats = await read_heartbeats(session.redis, keys)
        found = await read_lanes(session.redis, keys, beats)
    if as_json:
        print_json({"lanes": [_lane_json(lane) for lane in found], "workers": len(beats)})
        return
    _print(found)
    if not found:
        say("no lanes yet: a lane appears with its first job.")
    elif not beats and any(lane.unserved for lane in found):
        flags = flags_from_here(settings)
        say(f"no worker is running: `farebox worker{flags}` starts one, or repeat the `farebox run` they belong to.")


def _print(found: list[Lane]) -> None:
    """Print a table; on a terminal what is in words comes below it, as in a narrow column nobody could read it."""
    columns = ("lane", "runnable", "later", "in flight", "target", "parked", "oldest", "workers", "rate", "state")
    rows = [_row(lane) for lane in found]
    if not sys.stdout.isatty():
        print_table(columns, rows)
        return
    print_table(columns[:-2], [row[:-2] for row in rows])
    for name, *_, rate, state in rows:
        click.echo(plain(f"{name}: {'; '.join(filter(None, [state, rate]))}"))


def _row(lane: Lane) -> tuple[str, ...]:
    return (
        lane.name,
        f"{lane.runnable:,}",
        f"{lane.later:,}",
        f"{lane.in_flight:,}",
        "" if lane.pace.target is None else f"{lane.pace.target:,}",
        f"{lane.parked_jobs:,}",
        "" if lane.oldest_s is None else span(max(0.0, lane.oldest_s)),
        f"{lane.workers:,}",
        _rate(lane),
        "; ".join(_state(lane)),
    )


def _rate(lane: Lane) -> str:
    """Say what was used in the last minute of what is allowed, here and over all lanes of the provider."""
    shared = str(lane.shared_pace)
    return "; ".join(filter(None, [str(lane.pace), shared and f"of {lane.name.partition(':')[0]}: {shared}"]))


def _state(lane: Lane) -> list[str]:
    """Say what keeps a lane from going on."""
    words = []
    if lane.pause:
        words.append(str(lane.pause))
    words += [
        f"parked at {in_words(scope)}, the next job needs {dollars_from_nusd(blocked.need_nusd)}"
        for scope, blocked in sorted(lane.parked.items())
    ]
    if lane.away:
        words.append(f"away: {lane.away}")
    if lane.unserved:
        some = "it" if lane.unserved == lane.runnable else f"{lane.unserved:,} of its jobs"
        words.append(f"nobody serves {some}")
    return words or ["open" if lane.has_work else "empty"]


def _lane_json(lane: Lane) -> dict[str, object]:
    blocked = [
        {"scope": scope, "flows": one.flows, "jobs": one.jobs, "need_nusd": one.need_nusd,
         "need_usd": usd_from_nusd(one.need_nusd)}
        for scope, one in sorted(lane.parked.items())
    ]  # fmt: skip
    return {
        "lane": lane.name,
        "runnable": lane.runnable,
        "later": lane.later,
        "in_flight": lane.in_flight,
        "target": lane.pace.target,
        "rate": _pace_json(lane.pace),
        "provider_rate": _pace_json(lane.shared_pace),
        "parked": lane.parked_jobs,
        "blocked": blocked,
        "paused": pause_json(lane.pause) if lane.pause else None,
        "workers": lane.workers,
        "away": lane.away or None,
        "unserved": lane.unserved,
        "oldest_s": None if lane.oldest_s is None else round(lane.oldest_s, 3),
    }


def _pace_json(pace: Pace) -> dict[str, int | None]:
    """Limits per minute, null where there is none, and what was used in the last minute."""
    rates = pace.rates
    return {
        "rpm": rates.rpm or None,
        "requests": pace.requests if rates.rpm else None,
        "tpm": rates.tpm or None,
        "tokens": pace.tokens if rates.tpm else None,
    }


def pause_json(one: Pause) -> dict[str, object]:
    """A pause as JSON; `until_ms` is null when it lasts until it is resumed."""
    return {"until_ms": one.until_ms if one.ends_by_itself else None, "why": one.why, "by": one.by}


@lanes.command("pause")
@click.argument("ref", shell_complete=suggest.models)
@click.option("--for", "seconds", type=DurationType(), metavar="TIME", help="30s, 30m, 2h, 1d; else until resumed.")
@click.option("--why", default="", metavar="TEXT", help="Shown wherever the pause is.")
@json_option
@common
def pause_ref(settings: Settings, ref: str, seconds: float | None, why: str, as_json: bool) -> None:
    """Pause REF: a lane, a model (with all its tiers) or a provider (with all its lanes, those to come too).

    Nothing more of it is claimed by any worker. Running calls finish; jobs wait, none is failed.
    """
    run_async(_pause(settings, ref, seconds, plain(why)[:200].strip(), as_json=as_json))


async def _pause(settings: Settings, ref: str, seconds: float | None, why: str, *, as_json: bool) -> None:
    async with open_session(settings) as session:
        tongue = session.ledger.tongue
        if is_provider := await _is_provider(session, ref):
            pauses = {ref: await pause(tongue, provider=ref, seconds=seconds, why=why, by="operator")}
        else:
            names = await find_lanes(session.redis, session.ledger.keys, ref)
            pauses = {name: await pause(tongue, name, seconds=seconds, why=why, by="operator") for name in names}
    if as_json:
        kind = "provider" if is_provider else "lane"
        print_json({f"{kind}s": [{kind: name, **pause_json(one)} for name, one in pauses.items()]})
        return
    for name, one in pauses.items():
        say(plain(f"{name} is {one}"))


@lanes.command("resume")
@click.argument("ref", shell_complete=suggest.models)
@json_option
@common
def resume_ref(settings: Settings, ref: str, as_json: bool) -> None:
    """End every pause of REF, an operator's or a provider's; its jobs go on at once."""
    run_async(_resume(settings, ref, as_json=as_json))


async def _resume(settings: Settings, ref: str, *, as_json: bool) -> None:
    async with open_session(settings) as session:
        redis, keys, tongue = session.redis, session.ledger.keys, session.ledger.tongue
        if is_provider := await _is_provider(session, ref):
            await resume(tongue, provider=ref)
        names = await find_lanes(redis, keys, ref) if not is_provider or await _lanes_of(session, ref) else []
        for name in names:
            await resume(tongue, name)
        left = await read_pauses(redis, keys, names)
    if as_json:
        print_json({"lanes": names, "still_paused": sorted(left)})
        return
    for name in names or [ref]:
        provider = name.partition(":")[0]
        words = f"{name} is open"
        if name in left:
            words = f"{name} is still {left[name]}, with all of its provider: `farebox lanes resume {provider}`"
        say(plain(words))


async def _is_provider(session: Session, ref: str) -> bool:
    """Whether a REF means a provider, one without any lane yet included."""
    return ref in session.settings.providers or bool(await _lanes_of(session, ref))


async def _lanes_of(session: Session, provider_id: str) -> list[str]:
    known: set[bytes] = await session.redis.smembers(session.ledger.keys.lanes)
    return [name for lane in known if (name := lane.decode(errors="replace")).partition(":")[0] == provider_id]
