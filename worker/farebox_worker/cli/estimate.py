"""`farebox estimate`: what a file will cost, by model and tier, before a cent is spent."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import click

from farebox.errors import FareboxError, InputError
from farebox.money import dollars_from_nusd, nusd_from_usd, usd_from_nusd
from farebox.records import job_id
from farebox_worker.cli.amounts import counted
from farebox_worker.cli.lines import LineFlags, line_options, tell_bad
from farebox_worker.cli.options import (
    USD,
    common,
    ended_by_ctrl_c,
    json_option,
    log_to_stderr,
    print_json,
    print_table,
    run_async,
    say,
)
from farebox_worker.cli.place import at_the_earlier_place
from farebox_worker.cli.summary import cost_fields, would_cost
from farebox_worker.configuration import with_vendors
from farebox_worker.files.destination import destination
from farebox_worker.files.written import ForeignFileError, NameNow, Written, scan
from farebox_worker.run import place as places
from farebox_worker.run.ask import Ask
from farebox_worker.run.forecast import Cost, Prospect, Seen, foresee, foresee_all, seen_before
from farebox_worker.run.misfits import Ceiling
from farebox_worker.run.picture import about
from farebox_worker.run.plan import Plan, Planner
from farebox_worker.run.screen import Screen
from farebox_worker.session import open_session
from farebox_worker.settings import KEY_VARIABLES, Settings
from farebox_worker.shop import Shop


@click.command()
@click.argument("source", metavar="IN", type=click.Path(path_type=Path))
@click.option("-o", "--output", metavar="OUT", type=click.Path(path_type=Path), help="Default: IN.out.jsonl")
@click.option("--budget", type=USD, metavar="USD", help="Say where this budget would end, and what never fits.")
@line_options
@json_option
@common
def estimate(
    settings: Settings,
    source: Path,
    output: Path | None,
    budget: float | None,
    lines: LineFlags,
    as_json: bool,
) -> None:
    """Say what IN will cost: low, expected and at most, by model, in every tier its vendor has. Sends nothing.

    Lengths of answers are those seen before: in OUT, or by this ledger. Without any, low is a tenth of the output cap
    and expected half of it; `farebox run IN --first 10` makes them known. "At most" is never a guess.

    \b
    farebox estimate prompts.jsonl -m openai:gpt-5-mini --budget 20
    """
    log_to_stderr(is_quiet=True)
    limit = None if budget is None else nusd_from_usd(budget)
    ask = lines.ask(source)
    out = output if output is None and ask.source.spool else destination(output, ask.source).out
    found = run_async(
        _estimate(settings, ask, out, None if limit is None else Ceiling(limit), skip_invalid=lines.skip_invalid)
    )
    if as_json:
        print_json(_json(found, limit))
    else:
        _tell(found, ask.source.path, lines.tier, limit)


@dataclass(frozen=True, slots=True)
class _Found:
    """A judged file, what its lines were answered with already, and what answers were like."""

    plan: Plan
    written: Written
    seen: Mapping[str, Seen]
    missing_keys: tuple[str, ...] = ()

    @property
    def total(self) -> Cost:
        """What all lines will cost in the tiers that were asked for, as if none had its answer."""
        return foresee_all(self.plan.done, self.seen) + self.left

    @property
    def left(self) -> Cost:
        """What the lines without an answer will cost."""
        return foresee_all(self.plan.asked, self.seen)


async def _estimate(
    settings: Settings, ask: Ask, out: Path | None, limit: Ceiling | None, *, skip_invalid: bool
) -> _Found:
    known = places.earlier(out) if out else None
    namespace = settings.redis.namespace

    def is_done(custom_id: str) -> bool:
        return written.contains(job_id(namespace, known.batch_id if known else written.batch, custom_id))

    async with Shop(with_vendors(settings), sends=False) as shop:
        await shop.discover(*ask.named)
        planner = Planner(ask, shop.catalogue, shop.routes)
        written = await asyncio.to_thread(_written, out, planner.name_now)
        with Screen(plain_after_s=2.0) as screen, ended_by_ctrl_c():
            plan = planner.judge(limit=limit, on_lines=screen.reading, is_done=is_done, is_strict=False)
    tell_bad(planner.path, plan.summary, skips=skip_invalid)
    if not plan.summary.good:
        raise InputError(f"{planner.path} holds no jobs.")
    before = await _seen_before(at_the_earlier_place(settings, known), plan)
    prospect = Prospect(plan.asked, plan.done, {}, before)
    asked = {model_ref.partition(":")[0] for model_ref, _ in plan.by_tier}
    missing = tuple(KEY_VARIABLES[name] for name in sorted(asked) if name not in settings.providers)
    return _Found(plan, written, prospect.seen(written.tally), missing)


def _written(out: Path | None, name_now: NameNow) -> Written:
    """Read what a run of this file has answered; nothing when OUT is not there or not ours."""
    if out is None:
        return Written()
    try:
        with out.open("rb") as file:
            return scan(file, out, name_now)[0]
    except (ForeignFileError, FileNotFoundError, IsADirectoryError):
        return Written()


async def _seen_before(settings: Settings, plan: Plan) -> dict[str, Seen]:
    """Ask the ledger what answers were like; an estimate needs none."""
    try:
        async with open_session(settings) as session:
            return await seen_before(session.ledger, {model_ref for model_ref, _ in (*plan.asked, *plan.done)})
    except InputError:  # nothing here yet
        return {}
    except FareboxError as error:
        say(f"no ledger could be asked how long answers are: {error}")
        return {}


def _json(found: _Found, limit: int | None) -> dict[str, object]:
    plan = found.plan
    rows = []
    for (model_ref, tier), load in sorted(plan.by_tier.items()):
        seen = found.seen.get(model_ref)
        rows.append(
            {
                "model_ref": model_ref,
                "tier": tier,
                "asked": plan.asked[model_ref, tier].jobs if (model_ref, tier) in plan.asked else 0,
                "seen": seen.answers if seen else 0,
                **cost_fields(foresee(load, seen)),
            }
        )
    misfits = plan.misfits
    needed = misfits.largest_nusd if misfits else 0
    return {
        "lines": plan.summary.good,
        "answered": plan.lines_done,
        "bad_lines": plan.summary.bad_lines,
        "capped_by_default": plan.capped_by_default,
        "total": cost_fields(found.total),
        "left": cost_fields(found.left),
        "spent_nusd": found.written.tally.cost_nusd,
        "spent_usd": usd_from_nusd(found.written.tally.cost_nusd),
        "by_tier": rows,
        "budget_nusd": limit,
        "budget_usd": None if limit is None else usd_from_nusd(limit),
        "never_fit": len(misfits) if misfits else 0,
        "never_fit_need_nusd": needed,
        "never_fit_need_usd": usd_from_nusd(needed),
        "unpriced": sorted(plan.unpriced),
    }


def _tell(found: _Found, source: Path, tier: str, limit: int | None) -> None:
    plan, total = found.plan, found.total
    rows = []
    for (model_ref, name), load in sorted(plan.by_tier.items(), key=lambda item: (item[0][0], item[0][1] == "flex")):
        cost = foresee(load, found.seen.get(model_ref))
        amounts = (cost.low_nusd, cost.expected_nusd, cost.worst_nusd)
        rows.append([model_ref, name, f"{load.jobs:,}", *(["unknown"] * 3 if cost.unpriced else map(about, amounts))])
    print_table(("model", "tier", "lines", "low", "expected", "at most"), rows, text=("tier",))
    answered = f", {plan.lines_done:,} of them answered" if plan.lines_done else ""
    which = "each in its cheapest tier" if tier == "cheapest" else f"at tier {tier}"
    say(f"{source}: {counted(plan)}{answered}; {which}: {would_cost(total)}.")
    for note in _notes(found, limit):
        say(note)


def _notes(found: _Found, limit: int | None) -> list[str]:
    plan, notes = found.plan, []
    if plan.lines_done:
        left = f"{plan.lines_asked:,} are left: {would_cost(found.left)}" if plan.lines_asked else "None is left"
        notes.append(f"{left} ({dollars_from_nusd(found.written.tally.cost_nusd)} were spent).")
    notes += _flex_notes(found)
    guessed = sorted({ref for ref, _ in plan.by_tier if ref not in found.seen})
    if guessed:
        notes.append(
            f"No answer of {', '.join(guessed)} was seen yet: low takes a tenth of each output cap, expected half. "
            "`farebox run … --first 10` tries ten lines; after it this knows."
        )
    if plan.capped_by_default:
        notes.append(f"{plan.capped_by_default:,} lines name no output cap and get the default (--max-tokens).")
    if plan.unpriced:
        notes.append(f"No price is known for {', '.join(sorted(plan.unpriced))}: not in these sums.")
    if found.missing_keys:
        notes.append(f"`farebox run` will need {' and '.join(found.missing_keys)}: not set here.")
    if plan.pretend:
        notes.append(f"{', '.join(sorted(plan.pretend))}: a pretend price, nobody pays it.")
    if plan.misfits and plan.misfits.numbers:
        notes.append(plan.misfits.advice())
    elif limit is not None:
        notes.append(_of_budget(found.left, plan.lines_done, limit - found.written.tally.cost_nusd, limit))
    return notes


def _flex_notes(found: _Found) -> list[str]:
    """Say what flex would save on the lines that would go at the standard price."""
    saved = 0
    for (model_ref, tier), load in found.plan.asked.items():
        flex = found.plan.by_tier.get((model_ref, "flex"))
        whole = found.plan.by_tier.get((model_ref, "standard"))
        if tier == "standard" and flex and whole and whole.jobs:
            seen = found.seen.get(model_ref)
            difference = foresee(whole, seen).expected_nusd - foresee(flex, seen).expected_nusd
            saved += difference * load.jobs // whole.jobs
    return [f"--tier flex would save about {about(saved)}."] if saved > 0 else []


def _of_budget(left: Cost, done: int, room: int, limit: int) -> str:
    budget = f"A budget of {dollars_from_nusd(limit)}"
    if not left.jobs or left.worst_nusd <= room:
        return f"{budget} is enough whatever the answers are."
    if left.expected_nusd <= room:
        return f"{budget} is expected to be enough; if it is not, the rest waits."
    if room <= 0:
        return f"{budget} is used up: all {left.jobs:,} lines would wait."
    ends_at = done + left.jobs * room // left.expected_nusd
    return f"{budget} is expected to end after about {ends_at:,} answers; the rest waits then."
