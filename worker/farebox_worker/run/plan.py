"""Judging an input file before a cent is spent: every line's model, price, translation, and worst cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from farebox.errors import InputError
from farebox.keys import lane_of
from farebox.money import dollars_from_nusd
from farebox.records import Job, Tier
from farebox_worker.catalogue import Catalogue, Entry
from farebox_worker.files.lines import Line, read_jobs
from farebox_worker.files.summary import Summary
from farebox_worker.routes import Routes

TOLD_EVERY = 5000  # lines


@dataclass(frozen=True, slots=True)
class Ask:
    """What the flags say of the jobs of a file."""

    path: Path
    model: str | None = None
    provider: str | None = None
    max_tokens: int | None = None
    tier: Tier = "standard"
    tags: tuple[str, ...] = ()
    drop_params: tuple[str, ...] = ()
    first: int | None = None


@dataclass(slots=True)
class Plan:
    """A judged file. `worst_nusd` is what it can cost at most; `needs_budget` says that money is at stake.

    `unpriced` names the models without a known price, `pretend` those whose price is a pretence.
    """

    summary: Summary
    worst_nusd: int = 0
    largest_nusd: int = 0
    needs_budget: bool = False
    unpriced: frozenset[str] = frozenset()
    pretend: frozenset[str] = frozenset()


class Planner:
    """Reads a file's jobs and judges them with the adapters that will run them."""

    def __init__(self, ask: Ask, catalogue: Catalogue, routes: Routes) -> None:
        self._ask = ask
        self._catalogue = catalogue
        self._routes = routes
        self._costs: list[int] = [0, 0]
        self._unpriced: set[str] = set()
        self._pretend: set[str] = set()
        self._is_paid = False
        self._limit_nusd: int | None = None
        self._rejected: set[int] = set()

    @property
    def path(self) -> Path:
        """The input file."""
        return self._ask.path

    def lines(self, *, check: bool = False) -> Iterator[Line]:
        """Read the file's lines, at most `first` good ones; with `check` each is judged by its adapter.

        What `judge` has rejected is left out ever after.
        """
        ask, good = self._ask, 0
        for line in read_jobs(
            ask.path,
            resolve=self._resolve,
            model=ask.model,
            provider=ask.provider,
            max_tokens=ask.max_tokens,
            tier=ask.tier,
            tags=ask.tags,
            drop_params=ask.drop_params,
            check=self._check if check else None,
        ):
            if line.number in self._rejected:
                continue
            yield line
            good += line.job is not None
            if ask.first is not None and good >= ask.first:
                return

    def judge(self, *, limit_nusd: int | None, on_lines: Callable[[int], None]) -> Plan:
        """Judge the whole file. A job that can never fit into `limit_nusd` is a bad line.

        `on_lines` is told now and then how many lines were read.
        Raises: InputError when the file cannot be read; ConfigError when a key is missing.
        """
        self._limit_nusd = limit_nusd
        self._rejected.clear()
        summary = Summary()
        for line in self.lines(check=True):
            summary.add(line)
            if line.job is None:
                self._rejected.add(line.number)
            if summary.total % TOLD_EVERY == 0:
                on_lines(summary.total)
        return Plan(
            summary, self._costs[0], self._costs[1], self._is_paid, frozenset(self._unpriced), frozenset(self._pretend)
        )

    def _resolve(self, name: str, provider: str | None) -> Entry:
        return self._catalogue.resolve(name, provider=provider)

    def _check(self, job: Job) -> None:
        route = self._routes.lay(lane_of(job.model_ref, job.tier))
        entry = route.entry
        prepared = route.provider.prepare(job, entry.facts)
        if entry.price is None:
            self._unpriced.add(job.model_ref)
            if self._limit_nusd is not None:
                raise InputError(
                    f"no price is known for {job.model_ref}{'' if job.tier == 'standard' else f' at tier {job.tier}'}, "
                    f'and a budget applies: state one in farebox.toml under [models."{job.model_ref}"], '
                    "or run without a budget (--no-budget)"
                )
            self._is_paid = True
            return
        hold = entry.price.worst_nusd(prepared.input_bound, prepared.output_bound)
        self._is_paid = self._is_paid or not (entry.free or entry.price.pretend)
        if entry.price.pretend:
            self._pretend.add(job.model_ref)
        if self._limit_nusd is not None and hold > self._limit_nusd:
            raise InputError(
                f"can cost up to {dollars_from_nusd(hold)} and never fits into the budget of "
                f"{dollars_from_nusd(self._limit_nusd)}: lower --max-tokens (now {prepared.output_bound:,} in all) "
                "or raise the budget"
            )
        self._costs[0] += hold
        self._costs[1] = max(self._costs[1], hold)
