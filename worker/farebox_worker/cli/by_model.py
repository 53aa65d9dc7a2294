"""What each model did, as a table for people and as JSON, and why jobs failed; of a run, or of a batch's results."""

from __future__ import annotations

from rich.table import Table

from farebox.batch import Batch
from farebox.money import dollars_from_nusd, usd_from_nusd
from farebox.streams import before
from farebox_worker.files.answers import output_line
from farebox_worker.files.tally import Tally
from farebox_worker.files.written import note_of
from farebox_worker.latency import duration

NEWEST_ENTRIES = 500  # of a result stream, each of up to 64 jobs
_CAUSES = 10


def model_table(tally: Tally) -> Table:
    """Lay out the models, one a row; latencies are of the calls that answered."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    models = tally.models.values()
    extra = [name for name in ("invalid", "saved") if any(getattr(one, _FIELDS[name]) for one in models)]
    for name in ("model", "jobs", "failed", "p50", "p95", "tokens in", "tokens out", "cost", *extra):
        table.add_column(name, justify="left" if name == "model" else "right", no_wrap=name != "model")
    for ref, one in sorted(tally.models.items()):
        cells = {"invalid": f"{one.invalid:,}" if one.invalid else "", "saved": dollars_from_nusd(one.saved_nusd)}
        table.add_row(
            ref or "?", f"{one.jobs:,}", f"{one.failed:,}" if one.failed else "", duration(one.latency.share_ms(0.5)),
            duration(one.latency.share_ms(0.95)), f"{one.input_tokens:,}", f"{one.output_tokens:,}",
            dollars_from_nusd(one.cost_nusd), *(cells[name] for name in extra),
        )  # fmt: skip
    return table


_FIELDS = {"invalid": "invalid", "saved": "saved_nusd"}


def models_json(tally: Tally) -> dict[str, dict[str, int | float | None]]:
    """The same as JSON fields: money in nano-dollars and in dollars, latencies in ms."""
    return {
        ref: {
            "jobs": one.jobs,
            "failed": one.failed,
            "invalid": one.invalid,
            "input_tokens": one.input_tokens,
            "output_tokens": one.output_tokens,
            "cost_nusd": one.cost_nusd,
            "cost_usd": usd_from_nusd(one.cost_nusd),
            "saved_nusd": one.saved_nusd,
            "saved_usd": usd_from_nusd(one.saved_nusd),
            "p50_ms": one.latency.share_ms(0.5),
            "p95_ms": one.latency.share_ms(0.95),
        }
        for ref, one in tally.models.items()
    }


def causes(tally: Tally) -> list[str]:
    """Say why jobs failed, each cause once and with an example, the most common first."""
    common = tally.failures.most_common(_CAUSES)
    return [f"{count:,} failed, {code}: {tally.examples[code][:200]}" for code, count in common if count]


async def tally_of(batch: Batch) -> Tally:
    """Count the newest results of a batch that are still on the bus, some 30,000 at most."""
    tally = Tally()
    newest = await batch.redis.xrevrange(batch.keys.results(batch.batch_id), count=NEWEST_ENTRIES)
    if not newest:
        return tally
    after = before(newest[-1][0].decode())
    while entries := await batch.read(after):
        after = entries[-1].entry_id
        for entry in entries:
            for job_id, result in entry.results:
                if note := note_of(output_line(job_id, result, batch.batch_id)):
                    tally.count(note)
    return tally
