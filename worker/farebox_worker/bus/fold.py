"""fold: sum the oldest bookings into the checkpoints and trim the journal, so that it never outgrows its server."""

from __future__ import annotations

from farebox.scripts import Tongue
from farebox_worker.bus.scripts import FOLD

KEEP_ROWS = 200_000
SLICE = 20


async def fold(tongue: Tongue, *, keep_days: float, keep_rows: int = KEEP_ROWS, slice_entries: int = SLICE) -> int:
    """Fold up to a slice of entries that are older than `keep_days` or beyond `keep_rows`; return how many.

    Raises: LedgerError; redis errors pass through.
    """
    _, folded = await tongue.say(FOLD, slice_entries, keep_rows, int(keep_days * 86_400_000))
    return int(folded)
