"""Failed lines that are to be replaced: taken out of OUT, so that each job has one line whatever happens between.

OUT stays the authority: a job without a line is asked, or collected, again. The file is replaced as a whole.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from farebox.amend import is_of_class
from farebox.batch import Batch
from farebox.records import decode_job, decode_result
from farebox_worker.files.failures_in import CANCELLED, class_of, failed_lines
from farebox_worker.files.output import OutputFile
from farebox_worker.files.tally import Note
from farebox_worker.run.follow import Follow

_SLICE = 500


@dataclass(slots=True)
class TakenOut:
    """What was taken out of OUT, counted by class, and what else failed there; whether its batch was cancelled, too."""

    taken: Counter[str] = field(default_factory=Counter)
    others: Counter[str] = field(default_factory=Counter)
    reopened: bool = False


class Counted:
    """Jobs that have their line, by what their batch counts them as."""

    def __init__(self, notes: Iterable[Note] = ()) -> None:
        self._ids: dict[tuple[str, ...], list[str]] = {}
        for note in notes:
            self.add(note)

    def add(self, note: Note) -> None:
        """Add the job of a line."""
        words = ["cancelled_jobs"] if note.outcome == "cancelled" else [str(note.outcome)]
        if note.outcome == "succeeded":
            words.append(f"finish:{note.finish or 'empty'}")
            if note.reused_from:
                words.append("reused")
            elif note.capped_by_default:
                words.append("capped_by_default")
        self._ids.setdefault(tuple(words), []).append(note.job)

    @property
    def ids(self) -> list[str]:
        """All of them."""
        return [job for ids in self._ids.values() for job in ids]

    async def forget_in(self, batch: Batch) -> None:
        """Let their batch forget them, and count them no more."""
        for words, ids in self._ids.items():
            await batch.forget(ids, counted=words)


async def take_out_failed(batch: Batch | None, out: OutputFile, classes: Collection[str]) -> TakenOut:
    """Take failed lines out of OUT, for the same `farebox run` to ask them again; no class means all of them.

    Answers that do not match the schema go only when the class `invalid` is named: they are paid, and of some use. With
    the class `cancelled` those go that were cancelled, and a cancelled batch goes on.

    First everything that has ended is written there and acknowledged, so that no old failure comes back; then the bus
    forgets these jobs; the file goes last. Killed in between, the same command goes on. `batch` is None when the bus
    knows nothing of it any more. Raises: FareboxError; redis errors pass through.
    """
    if batch is not None:
        await Follow(batch, out).catch_up()
    found, wanted = TakenOut(), Counted()
    for note in failed_lines(out.path, also=classes):
        failure_class = class_of(note)
        if is_of_class(failure_class, note.error_code, classes):
            found.taken[failure_class] += 1
            wanted.add(note)
        else:
            found.others[failure_class] += 1
    if batch is not None:
        await wanted.forget_in(batch)
        found.reopened = CANCELLED in classes and await batch.reopen()
    if found.taken:
        out.rewrite_without(wanted.ids)
    return found


async def take_out_retried(batch: Batch, out: OutputFile) -> int:
    """Take out the failed lines of jobs that were put back since: what became of them is still to come, or here."""
    if not out.tally.outcomes["failed"]:
        return 0
    ids = [note.job for note in failed_lines(out.path)]
    retried: list[str] = []
    for start in range(0, len(ids), _SLICE):
        retried += await _retried(batch, ids[start : start + _SLICE])
    return out.rewrite_without(retried) if retried else 0


async def _retried(batch: Batch, ids: Sequence[str]) -> list[str]:
    results = await batch.redis.mget([batch.keys.result(identity) for identity in ids])
    waiting = await batch.redis.mget([batch.keys.job(identity) for identity in ids])
    return [
        identity
        for identity, result, payload in zip(ids, results, waiting, strict=True)
        if (result and decode_result(result).k.get("retried")) or (payload and decode_job(payload).k.get("retried"))
    ]
