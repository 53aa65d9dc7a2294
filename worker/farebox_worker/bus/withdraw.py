"""withdraw: forget waiting jobs that nobody wants any more, as if they had never been submitted."""

from __future__ import annotations

from collections.abc import Sequence

from farebox.scripts import Tongue
from farebox_worker.bus.scripts import WITHDRAW

SLICE = 500


async def withdraw(tongue: Tongue, flow: str, job_ids: Sequence[str], *, is_asked_anew: bool = False) -> int:
    """Withdraw those of these jobs that still wait in the flow; return how many.

    With `is_asked_anew` other bodies will take their ids: then a job stays whose call may still be answered late.
    Raises: LedgerError.
    """
    anew = "anew" if is_asked_anew else ""
    _, batch_id, _ = tongue.keys.parts_of_flow(flow)
    withdrawn = 0
    for start in range(0, len(job_ids), SLICE):
        _, count = await tongue.say(WITHDRAW, flow, batch_id, anew, *job_ids[start : start + SLICE])
        withdrawn += int(count)
    return withdrawn
