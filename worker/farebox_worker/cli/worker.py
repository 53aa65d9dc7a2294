"""`farebox worker`: serve lanes until told to stop."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
from typing import Any

import click

from farebox.errors import FareboxError
from farebox_worker.cli.options import child_environment, child_flags, common, log_to_stderr, run_async
from farebox_worker.process import Process
from farebox_worker.session import open_session
from farebox_worker.settings import Settings
from farebox_worker.shop import Shop

log = logging.getLogger(__name__)


@click.command()
@click.option("--processes", type=click.IntRange(1, 256), default=1, show_default=True, metavar="N")
@click.option("--burst", is_flag=True, help="End when nothing is left to do.")
@click.option("--batch", default="", hidden=True, help="Serve this batch and nothing else.")
@click.option("--quiet", is_flag=True, help="Log warnings and errors only.")
@common
def worker(settings: Settings, processes: int, burst: bool, batch: str, quiet: bool) -> None:
    """Serve every lane this machine has keys for, until SIGTERM or Ctrl-C: then running calls finish, exit 0.

    \b
    FAREBOX_REDIS_URL=redis://bus:6379/0 farebox worker --processes 4
    """  # noqa: D301 - \b is click's mark for "do not wrap"
    log_to_stderr(is_quiet=quiet)
    if processes > 1:
        sys.exit(_supervise(settings, processes, burst=burst, quiet=quiet))
    run_async(_serve(settings, burst=burst, batch=batch))


async def _serve(settings: Settings, *, burst: bool, batch: str) -> None:
    async with open_session(settings) as session, Shop(settings) as shop:
        await session.ledger.epoch()
        await shop.discover()
        process = Process(session.redis, settings, shop.routes, only_batch=batch, burst=burst, handle_signals=not batch)
        following = asyncio.create_task(_follow_parent(process)) if batch else None
        log.info("serving namespace %s, up to %d calls per lane", session.namespace, settings.worker.concurrency)
        try:
            await process.main()
        finally:
            if following:
                following.cancel()
            await process.depart()
        log.info("ended: %d answered, %d failed", process.jobs_complete, process.jobs_failed)
        if shop.routes.stopped:
            raise FareboxError("; ".join(sorted(set(shop.routes.stopped.values()))))


async def _follow_parent(process: Process) -> None:
    """Heed the run that started this worker, be it by its SIGTERM or its death; Ctrl-C is the run's to hand on."""
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, process.handle_sig, signal.SIGTERM)
    parent = os.getppid()
    while os.getppid() == parent:  # noqa: ASYNC110 - a parent's death is no event of ours
        await asyncio.sleep(1)
    process.drain()


def _supervise(settings: Settings, processes: int, *, burst: bool, quiet: bool) -> int:
    """Start worker processes, hand signals on, and wait; the exit code is the worst of theirs."""
    flags = [*child_flags(settings), *(["--burst"] if burst else []), *(["--quiet"] if quiet else [])]
    command = [sys.executable, "-m", "farebox_worker", "worker", *flags]
    environment = child_environment(settings)
    children = [
        subprocess.Popen(command, env=environment, start_new_session=True)  # noqa: S603 - ourselves
        for _ in range(processes)
    ]

    def hand_on(signum: int, frame: Any) -> None:
        del frame
        for child in children:
            if child.poll() is None:
                child.send_signal(signum)

    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, hand_on)
    return max(abs(child.wait()) for child in children)
