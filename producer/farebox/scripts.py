"""Runs the Lua verbs: one atomic step each, by their SHA, loading a script again when the server has lost it.

A `Tongue` remembers the ledger's epoch and the highest seq it has seen, sends both with every verb, and turns the
verbs' own error words into Farebox errors. It never retries: verbs are safe to send again, and callers decide.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any

from redis.exceptions import NoScriptError, ResponseError

from farebox.commands import Redis
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
    """Read `name`.lua of a folder, with the named files before it, of that folder or of `farebox/lua`."""
    found = [(folder if (folder / f"{part}.lua").is_file() else SHARED) / f"{part}.lua" for part in before]
    return Script(name, "\n".join(part.read_text("utf-8") for part in [*found, folder / f"{name}.lua"]))


CREATE = load("create")
BOOK = load("book", "prelude", "tally")
RESET = load("reset", "prelude", "tally")
SUBMIT = load("submit", "prelude")
LIMIT = load("limit", "prelude", "tally", "scopes")
CONFIRM = load("confirm", "prelude", "tally", "scopes")
CANCEL = load("cancel", "prelude")
DROP = load("drop", "prelude")
RETRY = load("retry", "prelude")
REOPEN = load("reopen", "prelude")
REUSE = load("reuse", "prelude")
ADOPT = load("adopt")
ACKNOWLEDGE = load("acknowledge")

ANYWAY = "!"  # as an epoch: speak to whatever is left of the ledger


async def evaluate(redis: Redis, script: Script, keys: Sequence[str], arguments: Sequence[Argument]) -> Any:
    """Run a script by its SHA; load it first if the server does not know it."""
    try:
        return await redis.evalsha(script.sha, len(keys), *keys, *arguments)
    except NoScriptError:
        return await redis.eval(script.text, len(keys), *keys, *arguments)


class Tongue:
    """Speaks the verbs to one namespace of one server, and holds what it has seen of the ledger.

    Attributes:
        epoch: the ledger's identity once it was seen, "" before.
        seq: the highest sequence number seen. A server that is behind it has lost writes.
        heard_s: when the ledger last answered, by this machine's monotonic clock.
    """

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self.redis = redis
        self.keys = keys
        self.epoch = ""
        self.seq = 0
        self.heard_s = 0.0

    def begin(self, epoch: str) -> None:
        """Take a ledger for the one to speak to, whatever was seen of another."""
        if epoch != self.epoch:
            self.epoch, self.seq = epoch, 0

    async def meet(self, *, even_lost: bool = False) -> str:
        """Read the ledger's identity and remember it; `even_lost` is for who only looks ("": it is gone).

        Raises: NoLedgerError; LedgerLostError when it is another one than before, or lost writes.
        """
        found = await self.redis.hmget(self.keys.ledger, ["epoch", "lost"])
        epoch, lost = (value.decode() if isinstance(value, bytes) else value for value in found)
        if epoch is None and not (lost and even_lost):
            raise _no_ledger(self.keys.namespace, lost or (self.epoch and f"nothing where epoch {self.epoch} was"))
        if epoch is not None and self.epoch not in {"", epoch}:
            raise _lost(f"epoch {epoch} where {self.epoch} was")
        if lost is not None and not even_lost:
            raise _lost(lost)
        self.epoch = epoch or ""
        return self.epoch

    async def say(self, script: Script, *arguments: Argument) -> list[Any]:
        """Run a verb and return its answer, seq first. The ledger first met is the one that must answer ever after.

        Raises: NoLedgerError, LedgerLostError, BatchClosedError, JobConflictError; redis errors pass through.
        """
        if not self.epoch:
            await self.meet()
        answer = await self._run(script, self.epoch, self.seq, *arguments)
        self.seq = max(self.seq, int(answer[0]))
        self.heard_s = time.monotonic()
        return answer

    async def say_anyway(self, script: Script, *arguments: Argument) -> list[Any]:
        """Run a verb on whatever is left of the ledger. Only for verbs that let nothing be sent (see prelude.lua)."""
        return await self._run(script, ANYWAY, 0, *arguments)

    async def _run(self, script: Script, *arguments: Argument) -> list[Any]:
        try:
            answer: list[Any] = await evaluate(self.redis, script, [self.keys.ledger], [self.keys.prefix, *arguments])
        except ResponseError as error:
            raise _translated(error, self.keys.namespace) from error
        return answer


def _no_ledger(namespace: str, lost: str = "") -> NoLedgerError:
    if lost:
        return NoLedgerError(f"the ledger of namespace {namespace!r} is gone from this server ({lost}).")
    return NoLedgerError(
        f"no ledger in namespace {namespace!r} on this server. If the server is new, create one with "
        "`farebox budget set USD` (or `farebox budget off` for no limit); if it is not, its data is gone."
    )


def _lost(how: str) -> LedgerLostError:
    return LedgerLostError(f"the server's ledger is not the one seen before ({how}): it lost writes or was replaced.")


def _translated(error: ResponseError, namespace: str) -> Exception:
    word, _, rest = str(error).partition(" ")
    match word:
        case "NOLEDGER":
            return _no_ledger(namespace, rest)
        case "LEDGERLOST":
            return _lost(rest)
        case "BATCHCLOSED":
            return BatchClosedError(f"the batch takes no new jobs: {rest}")
        case "CONFLICT":
            return JobConflictError(rest.split(" "))
    return error
