"""The clock that leases are measured by: steady, and not stopped by SIGSTOP, a busy process or a suspended machine.

`time.monotonic` sleeps with the laptop or the paused VM, and would believe afterwards in a lease that ended long ago.
"""

from __future__ import annotations

import time

# Linux counts suspend in BOOTTIME only; elsewhere, on macOS, MONOTONIC itself does.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def clock() -> float:
    """Seconds since some moment before the start; comparable within this machine only."""
    return time.clock_gettime(_CLOCK)
