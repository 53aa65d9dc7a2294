"""The money of one namespace, as everybody may read it: scopes, limits, and bookings of calls made elsewhere.

Holds and settles are the worker's (`farebox_worker.bus`). All amounts are nano-dollars (1e-9 USD), integers.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from farebox.commands import Redis
from farebox.keys import Keys
from farebox.scripts import ADOPT, BOOK, CONFIRM, CREATE, LIMIT, RESET, Tongue, evaluate

GLOBAL = "global"
Per = Literal["day", "month"]
PERIODS: tuple[Per, ...] = ("day", "month")
_HOW_LONG: dict[Per, str] = {"day": "daily", "month": "monthly"}


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
class Limit:
    """A limit and what counts against it, in nano-dollars: for good, or in the UTC `day` or `month` of now.

    A window's limit counts what was spent in it, what became unconfirmed in it, and all that is held now.
    """

    scope: str
    per: Per | None
    limit_nusd: int
    spent_nusd: int
    held_nusd: int
    unconfirmed_nusd: int

    @property
    def name(self) -> str:
        """What verbs and parked flows call it."""
        return limit_name(self.scope, self.per)

    @property
    def headroom_nusd(self) -> int:
        """What may still be held; negative when the limit was lowered below what is used."""
        return self.limit_nusd - self.spent_nusd - self.held_nusd - self.unconfirmed_nusd


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
        self.tongue.begin(_text(epoch))
        return bool(created)

    async def epoch(self, *, even_lost: bool = False) -> str:
        """The ledger's identity. Raises: NoLedgerError; LedgerLostError, unless one that lost writes will do."""
        return await self.tongue.meet(even_lost=even_lost)

    async def identity(self) -> tuple[str, str]:
        """The ledger's epoch, and why it counts as lost; each "" when there is none."""
        epoch, lost = await self.redis.hmget(self.keys.ledger, ["epoch", "lost"])
        return _text(epoch or ""), _text(lost or "")

    async def adopt(self, epoch: str, *, limit_nusd: int | None = None, sets_limit: bool = False) -> bool:
        """Go on with what the server holds now, under a new epoch: whoever knew the old one stops.

        `epoch` is the one that was looked at ("" for none); False, and nothing is done, when another has taken its
        place. With `sets_limit` the global limit is set (None: removed) before anybody can send.
        """
        if (await self.identity())[0] != epoch:
            return False
        if sets_limit:
            await self.tongue.say_anyway(LIMIT, GLOBAL, "" if limit_nusd is None else limit_nusd)
        fresh = secrets.token_hex(8)
        if not (await evaluate(self.redis, ADOPT, [self.keys.ledger], [epoch, fresh]))[0]:
            return False
        self.tongue.begin(fresh)
        return True

    async def scope(self, name: str = GLOBAL) -> Scope:
        """One scope; all zero when it never counted."""
        async with self.redis.pipeline(transaction=True) as pipe:
            pipe.get(self.keys.limit(name))
            pipe.hgetall(self.keys.scope(name))
            limit, counters = await pipe.execute()
        return _scope(name, limit, counters)

    async def scopes(self, named: Iterable[str] | None = None) -> list[Scope]:
        """Every scope that ever counted, or those named, by name."""
        names = await self._names(named)
        async with self.redis.pipeline(transaction=False) as pipe:
            for name in names:
                pipe.get(self.keys.limit(name))
                pipe.hgetall(self.keys.scope(name))
            found = await pipe.execute() if names else []
        return [_scope(name, found[2 * i], found[2 * i + 1]) for i, name in enumerate(names)]

    async def limits(self, named: Iterable[str] | None = None) -> list[Limit]:
        """Every limit there is, or of the scopes named, by scope: for good, then per day, then per month."""
        names = await self._names(named)
        windows: tuple[Per | None, ...] = (None, *PERIODS)
        kinds: list[tuple[str, Per | None]] = [(name, per) for name in names for per in windows]
        if not kinds:
            return []
        amounts = await self.redis.mget([self.keys.limit(limit_name(name, per)) for name, per in kinds])
        limited = [kind for kind, amount in zip(kinds, amounts, strict=True) if amount is not None]
        today = datetime.fromtimestamp((await self.redis.time())[0], UTC).date().isoformat()
        async with self.redis.pipeline(transaction=True) as pipe:
            for name, per in limited:
                pipe.get(self.keys.limit(limit_name(name, per)))
                pipe.hmget(self.keys.scope(name), ["held", "spent", "unconfirmed"])
                if per:
                    pipe.hmget(self.keys.window(per, today), [f"spent {name}", f"unconfirmed {name}"])
            found = iter(await pipe.execute())
        limits = []
        for name, per in limited:
            limit, (held, *counted) = next(found), next(found)
            spent, unconfirmed = next(found) if per else counted
            if limit is not None:
                limits.append(Limit(name, per, int(limit), int(spent or 0), int(held or 0), int(unconfirmed or 0)))
        return limits

    async def _names(self, named: Iterable[str] | None) -> list[str]:
        if named is None:
            named = [_text(name) for name in await self.redis.smembers(self.keys.scopes)]
        return sorted(named)

    async def set_limit(self, name: str, limit_nusd: int | None, per: Per | None = None) -> int | None:
        """Set a scope's limit, for good or per UTC day or month, or remove it with None; return the one before.

        Below what is used it stops admission at once; above, what waited goes on. Raises: NoLedgerError.
        """
        _, before = await self.tongue.say(LIMIT, limit_name(name, per), "" if limit_nusd is None else limit_nusd)
        return int(before) if before else None

    async def unconfirmed(self) -> list[Unconfirmed]:
        """Every attempt whose outcome is unknown, oldest first."""
        found = await self.redis.hgetall(self.keys.unconfirmed)
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
        _, total = await self.tongue.say_anyway(BOOK, cost_nusd, input_tokens, output_tokens, 1, *scopes)
        return int(total)

    async def carry_over(self, scopes: Sequence[str], spent_nusd: int) -> None:
        """Count money that an earlier ledger had counted, in a new one; its day is not known, so it is today's."""
        await self.tongue.say_anyway(BOOK, spent_nusd, 0, 0, 0, *scopes)

    async def spent(self) -> int:
        """What all calls have cost, in nano-dollars."""
        return int(await self.redis.hget(self.keys.scope(GLOBAL), "spent") or 0)

    async def spent_by(self, kind: str) -> dict[str, int]:
        """What calls have cost by "provider", "model", "batch" or "tag", in nano-dollars; zeros are left out."""
        head = f"{kind}:"
        return {
            scope.name.removeprefix(head): scope.spent_nusd
            for scope in await self.scopes()
            if scope.name.startswith(head) and scope.spent_nusd
        }

    async def reset(self) -> int:
        """Zero what is spent, everywhere; return what it was globally. Held and unconfirmed stay, for they are owed.

        So do the windows: a day, and a month, has cost what it has cost.
        """
        _, spent = await self.tongue.say_anyway(RESET)
        return int(spent)


def limit_name(scope: str, per: Per | None) -> str:
    """Name the limit of a scope: its own name for good, `day:<scope>` or `month:<scope>` for a window."""
    return f"{per}:{scope}" if per else scope


def parts_of_limit(name: str) -> tuple[str, Per | None]:
    """Tell a limit's scope, and the window it is for; what `limit_name` joined."""
    head, _, rest = name.partition(":")
    windows: dict[str, Per] = {per: per for per in PERIODS}
    return (rest, windows[head]) if head in windows else (name, None)


def in_words(name: str) -> str:
    """Name a limit for people: `the global limit`, `the daily limit of tag nightly`."""
    scope, per = parts_of_limit(name)
    kind, _, which = scope.partition(":")
    how_long = f"{_HOW_LONG[per]} " if per else ""
    return f"the global {how_long}limit" if scope == GLOBAL else f"the {how_long}limit of {kind} {which}"


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
