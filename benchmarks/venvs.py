"""Environments of their own for the peers, in `.venvs/`, made once: what each needs would not fit beside Farebox."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from measure import HERE, IS_REHEARSAL

VENVS = HERE / ".venvs"
NEEDS = {
    "arq": ("arq==0.28.0", "hiredis", "uvloop"),
    "saq": ("saq[hiredis]==0.26.4", "typing_extensions", "uvloop"),  # it forgets to ask for typing_extensions
    "streaq": ("streaq==7.2.0", "uvloop"),
    "taskiq": ("taskiq==0.13.0", "taskiq-redis==1.2.4", "hiredis", "uvloop"),
    "litellm": ("litellm==1.106.2", "redis==8.1.0", "uvloop"),
    "curator": ("bespokelabs-curator==0.1.31",),
}


def python_of(peer: str) -> Path | None:
    """The interpreter of a peer's environment, which is made if need be; None when it cannot be installed.

    A rehearsal takes what is there and installs nothing.
    """
    place, needs = VENVS / peer, " ".join(NEEDS[peer])
    python, stamp = place / "bin" / "python", place / "installed"
    if stamp.exists() and stamp.read_text(encoding="utf-8") == needs:
        return python
    if IS_REHEARSAL:
        return None
    began = time.perf_counter()
    print(f"  installing {needs} into benchmarks/.venvs/{peer}", file=sys.stderr, flush=True)
    pip = [python, "-m", "pip", "--quiet", "--quiet", "--disable-pip-version-check", "install"]
    if _fails([sys.executable, "-m", "venv", "--clear", place]) or _fails([*pip, *NEEDS[peer]]):
        return None
    stamp.write_text(needs, encoding="utf-8")
    print(f"  done in {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    return python


def _fails(command: Sequence[str | Path]) -> bool:
    return subprocess.run(command, check=False, stdout=sys.stderr).returncode != 0
