"""Judging an input file before a cent is spent: every line's model, price, translation, and worst cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from farebox.errors import FareboxError, InputError
from farebox.fallback import as_asked_in, lanes_of
from farebox.keys import lane_of
from farebox.records import Job, Tier
from farebox_worker.files.lines import Line, Resolve, read_jobs
from farebox_worker.files.numbers import LineNumbers
from farebox_worker.files.source import Source
from farebox_worker.files.summary import Summary
from farebox_worker.files.wording import Wording
from farebox_worker.prices.catalogue import Catalogue, Entry
from farebox_worker.prices.rates import Price
from farebox_worker.prices.table import fee_problem
from farebox_worker.providers.base import Prepared
from farebox_worker.routes import Routes
from farebox_worker.run.forecast import Load, Loads
from farebox_worker.run.misfits import Misfits, NeverFitsError
from farebox_worker.run.screen import TOLD_EVERY

CHEAPEST = "cheapest"
TIERS = ("standard", "flex", CHEAPEST)  # what --tier takes
TIER_HELP = "flex is half the price where the vendor has it, and may wait; cheapest takes it there."


@dataclass(frozen=True, slots=True)
class Ask:
    """What the flags say of the jobs of a file. `tier` is one of TIERS; `first` of the open lines are asked."""

    source: Source
    models: tuple[str, ...] = ()
    provider: str | None = None
    max_tokens: int | None = None
    tier: str = "standard"
    tags: tuple[str, ...] = ()
    drop_params: tuple[str, ...] = ()
    first: int | None = None
    wording: Wording = field(default_factory=Wording)
    fallbacks: tuple[str, ...] = ()
    spread: bool = False

    @property
    def named(self) -> tuple[str, ...]:
        """Every model that the flags name."""
        return (*self.models, *(name.removesuffix("@flex") for name in self.fallbacks))

    def read(
        self,
        *,
        resolve: Resolve,
        cheapest_tier: Callable[[str], Tier],
        check: Callable[[Job], object] | None = None,
        is_judged: bool = False,
    ) -> Iterator[Line]:
        """Read the file's jobs, all of them. Raises: InputError when it cannot be read."""
        return read_jobs(
            self.source.path,
            resolve=resolve,
            models=self.models,
            provider=self.provider,
            max_tokens=self.max_tokens,
            tier=cheapest_tier if self.tier == CHEAPEST else _named(self.tier),
            tags=self.tags,
            drop_params=self.drop_params,
            fallbacks=self.fallbacks,
            spread=self.spread,
            check=check,
            is_judged=is_judged,
            wording=self.wording,
            format_=self.source.format,
            opener=self.source.open,
        )


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
        unpriced, pretend: models without a known price, and those whose price is a pretence.
        misfits: lines that can never fit into the budget.
        further: by lane, those its jobs may move on to.
        done_later: of the lines that have their answer, those after the last that is to be asked.
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
    done_later: int = 0
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
    """What the check of one line found, for whoever counts it."""

    entry: Entry
    prepared: Prepared
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
        self._last_line: int | None = None

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

    def name_now(self, custom_id: str, model_ref: str) -> str:
        """The custom_id under which this asks what was asked under another: with several models it names its model."""
        if model_ref not in self.models:
            return custom_id
        bare = custom_id.removesuffix(f"@{model_ref}")
        return f"{bare}@{model_ref}" if len(self.models) > 1 else bare

    def lines(self) -> Iterator[Line]:
        """Read the file's lines up to the last that is to be asked, without those that `judge` has rejected."""
        for line in self.all_lines():
            if self._last_line is not None and line.number > self._last_line:
                return
            yield line

    def all_lines(self) -> Iterator[Line]:
        """Read the file's lines, without those that `judge` has rejected."""
        for place, line in enumerate(self._read(None), 1):
            if place not in self._rejected:
                yield line

    def judge(
        self,
        *,
        limit_nusd: int | None,
        on_lines: Callable[[int], None],
        is_done: Callable[[str], bool] = lambda _: False,
        is_strict: bool = True,
    ) -> Plan:
        """Judge the whole file.

        Args:
            limit_nusd: the budget; a job that can never fit into it is a bad line, and so is one without a price.
            on_lines: told now and then how many lines were read.
            is_done: tells of a custom id whether it has its answer, and so needs no room in the budget any more.
            is_strict: without it, lines that the budget refuses are good ones, and only counted.

        Raises: InputError when the file cannot be read; ConfigError when a key is missing.
        """
        plan = self._plan = Plan(misfits=None if limit_nusd is None else Misfits(limit_nusd))
        self._is_strict, self._is_done = is_strict and limit_nusd is not None, is_done
        self._rejected, self._last_line = LineNumbers(), None
        first, asked, asked_line = self._ask.first, 0, 0
        for place, line in enumerate(self._read(self._check), 1):
            plan.summary.add(line)
            if plan.misfits is not None and self._judged is not None and not self._judged.fits:
                plan.misfits.numbers.add(line.number)
            if line.job is None:
                self._rejected.add(place)
            elif is_done(line.custom_id):
                self._count(plan.done, line.job)
                plan.done_later += self._last_line is not None and line.number > self._last_line
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
        return plan

    def _read(self, check: Callable[[Job], None] | None) -> Iterator[Line]:
        return self._ask.read(
            resolve=lambda name, provider: self._catalogue.resolve(name, provider=provider),
            cheapest_tier=self._catalogue.cheapest_tier,
            check=check,
            is_judged=check is None and len(self._ask.models) < 2,  # a line that is bad as a whole has one place only
        )

    def _check(self, job: Job) -> None:
        """Judge one job with its adapter, and those of its fallbacks. Raises: FareboxError when it cannot run."""
        self._check_first(job)
        for lane in job.fallbacks:
            try:
                self._check_fallback(job, lane)
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
            plan.unpriced.add(route.entry.model_ref)
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
        if self._is_strict and plan.misfits is not None and hold > plan.misfits.limit_nusd:
            raise NeverFitsError(plan.misfits.limit_nusd)
        self._judged.worst_nusd = max(self._judged.worst_nusd, hold)
        plan.largest_nusd = max(plan.largest_nusd, hold)

    def _check_first(self, job: Job) -> None:
        self._judged = None
        route = self._routes.lay(lane_of(job.model_ref, job.tier))
        entry, plan = route.entry, self._plan
        prepared = route.provider.prepare(job, entry.facts)
        price = entry.price
        if price is None:
            plan.unpriced.add(job.model_ref)
            if self._is_strict:
                raise InputError(
                    f"no price is known for {job.model_ref}{'' if job.tier == 'standard' else f' at tier {job.tier}'}, "
                    f'and a budget applies: state one in farebox.toml under [models."{job.model_ref}"], '
                    "or run without a budget (--no-budget)"
                )
            plan.needs_budget = True
            self._judged = _Judged(entry, prepared, 0)
            return
        if self._is_strict and (fee := price.unstated_fee(prepared.fees)):
            raise InputError(fee_problem(job.model_ref, fee))
        hold = _worst(price, prepared)
        self._judged = _Judged(entry, prepared, hold)
        plan.needs_budget = plan.needs_budget or not (entry.free or price.pretend)
        if price.pretend:
            plan.pretend.add(job.model_ref)
        if plan.misfits is not None and hold > plan.misfits.limit_nusd and not self._is_done(job.custom_id):
            plan.misfits.judge(job, prepared, price, hold)
            self._judged.fits = False
            if self._is_strict:
                raise NeverFitsError(plan.misfits.limit_nusd)
        plan.largest_nusd = max(plan.largest_nusd, hold)

    def _count(self, loads: Loads, job: Job) -> None:
        assert self._judged is not None  # noqa: S101 - the check of a good line leaves it
        entry, prepared = self._judged.entry, self._judged.prepared
        self._plan.capped_by_default += prepared.capped_by_default
        _add(loads, job, job.tier, entry.price, prepared, self._judged.worst_nusd)
        for tier in self._catalogue.tiers(entry):
            price = entry.prices.get(tier)
            _add(self._plan.by_tier, job, tier, price, prepared, _worst(price, prepared) if price else 0)


def counted(plan: Plan) -> str:
    """Say how many lines a file has, and how many jobs they make where each is asked of several models."""
    lines, jobs = plan.summary.lines, plan.summary.good
    models = len(plan.summary.models)
    if plan.summary.total == lines:
        return f"{jobs:,} {'line' if jobs == 1 else 'lines'}"
    return f"{lines:,} {'line' if lines == 1 else 'lines'} × {models} models, {jobs:,} jobs"  # noqa: RUF001 - the sign is meant


def _worst(price: Price, prepared: Prepared) -> int:
    return price.worst_nusd(prepared.input_bound, prepared.output_bound, prepared.fees)


def _add(loads: Loads, job: Job, tier: Tier, price: Price | None, prepared: Prepared, worst_nusd: int) -> None:
    key = job.model_ref, tier
    load = loads.get(key)
    if load is None:
        load = loads[key] = Load(price)
    load.add(len(job.body), prepared.input_bound, prepared.output_bound, worst_nusd)


def _named(tier: str) -> Tier:
    return "flex" if tier == "flex" else "standard"


def _jobs(loads: Loads) -> int:
    return sum(load.jobs for load in loads.values())
