"""`farebox doctor`: what is wrong here, and what to do."""

from __future__ import annotations

import logging
import sys
from collections import Counter
from dataclasses import replace

import click

from farebox_worker.cli.options import common, json_option, plain, print_json, run_async, say
from farebox_worker.doctor.examine import examine
from farebox_worker.session import flags_from_here, with_flags
from farebox_worker.settings import Settings

_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


@click.command()
@click.option("--offline", is_flag=True, help="Ask no provider.")
@json_option
@common
def doctor(settings: Settings, offline: bool, as_json: bool) -> None:
    """Check configuration, server, ledger, keys, prices, providers and workers; exit 1 when something fails.

    It changes nothing, and a data directory that does not exist stays so. Keys are looked for, never shown.

    \b
    farebox doctor
    farebox doctor --redis rediss://bus.example:6379/0
    """
    logging.getLogger("farebox_worker").setLevel(logging.ERROR)
    flags = flags_from_here(settings)
    checks = [
        replace(check, message=with_flags(check.message, flags))
        for check in run_async(examine(settings, offline=offline))
    ]
    levels = Counter(check.level for check in checks)
    if as_json:
        found = [{"name": check.name, "level": check.level, "message": check.message} for check in checks]
        print_json({"ok": not levels["fail"], "failed": levels["fail"], "warned": levels["warn"], "checks": found})
    else:
        for check in checks:
            level = click.style(f"{check.level:<4}", fg=_COLOURS[check.level])
            click.echo(f"{level}  {check.name:<11}  {plain(check.message)}")
        say(f"{levels['fail']} failed, {levels['warn']} to look at, {levels['ok']} are fine")
    if levels["fail"]:
        sys.exit(1)
