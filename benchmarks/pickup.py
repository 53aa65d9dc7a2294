"""Pick-up: from the submit of one job to the start of its provider call, in a worker that was idle."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
import time
from statistics import quantiles

import measure
from measure import Report

JOBS = measure.sized(200, 10)


def measured(repeats: int) -> Report:
    """Submit one job after the other; a worker process says when it began each."""
    found = measure.repeat(repeats, lambda: asyncio.run(_once()), "pickup")
    report = Report(
        "pickup: one job and an idle worker",
        f"{JOBS} jobs, one at a time and 20 to 40 ms apart, submitted in one process; the worker is another, and the "
        "clock stops where its adapter begins the call. Both on one machine, through a unix socket.",
    )
    report.add("ms from submit to call, p50", found["p50"], "≤ 5")
    report.add("ms from submit to call, p99", found["p99"], "≤ 25")
    return report


async def _once() -> dict[str, float]:
    from farebox.batch import Batch  # noqa: PLC0415 - the worker below imports this file too
    from farebox.connection import connect  # noqa: PLC0415 - likewise
    from farebox.ledger import Ledger  # noqa: PLC0415 - likewise
    from farebox.records import VERSION, Job  # noqa: PLC0415 - likewise

    delays_ms = []
    with measure.server() as server:
        redis = connect(server.url)
        await Ledger(redis).create()
        worker = _start(server.url)
        assert worker.stdout is not None
        try:
            batch = Batch(redis, "pickup")
            await batch.open()
            for number in range(-3, JOBS):  # the first ones wake it up
                job = Job(VERSION, f"job{number}", "echo:echo", "chat", b'{"messages":[{"role":"user","content":"?"}]}')
                submitted = time.monotonic()
                await batch.submit([job])
                began = float(await asyncio.to_thread(worker.stdout.readline))
                if number >= 0:
                    delays_ms.append(1000 * (began - submitted))
                await asyncio.sleep(random.uniform(0.02, 0.04))
        finally:
            worker.terminate()
            worker.wait()
            await redis.aclose()
    cuts = quantiles(delays_ms, n=100)
    return {"p50": cuts[49], "p99": cuts[98]}


def _start(url: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, __file__, url], stdout=subprocess.PIPE)


def _work(url: str) -> None:
    """Serve with an echo that says when a call begins."""
    from farebox_worker.cli.options import run_async  # noqa: PLC0415 - the child alone needs it
    from farebox_worker.configuration import load  # noqa: PLC0415 - the child alone needs it
    from farebox_worker.process.process import Process  # noqa: PLC0415 - the child alone needs it
    from farebox_worker.providers.echo import EchoProvider  # noqa: PLC0415 - the child alone needs it
    from farebox_worker.routes import Routes  # noqa: PLC0415 - the child alone needs it
    from farebox_worker.session import open_session  # noqa: PLC0415 - the child alone needs it
    from farebox_worker.shop import Shop  # noqa: PLC0415 - the child alone needs it

    class Clocked(EchoProvider):
        async def post(self, prepared, *, timeout_s):
            os.write(1, f"{time.monotonic()}\n".encode())
            return await super().post(prepared, timeout_s=timeout_s)

    async def serve() -> None:
        settings = load(redis_url=url)
        async with open_session(settings) as session, Shop(settings) as shop:
            routes = Routes(shop.catalogue, shop.prices, lambda _: Clocked())
            await Process(session.redis, settings, routes).main()

    run_async(serve())


if __name__ == "__main__":
    _work(sys.argv[1])
