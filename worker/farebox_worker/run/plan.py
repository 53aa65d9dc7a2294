"""Judging an input file before a cent is spent: every line's model, price, translation, and worst cost."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path

from farebox.errors import ConfigError, FareboxError, InputError
from farebox.fallback import as_asked_in, lanes_of
from farebox.keys import lane_of
from farebox.records import Job, Tier
from farebox_worker.files.content import Content
from farebox_worker.files.lines import IsKnown, Line
from farebox_worker.files.numbers import LineNumbers
from farebox_worker.files.source import Source
from farebox_worker.files.summary import Summary
from farebox_worker.files.table import give_back
from farebox_worker.prices.catalogue import Catalogue, Entry
from farebox_worker.prices.rates import Price
from farebox_worker.prices.table import fee_problem
from farebox_worker.providers.base import Prepared
from farebox_worker.routes import Routes
from farebox_worker.run.ask import Ask
from farebox_worker.run.forecast import Load, Loads
from farebox_worker.run.misfits import Ceiling, Misfits, NeverFitsError
from farebox_worker.run.screen import TOLD_EVERY


@dataclass(slots=True)
class Plan:
    """A judged file.

    Attributes:
        summary: all its lines, counted.
        asked, done, rest: the good lines that are to be asked, have their answer, or come after the `first`.
        by_tier: all good lines as they would be in each tier that their model can be asked in.
        largest_nusd: the dearest line.
        capped_by_default: good lines that name no output cap.
        needs_budget: money is at stake.
        unpriced: lanes without a known price.
        pretend: models whose price is a pretence.
        misfits: lines that can never fit into the budget.
        further: by lane, those its jobs may move on to.
        done_unread: of the lines that have their answer, those that `Planner.lines` leaves out.
    """

    summary: Summary = field(default_factory=Summary)
    asked: Loads = field(default_factory=dict)
    done: Loads = field(default_factory=dict)
    rest: Loads = field(default_factory=dict)
    by_tier: Loads = field(default_factory=dict)
    largest_nusd: int = 0
    capped_by_default: int = 0
    needs_budget: bool = False
    unpriced: set[str] = field(default_factory=set)
    pretend: set[str] = field(default_factory=set)
    misfits: Misfits | None = None
    done_unread: int = 0
    further: dict[str, set[str]] = field(default_factory=dict)

    @property
    def worst_nusd(self) -> int:
        """What the lines to be asked can cost at most, in nano-dollars."""
        return sum(load.worst_nusd for load in self.asked.values())

    @property
    def lines_asked(self) -> int:
        """How many lines are to be asked."""
        return _jobs(self.asked)

    @property
    def lines_done(self) -> int:
        """How many lines had their answer before."""
        return _jobs(self.done)

    @property
    def lines_left_for_later(self) -> int:
        """How many lines come after the `first`."""
        return _jobs(self.rest)


@dataclass(slots=True)
class _Judged:
    """What the check of one line found, for whoever counts it: the worst case in its own lane, and in any of its."""

    entry: Entry
    prepared: Prepared
    own_nusd: int
    worst_nusd: int
    fits: bool = True


class Planner:
    """Reads a file's jobs and judges them with the adapters that will run them."""

    def __init__(self, ask: Ask, catalogue: Catalogue, routes: Routes) -> None:
        self._ask = ask
        self._catalogue = catalogue
        self._routes = routes
        self._plan = Plan()
        self._is_strict = False
        self._is_done: Callable[[str], bool] = lambda _: False
        self._judged: _Judged | None = None
        self._rejected = LineNumbers()
        self._passed = LineNumbers()
        self._passes = False
        self._last_line: int | None = None
        self._own_refs = cache(self._resolve_own)

    @property
    def path(self) -> Path:
        """The input file."""
        return self._ask.source.path

    @property
    def source(self) -> Source:
        """The input."""
        return self._ask.source

    @cached_property
    def models(self) -> list[str]:
        """The model_refs that every line is asked of; none where each line names its own. Raises: FareboxError."""
        return [self._catalogue.resolve(name, provider=self._ask.provider).model_ref for name in self._ask.models]

    def digest(self) -> str:
        """Stand for all that makes a line's job, but for the line."""
        return self._ask.digest(self.models)

    @property
    def passes_known_lines(self) -> bool:
        """Whether `judge` could pass over lines that are known from an earlier run."""
        return self._passes

    def _resolve_own(self, name: str) -> list[str]:
        try:
            return [self._catalogue.resolve(name, provider=self._ask.provider).model_ref]
        except FareboxError:
            return [""]  # which no line was counted under

    def name_now(self, custom_id: str, model_ref: str) -> str:
        """The custom_id under which this asks what was asked under another: with several models it names its model."""
        if model_ref not in self.models:
            return custom_id
        bare = custom_id.removesuffix(f"@{model_ref}")
        return f"{bare}@{model_ref}" if len(self.models) > 1 else bare

    def lines(self) -> Iterator[Line]:
        """Read the file's lines up to the last that is to be asked, without those that `judge` has passed over."""
        for line in self.all_lines(without=self._passed):
            if self._last_line is not None and line.number > self._last_line:
                return
            yield line

    def all_lines(self, *, without: Container[int] = ()) -> Iterator[Line]:
        """Read the file's lines, without those that `judge` has rejected, and without those of these numbers."""
        is_judged = len(self._ask.models) < 2  # a line that is bad as a whole has one place only
        for place, line in enumerate(self._read(is_judged=is_judged, without=without), 1):
            if place not in self._rejected:
                yield line

    def judge(
        self,
        *,
        limit: Ceiling | None,
        on_lines: Callable[[int], None],
        is_done: Callable[[str], bool] = lambda _: False,
        is_strict: bool = True,
        content: Content | None = None,
    ) -> Plan:
        """Judge the whole file.

        Args:
            limit: a job that can never fit into it is a bad line, and so is one without a price.
            on_lines: told now and then how many lines were read.
            is_done: tells of a custom id whether it has its answer, and so needs no room in the budget any more.
            is_strict: without it, lines that the budget refuses are good ones, and only counted.
            content: tells which lines are known from an earlier run: those that have their answer are passed over.

        Raises: InputError when the file cannot be read; ConfigError when a key is missing.
        """
        plan = self._plan = Plan(misfits=None if limit is None else Misfits(limit))
        self._is_strict, self._is_done = is_strict and limit is not None, is_done
        self._rejected, self._passed, self._last_line = LineNumbers(), LineNumbers(), None
        first, asked, asked_line = self._ask.first, 0, 0
        known_lines = content.known_lines if content else 0
        self._passes = known_lines > 0
        is_known = self._knows(known_lines, on_lines) if known_lines else None
        is_whole = content is not None and content.is_whole  # then no two lines have one id: that was seen before
        for place, line in enumerate(self._read(check=self._check, is_known=is_known, is_judged=is_whole), 1):
            if known_lines and line.job is None:  # only where all are read, bad ones are told by their places
                return self.judge(limit=limit, on_lines=on_lines, is_done=is_done, is_strict=is_strict)
            plan.summary.add(line)
            if plan.misfits is not None and self._judged is not None and not self._judged.fits:
                plan.misfits.numbers.add(line.number)
            if line.job is None:
                self._rejected.add(place)
            elif is_done(line.custom_id):
                self._count(plan.done, line.job)
                plan.done_unread += self._last_line is not None and line.number > self._last_line
            elif first is None or asked < first or line.number == asked_line:
                self._count(plan.asked, line.job)
                asked += line.number != asked_line
                asked_line = line.number
                self._last_line = line.number if asked == first else None
            else:
                self._count(plan.rest, line.job)
            self._judged = None
            if plan.summary.total % TOLD_EVERY == 0:
                on_lines(plan.summary.total)
        give_back()  # the ids of a million lines, before a worker takes memory of its own
        return plan

    def _knows(self, known_lines: int, on_lines: Callable[[int], None]) -> IsKnown:
        """Make what passes lines of an earlier run over that have all their answers, and counts them.

        The first of each model is read none the less, for what is to be said of its model.
        """
        plan, is_done = self._plan, self._is_done
        met = plan.summary.models

        def is_known(number: int, custom_id: str, model: str) -> bool:
            if number > known_lines:
                return False
            refs = self.models or self._own_refs(model)
            for ref in refs:  # plain loops: this is done a million times
                if ref not in met or not is_done(custom_id if len(refs) == 1 else f"{custom_id}@{ref}"):
                    return False
            self._passed.add(number)
            plan.summary.add_known(number, refs)
            plan.done_unread += len(refs)
            for ref in refs:
                load = plan.done.get((ref, "standard"))
                if load is None:
                    load = plan.done[ref, "standard"] = Load()
                load.unread += 1
            if plan.summary.lines % TOLD_EVERY == 0:
                on_lines(plan.summary.lines)
            return True

        return is_known

    def _read(
        self,
        *,
        check: Callable[[Job], None] | None = None,
        is_known: IsKnown | None = None,
        is_judged: bool = False,
        without: Container[int] = (),
    ) -> Iterator[Line]:
        return self._ask.read(
            resolve=lambda name, provider: self._catalogue.resolve(name, provider=provider),
            cheapest_tier=self._catalogue.cheapest_tier,
            check=check,
            is_judged=is_judged,
            is_known=is_known,
            without=without,
        )

    def _check(self, job: Job) -> None:
        """Judge one job with its adapter, and those of its fallbacks. Raises: FareboxError when it cannot run."""
        self._check_first(job)
        for lane in job.fallbacks:
            try:
                self._check_fallback(job, lane)
            except ConfigError:
                raise
            except FareboxError as error:
                raise InputError(f"fallback {lane}: {error}") from None
        if job.fallbacks:
            lanes = lanes_of(job)
            for place, lane in enumerate(lanes):
                self._plan.further.setdefault(lane, set()).update(lanes if job.spread else lanes[place + 1 :])

    def _check_fallback(self, job: Job, lane: str) -> None:
        """The dearest of the lanes that may answer a job bounds its cost."""
        assert self._judged is not None  # noqa: S101 - the first lane passed
        route, plan = self._routes.lay(lane), self._plan
        prepared = route.provider.prepare(as_asked_in(job, lane), route.entry.facts)
        price = route.entry.price
        if price is None:
            plan.unpriced.add(lane)
            plan.needs_budget = True
            if self._is_strict:
                raise InputError(
                    f'no price is known, and a budget applies: state one under [models."{route.entry.model_ref}"]'
                )
            return
        if self._is_strict and (fee := price.unstated_fee(prepared.fees)):
            raise InputError(fee_problem(route.entry.model_ref, fee))
        hold = _worst(price, prepared)
        plan.needs_budget = plan.needs_budget or not (route.entry.free or price.pretend)
        if self._is_strict and plan.misfits is not None and hold > plan.misfits.limit.nusd:
            raise NeverFitsError(plan.misfits.limit)
        self._judged.worst_nusd = max(self._judged.worst_nusd, hold)
        plan.largest_nusd = max(plan.largest_nusd, hold)

    def _check_first(self, job: Job) -> None:
        self._judged = None
        route = self._routes.lay(lane_of(job.model_ref, job.tier))
        entry, plan = route.entry, self._plan
        prepared = route.provider.prepare(job, entry.facts)
        price = entry.price
        if price is None:
            plan.unpriced.add(route.lane)
            if self._is_strict:
                raise InputError(
                    f"no price is known for {job.model_ref}{'' if job.tier == 'standard' else f' at tier {job.tier}'}, "
                    f'and a budget applies: state one in farebox.toml under [models."{job.model_ref}"], '
                    "or run without a budget (--no-budget)"
                )
            plan.needs_budget = True
            self._judged = _Judged(entry, prepared, 0, 0)
            return
        if self._is_strict and (fee := price.unstated_fee(prepared.fees)):
            raise InputError(fee_problem(job.model_ref, fee))
        hold = _worst(price, prepared)
        self._judged = _Judged(entry, prepared, hold, hold)
        plan.needs_budget = plan.needs_budget or not (entry.free or price.pretend)
        if price.pretend:
            plan.pretend.add(job.model_ref)
        if plan.misfits is not None and hold > plan.misfits.limit.nusd and not self._is_done(job.custom_id):
            plan.misfits.judge(job, prepared, price, hold)
            self._judged.fits = False
            if self._is_strict:
                raise NeverFitsError(plan.misfits.limit)
        plan.largest_nusd = max(plan.largest_nusd, hold)

    def _count(self, loads: Loads, job: Job) -> None:
        assert self._judged is not None  # noqa: S101 - the check of a good line leaves it
        entry, prepared = self._judged.entry, self._judged.prepared
        self._plan.capped_by_default += prepared.capped_by_default
        _add(loads, job, job.tier, entry.price, prepared, self._judged.worst_nusd)
        for tier in self._catalogue.tiers(entry):
            price = entry.prices.get(tier)
            worst = self._judged.own_nusd if price is entry.price else _worst(price, prepared) if price else 0
            _add(self._plan.by_tier, job, tier, price, prepared, worst)


def _worst(price: Price, prepared: Prepared) -> int:
    return price.worst_nusd(prepared.input_bound, prepared.output_bound, prepared.fees)


def _add(loads: Loads, job: Job, tier: Tier, price: Price | None, prepared: Prepared, worst_nusd: int) -> None:
    key = job.model_ref, tier
    load = loads.get(key)
    if load is None:
        load = loads[key] = Load(price)
    load.add(len(job.body), prepared.input_bound, prepared.output_bound, worst_nusd)


def _jobs(loads: Loads) -> int:
    return sum(load.jobs + load.unread for load in loads.values())
