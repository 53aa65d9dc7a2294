"""Four worker processes share a provider's limits, and the simulator judges: `benchmarks/paced.py`, for a shorter time.

The bounds are loose, for a busy machine loses some of the allowance; what is refused must be rare on any.
"""

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
WATCH = """
import asyncio, paced
case = paced.CASES[{number}]
found = asyncio.run(paced.watch(case, warm_up_s=5, watched_s=10))
print(found.refused, paced.used(case, found))
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("number", [1, 2, 4], ids=["learned", "configured, shared by two lanes", "tokens"])
def test_four_processes_use_what_is_allowed_and_are_hardly_refused(number):
    command = [sys.executable, "-c", WATCH.format(number=number)]
    ended = subprocess.run(command, cwd=BENCHMARKS, capture_output=True, text=True, timeout=280, check=True)
    refused, used = map(float, ended.stdout.split())
    assert refused < 0.02
    assert used > 0.7  # above 1 on a busy machine, which watches for longer than it says
