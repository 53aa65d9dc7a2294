"""Several worker processes under one: signals are handed on, and who was killed is started again."""

from __future__ import annotations

import logging
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence

from farebox_worker.events import event

log = logging.getLogger(__name__)

LOOK_S = 0.1
FIRST_WAIT_S = 1.0
LONGEST_WAIT_S = 60.0
ENDED_BY_US = (-signal.SIGTERM, -signal.SIGINT)  # it was told before it could listen
HEALTHY_S = 60.0  # who lived so long has not failed at once


class Child:
    """One worker process and those that replaced it. `code` is how the newest ended, None while it lives or waits."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._command = command
        self._environment = environment
        self._wait_s = FIRST_WAIT_S
        self._due_s: float | None = None
        self.code: int | None = None
        self._start()

    def _start(self) -> None:
        self._due_s, self._began_s = None, time.monotonic()
        self._process = subprocess.Popen(self._command, env=self._environment, start_new_session=True)  # noqa: S603 - ourselves

    def send_signal(self, signum: int) -> None:
        """Hand a signal on, if it lives."""
        if self._due_s is None and self._process.poll() is None:
            self._process.send_signal(signum)

    def look(self, *, is_stopping: bool) -> None:
        """Notice its end; a killed one is started again when its time has come."""
        if self.code is not None:
            return
        if self._due_s is not None:
            if is_stopping:
                self.code = 0
            elif time.monotonic() >= self._due_s:
                self._start()
        elif (code := self._process.poll()) is not None:
            if is_stopping and code in ENDED_BY_US:
                self.code = 0
            elif code >= 0 or is_stopping:
                self._ended(code)
            else:
                self._replace(-code)

    def _ended(self, code: int) -> None:
        self.code = abs(code)
        if self.code:
            extra = event("process_ended", process=self._process.pid, code=self.code)
            log.error(
                "worker process %d ended with code %d, and is not replaced", self._process.pid, self.code, extra=extra
            )

    def _replace(self, signum: int) -> None:
        now_s = time.monotonic()
        if now_s - self._began_s >= HEALTHY_S:
            self._wait_s = FIRST_WAIT_S
        self._due_s, wait_s = now_s + self._wait_s, self._wait_s
        self._wait_s = min(LONGEST_WAIT_S, 2 * wait_s)
        extra = event("process_killed", process=self._process.pid, signal=signum, seconds=wait_s)
        words = "worker process %d was killed by signal %d: another one starts in %.0f s"
        log.error(words, self._process.pid, signum, wait_s, extra=extra)


def supervise(commands: Sequence[Sequence[str]], environment: Mapping[str, str]) -> int:
    """Run one worker process per command until all have ended; return the worst of their exit codes.

    SIGTERM and SIGINT are handed on. A process that a signal killed (out of memory, a crash) is started again after
    1 s, then 2, 4 … 60 s; one that ended by itself has said why, and is not.
    """
    told: list[int] = []
    for ending in (signal.SIGTERM, signal.SIGINT):
        signal.signal(ending, lambda number, _: told.append(number))
    children = [Child(command, environment) for command in commands]
    handed_on = 0
    while any(child.code is None for child in children):
        for signum in told[handed_on:]:
            handed_on += 1
            for child in children:
                child.send_signal(signum)
        for child in children:
            child.look(is_stopping=bool(told))
        time.sleep(LOOK_S)
    return max((child.code or 0 for child in children), default=0)
