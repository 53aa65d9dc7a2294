"""What a process still does for a ledger that lost writes: it tells what it knows, and lets nothing be sent.

First the settlements of the last seconds are sent again: marks make those harmless that survived, the others are
booked and finish their jobs, so that nobody pays for them again. Then, as long as calls run, their holds are put back
and their leases extended: should this process die, their lapse finds them. Everything is idempotent by token, so
several processes may do this at once, and again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from farebox.money import dollars_from_nusd
from farebox.scripts import Tongue
from farebox_worker.attempts.attempt import Attempt
from farebox_worker.bus.reassert import Known, Remains, reassert
from farebox_worker.bus.settle import Settlement
from farebox_worker.dispatch.recent import Settled, known
from farebox_worker.dispatch.settler import Settler
from farebox_worker.outage import Outage


class Salvage:
    """The salvage of one process.

    Args:
        tongue: the one that met the loss.
        outage: what is known of the server's absence.
        lease_ms: how long a lease lasts.
        running: the attempts that are admitted and not settled.

    Attributes:
        remains: speaks to what is left of the ledger.
        told: set once the server was told everything that was known at the loss.
    """

    def __init__(self, tongue: Tongue, outage: Outage, *, lease_ms: int, running: Mapping[str, Attempt]) -> None:
        self.remains = Remains(tongue.redis, tongue.keys)
        self.told = asyncio.Event()
        self._outage = outage
        self._lease_ms = lease_ms
        self._running = running
        self._held_again: dict[str, int] = {}
        self._sent_again = 0
        self._new: list[Settlement] = []

    async def run(self, settled: Sequence[Settled], *, results_ttl_ms: int) -> None:
        """Settle again what was settled last, then keep up what runs, until cancelled."""
        await self._settle_again(settled, results_ttl_ms)
        while True:
            await self._reassert([known(one) for one in self._running.values()])
            self.told.set()
            await asyncio.sleep(self._lease_ms / 3000)

    async def _settle_again(self, settled: Sequence[Settled], results_ttl_ms: int) -> None:
        owed = [
            Known(end.job_id, end.flow, end.token, one.hold_nusd, end.scopes, end.why or "unknown")
            for one in settled
            if (end := one.settlement).money == "unconfirmed"
        ]
        await self._reassert(owed)
        settler = Settler(self.remains, self._outage, results_ttl_ms=results_ttl_ms, on_settled=self._note)
        for one in settled:
            settler.put(one.settlement)
        writing = asyncio.create_task(settler.run())
        written = asyncio.create_task(settler.flushed())
        try:
            await asyncio.wait([writing, written], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (writing, written):
                task.cancel()
            await asyncio.gather(writing, written, return_exceptions=True)

    def _note(self, settlement: Settlement, word: str) -> None:
        self._sent_again += 1
        if word != "repeat":
            self._new.append(settlement)

    async def _reassert(self, attempts: list[Known]) -> None:
        if not attempts:
            return
        put_back = await self._outage.insist(lambda: reassert(self.remains, attempts, lease_ms=self._lease_ms))
        self._held_again |= {one.token: max(one.hold_nusd, 0) for one in put_back}

    def report(self) -> str:
        """Say what was told to the server, and what of it was new there; "" when there was nothing to tell."""
        if not self._sent_again and not self._held_again:
            return ""
        held = sum(self._held_again.values())
        booked = sum(one.amount_nusd for one in self._new if one.money == "actual")
        return (
            f"{len(self._held_again)} calls were put back into the ledger ({dollars_from_nusd(held)} held); "
            f"of {self._sent_again} settled in the last seconds {len(self._new)} were new to the server "
            f"({dollars_from_nusd(booked)} booked)"
        )
