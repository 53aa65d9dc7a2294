"""What a job's history keeps of an attempt that did not answer it: one line, written when it is settled.

The fields are parted by tabs, because Lua writes one too (`lapse.lua`); the server puts its clock before them.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from functools import cache

from farebox.errors import ProviderError

MOST_LETTERS = 300  # of a message


@dataclass(frozen=True, slots=True)
class Tried:
    """An attempt that did not answer its job.

    Attributes:
        when_ms: when it was settled, by the server's clock.
        worker: host and pid of its process; "" when it died.
        failure_class: one word of `failures.py`, or `lapsed`, `stopped`, `crashed`.
        status_code, request_id: of the provider's answer; 0 and "" without one.
        money: "release", or "unconfirmed" with its amount in nano-dollars.
        latency_ms: from sending to the failure; 0 when that is not known.
    """

    when_ms: int
    worker: str
    lane: str
    failure_class: str
    status_code: int
    request_id: str
    money: str
    amount_nusd: int
    latency_ms: int
    message: str


def tried_line(
    lane: str, failure_class: str, message: str, error: Exception | None, *, owed_nusd: int | None, latency_ms: int
) -> bytes:
    """Write a line; `owed_nusd` is what stays unconfirmed, None when the hold is released."""
    status, request_id = (error.status_code or "", error.request_id) if isinstance(error, ProviderError) else ("", "")
    money, amount = ("release", 0) if owed_nusd is None else ("unconfirmed", owed_nusd)
    fields = (_here(os.getpid()), lane, failure_class, status, request_id, money, amount, latency_ms, message)
    return "\t".join(_clean(str(field)) for field in fields).encode(errors="replace")


def read_tried(line: bytes) -> Tried:
    """Read a line; what a newer version writes differently is read as far as it is known."""
    fields = line.decode(errors="replace").split("\t")
    when, worker, lane, failure_class, status, request_id, money, amount, latency, message = (fields + [""] * 10)[:10]
    return Tried(
        _number(when), worker, lane, failure_class, _number(status), request_id, money, _number(amount),
        _number(latency), message,
    )  # fmt: skip


@cache
def _here(pid: int) -> str:
    return f"{socket.gethostname()}:{pid}"


def _clean(text: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in text[:MOST_LETTERS])


def _number(text: str) -> int:
    return int(text) if text.isdecimal() else 0
