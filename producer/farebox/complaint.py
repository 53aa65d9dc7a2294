"""Tells the log, once per client, why a job that is awaited does not go on: who waits would wait without a word."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress

from farebox.errors import FareboxError

log = logging.getLogger(__name__)

PATIENCE_S = 30.0


class Complaint:
    """Looks at the job that has been awaited longest, every 30 s, until one is held up and the log was told."""

    def __init__(self) -> None:
        self._awaited: dict[object, tuple[str, Callable[[], Awaitable[str]]]] = {}
        self._is_made = False
        self._task: asyncio.Task[None] | None = None

    @contextmanager
    def about(self, job: str, why: Callable[[], Awaitable[str]]) -> Iterator[None]:
        """Complain about a job if this takes long; `why` says what holds it up, "" for nothing."""
        mark = object()
        self._awaited[mark] = job, why
        if not self._is_made and (self._task is None or self._task.done()):
            self._task = asyncio.create_task(self._watch(), name="farebox complaint")
        try:
            yield
        finally:
            del self._awaited[mark]

    async def aclose(self) -> None:
        """Watch no longer."""
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _watch(self) -> None:
        while self._awaited and not self._is_made:
            mark, (job, why) = next(iter(self._awaited.items()))
            await asyncio.sleep(PATIENCE_S)
            if mark not in self._awaited:
                continue
            reason = ""
            with suppress(FareboxError):  # a server that is away is told of elsewhere
                reason = await why()
            if reason:
                self._is_made = True
                words = "job %r has been awaited for %.0f s: %s; `status()` tells more (said once)"
                log.warning(words, job, PATIENCE_S, reason)
