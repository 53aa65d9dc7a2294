"""A command's hold on the bus: the embedded server or a shared one, checked and fit to hold money, and its ledger."""

from __future__ import annotations

import asyncio
import logging
import math
import re
import shlex
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace

from arq.connections import ArqRedis
from redis.exceptions import RedisError

from farebox.commands import Redis
from farebox.connection import check_server, connect, passes, shown
from farebox.errors import ConfigError, InputError, LedgerError, ServerAwayError
from farebox.ledger import GLOBAL, Ledger
from farebox.money import dollars, dollars_from_nusd, nusd_from_usd, usd_from_nusd
from farebox_worker.bus.lapse import lapse
from farebox_worker.configuration import load
from farebox_worker.events import event
from farebox_worker.server.embedded import EmbeddedServer, has_begun, holds_no_data, note_begun
from farebox_worker.settings import Settings

log = logging.getLogger(__name__)

AGAIN_S = 0.5


@dataclass(frozen=True, slots=True)
class Session:
    """An open connection. `server` is None on a shared Redis."""

    settings: Settings
    url: str
    redis: Redis
    ledger: Ledger
    server: EmbeddedServer | None
    dead_holds: tuple[int, ...] = ()  # nano-dollars of the calls that ran when the last user was killed

    @property
    def namespace(self) -> str:
        """Whose keys these are."""
        return self.settings.redis.namespace

    async def revive(self) -> None:
        """Bring an embedded server back that died; a shared one is others' to bring back. Raises: ServerError."""
        if self.server:
            await asyncio.to_thread(self.server.revive)


@asynccontextmanager
async def open_session(
    settings: Settings, *, creates: bool = False, adopts: bool = False, waits_s: float | None = None
) -> AsyncIterator[Session]:
    """Open the bus that the settings name.

    `creates` allows an embedded data directory to be begun, with its ledger; nothing else ever creates a ledger here.
    With `adopts` the ledger is left as it is found, and an embedded server's first user stays alone with it.
    A shared server that is away, or refuses for a while, is waited for up to `waits_s` seconds, else as long as the
    settings say; that is said once.
    Raises: ServerError when Redis is unreachable or unfit; InputError when there is nothing here yet. A LedgerError
    that passes through is told the flags that lead here.
    """
    with ExitStack() as stack:
        server = None
        url = settings.redis.url
        if url is None:
            data_dir = settings.redis.data_dir
            if not creates and holds_no_data(data_dir):
                raise InputError(
                    f"nothing here yet: {data_dir} holds no jobs and no money. "
                    "Start with `farebox run IN --budget USD`, or for workers with `farebox budget set USD`; or name "
                    "another place with --data-dir or --redis."
                )
            server = stack.enter_context(EmbeddedServer(data_dir, first_is_alone=True))
            url = server.url
        redis = connect(url, client=ArqRedis)
        try:
            session = Session(settings, url, redis, Ledger(redis, settings.redis.namespace), server)
            patience_s = settings.redis.wait_s if waits_s is None else waits_s
            await _meet(session, creates=creates, adopts=adopts, waits_s=0.0 if server else patience_s)
            if server and not adopts:
                session = replace(session, dead_holds=await end_the_dead(session))
                server.let_others_in()
            yield session
        except LedgerError as error:
            error.place = place_of(settings)
            raise
        finally:
            await redis.aclose(close_connection_pool=True)


async def _meet(session: Session, *, creates: bool, adopts: bool, waits_s: float) -> None:
    """Check the server and prepare its ledger; once more while it is away. Raises: ServerError, LedgerError."""
    began, is_told = time.monotonic(), False
    while True:
        try:
            await check_server(session.redis, url=session.url)
            if not adopts:
                await _prepare_ledger(session, creates=creates)
        except (ServerAwayError, RedisError, OSError) as error:
            waited = time.monotonic() - began
            if waited >= waits_s or not (isinstance(error, ServerAwayError) or passes(error)):
                raise
            if not is_told:
                is_told = True
                until = "" if math.isinf(waits_s) else f" for up to {waits_s:.0f} s"
                log.warning("%s Waiting for it%s.", error, until, extra=event("redis_away", why=str(error)))
        else:
            if is_told:
                seconds = time.monotonic() - began
                log.warning(
                    "Redis is there after %.1f s", seconds, extra=event("redis_back", seconds=round(seconds, 3))
                )
            return
        await asyncio.sleep(AGAIN_S)


def place_of(settings: Settings) -> str:
    """The flags that lead a command to the same server; a password in them is hidden."""
    if settings.redis.url is None:
        return f"--data-dir {shlex.quote(str(settings.redis.data_dir))}"
    return f"--redis {shlex.quote(shown(settings.redis.url))}"


def flags_from_here(settings: Settings) -> str:
    """The flags that a bare command needs in this directory to find the same server, each with a space before it.

    They are "" where it finds it by itself. A password in a URL is hidden.
    """
    try:
        bare = load()
    except ConfigError:
        bare = Settings()
    flags = f" --config {shlex.quote(str(settings.path))}" if settings.path and settings.path != bare.path else ""
    if flags:
        with suppress(ConfigError):
            bare = load(settings.path)
    ours, theirs = settings.redis, bare.redis
    is_same = ours.url == theirs.url and (ours.url is not None or ours.data_dir == theirs.data_dir)
    return flags if is_same else f"{flags} {place_of(settings)}"


def with_flags(text: str, flags: str) -> str:
    """Give each command in backticks the flags that lead it to its server, so that it can be copied."""
    return re.sub(r"`(farebox [^`]*)`", lambda command: f"`{command[1]}{flags}`", text)


async def end_the_dead(session: Session) -> tuple[int, ...]:
    """When no other process uses the data directory, whatever is leased there belongs to a killed one: end it."""
    if session.server is None or not session.server.first_user:
        return ()
    holds: list[int] = []
    with suppress(LedgerError):  # whoever needs the ledger says so
        while ended := await lapse(session.ledger.tongue, dead=True):
            holds += [end.hold_nusd for end in ended if end.hold_nusd is not None]
    return tuple(holds)


async def _prepare_ledger(session: Session, *, creates: bool) -> None:
    """On the embedded server the file's limit is authoritative; on a shared one a difference is only told."""
    ledger, stated = session.ledger, session.settings.budget.limit_usd
    if session.server and creates:
        await _begin(session, session.server)
    epoch, lost = await ledger.identity()
    if not epoch or lost:  # whoever needs the ledger says so
        return
    if session.server is None:
        limit = (await ledger.scope()).limit_nusd
        if stated is not None and limit != nusd_from_usd(stated):
            actual = "no limit" if limit is None else dollars_from_nusd(limit)
            log.warning(
                "[budget] limit_usd says %s, the server's ledger %s: the server's counts", dollars(stated), actual,
                extra=event("limit_differs", stated_usd=stated, limit_usd=limit and usd_from_nusd(limit)),
            )  # fmt: skip
        return
    if stated is not None and (await ledger.scope()).limit_nusd != nusd_from_usd(stated):
        await ledger.set_limit(GLOBAL, nusd_from_usd(stated))


async def _begin(session: Session, server: EmbeddedServer) -> None:
    """Create the ledger of a new data directory. Where one was begun before and is gone, its data was lost."""
    if server.created or not has_begun(server.data_dir, session.namespace):
        await session.ledger.create()
        await asyncio.to_thread(note_begun, server.data_dir, session.namespace)
