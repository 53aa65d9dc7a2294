"""What is made of OUT when a run ends: its lines in the input's order, the table beside it, the copy on stdout.

Each is made anew of IN and OUT alone, so that a crash in between is mended by the next run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from farebox_worker.files.csv_answers import AnswerTable
from farebox_worker.files.destination import Copy, Destination
from farebox_worker.files.output import OutputFile
from farebox_worker.run.plan import Planner
from farebox_worker.run.screen import Screen


@dataclass(frozen=True, slots=True)
class Finish:
    """What is to be made: OUT in order or as the answers came, a table with these columns beside the input's own."""

    where: Destination
    is_ordered: bool = False
    columns: Sequence[str] = ()

    def copy_while_running(self) -> Copy | None:
        """The copy on stdout that grows with OUT; in order it can only be made at the end."""
        return Copy(self.where.out) if self.where.is_copied and not self.is_ordered else None

    def make(
        self, planner: Planner, out: OutputFile, job_id: Callable[[str], str], screen: Screen, *, is_interrupted: bool
    ) -> int | None:
        """Make it; return how many rows the table has. An interrupted run leaves the order to the next one.

        Raises: OutputError, InputError; OUT is whole, whatever happens.
        """
        if self.is_ordered and not is_interrupted:
            asked = (line.custom_id for line in planner.all_lines())
            out.put_in_order(map(job_id, screen.follow(asked, doing="putting in order")))
        if self.is_ordered and self.where.is_copied:
            Copy(self.where.out).catch_up(out.synced_length)
        if self.where.table is None:
            return None
        table = AnswerTable(planner.source, self.columns, planner.models, job_id)
        return table.write(self.where.table, screen.follow(planner.all_lines(), doing="writing the table"), out.index())
