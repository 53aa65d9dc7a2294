"""How a run ended, for people and for programs."""

from __future__ import annotations

import os
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from farebox.connection import shown
from farebox.ledger import Scope
from farebox.money import dollars_from_nusd, usd_from_nusd
from farebox_worker.cli.amounts import money_fields
from farebox_worker.cli.by_model import causes, model_table, models_json
from farebox_worker.files.tally import Tally
from farebox_worker.limits import doubted, in_words, money_line, raise_command, room_again
from farebox_worker.run.forecast import Cost
from farebox_worker.run.job import Ending
from farebox_worker.run.picture import about
from farebox_worker.run.plan import Plan


def cost_fields(cost: Cost) -> dict[str, int | float]:
    """What jobs will cost as JSON fields, each in nano-dollars and in dollars."""
    amounts = {"low": cost.low_nusd, "expected": cost.expected_nusd, "worst": cost.worst_nusd}
    fields: dict[str, int | float] = {"jobs": cost.jobs, "unpriced": cost.unpriced}
    for name, nusd in amounts.items():
        fields |= {f"{name}_nusd": nusd, f"{name}_usd": usd_from_nusd(nusd)}
    return fields


def ending_json(ending: Ending, plan: Plan) -> dict[str, object]:
    """What `run --json` prints. Counts are of the whole batch, earlier runs included; tokens too."""
    tally = ending.tally
    return {
        "batch_id": ending.batch_id,
        "total": ending.total,
        "succeeded": tally.outcomes["succeeded"],
        "failed": tally.outcomes["failed"],
        "cancelled": tally.outcomes["cancelled"],
        "parked": ending.parked,
        "parked_at": _limit_json(ending),
        "paused": list(ending.paused),
        "left": ending.left,
        **money_fields(ending.scope),
        "input_tokens": tally.input_tokens,
        "output_tokens": tally.output_tokens,
        "saved_nusd": tally.saved_nusd,
        "saved_usd": usd_from_nusd(tally.saved_nusd),
        "served": {tier: count for tier, count in tally.served.items() if count},
        "reused": tally.reused,
        "reused_saved_nusd": tally.reused_nusd,
        "reused_saved_usd": usd_from_nusd(tally.reused_nusd),
        "truncated": tally.finishes["truncated"],
        "finishes": dict(tally.finishes),
        "invalid": tally.invalid,
        "by_model": models_json(tally),
        "skipped": plan.summary.bad,
        "lines": plan.summary.good,
        "left_cost": cost_fields(ending.ahead),
        "later": plan.lines_left_for_later,
        "later_cost": cost_fields(ending.later),
        "reason": ending.reason,
        "wall_s": round(ending.wall_s, 3),
        "exit_code": ending.exit_code,
    }  # fmt: skip


def _limit_json(ending: Ending) -> dict[str, object] | None:
    limit, need_nusd = ending.blocked, ending.need_nusd
    if limit is None:
        return None
    need = {"need_nusd": need_nusd, "need_usd": usd_from_nusd(need_nusd)}
    return {"scope": limit.scope, "per": limit.per, **need, **money_fields(limit)}


def print_ending(ending: Ending, plan: Plan, out: Path, source: Path, *, flags: str) -> None:
    """Tell people how it ended, what it cost, and which command goes on; `flags` lead others to the same server."""
    console = Console(stderr=True, highlight=False)
    is_whole = not console.is_terminal  # a pipe gets whole lines, a terminal whole words
    tally = ending.tally
    done = ending.total - ending.left
    console.print(
        f"[bold]{done:,} of {ending.total:,}[/bold] lines in {out}"
        f"  ({ending.wall_s:,.1f} s, batch {ending.batch_id})", soft_wrap=True,
    )  # fmt: skip
    if tally.models:
        console.print(model_table(tally))
    console.print(_money(ending.scope), soft_wrap=True)
    for note in _notes(ending, plan, out, flags):
        console.print(note, markup=False, soft_wrap=is_whole)
    if plan.lines_left_for_later:
        console.print(_what_is_left_out(ending, plan), markup=False, soft_wrap=is_whole)
    if ending.exit_code not in (0, 3):
        words, again = _what_now(ending, source, flags)
        console.print(words, markup=False, soft_wrap=is_whole)
        if again:
            console.print(
                f"  {shlex.join(['farebox', *map(_shown, sys.argv[1:])])}", markup=False, soft_wrap=True
            )  # to be copied


def _shown(word: str) -> str:
    """A word of the command line that may be shown: a Redis URL loses its password."""
    flag, equals, value = word.partition("=")
    if "://" in flag:
        return shown(word)
    return f"{flag}={shown(value)}" if equals and "://" in value else word


def _money(scope: Scope) -> str:
    budget = "" if scope.limit_nusd is not None else ", no budget of its own"
    return f"{money_line(scope)}{budget}"


def _notes(ending: Ending, plan: Plan, out: Path, flags: str) -> list[str]:
    tally = ending.tally
    notes = []
    notes += _saved(tally)
    if tally.reused:
        notes.append(f"{tally.reused:,} reused, {dollars_from_nusd(tally.reused_nusd)} saved.")
    if plan.pretend:
        notes.append(f"{', '.join(sorted(plan.pretend))}: a pretend price, nothing was paid.")
    kinds = {"truncated": "cut off at the output cap", "refused": "refused", "filtered": "filtered", "empty": "empty"}
    for finish, words in kinds.items():
        if tally.finishes[finish]:
            answers = "1 answer was" if tally.finishes[finish] == 1 else f"{tally.finishes[finish]:,} answers were"
            notes.append(f"{answers} {words}.")
    notes += _misfits(tally, out, flags)
    if ending.capped_by_default:
        lines = "1 line" if ending.capped_by_default == 1 else f"{ending.capped_by_default:,} lines"
        notes.append(f"{lines} named no output cap and got the default (--max-tokens).")
    notes += causes(tally)
    if tally.outcomes["failed"] and not ending.reason:  # a reason says it, where it helps
        notes.append(f"The same command asks what failed again after `farebox retry {_name(out)}{flags}`.")
    if tally.outcomes["cancelled"]:
        asking = f"`farebox retry {_name(out)} --class cancelled{flags}`"
        notes.append(f"{tally.outcomes['cancelled']:,} were cancelled. The same command asks them after {asking}.")
    if plan.summary.bad:
        notes.append(f"{plan.summary.bad_lines:,} bad lines were left out.")
    return [*notes, *_doubts(ending.scope, flags), *ending.paused]


def _misfits(tally: Tally, out: Path, flags: str) -> list[str]:
    """Say how many answers do not match the schema, with one of them; they are kept, for they are paid."""
    if not tally.invalid:
        return []
    answers = "1 answer does" if tally.invalid == 1 else f"{tally.invalid:,} answers do"
    return [
        f"{answers} not match the schema, marked `invalid` in {out.name}: {tally.misfit[:200]}",
        f"The same command asks, and pays, them again after `farebox retry {_name(out)} --class invalid{flags}`.",
    ]


def _name(path: Path) -> str:
    return shlex.quote(os.path.relpath(path))


def _doubts(scope: Scope, flags: str) -> list[str]:
    """Say which money somebody should look at."""
    notes = []
    if scope.unconfirmed_nusd:
        notes.append(
            f"{doubted(scope)}: calls whose outcome is unknown. They count until you say what became of them: "
            f"`farebox unconfirmed list{flags}`"
        )
    if scope.overrun_nusd:
        notes.append(
            f"{dollars_from_nusd(scope.overrun_nusd)} were billed above what these calls could cost by our prices "
            "(overrun): look at what the provider counts, and at its prices in farebox.toml."
        )
    return notes


def would_cost(cost: Cost) -> str:
    """Say what jobs would cost."""
    if cost.unpriced and cost.unpriced == cost.jobs:
        return "an unknown amount, for no price is known"
    unpriced = f", not counting {cost.unpriced:,} without a known price" if cost.unpriced else ""
    return f"about {about(cost.expected_nusd)}, at most {about(cost.worst_nusd)}{unpriced}"


def _what_is_left_out(ending: Ending, plan: Plan) -> str:
    answered, rest = ending.total - ending.left, plan.lines_left_for_later
    return (
        f"{answered:,} of {plan.summary.good:,} answered; the {f'{rest:,} others' if rest > 1 else 'other one'} would "
        f"cost {would_cost(ending.later)}: run the same command without --first."
    )


def _saved(tally: Tally) -> list[str]:
    served = ", ".join(f"{count:,} served {tier}" for tier, count in tally.served.most_common() if count)
    verb, amount = ("saved", tally.saved_nusd) if tally.saved_nusd >= 0 else ("cost more by", -tally.saved_nusd)
    told = f"Tier flex {verb} {dollars_from_nusd(amount)} against the standard price ({served})."
    return [told] if served else []


def _what_now(ending: Ending, source: Path, flags: str) -> tuple[str, bool]:
    """Say why it is not done, and whether the same command goes on."""
    left = "1 line is left" if ending.left == 1 else f"{ending.left:,} lines are left"
    if ending.is_interrupted:
        return f"Interrupted; {left}, {would_cost(ending.ahead)}. Go on with:", True
    if ending.reason:
        return f"Stopped: {ending.reason}. {left}; nothing is lost. Go on with:", True
    return _parked(ending, source, flags), False


def _parked(ending: Ending, source: Path, flags: str) -> str:
    """Say at which limit it is parked, what takes its room, and what lets the rest go on."""
    limit = ending.blocked
    if limit is None:
        raise AssertionError("a run that is parked knows its limit")
    count = "1 line" if ending.parked == 1 else f"{ending.parked:,} lines"
    waits = f"{count} of {source.name} {'waits' if ending.parked == 1 else 'wait'} for money"
    is_own = limit.name == f"batch:{ending.batch_id}"
    where = f"{in_words(limit.name)} ({money_line(limit)})"
    if is_own:
        where = "the budget of this run" + (f", of which {doubted(limit)}" if limit.unconfirmed_nusd else "")
    how = "run the same command again with a larger --budget"
    if not is_own:
        how = f"raise it with `{raise_command(limit.name, flags)}` and run the same command again"
    if again := room_again(limit.name, datetime.now(UTC)):
        how += f"; {again}"
    elsewhere = limit.unconfirmed_nusd and not ending.scope.unconfirmed_nusd  # else the notes have said it
    owed = f" What was never billed can be released: `farebox unconfirmed list{flags}`." if elsewhere else ""
    return (
        f"Parked at {where}: {waits}, and the next needs {dollars_from_nusd(ending.need_nusd)} at most; all of them "
        f"would cost {would_cost(ending.ahead)}.{owed} Nothing is lost: {how}."
    )
