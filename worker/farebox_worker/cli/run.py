"""`farebox run`: the whole thing on this machine."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

import click
import msgspec

from farebox.batch import Batch
from farebox.errors import InputError
from farebox.ledger import GLOBAL
from farebox.money import dollars_from_nusd
from farebox.records import job_id as name_job
from farebox.reuse import Reuse, batch_of
from farebox_worker.cli.amounts import counted
from farebox_worker.cli.lines import line_options, tell_bad
from farebox_worker.cli.options import (
    USD,
    child_environment,
    child_flags,
    common,
    ended_by_ctrl_c,
    json_option,
    log_to_stderr,
    print_json,
    reuse_option,
    run_async,
    say,
)
from farebox_worker.cli.place import at_the_earlier_place
from farebox_worker.cli.run_flags import Flags
from farebox_worker.cli.summary import ending_json, print_ending
from farebox_worker.files.content import Content
from farebox_worker.files.csv_answers import answer_columns
from farebox_worker.files.destination import destination, refuse_unkept
from farebox_worker.files.fit import Fit
from farebox_worker.files.output import OutputFile
from farebox_worker.files.sidecar import Sidecar
from farebox_worker.files.written import ForeignFileError
from farebox_worker.limits import in_words
from farebox_worker.process.process import Process
from farebox_worker.run import place as places
from farebox_worker.run.ask import Ask
from farebox_worker.run.crew import Crew
from farebox_worker.run.feed import Feed, window_for
from farebox_worker.run.finish import Finish
from farebox_worker.run.follow import Follow
from farebox_worker.run.forecast import Prospect, look_ahead, scopes_of, seen_before
from farebox_worker.run.job import Ending, MainJob
from farebox_worker.run.misfits import Ceiling
from farebox_worker.run.picture import about, ends_after
from farebox_worker.run.plan import Plan, Planner
from farebox_worker.run.screen import Screen
from farebox_worker.session import Session, flags_from_here, open_session
from farebox_worker.settings import Settings
from farebox_worker.shop import Shop


@click.command()
@click.argument("source", metavar="IN", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    metavar="OUT",
    type=click.Path(path_type=Path, allow_dash=True),
    help="Default: IN.out.jsonl. X.csv is a table made of X.jsonl; - copies to stdout.",
)
@click.option("--budget", type=USD, metavar="USD", help="Hard limit of this run in dollars.")
@click.option("--no-budget", is_flag=True, help="Run paid models without a limit.")
@click.option(
    "--first",
    type=click.IntRange(min=1),
    metavar="N",
    help="Only the next N lines without an answer; says what the rest will cost.",
)
@line_options
@click.option("--tag", "tags", multiple=True, help="Count the cost under this tag too; repeatable.")
@click.option("--concurrency", type=click.IntRange(1, 10_000), metavar="N", help="Calls at once per lane and process.")
@click.option(
    "--fallback-after",
    type=click.FloatRange(0, 86_400),
    metavar="S",
    help="Seconds a model may be paused before its lines go to --fallback.  [default: 60]",
)
@click.option(
    "--processes", type=click.IntRange(1, 64), default=1, show_default=True, metavar="N", help="Worker processes here."
)
@click.option("--with-worker", is_flag=True, help="With a shared Redis: work here too, not only the fleet.")
@click.option("--max-failures", metavar="N|P%", help="Stop when so many jobs failed.")
@click.option("--dry-run", is_flag=True, help="Judge the file and say what it can cost; send nothing.")
@click.option("--overwrite", is_flag=True, help="Replace OUT even when Farebox did not write it.")
@click.option("--ordered", is_flag=True, help="Put OUT into the order of IN when the run ends.")
@click.option("--answer-column", metavar="NAME", default="answer", show_default=True, help="Column of the answers.")
@click.option("--redo", is_flag=True, help="Ask lines again that changed since they were answered.")
@reuse_option
@click.option("--quiet", is_flag=True, help="Show no progress.")
@json_option
@common
def run(settings: Settings, source: Path, as_json: bool, **flags: Any) -> None:
    """Answer every line of IN, writing one line each to OUT. Run it again to go on where it was.

    \b
    farebox run prompts.jsonl -m openai:gpt-5-mini --budget 20
    farebox run prompts.jsonl -m anthropic:claude-haiku-4-5 --budget 5 --first 10
    farebox run tickets.csv -m openai:gpt-5-mini --template "Classify: {text}" -o answers.csv --budget 5
    zcat prompts.jsonl.gz | farebox run - -m openai:gpt-5-mini -m openai:gpt-5-nano -o out.jsonl --budget 5
    """
    log_to_stderr(is_quiet=True)
    given = Flags(**flags)
    given.refuse_unfit(as_json=as_json)
    refuse_unkept(given.output, source)
    ask = given.lines.ask(source, tags=given.tags, first=given.first)
    code = run_async(_run(settings, ask, given, as_json=as_json))
    sys.exit(code)


async def _run(settings: Settings, ask: Ask, flags: Flags, *, as_json: bool) -> int:
    source = ask.source.path
    where = destination(flags.output, ask.source)
    if not flags.overwrite:
        where.refuse_foreign_table(source)
    said = {"concurrency": flags.concurrency, "fallback_after_s": flags.fallback_after}
    worker = msgspec.structs.replace(
        settings.worker, **{name: value for name, value in said.items() if value is not None}
    )
    settings = msgspec.structs.replace(settings, worker=worker)
    out_path = where.out
    known = places.earlier(out_path)
    settings = at_the_earlier_place(settings, known)
    async with Shop(settings) as shop:
        await shop.discover(*ask.named)
        planner = Planner(ask, shop.catalogue, shop.routes)
        columns = answer_columns(ask.source, flags.answer_column, planner.models) if where.table else ()
        finish = Finish(where, flags.ordered, columns)
        if flags.dry_run:
            with Screen(is_quiet=flags.quiet) as screen:
                limit = None if flags.budget_nusd is None else Ceiling(flags.budget_nusd)
                plan = _judge(planner, flags, screen, limit=limit)
            return _tell_plan(plan, source, as_json=as_json)
        with Screen(is_quiet=flags.quiet) as screen:
            async with open_session(settings, creates=True) as session:
                await session.ledger.epoch()  # refused before the file is judged
                limit = await _least_limit(session, flags, known)
                with ExitStack() as stack:
                    earlier = _earlier_output(out_path, flags, planner)
                    if earlier:
                        stack.enter_context(earlier)
                    is_done = places.done_before(known, session.namespace, earlier)
                    content = _content(planner, session, known, flags, screen)
                    plan = _judge(planner, flags, screen, limit=limit, is_done=is_done, content=content)
                    _refuse_without_budget(plan, flags, limit)
                    out = earlier or stack.enter_context(
                        OutputFile.open(out_path, overwrite=flags.overwrite, source=source)
                    )
                    out.fit = Fit(ask.wording.schema) if ask.wording.schema else None
                    if flags.lines.models[1:]:
                        screen.say(f"{source}: {counted(plan)}")
                    ending = await _work(session, shop, planner, plan, content, out, screen, flags, known, finish)
                    with ended_by_ctrl_c():
                        rows = finish.make(
                            planner,
                            out,
                            partial(name_job, session.namespace, ending.batch_id),
                            screen,
                            is_interrupted=ending.is_interrupted,
                        )
    if as_json:
        print_json(ending_json(ending, plan))
    if not flags.quiet:
        print_ending(ending, plan, out_path, source, flags=flags_from_here(settings))
        if rows is not None:
            say(f"The table {where.table} has {rows:,} rows.")
        if ask.source.spool and ending.exit_code not in (0, 3):
            say("Pipe the same input into it again: what is answered is not asked again.")
    return ending.exit_code


async def _work(  # noqa: PLR0913, PLR0917 - everything a run needs is made above
    session: Session,
    shop: Shop,
    planner: Planner,
    plan: Plan,
    content: Content,
    out: OutputFile,
    screen: Screen,
    flags: Flags,
    known: Sidecar | None,
    finish: Finish,
) -> Ending:
    settings = session.settings
    found = await places.find(session, known, planner.path, out)
    place = msgspec.structs.replace(found, schema=out.fit.schema if out.fit else None)
    reuse: Reuse | None = "content" if flags.reuse else None
    batch = batch_of(session.redis, place.batch_id, namespace=session.namespace, reuse=reuse)
    was_sealed = await places.settle_in(session, batch, out, place, screen)
    if flags.budget is not None or flags.no_budget:
        await session.ledger.set_limit(f"batch:{batch.batch_id}", flags.budget_nusd)
    lines = screen.follow(planner.lines(), doing="comparing with earlier runs")
    try:
        is_same = await places.reconcile(
            batch, out, lines, screen, is_redo=flags.redo, is_unchanged=planner.passes_known_lines
        )
    except InputError:
        if was_sealed:  # else whoever follows it waits for the rest of a file that is refused
            days = settings.retention
            await batch.seal(ids_days=days.ids_days, results_days=days.results_days)
        raise
    is_same = is_same and not plan.summary.bad and (planner.passes_known_lines or not plan.done_unread)
    places.note_compared(out, place, content.compared(plan.summary.last_line) if is_same else None)
    known_lengths = await seen_before(session.ledger, {model_ref for model_ref, _ in (*plan.asked, *plan.rest)})
    scopes = scopes_of(plan.asked, batch.batch_id, flags.tags)
    prospect = Prospect(plan.asked, plan.done, plan.rest, known_lengths, scopes)
    await _warn_of_the_end(batch, prospect, plan, out, screen)
    follow = Follow(batch, out, copy=finish.copy_while_running())
    processes = flags.processes if session.server or flags.with_worker else 0
    feed = Feed(
        batch,
        planner.lines(),
        is_done=out.done.contains,
        outstanding=follow.outstanding,
        done=plan.done_unread,
        window=window_for(processes * settings.worker.concurrency * len(plan.asked)),
    )
    crew = Crew(
        lambda batch_id: Process(session.redis, settings, shop.routes, only_batch=batch_id, handle_signals=False),
        processes,
        child_flags(settings),
        child_environment(settings),
    )
    job = MainJob(
        batch,
        out,
        feed,
        follow,
        crew,
        screen,
        total=plan.lines_done + plan.lines_asked,
        retention=settings.retention,
        revive=session.revive,
        prospect=prospect,
        most_failures=flags.most_failures(plan.lines_done + plan.lines_asked),
        flags=flags_from_here(settings),
        further=plan.further,
    )
    return await job.do()


def _earlier_output(path: Path, flags: Flags, planner: Planner) -> OutputFile | None:
    """Open what an earlier run wrote; None when there is nothing of ours, and --overwrite may replace it."""
    if not path.exists():
        return None
    with suppress(ForeignFileError) if flags.overwrite else ExitStack():
        return OutputFile.open(path, source=planner.path, name_now=planner.name_now)
    return None


async def _warn_of_the_end(batch: Batch, prospect: Prospect, plan: Plan, out: OutputFile, screen: Screen) -> None:
    """Say it when what is expected passes the budget, before anything is sent."""
    left = prospect.left(out.tally)
    own = (await batch.progress()).scope
    limits = await batch.ledger.limits(prospect.scopes)
    outlook = look_ahead(left, plan.lines_done, own, *limits)
    if outlook.ends_at is None:
        return
    what = "these lines" if plan.lines_asked == plan.summary.good else f"these {plan.lines_asked:,} lines"
    screen.say(
        f"{what} are expected to cost about {about(left.expected_nusd)}, at most {about(left.worst_nusd)}: "
        f"{ends_after(outlook)}. What does not fit waits, and a larger "
        f"{'--budget' if outlook.limit == own.name else 'limit'} goes on."
    )


async def _least_limit(session: Session, flags: Flags, known: Sidecar | None) -> Ceiling | None:
    """The least of the limits that will hold: the global ones, and the run's own, given now or earlier."""
    own = flags.budget_nusd
    if own is None and known is not None and not flags.no_budget:
        own = (await session.ledger.scope(f"batch:{known.batch_id}")).limit_nusd
    overall = await session.ledger.limits([GLOBAL])
    limits = [Ceiling(limit.limit_nusd, in_words(limit.name).removeprefix("the ")) for limit in overall]
    if own is not None:
        limits.append(Ceiling(own))
    return min(limits, key=lambda limit: limit.nusd, default=None)


def _content(planner: Planner, session: Session, known: Sidecar | None, flags: Flags, screen: Screen) -> Content:
    """Look whether the input is what an earlier run compared; --redo compares anew."""
    is_ours = known is not None and known.namespace == session.namespace and not flags.redo
    before = known.compared if known and is_ours else None
    with ended_by_ctrl_c():
        return Content(planner.source, planner.digest(), before, screen.tell)


def _judge(
    planner: Planner,
    flags: Flags,
    screen: Screen,
    *,
    limit: Ceiling | None,
    is_done: Callable[[str], bool] = lambda _: False,
    content: Content | None = None,
) -> Plan:
    with ended_by_ctrl_c():
        plan = planner.judge(limit=limit, on_lines=screen.reading, is_done=is_done, content=content)
    source = planner.path
    advice = plan.misfits.advice() if plan.misfits else ""
    tell_bad(source, plan.summary, skips=flags.lines.skip_invalid, advice=advice, unsent="Nothing was sent.")
    if not plan.summary.good:
        raise InputError(f"{source} holds no jobs.")
    return plan


def _refuse_without_budget(plan: Plan, flags: Flags, limit: Ceiling | None) -> None:
    if not plan.needs_budget or flags.no_budget or limit is not None:
        return
    unknown = f" (and no price is known for {', '.join(sorted(plan.unpriced))})" if plan.unpriced else ""
    raise InputError(
        f"no budget: these {plan.lines_asked:,} jobs can cost up to {dollars_from_nusd(plan.worst_nusd)}{unknown}. "
        "Say what they may cost with --budget USD, or run without a limit with --no-budget."
    )


def _how_many(plan: Plan) -> str:
    return counted(plan) if plan.summary.total != plan.summary.lines else f"{plan.lines_asked:,} jobs"


def _tell_plan(plan: Plan, source: Path, *, as_json: bool) -> int:
    if as_json:
        print_json(
            {
                "jobs": plan.lines_asked,
                "bad_lines": plan.summary.bad_lines,
                "worst_nusd": plan.worst_nusd,
                "worst_usd": plan.worst_nusd / 1e9,
                "largest_nusd": plan.largest_nusd,
                "largest_usd": plan.largest_nusd / 1e9,
                "unpriced": sorted(plan.unpriced),
                "models": dict(plan.summary.models),
            }
        )
    say(f"{source}: {_how_many(plan)}, at most {dollars_from_nusd(plan.worst_nusd)}; nothing was sent.")
    return 0
