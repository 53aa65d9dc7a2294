"""`farebox audit`: whether the counters are what the journal of bookings says."""

from __future__ import annotations

import sys

import click

from farebox.money import dollars_from_nusd, usd_from_nusd
from farebox_worker.audit import AuditReport, Difference
from farebox_worker.audit import audit as compare
from farebox_worker.cli.options import common, json_option, print_json, print_table, run_async, say
from farebox_worker.limits import in_words
from farebox_worker.session import open_session
from farebox_worker.settings import Settings


@click.command()
@json_option
@common
def audit(settings: Settings, as_json: bool) -> None:
    """Recompute every counter from the journal and the records of holds; exit 1 when one differs.

    It changes nothing, and may run while workers work.

    \b
    farebox audit && echo the books agree
    """
    report = run_async(_audit(settings))
    if as_json:
        print_json(_report_json(report))
    else:
        _print(report)
    if not report.agrees:
        sys.exit(1)


async def _audit(settings: Settings) -> AuditReport:
    async with open_session(settings) as session:
        await session.ledger.epoch(even_lost=True)
        return await compare(session.redis, session.ledger.keys)


def _print(report: AuditReport) -> None:
    if report.agrees:
        click.echo(f"books agree: {report.scopes:,} scopes and {report.limits:,} limits, {report.rows:,} bookings read")
    else:
        print_table(("scope", "counter", "counted", "booked"), [_row(difference) for difference in report.differences])
        if report.missing_rows:
            say(f"{report.missing_rows:,} rows of the journal are gone that were never folded into a checkpoint.")
        say("the books do not agree: somebody wrote to these keys, or the server lost writes.")
    for name, over_nusd in report.passed.items():
        say(f"{in_words(name)} is passed by {dollars_from_nusd(over_nusd)}: lowered, or billed above a bound.")


def _row(difference: Difference) -> tuple[str, str, str, str]:
    is_money = not difference.counter.startswith(("calls", "input_tokens", "output_tokens", "unpriced"))
    counted, booked = (dollars_from_nusd(n) if is_money else f"{n:,}" for n in (difference.counted, difference.booked))
    return difference.scope, difference.counter, counted, booked


def _report_json(report: AuditReport) -> dict[str, object]:
    return {
        "agrees": report.agrees,
        "scopes": report.scopes,
        "limits": report.limits,
        "rows": report.rows,
        "missing_rows": report.missing_rows,
        "forgotten_batches": report.forgotten,
        "day": str(report.day),
        "passed_nusd": report.passed,
        "passed_usd": {name: usd_from_nusd(over) for name, over in report.passed.items()},
        "differences": [
            {"scope": one.scope, "counter": one.counter, "counted": one.counted, "booked": one.booked}
            for one in report.differences
        ],
    }
