"""From a claim to a settlement: claims jobs over all lanes, admits them, sends each as a task, heeds its failures.

Nothing is sent that was not admitted. A slot is free again when its settle is on its way, and only one group of them
is at a time: when the server is away nothing piles up.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections import Counter
from collections.abc import Awaitable, Collection
from functools import lru_cache

from farebox.errors import LedgerError
from farebox.scripts import Tongue
from farebox_worker.attempts import endings, sending
from farebox_worker.attempts.attempt import UNPRICED, Attempt
from farebox_worker.attempts.failures import Verdict
from farebox_worker.bus.admit import Fare, admit
from farebox_worker.bus.claim import Ask, Claimed, Claims, claim, new_name
from farebox_worker.bus.settle import Settlement
from farebox_worker.clock import clock
from farebox_worker.dispatch.balance import Balance
from farebox_worker.dispatch.doorbells import Doorbells
from farebox_worker.dispatch.moves import Moves
from farebox_worker.dispatch.pacing import Pacing
from farebox_worker.dispatch.reach import Reach
from farebox_worker.dispatch.recent import Recent
from farebox_worker.dispatch.settler import Settler
from farebox_worker.dispatch.slots import Slots
from farebox_worker.dispatch.steering import Steering, quietly
from farebox_worker.dispatch.witness import Witness
from farebox_worker.events import event
from farebox_worker.outage import Outage
from farebox_worker.prices.table import fee_problem
from farebox_worker.routes import Routes
from farebox_worker.settings import Settings

log = logging.getLogger(__name__)

FLEX_TIMEOUT_S = 900.0  # flex answers when there is room
HEAL_S = 3.0  # a lost doorbell is found by then, jittered


class Dispatch:
    """The work of one process.

    Args:
        tongue: speaks to the bus.
        outage: what is known of the server's absence.
        settings: what farebox.toml says.
        routes: which lanes can be served.
        only_batch: serve this batch and nothing else, or "".

    Attributes:
        only_batch: the one batch it serves, or "" for all.
        lanes: every lane there is to serve.
        reach: which providers let calls in, and which lanes answer.
        running: attempts that are admitted and not settled, by token.
        sending: the tasks of calls in flight, by token.
        complete, failed, retried: attempts settled so.
        recent: what was settled in the last seconds.
        witness: counts what is done here, and tells the log.
        steering: does what failures mean for others, and knows the newest.
        moves: brings jobs away from lanes that cannot go on.
        balance: brings jobs that are spread to the lanes that answer them soonest.
    """

    def __init__(self, tongue: Tongue, outage: Outage, settings: Settings, routes: Routes, *, only_batch: str) -> None:
        self._tongue = tongue
        self._outage = outage
        self._worker = settings.worker
        self._routes = routes
        self.only_batch = only_batch
        self._parts_of = lru_cache(maxsize=4096)(tongue.keys.parts_of_flow)
        self.lanes: set[str] = set()
        self.running: dict[str, Attempt] = {}
        self.sending: dict[str, asyncio.Task[object]] = {}
        self.complete = self.failed = self.retried = 0
        self._is_stopping = self._is_halted = False
        self._then = self._called  # bound once for all calls
        self.reach = Reach()
        self._slots = Slots(routes, self.reach, per_lane=settings.worker.concurrency)
        self._pacing = Pacing(tongue, routes, settings.providers)
        self.recent = Recent()
        self.witness = Witness()
        key_names = {name: provider.api_key_env for name, provider in settings.providers.items()}
        self.steering = Steering(tongue, routes, key_names, self.witness)
        self.moves = Moves(
            tongue, routes, self.reach.is_away, after_s=settings.worker.fallback_after_s, only_batch=only_batch
        )
        self.balance = Balance(tongue, only_batch=only_batch)
        self.bells = Doorbells(tongue, outage, only_batch=only_batch, lanes=self.served, with_slots=self._with_slots)
        self.settler = Settler(
            tongue,
            outage,
            results_ttl_ms=settings.retention.results_ttl_ms,
            on_sent=self._on_sent,
            on_settled=self._on_settled,
        )

    @property
    def in_flight(self) -> int:
        """Attempts claimed and not yet settled."""
        return sum(self._slots.held.values())

    def slots(self) -> dict[str, tuple[int, int]]:
        """By served lane: attempts in flight, and how many there may be in this process."""
        return {lane: (self._slots.held.get(lane, 0), self._worker.concurrency) for lane in self.served()}

    def served(self) -> list[str]:
        """The lanes this process has a route for."""
        return [lane for lane in self.lanes if self._routes.find(lane)]

    async def learn_lanes(self) -> None:
        """Learn which lanes there are: all of them, or those of the one batch this process serves."""
        redis, keys = self._tongue.redis, self._tongue.keys
        if self.only_batch:
            flows = await redis.smembers(keys.flows(self.only_batch))
            found = {keys.parts_of_flow(flow.decode())[2] for flow in flows}
        else:
            found = {lane.decode(errors="replace") for lane in await redis.smembers(keys.lanes)}
        if found != self.lanes:
            self.lanes = found
            if not self.only_batch:
                self.bells.stop_listening()
            self.bells.ring()

    # --- claim and admit ----------------------------------------------------------------------------------------

    async def serve(self, *, until_empty: bool = False) -> None:
        """Claim what there are free slots for; sleep until a bell, a freed slot, a due job or the heal poll.

        With `until_empty` it ends when nothing is left to do.
        """
        due_s = math.inf
        while not self._is_stopping:
            was_idle = not self.in_flight  # a claim does not see the room that ends meanwhile make
            lanes = self.bells.heard(0.0 if was_idle else due_s)
            asks = self._asks(lanes)
            deadline = clock() + self._worker.lease_s  # from before the first try: the lease may be older
            found = await self._claim(asks) if asks else Claims([], None)
            soon_s = math.inf if found.due_in_s is None else clock() + found.due_in_s
            due_s = soon_s if lanes is None else min(due_s, soon_s)
            if found.jobs:
                await self._start(found.jobs, deadline)
            if await self._take_over(asks, found.jobs) or found.jobs:
                continue
            if until_empty and was_idle and due_s == self.reach.again_in_s == math.inf:
                return
            has_room = bool(asks or self._asks(None)) or not self.in_flight
            pause_s = min(HEAL_S, self.balance.again_in_s) * (0.75 + random.random() / 2)
            pause_s = min(pause_s, self.reach.again_in_s, max(0.001, due_s - clock()))
            await self.bells.sleep(pause_s, has_room=has_room)
            if self.only_batch and has_room:
                await self._outage.insist(self.learn_lanes)

    def stop(self) -> None:
        """Claim nothing more; what was claimed and not admitted goes back at once."""
        self._is_stopping = True
        self.bells.ring()

    def halt(self) -> None:
        """Stop, and send nothing more of what is admitted either, nor of what has no connection yet."""
        self._is_halted = True
        for one in self.running.values():
            one.deadline = 0.0
        self.stop()

    async def abort_cancelled(self) -> None:
        """End the calls of batches that were cancelled with `--now`; what they cost stays unconfirmed."""
        batches = sorted({self._parts_of(one.claimed.flow)[1] for one in self.running.values()})
        if not batches:
            return
        async with self._tongue.redis.pipeline(transaction=False) as pipe:
            for batch in batches:
                pipe.hexists(self._tongue.keys.batch(batch), "aborted")
            aborted = {batch for batch, is_so in zip(batches, await pipe.execute(), strict=True) if is_so}
        for token, task in list(self.sending.items()):
            one = self.running.get(token)
            if one and not one.is_aborted and self._parts_of(one.claimed.flow)[1] in aborted:
                one.is_aborted = True
                asyncio.get_running_loop().call_soon(task.cancel)  # after its first step: else it would never settle

    def _asks(self, lanes: Collection[str] | None) -> list[Ask]:
        """What to claim for these lanes, None for all."""
        # a refused call keeps its slot until it is settled: a pause may be on its way
        leaving = Counter(self._lane_of(one.flow) for one in self.settler.group if one.action == "finish")
        return self._slots.asks(self.lanes if lanes is None else self.lanes.intersection(lanes), self.lanes, leaving)

    def _with_slots(self) -> set[str]:
        return {ask.lane for ask in self._asks(None)}

    async def _take_over(self, asks: list[Ask], jobs: list[Claimed]) -> int:
        """Let lanes take over jobs that wait in lanes like them, and would be answered there later."""
        got = {self._lane_of(claimed.flow) for claimed in jobs}
        idle = [ask.lane for ask in asks if ask.lane not in got]
        if not self.balance.is_due(idle):
            return 0
        able = [lane for lane in self.served() if not self.reach.is_away(lane)]
        slots = {lane: (self._slots.held.get(lane, 0), self._slots.free(lane)) for lane in able}
        taken = await self._outage.insist(lambda: self.balance.take_over(slots))
        if taken:
            self.bells.ring()
        return taken

    async def _claim(self, asks: list[Ask]) -> Claims:
        lanes = [ask.lane for ask in asks]
        if not self._pacing.is_told(lanes):
            await self._outage.insist(lambda: self._pacing.tell(lanes))
        name = new_name()  # the same one when it is sent again: then the same jobs come
        lease_ms = int(self._worker.lease_s * 1000)
        return await self._outage.insist(
            lambda: claim(self._tongue, asks, lease_ms=lease_ms, only_batch=self.only_batch, name=name)
        )

    async def _start(self, jobs: list[Claimed], deadline: float) -> None:
        """Prepare claimed jobs, admit them, and start a task for each that may be sent."""
        ready: list[Attempt] = []
        for claimed in jobs:
            made = self._prepare(claimed, deadline)
            if isinstance(made, Attempt):
                ready.append(made)
            else:
                self.settler.put(made)
        if self._is_stopping:
            for one in ready:
                self.settler.put(endings.hand_back(one))
            return
        if not ready:
            return
        fares = [Fare(one.claimed, one.hold_nusd, one.scopes, one.tokens) for one in ready]
        try:
            verdicts = await self._outage.insist(lambda: admit(self._tongue, fares))
        except LedgerError:  # an earlier try may have reached the ledger
            for one in ready:
                self.settler.put(endings.hand_back(one))
            raise
        for one, verdict in zip(ready, verdicts, strict=True):
            self.witness.admitted(one, verdict)
            self._admitted(one, verdict.word)

    def _prepare(self, claimed: Claimed, deadline: float) -> Attempt | Settlement:
        _, batch_id, lane = self._parts_of(claimed.flow)
        self._slots.take(lane)
        self.witness.claimed(claimed, lane)
        route = self._routes.find(lane)
        # its provider was stopped between the claim and here, or others of its lanes make the first calls
        if route is None or self.reach.is_over(lane, self._slots.held):
            return Settlement(
                claimed.job_id, claimed.flow, claimed.token, "return", "release", due=claimed.score, felt="unsent"
            )
        try:
            return sending.prepare(claimed, batch_id, route, deadline=deadline)
        except Exception as error:  # a payload must never kill a worker
            extra = event("crashed", job=claimed.job_id, lane=lane, at="prepare")
            log.exception("preparing %s of %s failed", claimed.job_id, lane, extra=extra)
            return endings.refuse(claimed, "unprepared", f"{type(error).__name__} while preparing the request")

    def _admitted(self, one: Attempt, word: str) -> None:
        if word == "ok":
            self._send(one)
        elif word == "cancelled":
            self.settler.put(endings.cancelled(one))
        elif word == "unpriced":
            ref, price = one.route.entry.model_ref, one.route.entry.price
            message = f'no price is known for {ref}, and a budget applies: state one under [models."{ref}"]'
            if price is not None:
                message = fee_problem(ref, price.unstated_fee(one.prepared.fees))
            self.settler.put(endings.refuse(one.claimed, "no_price", message, one.envelope))
        elif word == "lost":  # it is another's now; a hold we never heard of may be owed: it was not sent
            self.settler.put(endings.hand_back(one))
        else:  # no_room, wait: it is back in its place
            self._free(one.claimed.flow)

    # --- send and settle ----------------------------------------------------------------------------------------

    def _send(self, one: Attempt) -> None:
        token = one.claimed.token
        timeout_s = max(self._worker.request_timeout_s, FLEX_TIMEOUT_S if one.route.lane.endswith("@flex") else 0.0)
        if self._is_halted:
            one.deadline = 0.0
        self.witness.sent(one)
        self.reach.sent(one.route.lane)
        call = sending.send(one, timeout_s=timeout_s, max_attempts=self._worker.max_attempts, then=self._then)
        self.running[token] = one
        self.sending[token] = asyncio.create_task(call, name=token)

    def _called(
        self, one: Attempt, settlement: Settlement, verdict: Verdict | None, took_s: float
    ) -> Awaitable[None] | None:
        """Hand a call's settlement over; where it means something for others, return what is to be awaited first."""
        lane = one.route.lane
        self.witness.called(one, settlement, verdict, took_s)
        if verdict is not None or settlement.action == "finish":
            self._note_reach(lane, verdict, took_s)
        if verdict is None and settlement.action == "finish":
            self.balance.answered(lane, took_s)
        settlement.felt = self._pacing.felt(one, settlement, verdict, took_s)
        is_overrun = settlement.money == "actual" and settlement.amount_nusd > one.hold_nusd != UNPRICED
        if verdict is not None or is_overrun:
            return self._heed(one, settlement, verdict, took_s, is_overrun=is_overrun)
        self._let_go(one, settlement)
        return self._news(one)

    def _note_reach(self, lane: str, verdict: Verdict | None, took_s: float) -> None:
        news = self.reach.ended(lane, verdict, took_s)
        if news == "away" and verdict:
            self.witness.away(lane, verdict.message)
        elif news == "back":
            self.witness.back(lane)
        if news in {"open", "back"}:
            self.bells.ring()

    async def _heed(
        self, one: Attempt, settlement: Settlement, verdict: Verdict | None, took_s: float, *, is_overrun: bool
    ) -> None:
        """Do what a call means for others before its slot is free for the next one."""
        try:
            if is_overrun:
                await self.steering.stop_at_overrun(one, settlement.amount_nusd)
            await self.steering.heed(one, verdict, took_s)
        finally:
            self._let_go(one, settlement)
        if news := self._news(one):
            await news

    def _let_go(self, one: Attempt, settlement: Settlement) -> None:
        self.sending.pop(one.claimed.token, None)
        self.settler.put(settlement)
        one.let_go()

    def _news(self, one: Attempt) -> Awaitable[None] | None:
        return quietly(news, one.route.lane) if (news := self._pacing.learn(one)) else None

    def _on_sent(self) -> None:
        self.bells.ring(self._lane_of(one.flow) for one in self.settler.group)

    def _on_settled(self, settlement: Settlement, word: str) -> None:
        one = self.running.pop(settlement.token, None)
        hold_nusd = one.hold_nusd if one else 0
        self.recent.add(settlement, hold_nusd)
        self.witness.settled(self._lane_of(settlement.flow), settlement, word, hold_nusd)
        self._free(settlement.flow)
        if settlement.action == "retry":
            self.retried += 1
        elif settlement.action == "finish" and word == "done":
            if settlement.outcome.startswith("succeeded"):
                self.complete += 1
            else:
                self.failed += 1

    def _lane_of(self, flow: str) -> str:
        return self._parts_of(flow)[2]

    def _free(self, flow: str) -> None:
        lane = self._lane_of(flow)
        self._slots.give_back(lane)
        self.bells.ring((lane,))
