"""reassert: tell the server of attempts that it may have lost. What it still knows stays as it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from farebox.errors import LedgerLostError
from farebox.scripts import Argument, Script, Tongue
from farebox_worker.bus.places import Places
from farebox_worker.bus.scripts import REASSERT, SETTLE

SLICE = 500


@dataclass(frozen=True, slots=True)
class Known:
    """What a worker knows of an admitted attempt. `why` is "" while it runs, else why its cost stays unknown."""

    job_id: str
    flow: str
    token: str
    hold_nusd: int
    scopes: tuple[str, ...]
    why: str = ""


class Remains(Tongue):
    """Speaks to whatever is left of a ledger, whose identity is not asked for: only what lets nothing be sent.

    That may be another epoch: most likely this namespace's own ledger, which an operator adopted before this process
    noticed. The money was spent in this namespace all the same; and what is counted once too often can be seen and
    released, while what is not counted cannot.
    """

    async def say(self, script: Script, *arguments: Argument) -> list[Any]:
        """Run `settle` or `reassert`. Raises: LedgerLostError for every other verb; redis errors pass through."""
        if script not in {SETTLE, REASSERT}:
            raise LedgerLostError(f"{script.name} is refused: the ledger lost writes.")
        return await self.say_anyway(script, *arguments)


async def reassert(tongue: Tongue, attempts: Sequence[Known], *, lease_ms: int) -> list[Known]:
    """Put attempts back and extend their leases; return those of which the server knew nothing. Safe to send again.

    A ledger that is the right one and did not know an attempt is marked lost. Raises: LedgerError unless the tongue
    speaks to remains; redis errors pass through.
    """
    unknown: list[Known] = []
    for start in range(0, len(attempts), SLICE):
        part = attempts[start : start + SLICE]
        places = Places()
        arguments: list[Argument] = []
        for one in part:
            hold_nusd = max(one.hold_nusd, 0)
            arguments += (one.job_id, one.flow, one.token, hold_nusd, one.why, places.of(one.scopes))
        answer = await tongue.say(REASSERT, lease_ms, len(places.scopes), *places.scopes, *arguments)
        unknown += [part[int(position)] for position in answer[1:]]
    return unknown
