"""lapse: end the leases of dead workers. Their holds become unconfirmed, their jobs are due again."""

from __future__ import annotations

from dataclasses import dataclass

from farebox.scripts import Tongue
from farebox_worker.bus.scripts import LAPSE


@dataclass(frozen=True, slots=True)
class Lapsed:
    """An attempt whose worker is gone. `hold_nusd` is None when nothing had been admitted, so nothing was sent."""

    job_id: str
    hold_nusd: int | None


async def lapse(tongue: Tongue, *, dead: bool = False, batch: str = "") -> list[Lapsed]:
    """End leases that ran out; with `dead`, all of them (of one batch), because no process can be alive to hold one.

    Whatever the fleet's size it acts once a second; in between it answers with nothing.
    Raises: LedgerError; redis errors pass through.
    """
    answer = await tongue.say(LAPSE, "1" if dead else "", batch)
    return [Lapsed(answer[i].decode(), int(answer[i + 1]) if answer[i + 1] else None) for i in range(1, len(answer), 2)]
