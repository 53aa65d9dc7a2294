"""`farebox lanes`: what waits, runs, is parked or paused, by model; and how to pause and resume it."""

from __future__ import annotations

import re
from typing import Any

import click

from farebox.money import dollars_from_nusd, usd_from_nusd
from farebox_worker.bus.pause import Pause, pause, resume
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
from farebox_worker.run.screen import span
from farebox_worker.session import flags_from_here, open_session
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
    """  # noqa: D301 - \b is click's mark for "do not wrap"
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
    columns = ("lane", "runnable", "later", "in flight", "parked", "oldest", "workers", "state")
    print_table(columns, [_row(lane) for lane in found], text=("state",))
    if not found:
        say("no lanes yet: a lane appears with its first job.")
    elif not beats and any(lane.unserved for lane in found):
        flags = flags_from_here(settings)
        say(f"no worker is running: `farebox worker{flags}` starts one, or repeat the `farebox run` they belong to.")


def _row(lane: Lane) -> tuple[str, ...]:
    return (
        lane.name,
        f"{lane.runnable:,}",
        f"{lane.later:,}",
        f"{lane.in_flight:,}",
        f"{lane.parked_jobs:,}",
        "" if lane.oldest_s is None else span(max(0.0, lane.oldest_s)),
        f"{lane.workers:,}",
        "; ".join(_state(lane)),
    )


def _state(lane: Lane) -> list[str]:
    """Say what keeps a lane from going on."""
    words = []
    if lane.pause:
        words.append(str(lane.pause))
    words += [
        f"parked at {in_words(scope)}, the next job needs {dollars_from_nusd(blocked.need_nusd)}"
        for scope, blocked in sorted(lane.parked.items())
    ]
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
        "parked": lane.parked_jobs,
        "blocked": blocked,
        "paused": pause_json(lane.pause) if lane.pause else None,
        "workers": lane.workers,
        "unserved": lane.unserved,
        "oldest_s": None if lane.oldest_s is None else round(lane.oldest_s, 3),
    }


def pause_json(one: Pause) -> dict[str, object]:
    """A pause as JSON; `until_ms` is null when it lasts until it is resumed."""
    return {"until_ms": one.until_ms if one.ends_by_itself else None, "why": one.why, "by": one.by}


@lanes.command("pause")
@click.argument("ref")
@click.option("--for", "seconds", type=DurationType(), metavar="TIME", help="30s, 30m, 2h, 1d; else until resumed.")
@click.option("--why", default="", metavar="TEXT", help="Shown wherever the pause is.")
@json_option
@common
def pause_ref(settings: Settings, ref: str, seconds: float | None, why: str, as_json: bool) -> None:
    """Pause REF: a lane, a model (with all its tiers) or a provider (with all its lanes of now).

    Nothing more of it is claimed by any worker. Running calls finish; jobs wait, none is failed.
    """
    run_async(_pause(settings, ref, seconds, plain(why)[:200].strip(), as_json=as_json))


async def _pause(settings: Settings, ref: str, seconds: float | None, why: str, *, as_json: bool) -> None:
    async with open_session(settings) as session:
        tongue = session.ledger.tongue
        names = await find_lanes(session.redis, session.ledger.keys, ref)
        pauses = {name: await pause(tongue, name, seconds=seconds, why=why, by="operator") for name in names}
    if as_json:
        print_json({"lanes": [{"lane": name, **pause_json(one)} for name, one in pauses.items()]})
        return
    for name, one in pauses.items():
        say(plain(f"{name} is {one}"))


@lanes.command("resume")
@click.argument("ref")
@json_option
@common
def resume_ref(settings: Settings, ref: str, as_json: bool) -> None:
    """End every pause of REF, an operator's or a provider's; its jobs go on at once."""
    run_async(_resume(settings, ref, as_json=as_json))


async def _resume(settings: Settings, ref: str, *, as_json: bool) -> None:
    async with open_session(settings) as session:
        names = await find_lanes(session.redis, session.ledger.keys, ref)
        for name in names:
            await resume(session.ledger.tongue, name)
    if as_json:
        print_json({"lanes": names})
        return
    for name in names:
        say(plain(f"{name} is open"))
