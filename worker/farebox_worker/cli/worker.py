"""`farebox worker`: serve lanes until told to stop."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import signal
import sys
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any

import click
from redis.exceptions import RedisError

from farebox.errors import ConfigError, FareboxError, InputError
from farebox_worker.cli.options import common, log_to_stderr, run_async, secrets_of
from farebox_worker.cli.supervise import supervise
from farebox_worker.events import event
from farebox_worker.process.process import Process
from farebox_worker.providers.factory import preload
from farebox_worker.session import open_session
from farebox_worker.settings import Settings
from farebox_worker.shop import Shop

log = logging.getLogger(__name__)

LAST_PORT = 65_535


@dataclass(frozen=True, slots=True, kw_only=True)
class Flags:
    """The flags of `farebox worker`. `metrics_port` None serves no metrics; `parent` is a process id, 0 for nobody."""

    processes: int
    burst: bool
    batch: str
    parent: int
    quiet: bool
    verbose: bool
    log_json: bool
    metrics_port: int | None
    metrics_host: str


@click.command()
@click.option(
    "--processes", type=click.IntRange(1, 256), default=1, show_default=True, metavar="N", help="Worker processes here."
)
@click.option("--burst", is_flag=True, help="End when nothing is left to do.")
@click.option("--batch", default="", hidden=True, help="Serve this batch and nothing else.")
@click.option("--parent", type=int, default=0, hidden=True, help="Drain when this process is gone.")
@click.option("--quiet", is_flag=True, help="Log warnings and errors only.")
@click.option("--verbose", is_flag=True, help="Log what happens to each job.")
@click.option("--log-json", is_flag=True, help="Log one JSON object per line.")
@click.option(
    "--metrics-port", type=click.IntRange(0, LAST_PORT), metavar="PORT",
    help="Serve /metrics, /healthz and /readyz; 0 takes a free port, N processes take N from this one on.",
)  # fmt: skip
@click.option("--metrics-host", metavar="HOST", help="Where to serve them.  [default: 127.0.0.1]")
@common
def worker(settings: Settings, metrics_port: int | None, metrics_host: str | None, **given: Any) -> None:
    """Serve every lane this machine has keys for, until SIGTERM or Ctrl-C: then running calls finish, exit 0.

    \b
    FAREBOX_REDIS_URL=redis://bus:6379/0 farebox worker --processes 4
    """
    if metrics_port is None and not given["batch"]:  # the workers of one run do not take the fleet's port
        metrics_port = settings.worker.metrics_port
    flags = Flags(metrics_port=metrics_port, metrics_host=metrics_host or settings.worker.metrics_host, **given)
    if flags.quiet and flags.verbose:
        raise click.UsageError("--quiet and --verbose exclude each other.")
    if flags.metrics_port and flags.metrics_port + flags.processes - 1 > LAST_PORT:
        raise click.UsageError(f"--metrics-port: {flags.processes} processes need as many ports up to {LAST_PORT}.")
    log_to_stderr(is_quiet=flags.quiet, is_verbose=flags.verbose, is_json=flags.log_json, secrets=secrets_of(settings))
    if flags.processes > 1 and not flags.parent:
        flags = _one_of_many(settings, flags)
    try:
        run_async(_until_told(settings, flags))
    except (FareboxError, RedisError, OSError) as error:
        if not flags.log_json:
            raise
        code = 2 if isinstance(error, ConfigError | InputError) else 1
        log.error("%s", error, extra=event("ended", why=str(error), code=code))  # noqa: TRY400 - as people see it
        sys.exit(code)


async def _until_told(settings: Settings, flags: Flags) -> None:
    """Serve; a signal that comes before anything is served, while Redis is waited for, ends it in order."""
    loop, task = asyncio.get_running_loop(), asyncio.create_task(_serve(settings, flags))
    is_told = asyncio.Event()

    def end() -> None:
        is_told.set()
        task.cancel()

    for signum in (signal.SIGTERM,) if flags.batch else (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, end)  # the process puts its own in their place
    try:
        await task
    except asyncio.CancelledError:
        if not is_told.is_set():
            raise
        log.info("ended: nothing was served", extra=event("ended", answered=0, failed=0, retried=0, code=0))


async def _serve(settings: Settings, flags: Flags) -> None:
    from farebox_worker.observe.worker import observed  # noqa: PLC0415 - `--help` needs it not

    async with (
        observed(flags.metrics_host, flags.metrics_port, secrets_of(settings)) as observe,
        open_session(settings, waits_s=math.inf) as session,
        Shop(settings) as shop,
    ):
        await session.ledger.epoch()
        await shop.discover()
        process = Process(
            session.redis, settings, shop.routes,
            only_batch=flags.batch, burst=flags.burst, revive=session.revive, handle_signals=not flags.batch,
        )  # fmt: skip
        observe(process)
        if flags.batch:  # Ctrl-C is the run's to hand on
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, process.handle_sig, signal.SIGTERM)
        following = asyncio.create_task(_follow(flags.parent, process)) if flags.parent else None
        log.info(
            "serving namespace %s, up to %d calls per lane", session.namespace, settings.worker.concurrency,
            extra=event(
                "serving", namespace=session.namespace, concurrency=settings.worker.concurrency,
                worker=process.worker_id, version=version("farebox"),
            ),
        )  # fmt: skip
        try:
            await process.main()
        finally:
            if following:
                following.cancel()
            await process.depart()
        answered, failed = process.jobs_complete, process.jobs_failed
        extra = event("ended", answered=answered, failed=failed, retried=process.jobs_retried, code=0)
        log.info("ended: %d answered, %d failed", answered, failed, extra=extra)
        if flags.burst and shop.routes.stopped:  # it leaves jobs that it came for
            raise FareboxError("; ".join(sorted(set(shop.routes.stopped.values()))))


async def _follow(parent: int, process: Process) -> None:
    """Drain when whoever started this worker has died: nobody else would end it."""
    while os.getppid() == parent:  # noqa: ASYNC110 - a parent's death is no event of ours
        await asyncio.sleep(1)
    extra = event("orphaned", parent=parent, in_flight=process.in_flight)
    log.warning("process %d, which started this worker, is gone: draining", parent, extra=extra)
    process.drain()


def _one_of_many(settings: Settings, flags: Flags) -> Flags:
    """Fork the processes; the flags of each, which has a port of its own: the first, the next, and so on."""
    import farebox_worker.observe.worker  # noqa: F401, PLC0415 - what is imported before the fork is shared

    preload(provider.kind for provider in settings.providers.values())
    supervisor = os.getpid()
    number = supervise(flags.processes)
    port = flags.metrics_port + number if flags.metrics_port else flags.metrics_port
    if sys.platform == "darwin":  # its libraries end a process that forked and goes on without exec
        words = ["--parent", str(supervisor), *(["--metrics-port", str(port)] if port is not None else [])]
        os.execv(sys.executable, [*sys.orig_argv, *words])  # noqa: S606 - ourselves
    return replace(flags, parent=supervisor, metrics_port=port)
