"""A circuit breaker: after many failures in a row single calls try, with pauses between them, until one is answered."""

from __future__ import annotations

import math
import random
import time

MOST_PAUSE_S = 5.0  # between two single calls


class Circuit:
    """The calls to one place, as one process sees them.

    Args:
        most: so many failures in a row break it.
        found_s: a single call that runs so long without a failure beside it is as good as answered.

    Attributes:
        failures: in a row; while there are none, nothing needs to be told of a call.
    """

    __slots__ = ("_again_s", "_broken_s", "_found_s", "_most", "_since_s", "_tries", "_trying_s", "failures")

    def __init__(self, most: int, *, found_s: float = math.inf) -> None:
        self._most, self._found_s = most, found_s
        self._close()

    def _close(self) -> None:
        self.failures = self._tries = 0
        self._since_s = self._broken_s = self._trying_s = math.inf
        self._again_s = -math.inf

    @property
    def is_broken(self) -> bool:
        """Whether only single calls may try."""
        return self.failures >= self._most and time.monotonic() - self._trying_s < self._found_s

    @property
    def failing_s(self) -> float:
        """For how long every call has failed; 0 where the newest did not."""
        return max(0.0, time.monotonic() - self._since_s)

    @property
    def again_in_s(self) -> float:
        """When the next single call may try, if it is broken; infinity otherwise."""
        return max(0.0, self._again_s - time.monotonic()) if self.is_broken else math.inf

    def sent(self) -> None:
        """A call is on its way."""
        if self.is_broken and not self.again_in_s:
            self._trying_s = min(self._trying_s, time.monotonic())
            self._pause()

    def failed(self) -> bool:
        """A call has failed; True when that broke it."""
        self.failures += 1
        self._since_s, self._trying_s = min(self._since_s, time.monotonic()), math.inf
        if self.failures == self._most:
            self._broken_s = time.monotonic()
            self._pause()
            return True
        return False

    def answered(self, took_s: float) -> bool:
        """A call was answered after so long; True when that closed it. What was sent before it broke tells nothing."""
        if not self.failures or time.monotonic() - took_s < self._broken_s < math.inf:
            return False
        was_broken = self.failures >= self._most
        self._close()
        return was_broken

    def _pause(self) -> None:
        pause_s = min(MOST_PAUSE_S, 2.0**self._tries) * (0.75 + random.random() / 2)
        self._again_s, self._tries = time.monotonic() + pause_s, self._tries + 1
