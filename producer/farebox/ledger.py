"""The money of one namespace, as everybody may read it: scopes, limits, and bookings of calls made elsewhere.

Holds and settles are the worker's (`farebox_worker.bus`). All amounts are nano-dollars (1e-9 USD), integers.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis

from farebox.keys import Keys
from farebox.scripts import BOOK, CONFIRM, CREATE, LIMIT, RESET, Argument, Tongue, evaluate

GLOBAL = "global"


@dataclass(frozen=True, slots=True)
class Scope:
    """A money counter at one moment, in nano-dollars. `limit_nusd` is None when there is none."""

    name: str
    limit_nusd: int | None
    spent_nusd: int = 0
    held_nusd: int = 0
    unconfirmed_nusd: int = 0
    overrun_nusd: int = 0
    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    unpriced: int = 0

    @property
    def used_nusd(self) -> int:
        """What counts against the limit."""
        return self.spent_nusd + self.held_nusd + self.unconfirmed_nusd

    @property
    def headroom_nusd(self) -> int | None:
        """What may still be held; negative when a limit was lowered below what is used; None without a limit."""
        return None if self.limit_nusd is None else self.limit_nusd - self.used_nusd


@dataclass(frozen=True, slots=True)
class Unconfirmed:
    """Money of one attempt whose outcome is unknown; `since_ms` is the server's clock."""

    token: str
    amount_nusd: int
    job_id: str
    flow: str
    since_ms: int
    why: str


class Ledger:
    """Reads the scopes, sets limits, books calls made outside the bus.

    Args:
        redis: an asyncio client; whether it decodes responses does not matter.
        namespace: which ledger on that server.
    """

    def __init__(self, redis: Redis, namespace: str = "farebox") -> None:
        self.redis = redis
        self.keys = Keys(namespace)
        self.tongue = Tongue(redis, self.keys)

    async def create(self) -> bool:
        """Make the ledger if there is none; True when it was made now. Its epoch is known afterwards."""
        epoch, created = await evaluate(self.redis, CREATE, [self.keys.ledger], [secrets.token_hex(8)])
        self.tongue.epoch = _text(epoch)
        return bool(created)

    async def epoch(self) -> str:
        """The ledger's identity. Raises: NoLedgerError."""
        return await self.tongue.meet()

    async def scope(self, name: str = GLOBAL) -> Scope:
        """One scope; all zero when it never counted."""
        async with self.redis.pipeline(transaction=True) as pipe:
            pipe.get(self.keys.limit(name))
            pipe.hgetall(self.keys.scope(name))
            limit, counters = await pipe.execute()
        return _scope(name, limit, counters)

    async def scopes(self) -> list[Scope]:
        """Every scope that ever counted, by name."""
        names = sorted(_text(name) for name in await self.redis.smembers(self.keys.scopes))  # type: ignore[misc]
        async with self.redis.pipeline(transaction=False) as pipe:
            for name in names:
                pipe.get(self.keys.limit(name))
                pipe.hgetall(self.keys.scope(name))
            found = await pipe.execute() if names else []
        return [_scope(name, found[2 * i], found[2 * i + 1]) for i, name in enumerate(names)]

    async def set_limit(self, name: str, limit_nusd: int | None) -> int | None:
        """Set a scope's limit, or remove it with None; return the one before. Raises: NoLedgerError."""
        _, before = await self.tongue.say(LIMIT, name, "" if limit_nusd is None else limit_nusd)
        return int(before) if before else None

    async def unconfirmed(self) -> list[Unconfirmed]:
        """Every attempt whose outcome is unknown, oldest first."""
        found = await self.redis.hgetall(self.keys.unconfirmed)  # type: ignore[misc]
        entries = [_unconfirmed(_text(token), _text(record)) for token, record in found.items()]
        return sorted(entries, key=lambda entry: entry.since_ms)

    async def confirm(self, tokens: Sequence[str], *, is_charge: bool) -> tuple[int, int]:
        """Say that attempts of unknown outcome were billed at their worst case, or not at all.

        Returns how many were known, and their nano-dollars. Raises: NoLedgerError.
        """
        known = total = 0
        for start in range(0, len(tokens), 1000):
            chunk = tokens[start : start + 1000]
            _, found, amount = await self.tongue.say(CONFIRM, "charge" if is_charge else "release", *chunk)
            known, total = known + int(found), total + int(amount)
        return known, total

    async def book(
        self, *, provider_id: str, model_ref: str, cost_nusd: int, input_tokens: int, output_tokens: int
    ) -> int:
        """Count a call made outside the bus; return the global total spent. Works without a ledger."""
        scopes = (GLOBAL, f"provider:{provider_id}", f"model:{model_ref}")
        arguments: list[Argument] = [self.keys.prefix, cost_nusd, input_tokens, output_tokens, *scopes]
        _, total = await evaluate(self.redis, BOOK, [self.keys.ledger], arguments)
        return int(total)

    async def carry_over(self, scopes: Sequence[str], spent_nusd: int) -> None:
        """Count money that an earlier ledger had counted, in a new one."""
        await evaluate(self.redis, BOOK, [self.keys.ledger], [self.keys.prefix, spent_nusd, 0, 0, *scopes])

    async def spent(self) -> int:
        """What all calls have cost, in nano-dollars."""
        return int(await self.redis.hget(self.keys.scope(GLOBAL), "spent") or 0)  # type: ignore[misc]

    async def spent_by(self, kind: str) -> dict[str, int]:
        """What calls have cost by "provider", "model", "batch" or "tag", in nano-dollars; zeros are left out."""
        head = f"{kind}:"
        return {
            scope.name.removeprefix(head): scope.spent_nusd
            for scope in await self.scopes()
            if scope.name.startswith(head) and scope.spent_nusd
        }

    async def reset(self) -> int:
        """Zero what is spent, everywhere; return what it was globally. Held and unconfirmed stay."""
        _, spent = await evaluate(self.redis, RESET, [self.keys.ledger], [self.keys.prefix])
        return int(spent)


def _scope(name: str, limit: Any, counters: Mapping[Any, Any]) -> Scope:
    count = {_text(field): int(value) for field, value in counters.items()}
    return Scope(
        name=name,
        limit_nusd=None if limit is None else int(limit),
        spent_nusd=count.get("spent", 0),
        held_nusd=count.get("held", 0),
        unconfirmed_nusd=count.get("unconfirmed", 0),
        overrun_nusd=count.get("overrun", 0),
        calls=count.get("calls", 0),
        input_tokens=count.get("input_tokens", 0),
        output_tokens=count.get("output_tokens", 0),
        unpriced=count.get("unpriced", 0),
    )


def _unconfirmed(token: str, record: str) -> Unconfirmed:
    amount, job_id, flow, since, why = record.split("\t")[:5]
    return Unconfirmed(token, int(amount), job_id, flow, int(since), why)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
