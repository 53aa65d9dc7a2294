"""move: let jobs that wait in one lane wait in another, which may answer them too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from farebox.scripts import Tongue
from farebox_worker.bus.scripts import MOVE

Kind = Literal["movable", "spread", "last"]  # the last lane that may answer a job: from there it goes nowhere


async def move(tongue: Tongue, flow: str, goal: str, kind: Kind, job_ids: Sequence[str]) -> int:
    """Move those of these jobs that are due and wait in `flow` to `goal`, of the same batch; return how many.

    Nothing leaves a parked flow or enters one. Without jobs, a flow that is empty is forgotten as one of its kind.
    Raises: LedgerError; redis errors pass through.
    """
    _, moved = await tongue.say(MOVE, flow, goal, kind, *job_ids)
    return int(moved)
