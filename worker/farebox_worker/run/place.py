"""Where a run finds itself again: the batch, the ledger and the money of an earlier run of the same OUT."""

from __future__ import annotations

import os
import secrets
import shlex
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

import msgspec

from farebox.batch import CHUNK_JOBS, Batch
from farebox.errors import InputError
from farebox.ledger import GLOBAL
from farebox.money import dollars_from_nusd
from farebox.records import job_id as name_job
from farebox_worker.bus.withdraw import withdraw
from farebox_worker.files import sidecar as sidecars
from farebox_worker.files.content import Compared
from farebox_worker.files.lines import Line
from farebox_worker.files.output import OutputFile
from farebox_worker.files.sidecar import Sidecar, sidecar_path
from farebox_worker.files.written import notes_of
from farebox_worker.run.follow import Follow
from farebox_worker.run.retried import Counted
from farebox_worker.run.screen import Screen
from farebox_worker.session import Session, flags_from_here


def earlier(out: Path) -> Sidecar | None:
    """What an earlier run of this OUT left beside it; None when OUT itself is gone, for then it starts anew."""
    return sidecars.read(sidecar_path(out)) if out.exists() else None


def done_before(known: Sidecar | None, namespace: str, out: OutputFile | None) -> Callable[[str], bool]:
    """Make what tells of a custom id whether an earlier run wrote its line."""
    if out is None:
        return lambda _: False
    batch_id, done = _batch_of(known, namespace, out), out.done
    return lambda custom_id: done.contains(name_job(namespace, batch_id, custom_id))


def _batch_of(known: Sidecar | None, namespace: str, out: OutputFile) -> str:
    """Name the batch of an earlier run, "" when there was none. Without the sidecar the lines of OUT still name it."""
    return known.batch_id if known is not None and known.namespace == namespace else out.done.batch


async def find(session: Session, known: Sidecar | None, source: Path, out: OutputFile) -> Sidecar:
    """The place of this run: the earlier one, with the epoch of the ledger it meets now, or a new batch."""
    epoch = await session.ledger.epoch()
    if known is not None and known.namespace == session.namespace:
        return msgspec.structs.replace(known, epoch=epoch)
    return Sidecar(
        batch_id=_batch_of(known, session.namespace, out) or f"run-{secrets.token_hex(6)}",
        epoch=epoch,
        namespace=session.namespace,
        input=str(source.resolve()),  # noqa: ASYNC240 - nothing else runs yet
        created=datetime.now(UTC),
        data_dir=str(session.settings.redis.data_dir) if session.server else None,
    )


async def settle_in(session: Session, batch: Batch, out: OutputFile, place: Sidecar, screen: Screen) -> bool:
    """Open the batch there; True when it was sealed.

    Says what a killed run left behind, and carries its spending over into a new ledger.
    """
    if held := session.dead_holds:
        screen.say(
            f"{len(held)} calls were running when the last run was killed. Whether they were billed is unknown: "
            f"{dollars_from_nusd(sum(held))} stay unconfirmed, and count against the budget"
        )
    record = batch.keys.batch(batch.batch_id)
    is_new = not await session.redis.exists(record)
    if await session.redis.hexists(record, "cancelled"):
        raise InputError(_how_to_go_on(out.path, flags_from_here(session.settings)))
    if is_new and out.spent_nusd:  # before the batch exists: a crash in between counts twice rather than never
        await session.ledger.carry_over([GLOBAL, f"batch:{batch.batch_id}"], out.spent_nusd)
        spent = dollars_from_nusd(out.spent_nusd)
        screen.say(f"this ledger is a new one: the {spent} that {out.path.name} says were spent are carried over")
    was_sealed = await batch.open(Path(place.input).name)
    sidecars.write(sidecar_path(out.path), place)
    return was_sealed


def _how_to_go_on(out: Path, flags: str) -> str:
    return (
        f"{out.name} belongs to a cancelled batch: after "
        f"`farebox retry {shlex.quote(os.path.relpath(out))} --class cancelled{flags}` the same command goes on. "
        "Another -o starts again, and pays again for what is answered."
    )


def note_compared(out: OutputFile, place: Sidecar, compared: Compared | None) -> None:
    """Remember, before anything more is submitted, that all that was is as the lines of this input say."""
    if compared != place.compared:
        sidecars.write(sidecar_path(out.path), msgspec.structs.replace(place, compared=compared))


async def reconcile(
    batch: Batch,
    out: OutputFile,
    lines: Iterable[Line],
    screen: Screen,
    *,
    is_redo: bool = False,
    is_unchanged: bool = False,
) -> bool:
    """Lay the lines beside what earlier runs left, in one pass; tell whether all of it is as they say.

    With `is_unchanged` all is known to be of lines like these, so that only what waits is compared.

    What has ended is written to OUT first. What they submitted and this run does not ask so is withdrawn: lines taken
    out, changed, beyond --first. Lines that changed since they were answered are refused; with `is_redo` they are asked
    again: OUT loses their lines first, and whoever is killed before the bus has forgotten them says --redo again.

    Raises: InputError naming the lines; OutputError.
    """
    await Follow(batch, out).catch_up()
    flows = [flow.decode() for flow in await batch.redis.smembers(batch.keys.flows(batch.batch_id))]
    waiting = {flow: {job.decode() for job in await batch.redis.zrange(flow, 0, -1)} for flow in flows}
    unwanted, anew = set[str]().union(*waiting.values()), set[str]()
    if not unwanted and not is_redo and (is_unchanged or not out.lines):
        return True
    changed: list[Line] = []
    known = (
        (job_id, line)
        for job_id, line in _named(batch, lines)
        if is_redo or job_id in unwanted or (not is_unchanged and job_id in out.done)
    )
    while some := list(islice(known, min(CHUNK_JOBS, len(unwanted)) if is_unchanged else CHUNK_JOBS)):
        differs = await batch.differing([line.job for _, line in some if line.job])
        for (job_id, line), is_other in zip(some, differs, strict=True):
            if not is_other:
                unwanted.discard(job_id)
            elif job_id in unwanted:
                anew.add(job_id)
            else:
                changed.append(line)
    if changed and not is_redo:
        numbers = list(dict.fromkeys(str(line.number) for line in changed))
        raise InputError(
            f"line {', '.join(numbers[:10])}{' …' if numbers[10:] else ''} changed since it was answered: --redo asks "
            "changed lines again (and pays for them), or restore the line."
        )
    withdrawn = 0
    for flow, ids in waiting.items():
        withdrawn += await withdraw(batch.tongue, flow, sorted(ids & unwanted - anew))
        withdrawn += await withdraw(batch.tongue, flow, sorted(ids & anew), is_asked_anew=True)
    if withdrawn:
        screen.say(f"{withdrawn:,} jobs of an earlier run were still waiting and are not asked so now: withdrawn")
    if changed:
        ids = {batch.job_id(line.job.custom_id) for line in changed if line.job}
        answered = Counted(notes_of(out.path, ids))
        out.rewrite_without(ids)
        await answered.forget_in(batch)
        await batch.forget(sorted(ids.difference(answered.ids)), counted=["succeeded"])  # who was killed just here
        screen.say(f"{len(changed)} lines changed since they were answered: they are asked again")
    return not anew and not changed  # a call of what changed may still be answered


def _named(batch: Batch, lines: Iterable[Line]) -> Iterator[tuple[str, Line]]:
    return ((batch.job_id(line.job.custom_id), line) for line in lines if line.job)
