"""What jobs will cost: low, expected and worst, from sums over lines and from what answers were like so far.

It owns the guesses: without a single answer of a model, its input is a token per four bytes, its output a tenth (low)
or half (expected) of the cap. With answers, their mean length. Worst is the sum of the holds, and never a guess.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from farebox.ledger import GLOBAL, Ledger, Limit, Scope
from farebox.records import Tier
from farebox_worker.files.tally import Tally
from farebox_worker.prices.rates import Price
from farebox_worker.providers.base import TokenUsage

BYTES_PER_TOKEN = 4  # of English, in the tokenizers of OpenAI and Anthropic
LOW_SHARE, EXPECTED_SHARE = 10, 2  # of the cap: one part in so many


@dataclass(slots=True)
class Load:
    """Jobs of one model in one tier, summed. `price` is None when nobody states one; worst is in nano-dollars.

    `unread` counts jobs of lines that were passed over: they are in no sum, nor in `jobs`.
    """

    price: Price | None = None
    jobs: int = 0
    body_bytes: int = 0
    input_bound: int = 0
    output_bound: int = 0
    worst_nusd: int = 0
    unread: int = 0

    def add(self, body_bytes: int, input_bound: int, output_bound: int, worst_nusd: int) -> None:
        """Count one job."""
        self.jobs += 1
        self.body_bytes += body_bytes
        self.input_bound += input_bound
        self.output_bound += output_bound
        self.worst_nusd += worst_nusd


Loads = dict[tuple[str, Tier], Load]


@dataclass(frozen=True, slots=True)
class Seen:
    """What a model's answers were like: how many, and their tokens; `body_bytes` of their requests, 0 if unknown."""

    answers: int
    output_tokens: int
    input_tokens: int = 0
    body_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Cost:
    """What jobs cost, in nano-dollars. `unpriced` counts those without a known price, which are in no sum."""

    jobs: int = 0
    low_nusd: int = 0
    expected_nusd: int = 0
    worst_nusd: int = 0
    unpriced: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.jobs + other.jobs,
            self.low_nusd + other.low_nusd,
            self.expected_nusd + other.expected_nusd,
            self.worst_nusd + other.worst_nusd,
            self.unpriced + other.unpriced,
        )


def foresee(load: Load, seen: Seen | None = None) -> Cost:
    """Say what a load will cost."""
    if load.price is None:
        return Cost(load.jobs, unpriced=load.jobs)
    if not load.jobs:
        return Cost()
    tokens_in = _input_tokens(load, seen)
    if seen and seen.answers:
        low = expected = min(load.output_bound, _share(load.jobs * seen.output_tokens, seen.answers))
    else:
        low, expected = _share(load.output_bound, LOW_SHARE), _share(load.output_bound, EXPECTED_SHARE)
    worst = load.worst_nusd
    cheap, likely = (_cost(load.price, load.jobs, tokens_in, tokens_out) for tokens_out in (low, expected))
    return Cost(load.jobs, min(cheap, worst), min(likely, worst), worst)


def foresee_all(loads: Mapping[tuple[str, Tier], Load], seen: Mapping[str, Seen]) -> Cost:
    """Say what all loads will cost together."""
    return sum((foresee(load, seen.get(model_ref)) for (model_ref, _), load in loads.items()), Cost())


def _input_tokens(load: Load, seen: Seen | None) -> int:
    if seen and seen.body_bytes and seen.input_tokens:
        guess = _share(load.body_bytes * seen.input_tokens, seen.body_bytes)
    else:
        guess = _share(load.body_bytes, BYTES_PER_TOKEN)
    return min(load.input_bound, guess)


def _cost(price: Price, jobs: int, tokens_in: int, tokens_out: int) -> int:
    """Price the mean call, and every call like it: where long contexts cost more, the mean decides."""
    return jobs * price.cost_nusd(TokenUsage(_share(tokens_in, jobs), _share(tokens_out, jobs)))


def _share(amount: int, parts: int) -> int:
    return -(-amount // parts)


async def seen_before(ledger: Ledger, model_refs: Iterable[str]) -> dict[str, Seen]:
    """Read from the ledger what answers of these models were like; how large their requests were is not known there."""
    scopes = {model_ref: await ledger.scope(f"model:{model_ref}") for model_ref in model_refs}
    return {ref: Seen(scope.calls, scope.output_tokens) for ref, scope in scopes.items() if scope.output_tokens}


@dataclass(frozen=True, slots=True)
class Outlook:
    """Where a run is heading.

    Attributes:
        total_nusd: what it will have cost in all.
        ends_at: after how many answers the budget ends; None when it lasts.
        fitting: how many of them are still to come.
        limit: which budget that is, by its name in the ledger.
    """

    total_nusd: int
    ends_at: int | None
    limit: str = ""
    fitting: int = 0


def look_ahead(left: Cost, done: int, scope: Scope, *limits: Limit | Scope) -> Outlook:
    """Say where a run is heading that has `done` answers, counts in `scope`, and keeps to its limit and the others."""
    total = scope.spent_nusd + scope.unconfirmed_nusd + left.expected_nusd
    rooms = [
        (one.limit_nusd - one.spent_nusd - one.unconfirmed_nusd, one.name)
        for one in (scope, *limits)
        if one.limit_nusd is not None
    ]
    room, limit = min(rooms, default=(left.expected_nusd, ""))
    if left.expected_nusd <= max(0, room):
        return Outlook(total, None)
    fitting = left.jobs * max(0, room) // left.expected_nusd
    return Outlook(total, done + fitting, limit, fitting)


def scopes_of(loads: Loads, batch_id: str, tags: Iterable[str]) -> list[str]:
    """Name the scopes that all jobs of these loads count in: with one model its model's and its provider's too."""
    names = [GLOBAL, f"batch:{batch_id}", *(f"tag:{tag}" for tag in tags)]
    models = {model_ref for model_ref, _ in loads}
    providers = {model_ref.partition(":")[0] for model_ref in models}
    for kind, those in (("provider", providers), ("model", models)):
        if len(those) == 1:
            names.append(f"{kind}:{those.pop()}")
    return names


@dataclass(slots=True)
class Prospect:
    """A run's foresight: what is still to be asked and what was, and what answers were like before and in this run.

    Attributes:
        asked: the loads of the lines this run asks.
        done: those of the lines that were answered before it.
        rest: those of the lines that it leaves for another time.
        known: what earlier answers were like, by model_ref, wherever they were.
        scopes: those that every job of this run counts in.
    """

    asked: Loads = field(default_factory=dict)
    done: Loads = field(default_factory=dict)
    rest: Loads = field(default_factory=dict)
    known: Mapping[str, Seen] = field(default_factory=dict)
    scopes: Sequence[str] = ()

    def seen(self, tally: Tally) -> dict[str, Seen]:
        """What answers are like: those of this output file before those of elsewhere.

        Their requests are taken to be as large as the mean of the lines that were answered or asked.
        """
        found = dict(self.known)
        for model_ref, model in tally.models.items():
            if model.answered:
                jobs, size = self._so_far(model_ref, model.answered)
                body_bytes = model.answered * size // jobs if jobs else 0
                found[model_ref] = Seen(model.answered, model.output_tokens, model.input_tokens, body_bytes)
        return found

    def left(self, tally: Tally) -> Cost:
        """What the lines of this run that have no answer yet will cost, by what the answers are like."""
        seen, cost = self.seen(tally), Cost()
        for (model_ref, _), load in self.asked.items():
            if jobs := self._left_of(model_ref, load, tally):
                whole = foresee(load, seen.get(model_ref))
                parts = (whole.low_nusd, whole.expected_nusd, whole.worst_nusd)
                low, expected, worst = (_share(part * jobs, load.jobs) for part in parts)
                cost += Cost(jobs, low, expected, worst, min(jobs, whole.unpriced))
        return cost

    def after(self, tally: Tally) -> Cost:
        """What the lines left for another time will cost."""
        return foresee_all(self.rest, self.seen(tally))

    def _so_far(self, model_ref: str, answers: int) -> tuple[int, int]:
        """Count lines that so many answers came from, and their bytes: of the done ones alone while all were read."""
        jobs = size = 0
        for part in (self.done, self.asked):
            loads = [load for (ref, _), load in part.items() if ref == model_ref]
            jobs += sum(load.jobs for load in loads)
            size += sum(load.body_bytes for load in loads)
            if jobs >= answers:
                break
        return jobs, size

    def _left_of(self, model_ref: str, load: Load, tally: Tally) -> int:
        """Share what is left of a model among its tiers, as they were asked."""
        asked = sum(one.jobs for (ref, _), one in self.asked.items() if ref == model_ref)
        before = sum(one.jobs + one.unread for (ref, _), one in self.done.items() if ref == model_ref)
        model = tally.models.get(model_ref)
        left = max(0, before + asked - model.jobs) if model else asked
        return _share(min(left, asked) * load.jobs, asked) if asked else 0
