"""The clock of a no-op job: it runs from the first job to the last one, in the worker's own process."""

from __future__ import annotations

import asyncio
import json
import time
from importlib.metadata import version


class Clock:
    """Counts jobs; `over` is set by the last one."""

    def __init__(self, jobs: int, *packages: str) -> None:
        self._jobs = self._left = jobs
        self._packages = packages
        self._began = (0.0, 0.0)
        self._ended = (0.0, 0.0)
        self.over = asyncio.Event()

    def tick(self) -> None:
        """Count a job that runs."""
        if self._left == self._jobs:
            self._began = _now()
        self._left -= 1
        if not self._left:
            self._ended = _now()
            self.over.set()

    def tell(self) -> None:
        """Print jobs per second, CPU milliseconds per job, and what was measured."""
        wall_s, cpu_s = (ended - began for ended, began in zip(self._ended, self._began, strict=True))
        versions = " ".join(f"{name} {version(name)}" for name in self._packages)
        print(json.dumps({"rate": self._jobs / wall_s, "cpu": 1000 * cpu_s / self._jobs, "versions": versions}))


def _now() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()
