"""Farebox: a message bus for LLM calls where every job pays its fare.

This package is what every process shares: it needs redis and msgspec, and imports nothing heavier. Workers and the
command line are `farebox_worker`, installed with `pip install "farebox[worker]"`.
"""

from farebox.batch import Batch, Entry, Progress, Submitted, list_batches
from farebox.connection import check_server, connect
from farebox.errors import (
    BatchClosedError,
    ConfigError,
    CostLimitExceededError,
    FareboxError,
    InputError,
    JobConflictError,
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
    ServerError,
    UntranslatableError,
)
from farebox.ledger import Ledger, Scope, Unconfirmed
from farebox.records import Job, Result

__all__ = [  # noqa: RUF022 - grouped by what they are for
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
    "ServerError",
    "UntranslatableError",
]
