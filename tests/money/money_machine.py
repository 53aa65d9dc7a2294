"""A judge of the money: drives the verbs at random and keeps books of its own, in plain dicts and lists.

It shares no arithmetic with the Lua: what a verb must answer is worked out here, one attempt after the other, and
after every step everything that is in Redis is compared with it, by the table in `farebox.keys`.
"""

import asyncio
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial

import fakeredis
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from msgspec import structs
from redis import Redis as SyncRedis
from redis.asyncio import Redis
from tests.money.snapshot import Snapshot
from tests.shifted_time import SHIFT

from farebox.amend import drop
from farebox.batch import Batch
from farebox.errors import BatchClosedError, InputError
from farebox.fallback import first_lane, kind_of
from farebox.journal import sums
from farebox.records import Job, encode_job
from farebox.scripts import RETRY, REUSE
from farebox_worker.audit import audit
from farebox_worker.bus.admit import Fare, admit
from farebox_worker.bus.claim import Ask, Claimed, claim
from farebox_worker.bus.expire import expire
from farebox_worker.bus.fold import fold
from farebox_worker.bus.lapse import lapse
from farebox_worker.bus.move import move
from farebox_worker.bus.pace import Rates, tune
from farebox_worker.bus.pause import pause, resume
from farebox_worker.bus.reassert import Known, reassert
from farebox_worker.bus.renew import renew
from farebox_worker.bus.scripts import BLAME
from farebox_worker.bus.settle import Settlement, settle
from farebox_worker.bus.sweep import sweep
from farebox_worker.bus.withdraw import withdraw

LANES = ("p:a", "q:b", "p:c")  # two share a provider
PROVIDERS = ("p", "q")
BATCHES = ("b0", "b1", "b2")
TAGS = ((), ("t0",), ("t0", "t1"), ("t1", "t1"))
SCOPES = ("global", "batch:b0", "batch:b1", "tag:t0", "tag:t1", "model:p:a", "provider:q")
HOLDS = (-1, 0, 10, 60, 250, "all", "all", "over")
PLACE = st.integers(0, 23)
FELT = st.sampled_from(("", "", "", "", "unsent", "cut:1", "tokens:9", "left:0,0", "left:,7"))
ENDING = st.tuples(
    st.sampled_from(("answer", "answer", "answer", "return", "fail", "retry", "doubt", "give up", "refuse", "move")),
    st.sampled_from(("none", "half", "all", "all", "over")),
    st.sampled_from((0, 0, 15, 10**8)),
    st.sampled_from(("timeout", "")),
    st.integers(0, 9),
    FELT,
)
ENDINGS = st.tuples(ENDING, ENDING, ENDING, ENDING)
TTL = 600_000
PASSED = 1  # a deadline that is over
LONG = 10**12  # no day that passes ends such a lease
BEGINS = datetime(2028, 2, 28, 12, tzinfo=UTC)  # a leap day and the end of a month are near
PERIODS = (None, "day", "month")
SEQUENCE_END = 10**12
AUDITED = 10  # every so many judgements, for it is as dear as all the rest


@dataclass(eq=False)
class Work:
    """A job, as the judge knows it."""

    id: str
    batch: str
    lane: str
    flow: str
    tags: tuple[str, ...]
    due_ms: int
    job: Job
    outcome: str = ""
    told: list[str] = field(default_factory=list)
    running: "Try | None" = None
    attempts: int = 0
    doubts: int = 0
    claims: int = 0
    tried: list[str] = field(default_factory=list)
    is_superseded: bool = False
    put_back: Settlement | None = None  # by the group that is being settled

    @property
    def scopes(self):
        provider = self.lane.partition(":")[0]
        return (
            "global",
            f"batch:{self.batch}",
            f"provider:{provider}",
            f"model:{self.lane}",
            *(f"tag:{t}" for t in self.tags),
        )

    @property
    def fare(self):
        """What it holds in the end, when holds are no more drawn."""
        return (4, 20, 60)[int(self.id[-8:], 16) % 3]

    @property
    def payload(self):
        return encode_job(self.job, 0)

    def end(self, outcome):
        """End for good, or until it is retried; its batch's stream tells of it."""
        self.outcome = outcome
        self.told.append(outcome)

    def begin_anew(self, flow, lane):
        self.flow, self.lane, self.outcome = flow, lane, ""
        self.attempts = self.doubts = self.claims = self.due_ms = 0

    def go(self, lane):
        """Wait in another lane from now on."""
        self.flow = flow_in(self.flow, lane)
        self.lane = lane


@dataclass(eq=False)
class Try:
    """An attempt, in the lane it was made in. `owed` is where its hold stands: "", "held" or "unconfirmed"."""

    claimed: Claimed
    work: Work
    is_short: bool
    hold: int | None = None
    owed: str = ""
    is_settled: bool = False
    is_gone: bool = False  # it went back or lapsed before it was admitted: nobody settles it
    is_forgotten: bool = False  # released by an operator: the ledger knows its hold no more
    owed_since: str = ""  # the day on which it became unconfirmed
    scopes: tuple[str, ...] = ()

    def __post_init__(self):
        self.scopes = self.work.scopes  # those of its lane: the job may move on


@dataclass
class Books:
    """What every scope and every window must show; limits by name, which is the scope's, or day:… or month:… of it."""

    counters: dict[str, Counter] = field(default_factory=lambda: defaultdict(Counter))
    windows: dict[str, dict[str, Counter]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(Counter)))
    limits: dict[str, int] = field(default_factory=dict)
    today: str = ""

    def used(self, name):
        scope, per = split(name)
        counted = self.counters[scope]
        counting = self.windows[self.today if per == "day" else self.today[:7]][scope] if per else counted
        return counting["spent"] + counting["unconfirmed"] + counted["held"]

    def room(self, name):
        return self.limits[name] - self.used(name) if name in self.limits else None

    def reach(self, name):
        """What would be free if all that is in flight cost nothing."""
        return self.room(name) + self.counters[split(name)[0]]["held"]

    def limited(self, scopes):
        return [name for name in names_of(scopes) if name in self.limits]

    def add(self, scopes, day="", **amounts):
        for scope in dict.fromkeys(scopes):
            self.counters[scope].update(amounts)
            windowed = {name: n for name, n in amounts.items() if n and name not in ("held", "overrun", "unpriced")}
            for date in (day or self.today, (day or self.today)[:7]) if windowed else ():
                self.windows[date][scope].update(windowed)


def other_lane(lane):
    return LANES[(LANES.index(lane) + 1) % len(LANES)]


def flow_in(flow, lane):
    """The flow of another lane to which jobs of this one move."""
    namespace, kind, priority, batch, _ = flow.split(":", 4)
    return ":".join((namespace, kind, priority, batch.partition("+")[0], lane))


def siding_of(flow, limit):
    """Where jobs of a flow wait for a limit, so that others go on."""
    namespace, kind, priority, batch, lane = flow.split(":", 4)
    return ":".join((namespace, kind, priority, f"{batch.partition('+')[0]}+{limit.replace(':', '+')}", lane))


def is_siding(flow):
    return "+" in flow.split(":")[3]


def provider_of(lane):
    return lane.partition(":")[0]


def split(name):
    """A limit's scope, and the window it is for."""
    head, _, rest = name.partition(":")
    return (rest, head) if head in PERIODS else (name, None)


def names_of(scopes):
    """The limits that scopes can have."""
    return [f"{per}:{scope}" if per else scope for scope in dict.fromkeys(scopes) for per in PERIODS]


class MoneyMachine(RuleBasedStateMachine):
    """Random verbs against one server; `url` "" is the fake one."""

    def __init__(self, url=""):
        super().__init__()
        self.runner = asyncio.Runner()
        if url:
            self.eyes = SyncRedis.from_url(url, decode_responses=True)
            self.redis = Redis.from_url(url)
        else:
            server = fakeredis.FakeServer()
            self.eyes = fakeredis.FakeRedis(server=server, decode_responses=True)
            self.redis = fakeredis.FakeAsyncRedis(server=server)
        self.eyes.flushall()
        self.shift_s = 0
        self.shift_s = int(BEGINS.timestamp()) - self.now_ms() // 1000
        self.eyes.set(SHIFT, self.shift_s)
        self.works: dict[str, Work] = {}
        self.tries: list[Try] = []
        self.books = Books(today=self.today())
        self.batches: dict[str, Batch] = {}
        self.sealed: dict[str, int] = {}
        self.cancelled: set[str] = set()
        self.excused: set[str] = set()
        self.rooms: dict[str, int | None] = {}
        self.parking: dict[str, tuple[str, int]] = {}
        self.reopens = True  # whether this step must reopen what fits
        self.ticked = False
        self.folded = False
        self.judgements = 0
        self.last_group: list[Settlement] = []
        self.last_claim = None
        self.custom = 0
        self.paced: set[str] = set()
        self.rates: dict[str, bool] = {}
        self.slowed: set[str] = set()  # lanes that felt a refusal: fewer may be in flight
        self.pauses: dict[str, tuple[int, str]] = {}  # until when in ms, by whom
        self.probing: dict[str, Try | None] = {}
        self.alike: dict[str, tuple[str, int, int]] = {}

    def do(self, awaitable):
        async def act():
            return await awaitable

        return self.runner.get_loop().run_until_complete(act())

    @initialize(
        limit=st.sampled_from((None, 100, 300, 500)),
        loads=st.lists(
            st.tuples(st.sampled_from(BATCHES), st.sampled_from(LANES), st.sampled_from(TAGS)), min_size=2, max_size=6
        ),
    )
    def begin(self, limit, loads):
        for name in BATCHES:
            self.batches[name] = Batch(self.redis, name)
        self.do(self.batches["b0"].ledger.create())
        for batch in self.batches.values():
            self.do(batch.open())
        self.tongue = self.batches["b0"].tongue
        self.set_limit("global", limit, None)
        for name, lane, tags in loads:
            self.submit(name, lane, 0, 3, tags, 0)

    def now_ms(self):
        return int(time.time() * 1000) + self.shift_s * 1000  # the server is on this machine

    def today(self):
        return datetime.fromtimestamp(self.now_ms() / 1000, UTC).date().isoformat()

    # --- producers ------------------------------------------------------------------------------------------------

    @rule(
        name=st.sampled_from(BATCHES),
        lane=st.sampled_from(LANES),
        priority=st.sampled_from((0, 0, 5)),
        count=st.integers(1, 5),
        tags=st.sampled_from(TAGS),
        later_ms=st.sampled_from((0, 0, 0, 15, 10**8)),
        deadline=st.sampled_from((0, 0, PASSED, LONG * 10)),
        spread=st.booleans(),
    )
    def submit(self, name, lane, priority, count, tags, later_ms, deadline=0, spread=False):  # noqa: PLR0917 - drawn
        batch = self.batches[name]
        due = self.now_ms() + later_ms if later_ms else 0
        more = {"tags": tags, "deadline_ms": deadline, "spread": spread}
        fallbacks = tuple(one for one in LANES if one != lane)
        custom_ids = [f"c{self.custom + n}" for n in range(count)]
        jobs = [Job(1, one, lane, "chat", b"{}", fallbacks=fallbacks, **more) for one in custom_ids]
        sending = batch.submit(jobs, priority=priority, not_before_ms=due)
        if name in self.sealed or name in self.cancelled:
            try:
                self.do(sending)
            except BatchClosedError:
                return
            raise AssertionError("a closed batch took jobs")
        assert self.do(sending).created == count
        assert self.do(batch.submit(jobs[:1], priority=priority)).existing == 1
        self.custom += count
        for job in jobs:
            flow = f"farebox:flow:{priority}:{name}:{first_lane(job)}"
            work = Work(batch.job_id(job.custom_id), name, first_lane(job), flow, tags, due, job)
            self.works[work.id] = work

    def seal(self, name):
        total = sum(w.batch == name and w.outcome != "withdrawn" for w in self.works.values())
        self.do(self.batches[name].seal(total))
        self.sealed[name] = total

    def open_again(self, name):
        try:
            self.do(self.batches[name].open())
        except InputError:
            assert name in self.cancelled
        else:
            self.sealed.pop(name, None)

    def cancel(self, name):
        ended = sum(w.batch == name and w.outcome not in ("", "withdrawn") for w in self.works.values())
        stops = name not in self.cancelled and ended < self.sealed.get(name, ended + 1)
        assert self.do(self.batches[name].cancel()) == stops
        if stops:
            self.cancelled.add(name)

    def reopen(self, name):
        assert self.do(self.batches[name].reopen()) == (name in self.cancelled)
        self.cancelled.discard(name)

    def sweep(self):
        waiting = [w for w in self.works.values() if w.batch in self.cancelled and not w.outcome and not w.running]
        swept = self.do(sweep(self.tongue, results_ttl_ms=TTL))
        assert swept == len(waiting)
        for work in waiting:
            work.end("cancelled")

    @rule(name=st.sampled_from(BATCHES), lane=st.sampled_from(LANES), twice=st.booleans())
    def reuse(self, name, lane, twice):
        """Answer a new job with what an identical one was told."""
        batch, job = self.batches[name], Job(1, f"c{self.custom}", lane, "chat", b"{}")
        identity = batch.job_id(job.custom_id)
        sending = self.tongue.say(REUSE, name, TTL, *(identity, "digest", "answered", b"yes") * (2 if twice else 1))
        if name in self.sealed or name in self.cancelled:
            try:
                self.do(sending)
            except BatchClosedError:
                return
            raise AssertionError("a closed batch took answers")
        _, created, *existing = self.do(sending)
        assert (created, existing) == (1, [1] if twice else [])
        self.custom += 1
        work = Work(identity, name, lane, f"farebox:flow:0:{name}:{lane}", (), 0, job)
        work.end("succeeded")
        self.works[identity] = work

    @rule(name=st.sampled_from(BATCHES), places=st.lists(PLACE, min_size=1, max_size=4))
    def retry(self, name, places):
        """Put failed jobs back; who ended otherwise, or was retried by somebody else, is passed over."""
        ended = [w for w in self.works.values() if w.batch == name and w.outcome not in ("", "withdrawn")]
        chosen = list({id(w): w for w in (ended[place % len(ended)] for place in places)}.values()) if ended else []
        batch, arguments = self.batches[name], []
        for work in chosen:
            lane = first_lane(work.job)
            was = self.do(self.redis.get(f"arq:result:{work.id}")) if work.outcome == "failed" else "no more"
            arguments += (work.id, f"farebox:flow:2:{name}:{lane}", work.job.deadline_ms, was, work.payload)
        if name in self.cancelled:
            try:
                self.do(self.tongue.say(RETRY, name, *arguments))
            except BatchClosedError:
                return
            raise AssertionError("a cancelled batch took jobs back")
        failed = [w for w in chosen if w.outcome == "failed"]
        if not failed:
            assert not arguments or self.do(self.tongue.say(RETRY, name, *arguments))[1] == 0
            return
        self.do(batch.keep())
        assert self.do(self.tongue.say(RETRY, name, *arguments))[1] == len(failed)
        assert self.do(self.tongue.say(RETRY, name, *arguments))[1] == 0
        for work in failed:
            lane = first_lane(work.job)
            work.begin_anew(f"farebox:flow:2:{name}:{lane}", lane)
            self.do(batch.note_flow(work.flow, [kind_of(work.job)]))

    @rule(place=PLACE)
    def drop(self, place):
        """Cancel one job, as its handle does."""
        work = list(self.works.values())[place % len(self.works)]
        waits, batch = not work.outcome and not work.running, self.batches[work.batch]
        assert self.do(drop(batch, work.id, work.job.custom_id, work.flow)) == waits
        if waits:
            assert not self.eyes.hexists("farebox:parking", work.flow), "it waits for one that is gone"
            work.end("cancelled")
        self.do(batch.retain())

    @rule()
    def expire(self):
        """Fail what waits and is too late; what runs is looked at again later."""
        late = [w for w in self.works.values() if not w.outcome and w.job.deadline_ms == PASSED]
        for work in late:
            noted = self.eyes.zscore("farebox:deadlines", f"{work.batch}\t{work.id}")
            assert noted is not None, "its deadline is forgotten, and it has not ended"
            self.eyes.zadd("farebox:deadlines", {f"{work.batch}\t{work.id}": PASSED})
        waiting = [w for w in late if not w.running]
        assert self.do(expire(self.tongue, results_ttl_ms=TTL)) == len(waiting)
        for work in waiting:
            work.end("failed")

    @rule(places=st.lists(PLACE, min_size=1, max_size=3), flow_of=PLACE)
    def withdraw(self, places, flow_of):
        works = list(self.works.values())
        flow = works[flow_of % len(works)].flow
        chosen = {works[place % len(works)].id: works[place % len(works)] for place in places}
        waiting = [w for w in chosen.values() if w.flow == flow and not w.outcome and not w.running]
        assert self.do(withdraw(self.tongue, flow, list(chosen))) == len(waiting)
        for work in waiting:
            work.outcome = "withdrawn"

    @rule(places=st.lists(PLACE, min_size=1, max_size=4), flow_of=PLACE, kind=st.sampled_from(("movable", "spread")))
    def move(self, places, flow_of, kind):
        works = list(self.works.values())
        first = works[flow_of % len(works)]
        self._move([first, *(works[place % len(works)] for place in places)], kind)

    def _move(self, works, kind="spread"):
        """Move works to the other lane of the first one, as far as they wait beside it."""
        chosen, first = {work.id: work for work in works}, works[0]
        flow, lane = first.flow, other_lane(first.lane)
        goal = flow_in(flow, lane)
        parked = self.eyes.hkeys("farebox:parking")
        before = self.now_ms()
        stays = first.batch in self.cancelled or flow in parked or goal in parked
        able = [w for w in chosen.values() if w.flow == flow and not w.outcome and not w.running and not stays]
        done = self.do(move(self.tongue, flow, goal, kind, list(chosen)))
        gone = [w for w in able if self.eyes.zscore(goal, w.id) is not None]
        assert done == len(gone)
        assert {w.id for w in able if w.due_ms <= before} <= {w.id for w in gone}
        assert all(w.due_ms <= self.now_ms() for w in gone), "moved before it was due"
        for work in gone:
            work.go(lane)

    # --- workers --------------------------------------------------------------------------------------------------

    @rule(
        asks=st.dictionaries(
            st.sampled_from(LANES), st.tuples(st.integers(0, 6), st.sampled_from((0, 0, 2, 4))), min_size=1
        ),
        only=st.sampled_from(("", "", "", "b0", "b1")),
        is_short=st.booleans(),
    )
    def claim(self, asks, only, is_short):
        self._claim(asks, only=only, is_short=is_short)

    def _claim(self, asks, *, only="", is_short=False):
        name = f"{len(self.tries):011d}"
        slots = {}
        for lane, (free, most) in asks.items():
            running = sum(w.running is not None for w in self.works.values() if w.lane == lane)
            slots[lane] = max(0, min(free, most - running) if most else free)
        before = self.now_ms()
        waiting = [w for w in self.works.values() if not w.outcome and not w.running]
        parked = set(self.eyes.hkeys("farebox:parking"))
        ready = [
            w
            for w in waiting
            if w.batch not in self.cancelled and w.flow not in parked and slots.get(w.lane) and only in ("", w.batch)
        ]
        listed = [Ask(lane, free, most) for lane, (free, most) in asks.items()]
        acting = partial(claim, self.tongue, listed, lease_ms=1 if is_short else LONG, only_batch=only, name=name)
        found = self.do(acting()).jobs
        after = self.now_ms()
        due_before = [w for w in ready if w.due_ms <= before and self._paused_until(w.lane) <= before]
        taken = [self.works[claimed.job_id] for claimed in found]
        probes = {one: self._probes(one) for one in self.probing}
        assert len({w.id for w in taken}) == len(taken), "one claim took a job twice"
        for claimed, work in zip(found, taken, strict=True):
            assert work in ready, "claimed what was not to be had"
            assert work.due_ms <= after, "claimed before it was due"
            assert self._paused_until(work.lane) <= after, "claimed in a lane that is paused"
            told = work.attempts, work.doubts, work.claims
            is_fresh = work.is_superseded and float(claimed.score) < SEQUENCE_END and not is_siding(work.flow)
            seen = claimed.attempts, claimed.doubts, claimed.claims
            assert seen == ((0, 0, 0) if is_fresh else told)  # nothing is remembered of the fresh
            self.last_claim = None
            work.running = Try(claimed, work, is_short)
            self.tries.append(work.running)
        for provider, may in probes.items():
            probed = [w for w in taken if provider_of(w.lane) == provider]
            assert len(probed) <= may, "more than one job went first"
            if probed:
                self.probing[provider] = probed[0].running
        for lane, free in slots.items():
            got = sum(w.lane == lane for w in taken)
            assert got <= free
            if lane in self.paced | self.slowed or provider_of(lane) in self.probing:
                continue
            left = [w for w in due_before if w.lane == lane and w not in taken]
            # An ended lease at the head of a flow may cost one claim; the next one finds what is behind it.
            if left and got < free:
                flows = {w.flow for w in left}
                assert any(w.flow in flows and w.running and w.running.is_short for w in self.works.values())
        if found and not is_short:
            self.last_claim = (acting, found)
        return found

    def _paused_until(self, lane):
        return max(self.pauses.get(of, (0, ""))[0] for of in (f"lane:{lane}", f"provider:{provider_of(lane)}"))

    def _probes(self, provider):
        """How many jobs of a provider that was paused may go now."""
        probe = self.probing[provider]
        return 0 if probe and probe.work.running is probe else 1

    def claim_sent_again(self):
        if not self.last_claim:
            return
        acting, found = self.last_claim
        again = [claimed.token for claimed in self.do(acting()).jobs]
        running = {w.running.claimed.token for w in self.works.values() if w.running and not w.outcome}
        assert again == [claimed.token for claimed in found if claimed.token in running]

    @rule(hold=st.sampled_from((-1, 0, 20, 60, "all", "over")), is_short=st.booleans(), admits=st.booleans())
    def rush(self, hold, is_short, admits):
        """Take whatever there is, and admit it all at once or not at all."""
        found = {claimed.token for claimed in self._claim(dict.fromkeys(LANES, (9, 0)), is_short=is_short)}
        chosen = [t for t in self.tries if t.claimed.token in found]
        if admits:
            self._admit(chosen, [hold if place == 0 or hold in (20, 60) else 10 for place in range(len(chosen))])

    @rule(hold=st.sampled_from((-1, 0, 20, 60, "all")), is_short=st.booleans(), endings=ENDINGS)
    def shift(self, hold, is_short, endings):
        """Work goes as it should: what is claimed is admitted, and what runs longest ends."""
        self.rush(hold, is_short=is_short, admits=True)
        self.judge()
        running = [t for t in self.tries if t.work.running is t and not t.is_settled]
        self._settle([(t, self._ending(draw, t)) for t, draw in zip(running, endings, strict=False)])

    @rule(
        hold=st.sampled_from((20, 60)),
        late=ENDINGS,
        is_renewed=st.booleans(),
        days=st.sampled_from((0, 0, 1, 2)),
        moves=st.booleans(),
        together=st.booleans(),
    )
    def overtake(self, hold, late, is_renewed, days, moves, together):
        """Workers seem dead, others take their jobs, perhaps a night goes by, and then the dead speak."""
        self.rush(hold, is_short=True, admits=True)
        slow = [t for t in self.tries if t.owed == "held" and t.is_short][: len(late)]
        self.judge()
        self.lapse("due")
        self.judge()
        if moves:
            for flow in {t.work.flow for t in slow}:
                self._move([t.work for t in slow if t.work.flow == flow])
            self.judge()
        if days or not moves:
            self.rush(hold, is_short=False, admits=is_renewed)
        self.judge()
        if days:
            self.pass_days(days)
            self.judge()
        speak = [(t, self._ending(draw, t)) for t, draw in zip(slow, late, strict=False) if t.owed]
        if together:  # who took their jobs has ended too, and all go in one group
            others = [t.work.running for t, _ in speak if t.work.running and t.work.running.owed == "held"]
            speak += [(t, self._ending(("answer", "half", 0, "", 0, ""), t)) for t in others]
        self._settle(speak)

    def _some(self, places, *, only=lambda one: True):
        """Choose attempts by numbers that mean something whatever there is, so that games can be played again."""
        pool = [one for one in self.tries[-24:] if only(one)]
        return list(dict.fromkeys(pool[place % len(pool)] for place in places)) if pool else []

    @rule(picks=st.lists(st.tuples(PLACE, st.sampled_from(HOLDS)), min_size=1, max_size=6))
    def admit(self, picks):
        chosen = self._some([place for place, _ in picks], only=lambda t: not t.is_settled)
        self._admit(chosen, [hold for _, hold in picks[: len(chosen)]])

    def _admit(self, chosen, holds):  # noqa: C901, PLR0912 - every verdict in its turn
        names = names_of(SCOPES)
        starved = dict(zip(names, self.eyes.mget([f"farebox:starved:{name}" for name in names]), strict=True))
        holds = [self._size(hold, t) for t, hold in zip(chosen, holds, strict=True)]
        tokens = 40 if self.paced else 0
        fares = [Fare(t.claimed, hold, t.scopes, tokens) for t, hold in zip(chosen, holds, strict=True)]
        verdicts = self.do(admit(self.tongue, fares))
        waiting: set[str] = set()
        last_ok: dict[str, int] = {}
        lacking: list[tuple[int, Work, str, bool]] = []
        for n, (t, hold, verdict) in enumerate(zip(chosen, holds, verdicts, strict=True)):
            work = t.work
            limited = self.books.limited(t.scopes)
            if work.running is not t:
                assert verdict.word == "lost"
            elif t.owed:
                assert verdict.word == "ok"
            elif work.batch in self.cancelled:
                assert verdict.word == "cancelled"
            elif hold < 0 and limited:
                assert verdict.word == "unpriced"
            else:
                need = max(0, hold)
                kept_out = [s for s in limited if starved.get(s) not in (None, work.flow)]
                full = [s for s in limited if self.books.used(s) + need > self.books.limits[s]]
                if need and (kept_out or full):
                    assert verdict.word == "no_room"
                    assert verdict.scope in kept_out + full
                    assert verdict.need_nusd == need
                    lacking.append((n, work, verdict.scope, need > self.books.reach(verdict.scope)))
                    self._go_back(t)
                    starved = {s: flow for s, flow in starved.items() if s == verdict.scope or flow != work.flow}
                elif verdict.word == "wait" or work.lane in waiting:
                    assert verdict.word == "wait"
                    assert work.lane in self.paced, "a lane without a limit waits for tokens"
                    assert verdict.wait_ms > 0
                    waiting.add(work.lane)
                    self._go_back(t)
                else:
                    assert verdict.word == "ok"
                    t.hold, t.owed = need, "held"
                    last_ok[work.flow] = n
                    self.books.add(t.scopes, held=need)
                    for scope in limited:
                        if starved.get(scope) == work.flow:
                            starved[scope] = None
                    full = [s for s in limited if self.books.used(s) > self.books.limits[s]]
                    assert not need or not full, f"an admit passed the limit of {full}"
        for n, work, limit, is_hopeless in lacking:
            if is_hopeless or last_ok.get(work.flow, -1) > n or split(limit)[0].startswith("tag:"):
                work.flow = siding_of(work.flow, limit)

    def _size(self, hold, t):
        """A hold that takes all the room there is, or one more."""
        rooms = [self.books.room(name) for name in self.books.limited(t.scopes)]
        room = max(0, min(rooms, default=100))
        return {"all": min(room, 10**4), "over": min(room, 10**4) + 1}.get(hold, hold)

    def _go_back(self, t):
        t.work.running = None
        t.is_gone = True

    @rule(picks=st.lists(st.tuples(PLACE, ENDING), min_size=1, max_size=6))
    def settle(self, picks):
        chosen = self._some(
            [place for place, _ in picks], only=lambda t: not t.is_gone and not (t.is_settled and not t.owed)
        )
        self._settle([(t, self._ending(draw, t)) for t, (_, draw) in zip(chosen, picks, strict=False)])

    @rule(picks=st.lists(st.tuples(PLACE, ENDING), min_size=1, max_size=6))
    def settle_late(self, picks):
        """The dead were only slow."""
        chosen = self._some([place for place, _ in picks], only=lambda t: t.owed == "unconfirmed" and not t.is_settled)
        self._settle([(t, self._ending(draw, t)) for t, (_, draw) in zip(chosen, picks, strict=False)])

    def _ending(self, draw, t):  # noqa: PLR0911 - a table
        """Say how an attempt ends, as the worker would, early or late."""
        word, size, later_ms, why, chance, felt = draw
        claimed, work, hold = t.claimed, t.work, t.hold or 0
        if t.hold is None and chance:  # never admitted, so never sent; unless the ledger has forgotten it
            word = "return" if word in ("return", "answer") else "refuse"
        base = partial(Settlement, claimed.job_id, claimed.flow, claimed.token, scopes=t.scopes, felt=felt)
        match word:
            case "return":
                return base("return", "release", due=claimed.score)
            case "refuse" | "fail":
                outcome = "cancelled" if work.batch in self.cancelled else "failed"
                return base("finish", "release", outcome=outcome, result=b"no")
            case "answer" if chance == 1:
                return base("finish", "unpriced", 0, 3, 4, outcome="succeeded answered", result=b"yes")
            case "answer":
                amount = {"none": 0, "half": hold // 2, "all": hold, "over": hold + 7}[size]
                return base("finish", "actual", amount, 3, 4, outcome="succeeded truncated default_cap", result=b"yes")
            case "give up":
                return base("finish", "unconfirmed", why="timeout", outcome="failed", result=b"no")
            case "doubt":
                return base("retry", "unconfirmed", why=why, attempts=claimed.attempts + 1)
            case "move":
                money = "unconfirmed" if chance > 6 else "release"
                goal = f"movable {other_lane(work.lane)}"
                return base("move", money, why=why, due=str(later_ms), outcome=goal, result=work.payload)
        return base("retry", "release", due=str(later_ms), attempts=claimed.attempts + 1)

    def _settle(self, endings):
        endings = [(t, self._remembered(t, ending)) for t, ending in endings]
        self.last_group = [ending for _, ending in endings]
        words = self.do(settle(self.tongue, self.last_group, results_ttl_ms=TTL))
        for (t, ending), word in zip(endings, words, strict=True):
            expected = self._book(t, ending)
            assert word in expected, (ending, word, expected)
        for t, _ in endings:
            self._judge_due(t.work)

    def _judge_due(self, work):
        """What goes on is due when it was said; another attempt's answer in the same group may have ended it."""
        if work.put_back and not work.outcome:
            work.due_ms = int(self.eyes.zscore(work.flow, work.id))
            assert abs(work.due_ms - int(work.put_back.due) - self.now_ms()) < 5_000, "not due when it was said"
        work.put_back = None

    def _remembered(self, t, ending):
        is_failure = t.hold is not None and not ending.outcome.startswith("succeeded")
        return structs.replace(ending, history=t.claimed.token.encode()) if is_failure else ending

    def _book(self, t, ending):
        """Settle an attempt in the judge's books; return the words the verb may say."""
        if t.is_settled:
            return {"repeat"}
        t.is_settled = True
        if "cut" in ending.felt:
            self.slowed.add(t.claimed.flow.split(":", 4)[4])
        if ending.action == "finish" and ending.outcome.startswith("succeeded"):
            self.probing = {provider: probe for provider, probe in self.probing.items() if probe is not t}
        self._book_money(t, ending)
        return self._book_job(t, ending)

    def _book_money(self, t, ending):
        work, scopes = t.work, t.scopes
        day = t.owed_since if t.owed == "unconfirmed" else ""
        if t.owed and not (t.owed == "unconfirmed" and ending.money == "unconfirmed"):
            self.books.add(scopes, day, **{t.owed: -t.hold})
            if ending.money == "unconfirmed":
                self._doubt(t)
                work.doubts += 1
            else:
                t.owed = ""
        if ending.money in ("actual", "unpriced"):
            is_known = t.hold is not None and not t.is_forgotten
            above = max(0, ending.amount_nusd - t.hold) if is_known else 0
            over = 0 if ending.money == "unpriced" and not t.hold else above
            self.books.add(
                scopes,
                day,
                spent=ending.amount_nusd,
                calls=1,
                input_tokens=3,
                output_tokens=4,
                overrun=over,
                unpriced=int(ending.money == "unpriced"),
            )
            if above or not is_known:
                self._excuse(scopes)

    def _doubt(self, t):
        self.books.add(t.scopes, unconfirmed=t.hold)
        t.owed, t.owed_since = "unconfirmed", self.books.today

    def _book_job(self, t, ending):
        work = t.work
        if ending.history and not work.outcome:
            work.tried.append(t.claimed.token)
        mine = work.running is t
        if mine:
            work.running = None
        if ending.action == "finish":
            if (mine or ending.outcome.startswith("succeeded")) and not work.outcome:
                work.end(ending.outcome.split()[0])
                if work.running and work.running.hold is None:  # claimed again, not sent: never will be
                    work.running.is_gone = True
                    work.running = None
                return {"done"}
            return {"money"}
        if work.outcome:
            return {"done", "money"}
        if not mine:
            return {"money"}
        if ending.action == "move":
            work.go(ending.outcome.partition(" ")[2])
            work.attempts = 0
        if ending.action in ("retry", "move"):
            work.attempts, work.put_back = ending.attempts, ending
        return {"done"}

    def settle_sent_again(self):
        if not self.last_group:
            return
        words = self.do(settle(self.tongue, self.last_group, results_ttl_ms=TTL))
        assert set(words) == {"repeat"}

    @rule(places=st.lists(PLACE, min_size=1, max_size=6))
    def renew(self, places):
        chosen = self._some(places)
        lost = self.do(renew(self.tongue, [t.claimed for t in chosen], lease_ms=LONG))
        assert [claimed.token for claimed in lost] == [t.claimed.token for t in chosen if t.work.running is not t]
        for t in chosen:
            if t.work.running is t:
                t.is_short = False

    @rule(
        places=st.lists(PLACE, min_size=1, max_size=6),
        lost=st.lists(PLACE, max_size=3),
        is_over=st.booleans(),
        taken=st.sampled_from(("", "", "claimed", "admitted")),
    )
    def reassert(self, places, lost, is_over, taken):
        """Let the server forget claims and their holds, perhaps give the jobs to others, and be told of all again."""
        told = self._some(places, only=lambda t: t.hold is not None and (t.owed or t.is_settled or t.is_forgotten))
        gone = self._some(lost, only=self._may_forget)
        told = list(dict.fromkeys([*told, *gone]))
        for t in gone:
            self._forget(t)
        if gone and taken:
            self.rush(20, is_short=False, admits=taken == "admitted")
        known = [
            Known(t.claimed.job_id, t.claimed.flow, t.claimed.token, t.hold, t.scopes, "stopped" if is_over else "")
            for t in told
        ]
        unknown = self.do(reassert(self.tongue, known, lease_ms=LONG))
        assert {one.token for one in unknown} == {t.claimed.token for t in gone}
        assert (self.eyes.hdel("farebox:ledger", "lost") > 0) == bool(gone), "lost writes are noticed, and only they"
        for t in gone:
            self._put_back(t, is_over=is_over)
        for t in told:
            t.is_short = t.is_short and (is_over or t.work.running is not t)

    def _may_forget(self, t):
        return t.owed == "held" and t.work.running is t and not t.work.outcome and t.work.batch not in self.cancelled

    def _forget(self, t):
        """As after a crash of the server: it was never claimed, so it never held anything."""
        identity, flow, lane = t.work.id, t.work.flow, t.work.lane
        self.eyes.delete(f"arq:in-progress:{identity}")
        self.eyes.zrem(f"farebox:leases:{lane}", identity)
        self.eyes.zadd(flow, {identity: t.claimed.score})
        if flow not in self.eyes.hkeys("farebox:parking"):
            self.eyes.zadd(f"farebox:wait:{lane}", {flow: 1})
        self.eyes.hdel("farebox:holds", t.claimed.token)
        for scope in dict.fromkeys(t.scopes):
            self.eyes.hincrby(f"farebox:scope:{scope}", "held", -t.hold)
        self.books.add(t.scopes, held=-t.hold)
        t.owed, t.work.running = "", None

    def _put_back(self, t, *, is_over):
        other = t.work.running
        if is_over or (other and other.owed):
            self._doubt(t)
            t.work.doubts += 1
            t.work.is_superseded = bool(other)
            if not other:
                t.work.due_ms = 0
        else:
            self.books.add(t.scopes, held=t.hold)
            t.owed, t.work.running, t.work.flow = "held", t, t.claimed.flow
            if other:
                other.is_gone = True
        self._excuse(t.scopes)

    @rule(kind=st.sampled_from(("due", "due", "dead", "dead batch", "away")))
    def lapse(self, kind):
        time.sleep(0.003)
        self.eyes.hdel("farebox:ledger", "lapsed")
        options = {}
        running = [w.running for w in self.works.values() if w.running]
        if kind == "dead":
            options = {"dead": True}
        elif kind == "dead batch":
            options = {"dead": True, "batch": "b0"}
            running = [t for t in running if t.work.batch == "b0"]
        else:
            running = [t for t in running if t.is_short]
        if kind == "away":
            self.eyes.hset("farebox:ledger", "clock", self.now_ms() - 10**13)
            running = []
        ended = self.do(lapse(self.tongue, **options))
        self.eyes.hdel("farebox:ledger", "grace")
        self.ticked = True
        assert {(one.job_id, one.hold_nusd) for one in ended} == {(t.work.id, t.hold) for t in running}
        for t in running:
            self._lapsed(t)

    def _lapsed(self, t):
        work = t.work
        work.running = None
        if t.owed:
            self.books.add(t.scopes, held=-t.hold)
            self._doubt(t)
            work.attempts += 1
            work.doubts += 1
            if not work.outcome:
                work.tried.append("lapsed")
        else:
            work.claims += 1
            t.is_gone = True
        work.due_ms = 0

    @rule()
    def starve(self):
        """Let everything parked have waited long, and the fleet's second go by."""
        for flow, (scope, need) in self.parking.items():
            self.eyes.hset("farebox:parking", flow, f"{scope}\t{need}\t1")
        self.lapse("due")
        for name in self.books.limited(SCOPES):
            flow = self.eyes.get(f"farebox:starved:{name}")
            if flow and flow in self.parking:
                assert self.parking[flow][1] <= self.books.reach(name), "what can never fit keeps others out"
        self.judge()
        self.rush(20, is_short=False, admits=True)

    # --- operators ------------------------------------------------------------------------------------------------

    @rule(
        scope=st.sampled_from(SCOPES),
        limit=st.sampled_from((None, 0, 1, 50, 100, 200, 300, 500, 10**6)),
        per=st.sampled_from((None, *PERIODS)),
    )
    def set_limit(self, scope, limit, per):
        name = f"{per}:{scope}" if per else scope
        assert self.do(self.batches["b0"].ledger.set_limit(scope, limit, per)) == self.books.limits.get(name)
        if limit is None:
            self.books.limits.pop(name, None)
        else:
            self.books.limits[name] = limit
            self._excuse([scope])

    @rule(
        whose=st.sampled_from((*LANES, *PROVIDERS)),
        rpm=st.sampled_from((0, 0, 60, 600)),
        tpm=st.sampled_from((0, 60, 120)),
    )
    def tune(self, whose, rpm, tpm):
        """State what a lane or a provider may send per minute; money is counted as before."""
        kind = "providers" if whose in PROVIDERS else "lanes"
        self.do(tune(self.tongue, **{kind: {whose: Rates(rpm, tpm)}}))
        self.rates[whose] = bool(rpm or tpm)
        self.paced = {lane for lane in LANES if self.rates.get(lane) or self.rates.get(provider_of(lane))}

    @rule(
        of=st.sampled_from(("lane:p:a", "lane:q:b", "provider:p", "provider:q")),
        seconds=st.sampled_from((60, 600, None)),
        by=st.sampled_from(("operator", "provider")),
    )
    def pause(self, of, seconds, by):
        kind, _, name = of.partition(":")
        until, whose = self.pauses.get(of, (0, ""))
        asked = self.now_ms() + (seconds * 1000 if seconds else 10**15)
        self.do(pause(self.tongue, **{kind: name}, seconds=seconds, why="why", by=by))
        if asked > until or by == whose == "operator":
            until, whose = int(self.eyes.hget(f"farebox:{of}", "paused_until")), by
            assert not seconds or abs(until - asked) < 5_000
        self.pauses[of] = (until, whose)
        if (kind, by) == ("provider", "provider"):
            self.probing.setdefault(name, None)

    @rule(provider=st.sampled_from(PROVIDERS), late=ENDINGS)
    def come_back(self, provider, late):
        """A provider's own pause ends: one goes first, whatever else is tried; those on their way before it end."""
        before = [t for t in self.tries if t.owed == "held" and not t.is_settled]
        self.pause(f"provider:{provider}", 60, "provider")
        self._pass(61)
        self.reopens = False
        for _ in range(2):
            self.rush(20, is_short=False, admits=True)
            self.judge()
        self._settle([(t, self._ending(draw, t)) for t, draw in zip(before, late, strict=False)])
        self.judge()
        self.rush(20, is_short=False, admits=True)

    @rule(of=st.sampled_from(("lane:p:a", "lane:q:b", "provider:p", "provider:q")))
    def resume(self, of):
        kind, _, name = of.partition(":")
        self.do(resume(self.tongue, **{kind: name}))
        self.pauses.pop(of, None)
        if kind == "provider":
            self.probing.pop(name, None)

    @rule(lane=st.sampled_from(LANES), what=st.sampled_from(("this", "this", "that")))
    def blame(self, lane, what):
        """Count bad requests alike: what was answered between them, or the third one, begins anew."""
        calls = self.books.counters[f"model:{lane}"]["calls"]
        before, count, of = self.alike.get(lane, ("", 0, 0))
        count = count + 1 if (before, of) == (what, calls) else 1
        if self.pauses.get(f"lane:{lane}", (0, ""))[0] > self.now_ms():
            count = 0
        elif count == 3:
            self.alike.pop(lane, None)
        else:
            self.alike[lane] = (what, count, calls)
        assert self.do(self.tongue.say(BLAME, lane, f"model:{lane}", what, 3))[1] == count

    @rule(seconds=st.sampled_from((1, 30, 61)))
    def pass_time(self, seconds):
        self._pass(seconds)
        self.reopens = False  # a day may have passed

    @rule(days=st.sampled_from((1, 1, 2, 31)))
    def pass_days(self, days):
        """Let midnights pass, and nothing else: what runs goes on."""
        self._pass(days * 86_400)
        self.reopens = False  # the next second does

    def _pass(self, seconds):
        self.shift_s += seconds
        self.eyes.set(SHIFT, self.shift_s)
        self.eyes.hset("farebox:ledger", "clock", self.now_ms())
        self.books.today = self.today()

    @rule(places=st.lists(PLACE, min_size=1, max_size=3), is_charge=st.booleans(), late=ENDING)
    def confirm(self, places, is_charge, late):
        chosen = self._some(places, only=lambda t: t.owed == "unconfirmed")
        tokens = [t.claimed.token for t in chosen]
        answer = self.do(self.batches["b0"].ledger.confirm([*tokens, "nobody knows it", *tokens], is_charge=is_charge))
        assert answer == (len(chosen), sum(t.hold for t in chosen))
        for t in chosen:
            self.books.add(t.scopes, t.owed_since, unconfirmed=-t.hold, spent=t.hold if is_charge else 0)
            t.owed, t.is_forgotten = "", True
            if is_charge:
                t.is_settled = True
                again = self._ending(("answer", "all", 0, "", 0, ""), t)
                assert self.do(settle(self.tongue, [again], results_ttl_ms=TTL)) == ["repeat"]
        if chosen and not is_charge:  # the first of them is heard of after all
            self.judge()
            self._settle([(chosen[0], self._ending(late, chosen[0]))])

    @rule(keep_rows=st.sampled_from((0, 1, 5)), entries=st.sampled_from((1, 2, 50)))
    def fold(self, keep_rows, entries):
        before = self.eyes.xlen("farebox:journal")
        folded = self.do(fold(self.tongue, keep_days=10**5, keep_rows=keep_rows, slice_entries=entries))
        assert folded <= entries
        assert self.eyes.xlen("farebox:journal") == before - folded
        assert keep_rows or folded == min(before, entries)
        self.folded = True

    def book(self, cost, lane):
        provider = lane.partition(":")[0]
        scopes = ("global", f"provider:{provider}", f"model:{lane}")
        ledger = self.batches["b0"].ledger
        total = self.do(
            ledger.book(provider_id=provider, model_ref=lane, cost_nusd=cost, input_tokens=1, output_tokens=2)
        )
        self.books.add(scopes, spent=cost, calls=1, input_tokens=1, output_tokens=2)
        self._excuse(scopes)
        assert total == self.books.counters["global"]["spent"]

    def reset(self):
        assert self.do(self.batches["b0"].ledger.reset()) == self.books.counters["global"]["spent"]
        for counted in self.books.counters.values():
            for name in ("spent", "calls", "input_tokens", "output_tokens", "overrun", "unpriced"):
                counted[name] = 0
        self.reopens = False  # the next second does

    @rule(
        what=st.sampled_from(
            ("seal", "seal", "open again", "cancel", "reopen", "sweep", "sweep", "book", "book", "reset")
        ),
        name=st.sampled_from(BATCHES),
        cost=st.sampled_from((0, 5, 40)),
        lane=st.sampled_from(LANES),
    )
    def now_and_then(self, what, name, cost, lane):
        match what:
            case "seal":
                self.seal(name)
            case "open again":
                self.open_again(name)
            case "cancel" if name != "b0":
                self.cancel(name)
            case "reopen":
                self.reopen(name)
            case "sweep":
                self.sweep()
            case "book":
                self.book(cost, lane)
            case "reset":
                self.reset()

    @rule(is_claim=st.booleans())
    def send_again(self, is_claim):
        if is_claim:
            self.claim_sent_again()
        else:
            self.settle_sent_again()

    def _excuse(self, scopes):
        """These scopes may be above their limits now, and the judge knows why."""
        self.excused |= {name for name in self.books.limited(scopes) if self.books.room(name) < 0}

    # --- the judge ------------------------------------------------------------------------------------------------

    @invariant()
    def judge(self):
        if not self.batches:
            return
        seen = Snapshot(self.eyes)
        self._judge_money(seen)
        self._judge_windows(seen)
        self._judge_jobs(seen)
        self._judge_histories(seen)
        self._judge_retention(seen)
        self._judge_pace(seen)
        self._judge_flows(seen)
        self.reopens, self.ticked = True, False
        self.judgements += 1
        if self.folded or self.judgements % AUDITED == 0:
            self._judge_audit()

    def _judge_money(self, seen):
        for name in names_of(SCOPES):
            if (self.books.room(name) or 0) < 0:
                assert name in self.excused, f"{name} is above its limit and nobody knows why"
            else:
                self.excused.discard(name)
        for scope in {*self.books.counters, *SCOPES}:
            shown = {name: int(n) for name, n in seen[f"farebox:scope:{scope}"].items() if int(n) and name != "since"}
            assert shown == {name: n for name, n in self.books.counters[scope].items() if n}, scope
        assert {name: int(n) for name, n in seen.under("farebox:limit").items()} == self.books.limits
        for kind, key in (("held", "farebox:holds"), ("unconfirmed", "farebox:unconfirmed")):
            owed = {t.claimed.token: t.hold for t in self.tries if t.owed == kind}
            records = {token: record.split("\t") for token, record in seen[key].items()}
            assert {token: int(record[0]) for token, record in records.items()} == owed
            assert self.books.counters["global"][kind] == sum(owed.values())
            where = {t.claimed.token: list(dict.fromkeys(t.scopes)) for t in self.tries if t.owed == kind}
            first = 3 if kind == "held" else 5
            assert {token: record[first:] for token, record in records.items()} == where
            assert all(all(record) for record in records.values()), "a reader that skips empty fields is lost"

    def _judge_windows(self, seen):
        """Each day and month shows its own money."""
        shown = {
            window.partition(":")[2]: {name: int(n) for name, n in counted.items() if int(n)}
            for window, counted in seen.under("farebox:window").items()
        }
        for date in {*shown, *self.books.windows}:
            expected = {
                f"{name} {scope}": counted[name]
                for scope, counted in self.books.windows[date].items()
                for name in ("spent", "unconfirmed")
                if counted[name]
            }
            assert shown.get(date, {}) == expected, date

    def _judge_audit(self):
        """The journal can tell every counter again."""
        report = self.do(audit(self.redis, self.batches["b0"].keys))
        assert report.agrees, report
        assert report.day.isoformat() == self.books.today
        assert set(report.passed) == {name for name in self.books.limits if self.books.room(name) < 0}
        if self.folded:
            self._judge_sums()
            self.folded = False

    def _judge_sums(self):
        """What is told of each day, from checkpoint and journal, is what was booked on it."""
        told = self.do(sums(self.redis, self.batches["b0"].keys))
        assert {(day.isoformat(), scope): of for (day, scope), of in told.items()} == {
            (day, scope): told
            for day, scopes in self.books.windows.items()
            for scope, of in scopes.items()
            if len(day) == 10 and (told := {name: n for name, n in of.items() if n})
        }

    def _judge_jobs(self, seen):
        open_ids = {w.id for w in self.works.values() if not w.outcome}
        running = {w.id: w.running.claimed.token for w in self.works.values() if w.running}
        assert set(seen.under("arq:job")) == open_ids
        assert {job: claim[:16] for job, claim in seen.under("arq:in-progress").items()} == running
        leased = [job for lane in LANES for job in seen[f"farebox:leases:{lane}"]]
        assert sorted(leased) == sorted(running)
        queued = Counter(job for flow in seen.under("farebox:flow").values() for job in flow)
        assert queued == Counter(open_ids), "a job is lost, or in two places"
        assert set(seen.under("arq:retry")) <= open_ids
        assert {field.rpartition(":")[0] for field in seen["farebox:strikes"]} <= open_ids
        results = set(seen.under("arq:result"))
        for name in BATCHES:
            ended = [w.id for w in self.works.values() if w.batch == name and w.outcome not in ("", "withdrawn")]
            told = defaultdict(list)
            for _, fields in seen[f"farebox:results:{name}"]:
                for job, outcome in fields.items():
                    told[job].append(outcome)
            expected = {w.id: w.told for w in self.works.values() if w.batch == name and w.told}
            assert told == expected, "answered twice, or not at all"
            assert set(ended) <= results
            outcomes = Counter(self.works[job].outcome for job in ended)
            record = seen[f"farebox:batch:{name}"]
            counted = [int(record.get(word, 0)) for word in ("succeeded", "failed", "cancelled_jobs")]
            assert counted == [outcomes["succeeded"], outcomes["failed"], outcomes["cancelled"]]

    def _judge_histories(self, seen):
        """Each job remembers its last 20 attempts without an answer, for as long as its result is kept."""
        expected = {w.id: w for w in self.works.values() if w.tried and w.outcome != "withdrawn"}
        shown = seen.under("farebox:history")
        assert set(shown) == set(expected)
        for work in expected.values():
            lines = [line.split("\t") for line in shown[work.id]]
            assert [line[1] or line[3] for line in lines] == work.tried[-20:]
            is_kept = seen.ttl_ms[f"farebox:history:{work.id}"] > 0
            assert is_kept == bool(work.outcome), "a history is kept as long as its job's result"

    def _judge_retention(self, seen):
        """What is complete expires, and nothing else does; what has ended leaves no deadline behind."""
        for name in BATCHES:
            record = seen[f"farebox:batch:{name}"]
            done = sum(int(record.get(word, 0)) for word in ("succeeded", "failed", "cancelled_jobs"))
            complete = "total" in record and done >= int(record["total"])
            for key in (f"farebox:batch:{name}", f"farebox:results:{name}", f"farebox:flows:{name}"):
                if key in seen.ttl_ms:
                    assert (seen.ttl_ms[key] > 0) == complete, key
        noted = {member.partition("\t")[2] for member in seen["farebox:deadlines"]}
        waiting = {w.id for w in self.works.values() if not w.outcome and w.job.deadline_ms}
        assert noted == waiting, "a deadline is lost, or left behind"

    def _judge_pace(self, seen):
        """No bucket owes anything, for no job is larger than one; who probes is known."""
        for whose in (*(f"lane:{lane}" for lane in LANES), *(f"provider:{one}" for one in PROVIDERS)):
            for bucket in ("requests", "tokens"):
                assert float(seen[f"farebox:{whose}"].get(bucket) or 0) > -0.01, whose
        assert {one for one in PROVIDERS if "probing" in seen[f"farebox:provider:{one}"]} == set(self.probing)

    def _judge_flows(self, seen):
        """Work that is due is found by a claim, or its flow is parked and rightly so."""
        now, parking = self.now_ms(), {}
        for flow, record in seen["farebox:parking"].items():
            scope, need, _ = record.split("\t")
            parking[flow] = (scope, int(need))
            assert seen[f"farebox:parked:{scope}"].get(flow) == int(need)
        assert sum(map(len, seen.under("farebox:parked").values())) == len(parking)
        for lane in LANES:
            opened, waits = seen[f"farebox:open:{lane}"], seen[f"farebox:wait:{lane}"]
            assert not set(opened) & set(parking)
            for work in self.works.values():
                if work.lane != lane or work.outcome or work.running or work.batch in self.cancelled:
                    continue
                if work.flow not in parking and work.flow not in opened:
                    assert work.flow in waits, "nobody will find this job"
                    assert waits[work.flow] <= max(seen[work.flow][work.id], now)
        self._judge_parking(seen, parking)
        self.parking = parking
        self.rooms = {scope: self.books.room(scope) for scope in names_of({*SCOPES, *self.books.counters})}

    def _judge_parking(self, seen, parking):
        """After whatever frees money, no flow stays parked that would fit beside those that were reopened."""
        for scope in {scope for scope, _ in parking.values()}:
            before, room = self.rooms.get(scope), self.books.room(scope)
            freed = self.reopens and (room is None or (before is not None and room > before))
            if not (freed or self.ticked) or seen[f"farebox:starved:{scope}"]:
                continue
            assert room is not None, "parked at a limit that is gone"
            reopened = sum(n for flow, (s, n) in self.parking.items() if s == scope and flow not in parking)
            least = min(n for s, n in parking.values() if s == scope)
            assert least + reopened > room, (scope, least, reopened, room, before, parking, self.parking, self.ticked)

    # --- the end --------------------------------------------------------------------------------------------------

    def teardown(self):
        try:
            if self.batches:
                self._play_to_the_end()
        finally:
            self.do(self.redis.aclose())
            self.eyes.close()
            self.runner.close()

    def _play_to_the_end(self):
        """With the limits as they are until nothing more fits; then without limits until nothing is left."""
        self._let_all_be_due()
        for key in self.eyes.keys("farebox:starved:*"):
            self.eyes.delete(key)
        for of in list(self.pauses):
            if self.pauses[of][0] > self.now_ms() + 10**10:  # somebody has to end these
                self.resume(of)
        self.lapse("dead")
        for _ in range(3):
            self._go_on()
        self.do(tune(self.tongue, lanes=dict.fromkeys(LANES, Rates()), providers=dict.fromkeys(PROVIDERS, Rates())))
        self.paced.clear()
        time.sleep(0.02)
        self.lapse("dead")
        for name, limit in list(self.books.limits.items()):  # what parked at another hold is tried again
            self.eyes.delete(f"farebox:starved:{name}")
            for amount in (10**9, limit):
                self.set_limit(split(name)[0], amount, split(name)[1])
        self._work_off()
        self.judge()
        self._judge_what_waits()
        for name in list(self.books.limits):
            self.set_limit(split(name)[0], None, split(name)[1])
        self._work_off()
        self.judge()
        self.fold(0, 10**4)
        self.judge()
        if self.cancelled:
            self.sweep()
        assert [w.id for w in self.works.values() if not w.outcome] == []
        assert not self.eyes.keys("farebox:holds")
        assert not self.eyes.keys("farebox:parking")
        self.judge()
        self._seal_all()

    def _judge_what_waits(self):
        """Nothing that would fit into what is left; but what waits aside for another hold than now."""
        for work in self.works.values():
            if work.outcome or work.batch in self.cancelled:
                continue
            if is_siding(work.flow) and self.eyes.zscore(work.flow, work.id) != work.fare:
                continue
            rooms = [self.books.room(name) for name in self.books.limited(work.scopes)]
            assert min(rooms) < work.fare, "money is left, and a job waits that would fit"

    def _let_all_be_due(self):
        for flow in self.eyes.keys("farebox:flow:*"):  # nothing is due in the far future any more
            late = [
                job for job, score in self.eyes.zrange(flow, 0, -1, withscores=True) if score > self.now_ms() + 10**7
            ]
            for job in late:
                if not self.works[job].running:
                    self.works[job].due_ms = 1
                    self.eyes.zadd(flow, {job: SEQUENCE_END})
                    lane = self.works[job].lane
                    self.eyes.zadd(f"farebox:wait:{lane}", {flow: 1})

    def _seal_all(self):
        """Batches that are over leave nothing behind but what is retained."""
        self._claim(dict.fromkeys(LANES, (50, 0)))
        for name in BATCHES:
            if name not in self.cancelled:
                self.seal(name)
        self.judge()
        left = {"strikes", "open", "wait", "leases", "parked", "starved", "flow"}
        left = {key for key in self.eyes.keys("farebox:*") if key.split(":")[1] in left}
        assert not left, "left behind by batches that are over"
        self._judge_audit()
        for kind in ("movable", "spread"):  # as whoever serves them does every few seconds
            for flow in self.eyes.smembers(f"farebox:{kind}"):
                assert self.do(move(self.tongue, flow, flow, kind, ())) == 0
            assert not self.eyes.exists(f"farebox:{kind}"), "nobody needs these any more"

    def _go_on(self):
        """Whatever happened before: a minute later, something goes in every provider that has work and money."""
        self._pass(700)
        self.reopens = False
        self.lapse("due")
        self.judge()
        parked = set(self.eyes.hkeys("farebox:parking"))
        ready = [w for w in self.works.values() if not w.outcome and not w.running and w.due_ms <= self.now_ms()]
        able = {
            provider_of(w.lane) for w in ready if w.batch not in self.cancelled and w.flow not in parked
        }  # all pauses are over
        found = {claimed.token for claimed in self._claim(dict.fromkeys(LANES, (50, 0)))}
        chosen = [t for t in self.tries if t.claimed.token in found]
        self._admit(chosen, [0 for _ in chosen])
        admitted = [t for t in chosen if t.owed]
        assert {provider_of(t.claimed.flow.split(":", 4)[4]) for t in admitted} == able, (
            "there is work, and nobody may do it"
        )
        self._settle([(t, self._ending(("answer", "none", 0, "", 0, ""), t)) for t in admitted])
        self.judge()

    def _work_off(self):
        for _ in range(200):
            self.lapse("due")
            self.judge()
            found = self._claim(dict.fromkeys(LANES, (50, 0)))
            if not found:
                return
            tokens = {claimed.token for claimed in found}
            chosen = [t for t in self.tries if t.claimed.token in tokens]
            self._admit(chosen, [t.work.fare for t in chosen])
            self.judge()
            self._settle(
                [
                    (
                        t,
                        Settlement(
                            t.claimed.job_id,
                            t.claimed.flow,
                            t.claimed.token,
                            "finish",
                            "actual",
                            t.work.fare // 4 * 3,
                            3,
                            4,
                            outcome="succeeded answered",
                            result=b"yes",
                            scopes=t.scopes,
                        ),
                    )
                    for t in chosen
                    if t.owed
                ]
            )
            for t in chosen:
                if not t.owed and not t.is_gone and not t.is_settled:
                    cancelled = Settlement(
                        t.claimed.job_id,
                        t.claimed.flow,
                        t.claimed.token,
                        "finish",
                        "release",
                        outcome="cancelled",
                        result=b"no",
                        scopes=t.scopes,
                    )
                    self._settle([(t, cancelled)])
        raise AssertionError("it never ends")
