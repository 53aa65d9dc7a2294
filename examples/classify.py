"""Classify a CSV: one typed answer per row, and a CSV with the answers beside them.

export FAREBOX_REDIS_URL=redis://127.0.0.1:6379/0
farebox budget set 1                     # once per Redis: creates the ledger
farebox worker &                         # as many as you like, anywhere
python examples/classify.py examples/tickets.csv openai:gpt-5-mini

Run again, it asks only rows that are new: a row is known by its id. A new row whose text was answered before is not
asked again either; rows of one run that have the same text are each asked and paid.
"""

import csv
import sys
from pathlib import Path
from typing import Literal

import msgspec

import farebox


class Ticket(msgspec.Struct):
    """What is wanted of each row."""

    category: Literal["billing", "bug", "idea", "question", "other"]
    is_urgent: bool


def request(row: dict[str, str], model: str) -> farebox.Request:
    """Ask about one row."""
    prompt = f"Sort this support ticket, and say whether it cannot wait until tomorrow.\n\n{row['text']}"
    return farebox.Request(
        model=model, prompt=prompt, max_tokens=300, job_id=row["id"], tags=["tickets"], response_schema=Ticket
    )


def classify(source: Path, model: str, client: farebox.SyncClient) -> Path:
    """Ask about every row, and write SOURCE.classified.csv in the order of the rows; it costs at most half a dollar."""
    with source.open(encoding="utf-8", newline="") as file:
        rows = {row["id"]: row for row in csv.DictReader(file)}
    asked = (request(row, model) for row in rows.values())
    batch = client.submit_batch(asked, name=f"classify-{source.stem}", budget_usd=0.5, reuse="content")
    for answer in batch.results():
        row = rows[answer.job_id]
        try:
            ticket = answer.parse(Ticket)
            row |= {"category": ticket.category, "urgent": str(ticket.is_urgent), "error": ""}
        except (farebox.JobFailedError, farebox.ReplyInvalidError) as error:
            row |= {"category": "", "urgent": "", "error": str(error)}
        row["cost_usd"] = f"{answer.cost_usd:.6f}"
    target = source.with_suffix(".classified.csv")
    with target.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["id", "text", "category", "urgent", "cost_usd", "error"])
        writer.writeheader()
        writer.writerows(rows.values())
    return target


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    with farebox.SyncClient() as client:
        print("wrote", classify(Path(sys.argv[1]), sys.argv[2], client))
