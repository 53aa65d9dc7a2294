"""Shifts the wall clock of a Python process by TEST_SKEW_S seconds: a machine whose clock is wrong."""

import os
import time

_true = time.time
_skew_s = float(os.environ.get("TEST_SKEW_S", "0"))
time.time = lambda: _true() + _skew_s
time.time_ns = lambda: int((_true() + _skew_s) * 1e9)
