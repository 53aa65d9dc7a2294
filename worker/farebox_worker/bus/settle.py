"""settle: book what attempts really cost, and finish, retry or return their jobs. One script for a whole group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from farebox.scripts import Argument, Tongue
from farebox_worker.bus.places import Places
from farebox_worker.bus.scripts import SETTLE

Action = Literal["finish", "retry", "return", "sweep", "move"]
Money = Literal["actual", "release", "unconfirmed", "unpriced"]
NOTE_LETTERS = 200
PART_LETTERS = 120


class Settlement(msgspec.Struct, gc=False):
    """How one attempt ended.

    action: finish the job (with `outcome` and `result`), retry it `due` ms from now (by the server's clock) after
        `attempts`, return it to its place `due` as if never claimed, sweep a job nobody runs, or move it to another
        lane (`outcome` is "movable", "spread" or "last", and its name; `result` its new payload), due in `due` ms.
    money: book `amount_nusd`, release the hold, or leave it owed as unconfirmed (`why`).
    outcome: the words settle.lua counts: outcome, finish, default_cap.
    scopes: where to book when the ledger no longer knows the attempt.
    note: what the journal says of a booking beside its amounts, by `booking_note`; cut to 200 characters.
    history: what the job's history keeps of this attempt.
    felt: what the lane's pace learns from it.
    is_first: no attempt at the job was counted before, so that nothing counts them.
    """

    job_id: str
    flow: str
    token: str
    action: Action
    money: Money
    amount_nusd: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    why: str = ""
    due: str = "0"
    outcome: str = ""
    attempts: int = 0
    result: bytes = b""
    scopes: tuple[str, ...] = ()
    note: str = ""
    history: bytes = b""
    felt: str = ""
    is_first: bool = False


def booking_note(*parts: str | int) -> str:
    """Join what a provider and a price table said into a journal's note; hostile characters and lengths are cut."""
    texts = [str(part) if part else "" for part in parts]
    plain = "".join(texts)
    if len(plain) <= PART_LETTERS and plain.isprintable():
        return "\t".join(texts)
    return "\t".join([_clean(text)[:PART_LETTERS] for text in texts])


def _clean(text: str) -> str:
    text = text[:NOTE_LETTERS]
    return text if text.isprintable() else "".join(letter if letter.isprintable() else "?" for letter in text)


def _clean_note(note: str) -> str:
    if len(note) <= NOTE_LETTERS and note.replace("\t", "").isprintable():
        return note.rstrip("\t")
    return "\t".join(_clean(part) for part in note.split("\t"))[:NOTE_LETTERS]


async def settle(tongue: Tongue, group: Sequence[Settlement], *, results_ttl_ms: int) -> list[str]:
    """Settle a group: per attempt "done", "money" (the attempt was stale) or "repeat". Safe to send again.

    Raises: LedgerError; redis errors pass through.
    """
    places = Places()
    manners: dict[tuple[Argument, ...], int] = {}
    attempts: list[Argument] = []
    for s in group:
        outcome = s.attempts if s.action == "retry" else s.outcome
        manner = (s.flow, s.action, s.money, s.why, s.due, outcome, places.of(s.scopes), s.history, int(s.is_first))
        attempts += (
            s.job_id,
            s.token,
            manners.setdefault(manner, len(manners) + 1),
            s.amount_nusd,
            s.input_tokens,
            s.output_tokens,
            s.result,
            _clean_note(s.note),
            s.felt,
        )
    shared = (part for manner in manners for part in manner)
    counts = len(places.scopes), len(manners)
    answer = await tongue.say(SETTLE, results_ttl_ms, *counts, *places.scopes, *shared, *attempts)
    return [word.decode() for word in answer[1:]]
