"""`farebox workers`: the worker processes that live, and what they serve."""

from __future__ import annotations

import time

import click

from farebox_worker.cli.options import common, json_option, plain, print_json, print_table, run_async, say
from farebox_worker.heartbeats import Heartbeat, read_heartbeats
from farebox_worker.run.picture import span
from farebox_worker.session import flags_from_here, open_session
from farebox_worker.settings import Settings

_SHOWN_LANES = 4


@click.command()
@json_option
@common
def workers(settings: Settings, as_json: bool) -> None:
    """List the worker processes that showed a heartbeat in the last 30 seconds.

    \b
    farebox workers
    """
    run_async(_workers(settings, as_json=as_json))


async def _workers(settings: Settings, *, as_json: bool) -> None:
    async with open_session(settings) as session:
        found = await read_heartbeats(session.redis, session.ledger.keys)
    if as_json:
        print_json({"workers": [_worker_json(one) for one in found]})
        return
    columns = ("host", "pid", "version", "up", "heartbeat", "in flight", "serves")
    print_table(columns, [_row(one) for one in found], text=("serves",))
    for one in found:
        for provider, why in one.stopped.items():
            said = f"{one.host} pid {one.pid} serves {provider} no longer: {why}. Mend its key and restart it"
            say(plain(said))
    if not found:
        say(f"no worker is running: `farebox worker{flags_from_here(settings)}` starts one.")


def _row(one: Heartbeat) -> tuple[str, ...]:
    up = span(max(0.0, time.time() - one.started_ms / 1000)) if one.started_ms else ""
    more = len(one.lanes) - _SHOWN_LANES
    lanes = ", ".join(one.lanes[:_SHOWN_LANES]) + (f" and {more} more" if more > 0 else "")
    serves = f"batch {one.batch}: {lanes}" if one.batch else lanes or "no lane"
    return one.host, str(one.pid), one.version, up, f"{one.age_s:.0f} s ago", f"{one.in_flight:,}", serves


def _worker_json(one: Heartbeat) -> dict[str, object]:
    return {
        "worker": one.worker_id,
        "host": one.host,
        "pid": one.pid,
        "version": one.version,
        "started_ms": one.started_ms,
        "batch": one.batch or None,
        "lanes": list(one.lanes),
        "in_flight": one.in_flight,
        "stopped": dict(one.stopped),
        "heartbeat_age_s": round(one.age_s, 3),
    }
