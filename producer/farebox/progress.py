"""How far batches are: what their record and their money's scope say at one moment."""

from __future__ import annotations

from dataclasses import dataclass

from farebox.commands import Redis
from farebox.keys import Keys
from farebox.ledger import Ledger, Scope


@dataclass(frozen=True, slots=True)
class Progress:
    """A batch at one moment. `total` is None until it is sealed; `scope` is its money."""

    batch_id: str
    name: str
    created_ms: int
    total: int | None
    submitted: int
    succeeded: int
    failed: int
    cancelled_jobs: int
    cancelled: bool
    finishes: dict[str, int]
    capped_by_default: int
    scope: Scope
    reused: int = 0

    @property
    def finished(self) -> int:
        """Jobs that have ended, however."""
        return self.succeeded + self.failed + self.cancelled_jobs

    @property
    def complete(self) -> bool:
        """Whether every job has ended, and no more can come: the batch is sealed or cancelled."""
        total = self.submitted if self.total is None and self.cancelled else self.total
        return total is not None and self.finished >= total


async def list_batches(redis: Redis, *, namespace: str = "farebox") -> list[Progress]:
    """Every batch that is still remembered, newest first."""
    keys = Keys(namespace)
    ids = [batch_id.decode() for batch_id in await redis.zrevrange(keys.batches, 0, -1)]
    found = []
    for batch_id in ids:
        record = await redis.hgetall(keys.batch(batch_id))
        if record:
            found.append(progress_of(batch_id, record, await Ledger(redis, namespace).scope(f"batch:{batch_id}")))
        else:
            await redis.zrem(keys.batches, batch_id)
    return found


def progress_of(batch_id: str, record: dict[bytes, bytes], scope: Scope) -> Progress:
    """Read a batch's record."""
    text = {name.decode(): value.decode() for name, value in record.items()}
    finishes = {name.removeprefix("finish:"): int(n) for name, n in text.items() if name.startswith("finish:")}
    return Progress(
        batch_id=batch_id,
        name=text.get("name", ""),
        created_ms=int(text.get("created_ms", 0)),
        total=int(text["total"]) if "sealed" in text else None,
        submitted=int(text.get("submitted", 0)),
        succeeded=int(text.get("succeeded", 0)),
        failed=int(text.get("failed", 0)),
        cancelled_jobs=int(text.get("cancelled_jobs", 0)),
        cancelled="cancelled" in text,
        finishes=finishes,
        capped_by_default=int(text.get("capped_by_default", 0)),
        scope=scope,
        reused=int(text.get("reused", 0)),
    )
