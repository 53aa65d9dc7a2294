"""What the benchmarks of workers share: a server with a ledger, lanes to fill, workers to start, CPU to count.

Start-up never counts: what waits is paused while workers start, and the clock runs from the resume.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import measure

from farebox.batch import Batch
from farebox.connection import connect
from farebox.ledger import Ledger
from farebox.records import VERSION, Job
from farebox_worker.bus.pause import pause, resume
from farebox_worker.server.server_process import ServerProcess

LANE = "echo:echo"
LOOK_S = 0.03
START_S = 240.0


@dataclass(frozen=True)
class Took:
    """What working off some jobs took: wall and CPU seconds, and the most MB that a worker ever had resident."""

    jobs: int
    wall_s: float
    worker_s: float
    server_s: float
    peak_mb: float

    @property
    def rate(self) -> float:
        """Jobs per second."""
        return self.jobs / self.wall_s

    @property
    def cpu_ms(self) -> float:
        """CPU milliseconds per job, the server's among them."""
        return 1000 * (self.worker_s + self.server_s) / self.jobs


class Fleet:
    """A server with a ledger of its own, and the workers that were started on it."""

    def __init__(self, server: ServerProcess, place: Path) -> None:
        self.server = server
        self.place = place
        self.redis = connect(server.url)
        self.ledger = Ledger(self.redis)
        self.workers: list[subprocess.Popen[bytes]] = []

    async def fill(self, jobs: int, *, batch_id: str = "b", lane: str = LANE, size: int = 1024) -> None:
        """Put jobs of `size` bytes into one flow, which is paused if its lane is."""
        batch = Batch(self.redis, batch_id)
        await batch.open()
        text = request(size)
        await batch.submit(Job(VERSION, f"{lane}-{number:07}", lane, "chat", text) for number in range(jobs))

    def price(self, refs: Sequence[str]) -> None:
        """Let these models exist, at a price, for the workers that are started from now on."""
        facts = "input_usd_per_mtok = 1.0\noutput_usd_per_mtok = 2.0\n"
        text = "".join(f'[models."{ref}"]\n{facts}' for ref in refs)
        (self.place / "farebox.toml").write_text(text, encoding="utf-8")

    async def pause(self, *lanes: str) -> None:
        """Let nothing of these lanes be claimed."""
        for lane in lanes or [LANE]:
            await pause(self.ledger.tongue, lane, seconds=None, why="", by="operator")

    async def start(self, processes: int = 1, **environment: str) -> None:
        """Start workers, and wait until each has said that it lives."""
        command = (
            "-m",
            "farebox_worker",
            "worker",
            "--quiet",
            "--redis",
            self.server.url,
            "--processes",
            str(processes),
        )
        await self.start_command(command, processes, **environment)

    async def start_command(self, arguments: Sequence[str], processes: int = 1, **environment: str) -> None:
        """Start Python with these arguments; it becomes so many workers."""
        command, variables = [sys.executable, *arguments], {**os.environ, **environment}
        self.workers.append(subprocess.Popen(command, cwd=self.place, env=variables))  # noqa: ASYNC220 - at once
        await self._until(self._living, processes, START_S)

    async def work_off(self, jobs: int, *lanes: str, already: int = 0) -> Took:
        """Resume the lanes; what it takes until so many more jobs are answered."""
        pids = self.pids()
        before, server_s = sum(map(measure.cpu_s, pids)), measure.cpu_s(self.server.pid)
        began = time.perf_counter()
        for lane in lanes or [LANE]:
            await resume(self.ledger.tongue, lane)
        await self._until(self.answered, already + jobs, START_S)
        wall_s = time.perf_counter() - began
        done = await self.answered() - already
        worker_s, server_s = sum(map(measure.cpu_s, pids)) - before, measure.cpu_s(self.server.pid) - server_s
        return Took(done, wall_s, worker_s, server_s, max(peak_mb(pid) for pid in pids))

    async def answered(self) -> int:
        """How many calls were booked."""
        return int(await self.redis.hget(self.ledger.keys.scope("global"), "calls") or 0)

    def pids(self) -> list[int]:
        """The processes that work: those started here, or their children."""
        return [pid for one in self.workers for pid in (children(one.pid) or [one.pid])]

    async def _living(self) -> int:
        return int(await self.redis.zcard(self.ledger.keys.workers))

    async def _until(self, count, least: int, seconds: float) -> None:
        began = time.perf_counter()
        while await count() < least:
            if any(one.poll() is not None for one in self.workers):
                raise SystemExit("a worker ended by itself")
            if time.perf_counter() - began > seconds:
                raise SystemExit(f"{await count()} of {least} after {seconds:.0f} s")
            await asyncio.sleep(LOOK_S)

    def stop(self) -> None:
        """End the workers; each must leave with 0."""
        for one in self.workers:
            one.terminate()
        codes = [one.wait() for one in self.workers]
        if any(codes):
            raise SystemExit(f"workers ended with {codes}")


@asynccontextmanager
async def fleet(*options: str, port: int | None = None) -> AsyncIterator[Fleet]:
    """A new server and nobody who works; everything ends with it."""
    with measure.server(*options, port=port) as server, measure.folder() as place:
        made = Fleet(server, place)
        await made.ledger.create()
        try:
            yield made
            made.stop()
        finally:
            for one in made.workers:
                with suppress(ProcessLookupError):
                    one.kill()
            await made.redis.aclose()


def request(size: int) -> bytes:
    """A chat request of so many bytes."""
    begin, end = b'{"messages":[{"role":"user","content":"', b'"}],"max_tokens":100}'
    return begin + b"x" * (size - len(begin) - len(end)) + end


def children(pid: int) -> list[int]:
    """The processes that a process has started and not yet reaped."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]


def rss_mb(pid: int) -> float:
    """Resident memory of a process, in MB."""
    return _status_mb(pid, "VmRSS")


def peak_mb(pid: int) -> float:
    """The most that a process had resident at any time, in MB."""
    return _status_mb(pid, "VmHWM")


def _status_mb(pid: int, name: str) -> float:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024
