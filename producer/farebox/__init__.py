"""Farebox: a message bus for LLM calls where every job pays its fare.

This package is what every process shares: it needs redis and msgspec, and imports nothing heavier. Workers and the
command line are `farebox_worker`, installed with `pip install "farebox[worker]"`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from farebox.errors import (
    BatchClosedError,
    ConfigError,
    CostLimitExceededError,
    FareboxError,
    InputError,
    JobConflictError,
    JobFailedError,
    LedgerError,
    LedgerLostError,
    ModelNotFoundError,
    NoLedgerError,
    ProviderAccountError,
    ProviderAuthError,
    ProviderConnectionError,
    ProviderError,
    ProviderOverloadedError,
    ProviderRateLimitError,
    ProviderRequestError,
    ProviderTimeoutError,
    ReplyInvalidError,
    ResultGoneError,
    ServerAwayError,
    ServerError,
    ServerFullError,
    UntranslatableError,
)

if TYPE_CHECKING:
    from farebox.answer import Answer, JobError, ToolCall, Usage
    from farebox.batch import Batch, Entry, Submitted
    from farebox.client import Client
    from farebox.connection import check_server, connect
    from farebox.cost import Cost
    from farebox.feed import Feed
    from farebox.handle import BatchHandle, JobHandle
    from farebox.ledger import Ledger, Scope, Unconfirmed
    from farebox.progress import Progress, list_batches
    from farebox.records import Job, Result
    from farebox.request import Item, Message, Request, When
    from farebox.status import JobState, JobStatus
    from farebox.sync import SyncBatchHandle, SyncClient, SyncJobHandle

__all__ = [  # noqa: RUF022 - grouped by what they are for
    # the client
    "Answer",
    "BatchHandle",
    "Client",
    "Cost",
    "Feed",
    "Item",
    "JobError",
    "JobHandle",
    "JobState",
    "JobStatus",
    "Message",
    "Request",
    "SyncBatchHandle",
    "SyncClient",
    "SyncJobHandle",
    "ToolCall",
    "Usage",
    "When",
    # the bus
    "Batch",
    "Entry",
    "Job",
    "Progress",
    "Result",
    "Submitted",
    "check_server",
    "connect",
    "list_batches",
    # the money
    "Ledger",
    "Scope",
    "Unconfirmed",
    # errors, as the tree in farebox.errors draws them
    "BatchClosedError",
    "ConfigError",
    "CostLimitExceededError",
    "FareboxError",
    "InputError",
    "JobConflictError",
    "JobFailedError",
    "LedgerError",
    "LedgerLostError",
    "ModelNotFoundError",
    "NoLedgerError",
    "ProviderAccountError",
    "ProviderAuthError",
    "ProviderConnectionError",
    "ProviderError",
    "ProviderOverloadedError",
    "ProviderRateLimitError",
    "ProviderRequestError",
    "ProviderTimeoutError",
    "ReplyInvalidError",
    "ResultGoneError",
    "ServerAwayError",
    "ServerError",
    "ServerFullError",
    "UntranslatableError",
]

_HOMES = {
    "answer": ("Answer", "JobError", "ToolCall", "Usage"),
    "batch": ("Batch", "Entry", "Submitted"),
    "client": ("Client",),
    "connection": ("check_server", "connect"),
    "cost": ("Cost",),
    "feed": ("Feed",),
    "handle": ("BatchHandle", "JobHandle"),
    "ledger": ("Ledger", "Scope", "Unconfirmed"),
    "progress": ("Progress", "list_batches"),
    "records": ("Job", "Result"),
    "request": ("Item", "Message", "Request", "When"),
    "status": ("JobState", "JobStatus"),
    "sync": ("SyncBatchHandle", "SyncClient", "SyncJobHandle"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is asked for: errors and settings need no Redis client."""
    if name not in _HOME_OF:
        raise AttributeError(f"module 'farebox' has no attribute {name!r}")
    return getattr(import_module(f"farebox.{_HOME_OF[name]}"), name)
