"""`farebox job`: one job, wherever it is."""

from __future__ import annotations

import click

from farebox.money import dollars_from_nusd, usd_from_nusd
from farebox.records import Result, ResultEnvelope
from farebox_worker.attempts.history import Tried
from farebox_worker.cli.amounts import moment
from farebox_worker.cli.lanes import pause_json
from farebox_worker.cli.options import common, json_option, plain, print_json, print_table, run_async
from farebox_worker.jobs import JobView, name_job, read_job
from farebox_worker.limits import in_words
from farebox_worker.run.picture import span
from farebox_worker.session import open_session
from farebox_worker.settings import Settings

_COLUMNS = ("tried", "worker", "lane", "failed", "after", "money", "message")
_MEANINGS = {
    "leased": "leased: a worker has it and has not sent it yet",
    "gone": "gone: it ended, and its result was collected (`farebox run` writes it to OUT), deleted or has expired",
    "undecodable": "undecodable: it was written by something else, or a newer Farebox",
    "stray": "stray: its payload is kept, but it stands in no flow; submit its file again to go on",
}


@click.command()
@click.argument("words", nargs=-1, required=True, metavar="ID | BATCH CUSTOM_ID")
@json_option
@common
def job(settings: Settings, words: tuple[str, ...], as_json: bool) -> None:
    """Show one job: its state, what was tried and what each attempt cost, its error.

    \b
    farebox job 3f2a90c1d2e3f4a5b6c7d8e9      the id in `farebox.job` of its output line
    farebox job nightly row-17                its batch and custom id
    """
    run_async(_job(settings, words, as_json=as_json))


async def _job(settings: Settings, words: tuple[str, ...], *, as_json: bool) -> None:
    async with open_session(settings) as session:
        await session.ledger.epoch(even_lost=True)
        identity, batch_id = name_job(session.ledger.keys, words)
        view = await read_job(session.ledger, identity, batch_id)
    if as_json:
        print_json(_view_json(view))
        return
    for line in [f"{view.job_id}: {_headline(view)}", *(f"  {line}" for line in _lines(view))]:
        click.echo(plain(line))
    if view.history:
        print_table(_COLUMNS, [_tried_row(one) for one in view.history], text=_COLUMNS)


def _headline(view: JobView) -> str:
    left = span(max(0.0, (view.due_ms - view.now_ms) / 1000))
    if view.state in ("retry due", "not yet due"):
        return f"{view.state} in {left} ({moment(view.due_ms)})"
    if view.state == "running" and view.hold_nusd is not None:
        return f"running, {dollars_from_nusd(view.hold_nusd)} held; its lease ends in {left} unless renewed"
    if view.state == "parked" and view.blocked:
        scope, need = view.blocked
        return f"parked at {in_words(scope)}: a job of its flow needs {dollars_from_nusd(need)}"
    return _MEANINGS.get(view.state, view.state)


def _lines(view: JobView) -> list[str]:
    lines = [f"batch {view.batch_id or 'unknown'}, custom id {view.custom_id or 'unknown'}"]
    if view.lane:
        lines.append(f"lane {view.lane}, flow {view.flow or 'unknown'}")
    if view.enqueued_ms:
        lines.append(f"submitted {moment(view.enqueued_ms)}")
    if view.state != "gone":
        lines.append(_attempts(view))
    if view.pause:
        lines.append(f"its lane is {view.pause}")
    if view.cancelled_batch and view.ended is None and view.state != "gone":
        lines.append("its batch is cancelled: it will not be sent")
    lines += [
        f"unconfirmed {dollars_from_nusd(one.amount_nusd)}: attempt {one.token}, {moment(one.since_ms)}, {one.why}"
        for one in view.unconfirmed
    ]
    owed = f", {dollars_from_nusd(view.unconfirmed_nusd)} unconfirmed" if view.unconfirmed else ""
    if view.ended is None:
        return [*lines, f"cost so far {dollars_from_nusd(view.cost_nusd)}{owed}"] if view.history else lines
    return lines + _result_lines(view.ended.r, view.ended.st, view.ended.ft, owed)


def _attempts(view: JobView) -> str:
    words = f"attempts {view.attempts}" + (" before this one" if view.state in ("leased", "running") else "")
    if view.doubts:
        words += f", {view.doubts} of unknown outcome"
    if view.claims:
        words += f", claimed {view.claims} times by workers that died before sending it"
    return words


def _result_lines(result: Result, started_ms: int, ended_ms: int, owed: str) -> list[str]:
    lines = [f"ended {moment(ended_ms)}, the last attempt began {moment(started_ms)}"]
    if result.outcome == "succeeded":
        lines.append(f"finish {result.finish or 'empty'}, latency {result.latency_ms:,} ms")
    else:
        status = f" (HTTP {result.status_code})" if result.status_code else ""
        lines.append(f"error {result.error_code or 'unknown'}{status}: {result.error_message[:1000]}")
    tokens = f"{result.input_tokens:,} tokens in, {result.output_tokens:,} out"
    lines.append(f"cost {dollars_from_nusd(result.cost_nusd)}{owed}, {tokens}")
    if result.note:
        lines.append(f"note: {result.note}")
    if result.request_id:
        lines.append(f"request id {result.request_id}")
    return lines


def _tried_row(one: Tried) -> tuple[str, ...]:
    money = "released" if one.money == "release" else f"{dollars_from_nusd(one.amount_nusd)} unconfirmed"
    return (
        moment(one.when_ms),
        one.worker or "gone",
        one.lane,
        f"{one.failure_class} {one.status_code or ''}".rstrip(),
        f"{one.latency_ms:,} ms" if one.latency_ms else "",
        money,
        one.message + (f" (request id {one.request_id})" if one.request_id else ""),
    )


def _view_json(view: JobView) -> dict[str, object]:
    blocked = None
    if view.blocked:
        scope, need = view.blocked
        blocked = {"scope": scope, "need_nusd": need, "need_usd": usd_from_nusd(need)}
    return {
        "job": view.job_id,
        "batch_id": view.batch_id or None,
        "custom_id": view.custom_id or None,
        "state": view.state,
        "lane": view.lane or None,
        "flow": view.flow or None,
        "enqueued_ms": view.enqueued_ms or None,
        "due_ms": view.due_ms or None,
        "attempts": view.attempts,
        "doubts": view.doubts,
        "claims": view.claims,
        "hold_nusd": view.hold_nusd,
        "hold_usd": None if view.hold_nusd is None else usd_from_nusd(view.hold_nusd),
        "blocked": blocked,
        "paused": pause_json(view.pause) if view.pause else None,
        "batch_cancelled": view.cancelled_batch,
        "unconfirmed": [
            {"attempt": one.token, "amount_nusd": one.amount_nusd, "amount_usd": usd_from_nusd(one.amount_nusd),
             "since_ms": one.since_ms, "why": one.why}
            for one in view.unconfirmed
        ],
        "history": [_tried_json(one) for one in view.history],
        "cost_nusd": view.cost_nusd,
        "cost_usd": usd_from_nusd(view.cost_nusd),
        "unconfirmed_nusd": view.unconfirmed_nusd,
        "unconfirmed_usd": usd_from_nusd(view.unconfirmed_nusd),
        "result": _result_json(view.ended) if view.ended else None,
    }  # fmt: skip


def _tried_json(one: Tried) -> dict[str, object]:
    return {
        "when_ms": one.when_ms,
        "worker": one.worker or None,
        "lane": one.lane,
        "failure_class": one.failure_class,
        "status_code": one.status_code or None,
        "request_id": one.request_id or None,
        "money": one.money,
        "amount_nusd": one.amount_nusd,
        "amount_usd": usd_from_nusd(one.amount_nusd),
        "latency_ms": one.latency_ms or None,
        "message": one.message,
    }


def _result_json(ended: ResultEnvelope) -> dict[str, object]:
    result = ended.r
    return {
        "outcome": result.outcome,
        "finish": result.finish or None,
        "note": result.note or None,
        "status_code": result.status_code or None,
        "error_code": result.error_code or None,
        "failure_class": result.failure_class or None,
        "error_message": result.error_message or None,
        "request_id": result.request_id or None,
        "cost_nusd": result.cost_nusd,
        "cost_usd": usd_from_nusd(result.cost_nusd),
        "unconfirmed_nusd": result.unconfirmed_nusd,
        "unconfirmed_usd": usd_from_nusd(result.unconfirmed_nusd),
        "input_tokens": result.input_tokens,
        "output_tokens": result.output_tokens,
        "latency_ms": result.latency_ms,
        "price_version": result.price_version or None,
        "started_ms": ended.st,
        "ended_ms": ended.ft,
    }
