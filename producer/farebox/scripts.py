"""Runs the Lua verbs: one atomic step each, by their SHA, loading a script again when the server has lost it.

A `Tongue` remembers the ledger's epoch and the highest seq it has seen, sends both with every verb, and turns the
verbs' own error words into Farebox errors. It never retries: verbs are safe to send again, and callers decide.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any, cast

from redis.asyncio import Redis
from redis.exceptions import NoScriptError, ResponseError

from farebox.errors import BatchClosedError, JobConflictError, LedgerLostError, NoLedgerError
from farebox.keys import Keys

Argument = str | bytes | int


@dataclass(frozen=True, slots=True)
class Script:
    """One Lua verb: its name, its whole text, and the SHA that names it on the server."""

    name: str
    text: str
    sha: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sha", hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest())


SHARED = files("farebox") / "lua"


def load(name: str, *before: str, folder: Traversable = SHARED) -> Script:
    """Read `name`.lua of a folder, with the named files of `farebox/lua` before it."""
    parts = [(SHARED / f"{part}.lua").read_text("utf-8") for part in before]
    return Script(name, "\n".join([*parts, (folder / f"{name}.lua").read_text("utf-8")]))


CREATE = load("create")
BOOK = load("book")
RESET = load("reset")
SUBMIT = load("submit", "prelude")
LIMIT = load("limit", "prelude", "scopes")
CONFIRM = load("confirm", "prelude", "scopes")
CANCEL = load("cancel", "prelude")


async def evaluate(redis: Redis, script: Script, keys: Sequence[str], arguments: Sequence[Argument]) -> Any:
    """Run a script by its SHA; load it first if the server does not know it."""
    try:
        return await cast("Any", redis.evalsha(script.sha, len(keys), *keys, *cast("list[str]", arguments)))
    except NoScriptError:
        return await cast("Any", redis.eval(script.text, len(keys), *keys, *cast("list[str]", arguments)))


class Tongue:
    """Speaks the verbs to one namespace of one server, and holds what it has seen of the ledger.

    Attributes:
        epoch: the ledger's identity once it was seen, "" before.
        seq: the highest sequence number seen. A server that is behind it has lost writes.
    """

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self.redis = redis
        self.keys = keys
        self.epoch = ""
        self.seq = 0

    async def meet(self) -> str:
        """Read the ledger's identity and remember it. Raises: NoLedgerError."""
        epoch = await cast("Any", self.redis.hget(self.keys.ledger, "epoch"))
        if epoch is None:
            raise _no_ledger(self.keys.namespace)
        self.epoch = epoch.decode() if isinstance(epoch, bytes) else str(epoch)
        return self.epoch

    async def say(self, script: Script, *arguments: Argument) -> list[Any]:
        """Run a verb and return its answer, seq first. The ledger first met is the one that must answer ever after.

        Raises: NoLedgerError, LedgerLostError, BatchClosedError, JobConflictError; redis errors pass through.
        """
        if not self.epoch:
            await self.meet()
        try:
            answer: list[Any] = await evaluate(
                self.redis, script, [self.keys.ledger], [self.keys.prefix, self.epoch, self.seq, *arguments]
            )
        except ResponseError as error:
            raise _translated(error, self.keys.namespace) from error
        self.seq = max(self.seq, int(answer[0]))
        return answer


def _no_ledger(namespace: str) -> NoLedgerError:
    return NoLedgerError(
        f"no ledger in namespace {namespace!r} on this server. If the server is new, create one with "
        "`farebox budget set USD` (or `farebox budget off` for no limit); if it is not, its data is gone."
    )


def _translated(error: ResponseError, namespace: str) -> Exception:
    word, _, rest = str(error).partition(" ")
    match word:
        case "NOLEDGER":
            return _no_ledger(namespace)
        case "LEDGERLOST":
            return LedgerLostError(
                f"the server's ledger is not the one seen before ({rest}): it lost writes or was replaced. "
                "Nothing is sent. Compare its totals with the provider's, then start the workers again to go on."
            )
        case "BATCHCLOSED":
            return BatchClosedError(f"the batch takes no new jobs: {rest}")
        case "CONFLICT":
            return JobConflictError(rest.split(" "))
    return error
