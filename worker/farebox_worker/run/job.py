"""The main job: feed the batch, let it be worked, follow its results into OUT, and say how it ended."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import time
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from redis.exceptions import RedisError

from farebox.batch import Batch
from farebox.connection import AWAY, passes
from farebox.errors import FareboxError, ServerError
from farebox.ledger import Limit, Scope, parts_of_limit
from farebox.progress import Progress
from farebox_worker.bus.pause import read_pauses
from farebox_worker.files.output import OutputFile
from farebox_worker.files.tally import Tally
from farebox_worker.outage import Outage
from farebox_worker.run.crew import Crew
from farebox_worker.run.feed import Feed
from farebox_worker.run.follow import Follow
from farebox_worker.run.forecast import Cost, Prospect, look_ahead
from farebox_worker.run.screen import Screen
from farebox_worker.run.sight import LaneSight, Sight, counts_of, look_at_lanes
from farebox_worker.settings import RetentionSettings

LOOK_EVERY_S = 0.25
LANES_EVERY_S = 1.0
UNREACHABLE_S = 30.0  # for so long a run whose calls find no server waits for the first answer
STILL_S = 0.6  # nothing may have moved for so long before a run believes that nothing can


@dataclass(slots=True)
class Ending:
    """How a run ended.

    `parked` counts the lines that wait for money, at the limit `blocked`, which would have to leave room for
    `need_nusd` nano-dollars. `paused` says which lanes wait for somebody to resume them. `left` counts lines without
    an answer, `ahead` is what those will cost, and `later` what the lines that were not asked this time will; `reason`
    is set when it gave up.
    """

    total: int
    tally: Tally
    batch_id: str = ""
    scope: Scope = field(default_factory=lambda: Scope("", None))
    parked: int = 0
    blocked: Limit | None = None
    need_nusd: int = 0
    paused: tuple[str, ...] = ()
    left: int = 0
    capped_by_default: int = 0
    is_interrupted: bool = False
    reason: str = ""
    ahead: Cost = field(default_factory=Cost)
    later: Cost = field(default_factory=Cost)
    wall_s: float = 0.0

    @property
    def exit_code(self) -> int:
        """130, 1, 4, 3, 0 in that precedence."""
        if self.is_interrupted:
            return 130
        if self.reason:
            return 1
        if self.parked:
            return 4
        return 3 if self.tally.has_flaws else 0


class MainJob:
    """One run of one file, from the open batch to the last synced line.

    Args:
        batch: open, with its budget.
        out: locked; what it holds already is done.
        feed: submits the rest; `follow`: writes the results; `crew`: does the work; `screen`: shows it.
        total: how many lines are to be answered.
        revive: brings the server back when it can be.
        prospect: knows what is to be asked, and guesses what it will cost.
        most_failures: stop when so many jobs of this run failed; None never stops.
        flags: what leads another command to the same server, for people to copy.
        further: by lane, those its jobs may move on to.
    """

    def __init__(  # noqa: PLR0913 - the parts of a run, each from a room of its own
        self,
        batch: Batch,
        out: OutputFile,
        feed: Feed,
        follow: Follow,
        crew: Crew,
        screen: Screen,
        *,
        total: int,
        retention: RetentionSettings,
        revive: Callable[[], Awaitable[None]],
        prospect: Prospect,
        most_failures: int | None = None,
        flags: str = "",
        further: Mapping[str, Collection[str]] | None = None,
    ) -> None:
        self._batch = batch
        self._out = out
        self._feed = feed
        self._follow = follow
        self._crew = crew
        self._screen = screen
        self._retention = retention
        self._revive = revive
        self._prospect = prospect
        self._most_failures = most_failures
        self._flags = flags
        self._further = further or {}
        self._signals = 0
        self._is_stopping = self._is_sealed = False
        self._moved = self._looked = time.monotonic()
        self._lanes: tuple[LaneSight, ...] = ()
        self._saw_lanes = -LANES_EVERY_S
        self._failed_before = out.tally.outcomes["failed"]
        self._outage = Outage()
        self._ending = Ending(total, out.tally, batch.batch_id)

    async def do(self) -> Ending:
        """Run to the end, the limit or the interruption. Raises: FareboxError when it cannot go on."""
        began, ending = time.monotonic(), self._ending
        feeding = asyncio.create_task(self._feed.run())
        self._crew.start(self._batch.batch_id)
        with self._catching_signals():
            try:
                await self._watch(feeding)
            except ServerError:
                self._crew.leave()  # nothing can be settled any more
                raise
            except FareboxError:
                with suppress(*AWAY):
                    await self._batch.ledger.epoch()  # a ledger that is gone explains whatever else is missing
                raise
            finally:
                self._is_stopping = True
                feeding.cancel()
                await asyncio.gather(feeding, return_exceptions=True)
                await self._crew.stop()
            try:
                await self._collect()
            except AWAY as error:
                self._out.sync()
                ending.reason = f"Redis is away ({error or type(error).__name__})"
        ending.left = max(0, ending.total - self._done)
        if ending.parked:
            ending.parked = ending.left
        elif ending.left and not ending.is_interrupted and not ending.reason:
            ending.reason = f"{ending.left} lines have no answer"
        ending.ahead = self._prospect.left(ending.tally) if ending.left else Cost()
        ending.later = self._prospect.after(ending.tally)
        ending.wall_s = time.monotonic() - began
        return ending

    async def _collect(self) -> None:
        """Write what was settled last, and take the final counts."""
        await self._follow.catch_up()
        self._note(await self._batch.progress())
        if self._done < self._ending.total:
            self._ending.paused = await self._paused()

    def _note(self, progress: Progress) -> None:
        self._ending.scope, self._ending.capped_by_default = progress.scope, progress.capped_by_default

    @property
    def _done(self) -> int:
        """Lines of the input that are answered; OUT may hold more, which were taken out of the input."""
        return self._feed.done + self._feed.sent - len(self._follow.outstanding)

    async def _watch(self, feeding: asyncio.Task[None]) -> None:
        """Write results as they come, until every line is there or nothing can go on."""
        while not self._is_over(feeding):
            asked_s = time.monotonic()
            try:
                if await self._step(feeding):
                    return
            except (RedisError, OSError) as error:
                if not passes(error):
                    raise
                if self._crew.is_over:  # else the crew has said so
                    self._outage.begin(error)
                await self._revive()
                await asyncio.sleep(LOOK_EVERY_S)
            else:
                self._outage.end(asked_s)

    async def _step(self, feeding: asyncio.Task[None]) -> bool:
        """Write what came, look around from time to time; tell whether nothing can go on."""
        came = await self._follow.step()
        now = time.monotonic()
        self._moved = now if came else self._moved
        if feeding.done() and not self._is_sealed:
            feeding.result()
            await self._seal()
            self._is_sealed = True
        if now - self._looked < LOOK_EVERY_S:
            return False
        self._looked = now
        return await self._is_stuck(still_s=now - self._moved)

    def _is_over(self, feeding: asyncio.Task[None]) -> bool:
        ending, failed = self._ending, self._ending.tally.outcomes["failed"] - self._failed_before
        if feeding.done() and not self._follow.outstanding:
            feeding.result()
            return True
        self._crew.check()
        if self._signals and self._crew.is_over:
            ending.is_interrupted = True
            return True
        if self._most_failures is not None and failed >= self._most_failures:
            ending.reason = (
                f"{'1 job' if failed == 1 else f'{failed:,} jobs'} failed in this run, and --max-failures ends it at "
                f"{self._most_failures:,}; to ask them again too, "
                f"first `farebox retry {shlex.quote(os.path.relpath(self._out.path))}{self._flags}`"
            )
            return True
        return False

    async def _seal(self) -> None:
        submitted = (await self._batch.progress()).submitted
        await self._batch.seal(submitted, ids_days=self._retention.ids_days, results_days=self._retention.results_days)

    async def _is_stuck(self, *, still_s: float) -> bool:
        """Look at the batch, show it, and tell whether nothing can go on without somebody's help."""
        parked, waiting, running = await self._batch.waiting()
        progress = await self._batch.progress()
        self._note(progress)
        total, tally, written = self._ending.total, self._ending.tally, self._follow.written
        await self._look_at_lanes()
        notes, outlook = (*await self._paused(), *self._unserved()) if waiting and not running else (), None
        if tally.outcomes["succeeded"]:
            limits = await self._batch.ledger.limits(self._prospect.scopes)
            outlook = look_ahead(self._prospect.left(tally), self._done, progress.scope, *limits)
        counts = counts_of(self._done, tally)
        self._screen.show(
            Sight(
                counts, total, running, waiting, parked, progress.scope, notes=notes, outlook=outlook, lanes=self._lanes
            )
        )
        if waiting + running and not written and not self._signals:
            lanes = await self._batch.lanes()
            if self._crew.unreachable(lanes, for_s=UNREACHABLE_S):
                self._ending.reason = f"no call was answered: {self._crew.unreachable(lanes, for_s=0)}"
                return True
        if running or still_s < STILL_S:
            return False
        if progress.cancelled and not parked and not waiting:
            return True
        if parked and not waiting:
            return await self._is_parked()
        if waiting:
            lanes = await self._batch.lanes()
            further = {one for lane in lanes for one in self._further.get(lane, ())}  # there its jobs move in a moment
            self._ending.reason = self._crew.why_unserved(lanes | further) or await self._why_none_goes_on(lanes)
        elif not parked and self._follow.outstanding and not await self._follow.step(block_ms=1):
            # nothing came since either: all that ran may have ended between the last step and this look
            self._ending.reason = (
                f"{len(self._follow.outstanding)} lines were answered before, but their answers are gone from "
                f"{self._out.path.name}; start again with another -o"
            )
        return bool(self._ending.reason)

    async def _look_at_lanes(self) -> None:
        """See the lanes of the batch, once a second."""
        if time.monotonic() - self._saw_lanes >= LANES_EVERY_S:
            batch, errors = self._batch, self._crew.errors()
            latencies = {model_ref: one.latency for model_ref, one in self._ending.tally.models.items()}
            names = await batch.lanes(even_parked=True)
            self._lanes = await look_at_lanes(batch.redis, batch.keys, names, errors=errors, latencies=latencies)
            self._saw_lanes = time.monotonic()

    def _unserved(self) -> tuple[str, ...]:
        """Which lanes wait for a fleet that does not serve them, for people."""
        lanes = [lane.name for lane in self._lanes if lane.is_unserved and not lane.is_paused]
        served_by = f"`farebox worker{self._flags}` does, where its provider has a key"
        return tuple(f"nobody serves {lane}: {served_by}" for lane in lanes if self._crew.is_fleet)

    async def _paused(self) -> tuple[str, ...]:
        """Which lanes wait for somebody to resume them, for people."""
        ledger = self._batch.ledger
        pauses = await read_pauses(ledger.redis, ledger.keys, sorted(await self._batch.lanes()))
        return tuple(
            f"{lane} is {pause}: `farebox lanes resume {shlex.quote(lane)}{self._flags}` ends it"
            for lane, pause in pauses.items()
            if not pause.ends_by_itself
        )

    async def _why_none_goes_on(self, lanes: set[str]) -> str:
        """Say so when every lane was paused for what its provider did until somebody looks at it.

        An operator's pause is waited out, and so is what may still move to another lane.
        """
        redis, keys = self._batch.redis, self._batch.keys
        pauses = await read_pauses(redis, keys, sorted(lanes))
        if not lanes or len(pauses) < len(lanes):
            return ""
        if any(pause.ends_by_itself or pause.by == "operator" for pause in pauses.values()):
            return ""
        flows = await redis.smembers(keys.flows(self._batch.batch_id))
        for kind in ("movable", "spread"):
            if flows & await redis.smembers(keys.flows_to_move(kind)):
                return ""
        if len(lanes) > 1:
            return "nothing goes on until one of its lanes is resumed"
        return "nothing goes on until its lane is resumed"

    async def _is_parked(self) -> bool:
        """Everything waits for money. It is over when no call elsewhere can still give some back."""
        parked = await self._batch.parked()
        for _, scope, _ in parked:
            if (await self._batch.ledger.scope(parts_of_limit(scope)[0])).held_nusd:
                return False
        if not parked:
            return False
        _, name, self._ending.need_nusd = min(parked, key=lambda entry: entry[2])
        limits = await self._batch.ledger.limits([parts_of_limit(name)[0]])
        self._ending.blocked = next((limit for limit in limits if limit.name == name), None)
        self._ending.parked = self._ending.blocked is not None  # else it was removed a moment ago
        return bool(self._ending.parked)

    @contextmanager
    def _catching_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        signals: tuple[signal.Signals, ...] = (signal.SIGINT, signal.SIGTERM)
        for signum in signals:
            loop.add_signal_handler(signum, self._on_signal)
        try:
            yield
        finally:
            for signum in signals:
                loop.remove_signal_handler(signum)

    def _on_signal(self) -> None:
        self._signals += 1
        is_first = self._signals == 1 and not self._is_stopping
        act: Callable[[], None] = self._crew.drain if is_first else self._crew.leave
        act()
        if is_first:
            words = "running calls may finish; once more leaves at once, their cost unconfirmed"
            if self._crew.is_fleet:
                words = f"the fleet goes on with what was submitted; `farebox cancel {self._batch.batch_id}` stops it"
            self._screen.say(f"stopping: {words}")
