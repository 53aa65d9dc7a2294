"""Several worker processes under one: signals are handed on, and who was killed is started again.

They are forked, so that what was imported before is in memory once, and in a core's cache once: 40 processes on two
cores do a third more. They stay in one session, which Linux gives one share of the CPU: with one each, the server
on the same machine would have a fortieth.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import time
from typing import Any

from farebox_worker.events import event

log = logging.getLogger(__name__)

LOOK_S = 0.1
FIRST_WAIT_S = 1.0
LONGEST_WAIT_S = 60.0
ENDING = (signal.SIGTERM, signal.SIGINT)
ENDED_BY_US = tuple(-signum for signum in ENDING)  # it was told before it could listen
HEALTHY_S = 60.0  # who lived so long has not failed at once


class Child:
    """One worker process and those that replace it. `code` is how the last of them ended, None until then."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.code: int | None = None
        self._pid = 0  # 0 while none lives
        self._due_s = time.monotonic()
        self._wait_s = FIRST_WAIT_S

    @property
    def is_due(self) -> bool:
        """Whether it is to be forked now."""
        return self.code is None and not self._pid and time.monotonic() >= self._due_s

    def began(self, pid: int) -> None:
        """Note that it was forked."""
        self._pid, self._began_s = pid, time.monotonic()

    def failed(self, error: OSError) -> None:
        """Note that there was no memory, or no place among the processes, to fork it."""
        wait_s = self._put_off()
        extra = event("process_not_started", why=str(error), seconds=wait_s)
        log.error("no worker process can be started: %s; another try in %.0f s", error, wait_s, extra=extra)

    def send_signal(self, signum: int) -> None:
        """Hand a signal on, if it lives."""
        if self._pid:
            os.kill(self._pid, signum)

    def look(self, *, is_stopping: bool) -> None:
        """Notice its end; a killed one is due again some time later."""
        if self._pid:
            pid, status = os.waitpid(self._pid, os.WNOHANG)
            if pid:
                self._pid = 0
                self._ended(pid, os.waitstatus_to_exitcode(status), is_stopping=is_stopping)
        elif is_stopping and self.code is None:
            self.code = 0

    def _ended(self, pid: int, code: int, *, is_stopping: bool) -> None:
        if code < 0 and not is_stopping:
            if time.monotonic() - self._began_s >= HEALTHY_S:
                self._wait_s = FIRST_WAIT_S
            wait_s = self._put_off()
            extra = event("process_killed", process=pid, signal=-code, seconds=wait_s)
            words = "worker process %d was killed by signal %d: another one starts in %.0f s"
            log.error(words, pid, -code, wait_s, extra=extra)
            return
        self.code = 0 if code in ENDED_BY_US else abs(code)
        if self.code:
            extra = event("process_ended", process=pid, code=self.code)
            log.error("worker process %d ended with code %d, and is not replaced", pid, self.code, extra=extra)

    def _put_off(self) -> float:
        wait_s, self._wait_s = self._wait_s, min(LONGEST_WAIT_S, 2 * self._wait_s)
        self._due_s = time.monotonic() + wait_s
        return wait_s


def supervise(processes: int) -> int:
    """Fork so many worker processes; return in each of them, with its number from 0.

    The supervisor does not return: it exits, when all have ended, with the worst of their codes. SIGTERM and SIGINT
    are handed on. A process that a signal killed (out of memory, a crash) is started again after 1 s, then 2, 4 …
    60 s; one that ended by itself has said why, and is not.
    """
    told: list[int] = []
    before = [signal.signal(signum, lambda number, _: told.append(number)) for signum in ENDING]
    children = [Child(number) for number in range(processes)]
    handed_on = 0
    gc.freeze()  # what is shared would be copied when a collection touched it
    while any(child.code is None for child in children):
        for signum in told[handed_on:]:
            handed_on += 1
            for child in children:
                child.send_signal(signum)
        for child in children:
            if child.is_due and not told and _is_child(child, before):
                return child.number
            child.look(is_stopping=bool(told))
        time.sleep(LOOK_S)
    sys.exit(max(child.code or 0 for child in children))


def _is_child(child: Child, handlers: list[Any]) -> bool:
    """Fork, and say on which side this is; a signal waits until the child has its own handlers again."""
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        pid = os.fork()
    except OSError as error:
        pid = -1
        child.failed(error)
    if pid > 0:
        child.began(pid)
    elif pid == 0:
        os.setpgid(0, 0)  # Ctrl-C is the supervisor's to hand on
        for signum, handler in zip(ENDING, handlers, strict=True):
            signal.signal(signum, handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
    return pid == 0
