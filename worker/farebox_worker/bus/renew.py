"""renew: extend the leases of everything a process runs, in one call."""

from __future__ import annotations

from collections.abc import Sequence

from farebox.scripts import Argument, Tongue
from farebox_worker.bus.claim import Claimed
from farebox_worker.bus.scripts import RENEW


async def renew(tongue: Tongue, running: Sequence[Claimed], *, lease_ms: int) -> list[Claimed]:
    """Extend leases; return the attempts that are no longer ours and must not be sent.

    Raises: LedgerError; redis errors pass through.
    """
    arguments: list[Argument] = []
    for claimed in running:
        arguments += (claimed.job_id, claimed.flow, claimed.token)
    answer = await tongue.say(RENEW, lease_ms, *arguments)
    return [running[int(position)] for position in answer[1:]]
