"""What a process says of itself: one name per happening, its fields, and how a log line is written.

Every log call names its event with `extra=event("settled", jobs=64)`; `EVENTS` is the list of all names, and
docs/operations.md the table for people. What happens per job is said at DEBUG; at INFO what changes, and sums.
No line may hold a prompt, an answer or a key: exceptions are shown without their message, known keys as `***`.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

EVENTS = frozenset({
    # a process
    "serving", "listening", "progress", "draining", "orphaned", "leaving", "ended", "stopped", "farewell_failed",
    "process_killed", "process_ended", "process_not_started",
    # jobs
    "claimed", "admitted", "refused", "parked", "sent", "answered", "cancelled", "retried", "failed", "returned",
    "settled", "settle_split", "settle_given_up", "lapsed", "crashed", "moved", "taken_over",
    # lanes and providers
    "paused", "pause_failed", "overrun", "refused_alike", "lane_unserved", "provider_stopped", "provider_unlisted",
    "lane_away", "lane_back",
    # the server and the money
    "redis_away", "redis_back", "verb_refused", "ledger_lost", "ledger_told", "limit_differs", "server_stays",
    "prices_kept",
    # of others: libraries, and Python's own warnings
    "log",
})  # fmt: skip
SHORTEST_SECRET = 6  # what is shorter would blank out innocent words


def event(name: str, **fields: object) -> dict[str, Any]:
    """Name the event of a log call, with its fields: the call's `extra`."""
    return {"event": name, "fields": fields}


def secrets_in(environ: Mapping[str, str], variables: Iterable[str | None], url: str | None) -> tuple[str, ...]:
    """The keys and the password that no line may hold: the values of variables, and what the Redis URL hides."""
    found = {environ.get(name, "").strip() for name in variables if name}
    try:
        parts = urlsplit(url or "")
        password, options = parts.password or "", parse_qsl(parts.query)
    except ValueError:  # a URL that cannot be read is refused elsewhere
        password, options = "", []
    found |= {password, unquote(password), *(value for name, value in options if name.endswith("password"))}
    return tuple(sorted((word for word in found if len(word) >= SHORTEST_SECRET), key=len, reverse=True))


def scrubbed(text: str, secrets: Iterable[str]) -> str:
    """The text with every secret replaced by `***`."""
    for secret in secrets:
        text = text.replace(secret, "***")
    return text


class PlainLines(logging.Formatter):
    """One line per event for people, without secrets.

    Args:
        secrets: what is never shown.
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")
        self._secrets = tuple(secrets)

    def format(self, record: logging.LogRecord) -> str:
        """Write a record."""
        return scrubbed(super().format(record), self._secrets)

    def formatException(  # noqa: N802 - the name logging gives it
        self,
        ei: tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None],
    ) -> str:
        """Show where it was raised and its type; its message may quote a prompt."""
        kind, _, frames = ei
        name = f"{kind.__module__}.{kind.__qualname__}" if kind else "no exception"
        return "".join(["Traceback (most recent call last):\n", *traceback.format_tb(frames), name])


class JsonLines(PlainLines):
    """One JSON object per event and line: time (UTC), level, event, message, and the event's own fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Write a record."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": getattr(record, "event", "log"),
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return scrubbed(msgspec.json.encode(line, enc_hook=str).decode(), self._secrets)
