"""Mutants: the verbs with one promise broken each, which the money machine must notice.

`make mutants` plays `money_machine` against each until it is caught, or its time is over; `make mutants WORDS="settle
unconfirmed"` only those whose row has one of the words. `test_mutants.py` holds the table to the Lua that is there.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from hypothesis import HealthCheck, Phase, Verbosity, seed, settings
from hypothesis.stateful import run_state_machine_as_test
from tests.money.money_machine import MoneyMachine
from tests.shifted_time import become, shifted_time, verbs

from farebox_worker.server.embedded import start_server

ROOT = Path(__file__).parents[2]
SHARED, BUS = ROOT / "producer/farebox/lua", ROOT / "worker/farebox_worker/bus"
GAMES = settings(
    max_examples=10,
    stateful_step_count=50,
    deadline=None,
    database=None,
    print_blob=False,
    phases=[Phase.generate],
    verbosity=Verbosity.quiet,
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)


@dataclass(frozen=True)
class Mutant:
    """What is broken, in which file of Lua, and how: `text` occurs there once, and `instead` stands for it."""

    breaks: str
    file: str
    text: str
    instead: str = ""

    @property
    def source(self):
        path = SHARED / f"{self.file}.lua"
        return (path if path.exists() else BUS / f"{self.file}.lua").read_text()


def of(file, *rows):
    return [Mutant(breaks, file, *change) for breaks, *change in rows]


MUTANTS = [
    *of(
        "prelude",
        ("a cancelled batch is opened again", "'cancelled') == 1 then return end\n  local opened", "'never') == 1 then return end\n  local opened"),
        ("what is reopened stays parked", "  redis.call('HDEL', P .. 'parking', flow)\n"),
        ("a flow that waits is not woken at the sooner time", "tonumber(known) > due", "tonumber(known) < due"),
    ),
    *of(
        "reopen",
        ("what waits in a batch that goes on is not found", "  if redis.call('ZCARD', flow) > 0 then open(flow) end\n"),
    ),
    *of(
        "tally",
        ("a month's window counts nothing", "for per, of in pairs(WINDOWS) do", "for per, of in pairs({day = WINDOWS.day}) do"),
        ("money freed in a window reopens nothing", "freed[#freed + 1] = per .. ':' .. scope", "local _ = per"),
        ("the journal calls every day today", "(day == today and '' or int(day))", "''"),
    ),
    *of(
        "scopes",
        ("a window's limit forgets what is unconfirmed", ", 'unconfirmed ' .. scope)\n    for i = 1", ")\n    for i = 1"),
        ("what parked is not looked at again when nothing is in flight", "  if held == 0 then look_again(name, free) end\n"),
        ("doubts are not counted against the job", "if redis.call('EXISTS', 'arq:job:' .. id) == 1 then redis.call('HINCRBY', P .. 'strikes', id .. ':doubts', 1) end\n"),
        ("a late settle is booked today, not when it was owed", "math.floor(tonumber(since) / 86400000)", "today"),
    ),
    *of(
        "claim",
        ("jobs that wait for their time are taken at once", "local found = redis.call('ZRANGEBYSCORE', flow, '-inf', int(now)", "local found = redis.call('ZRANGEBYSCORE', flow, '-inf', '+inf'"),
        ("a flow that has work for later is forgotten", "if redis.call('ZCARD', flow) == got then return end", "if true then return end"),
        ("a job aside forgets that it was tried", "may_be_new and i >= fresh_from", "i >= fresh_from"),
        ("who serves one batch leaves its sidings", "      table.insert(found[of], flow)\n", "      if not is_siding(flow) then table.insert(found[of], flow) end\n"),
        ("an ended lease is claimed before it lapses", "if redis.call('EXISTS', 'arq:in-progress:' .. late[i]) == 1 then", "if false then"),
        ("a claim sent again gives back what is lost", "if payload and redis.call('GET', 'arq:in-progress:' .. id) == mine .. flow then", "if payload then"),
        ("a provider's pause does not hold its lanes", "math.max(pace.paused, provider.paused)", "pace.paused"),
        ("a probe does not wait for the one before", "    wait_until(now + 1000)\n    return false", "    wait_until(now + 1000)\n    return true"),
        ("more are in flight than the lane may have", "math.min(pace.target, most > 0 and most or math.huge) - in_flight", "pace.target"),
        ("requests go into debt", "    if most < 1 then", "    if false then"),
        ("what is in flight is not leased", "redis.call('ZADD', P .. 'leases:' .. lane, ...)"),
    ),
    *of(
        "admit",
        ("holds of one call do not count for each other", "limit.used = limit.used + hold", "limit.used = limit.used"),
        ("a limit may be passed by the last hold", "if limit.used + hold > limit.amount", "if limit.used >= limit.amount"),
        ("windows have no limits", "ipairs({name, 'day:' .. name, 'month:' .. name})", "ipairs({name})"),
        ("an attempt that was lost is admitted", "if is_gone[token] or running[n] ~= token .. flow then", "if is_gone[token] then"),
        ("an admit sent again holds twice", "elseif held[n] or is_held[token] then", "elseif is_held[token] then"),
        ("smaller holds pass whoever waited long", "if limit.starved and limit.starved ~= manner.flow then return limit end", ""),
        ("a job without room bars all behind it", "if siding ~= flow and most > 0 and size_of", "if false and size_of"),
        ("jobs of one size leave their flow", "return one.hold > one.limit.reach and LOOK_AHEAD or 0", "return LOOK_AHEAD"),
        ("who fits no more bars those behind it", "return one.hold > one.limit.reach and LOOK_AHEAD or 0", "return 0"),
        ("a job aside stands in its flow too", "      redis.call('ZREM', flow, one.id)\n"),
        ("a siding is no flow of its batch", "    take_in(siding, redis.call('SISMEMBER', P .. kind, flow) == 1 and kind or 'last')\n"),
        ("an unpriced job runs under a limit", "elseif hold < 0 and #manner.limits > 0 then", "elseif false then"),
        ("a parked flow says another need", "redis.call('ZADD', P .. 'parked:' .. name, int(need), flow)", "redis.call('ZADD', P .. 'parked:' .. name, int(need + 1), flow)"),
        ("every job takes the first one's manner", "manners[ARGV[at + 2]]", "manners['1']"),
        ("who waits for tokens stays leased", "    elseif short_ms then\n      go_back(id, flow, score)\n", "    elseif short_ms then\n"),
    ),
    *of(
        "pace",
        ("tokens go into debt", "return lacking > 0.001 and math.ceil(lacking * 60000 / pace.tpm) or 0", "return 0"),
    ),
    *of(
        "felt",
        ("any answer ends a probe", "if not token or not is_answered(token) then return end", "if not token then return end"),
        ("a probe never ends", "  redis.call('HDEL', provider.key, 'probing', 'probe')\n"),
    ),
    *of(
        "settle",
        ("what was settled is settled again", "if seen[token] or known[claim] and is_among(known[claim], number) then", "if seen[token] then"),
        ("a settled hold stays in the list", "    gone_holds[#gone_holds + 1] = token\n"),
        ("what nobody knows is released", "      doubt(token, hold, id, manner.flow, set, manner.why)\n"),
        ("an overrun is not counted", "  if hold and amount > hold then count(set, 'overrun', amount - hold) end\n"),
        ("a late settle is paid beside what was owed", "    count(set, 'unconfirmed', -owed, day)\n"),
        ("an attempt that the ledger does not know is dropped", "    if manner.is_billed then book(n, 's', manner.set, today, nil, '', manner) end\n"),
        ("a stale failure ends another's job", "if manner.is_answer or mine and action == 'finish' then", "if action == 'finish' then"),
        ("a late answer leaves its job where it moved", "local place = mine and flow or place_of(id, manner)", "local place = flow"),
        ("a late answer does not stop who has claimed again", "if other ~= '' and redis.call('HEXISTS', P .. 'holds', other) == 0 then", "if false then"),
        ("two answers of one group are told twice", "  finished[id] = true\n"),
        ("every attempt takes the first one's manner", "manners[ARGV[at + 2]]", "manners['1']"),
        ("a retry does not wait", "    due = now + due\n", "    due = now\n"),
        ("a move keeps the attempts", "  redis.call('DEL', 'arq:retry:' .. id)\n"),
        ("a moved job stays in its old flow too", "  redis.call('ZREM', manner.flow, id)\n"),
        ("ended jobs leave their deadline", "each(gone_deadlines, function(...) redis.call('ZREM', P .. 'deadlines', ...) end)\n"),
        ("a history outlives its job's result", "  for _, key in ipairs({...}) do redis.call('PEXPIRE', key, ARGV[4]) end\n"),
    ),
    *of(
        "lapse",
        ("a dead attempt's hold is released, not owed", "    doubt(token, hold, id, flow, set, 'worker died')\n", "    post(token, 'r', id, set, today, '')\n"),
        ("a dead attempt's hold stays held too", "    count(set, 'held', -hold)\n"),
        ("a dead attempt does not count", "      redis.call('INCR', 'arq:retry:' .. id)\n"),
        ("a lapsed job is nobody's", "    redis.call('ZADD', flow, int(now), id)\n    open(flow)\n", "    redis.call('ZREM', flow, id)\n"),
        ("an outage ends leases", "local graceful = not force and", "local graceful = false and"),
        ("what can never fit keeps others out", "if tonumber(need) > reach[name] then", "if false then"),
    ),
    *of("renew", ("a lost lease is renewed", "== token then", "~= '' then")),
    *of(
        "confirm",
        ("charging costs nothing", "    if is_charge then count(set, 'spent', amount, day) end\n"),
        ("what was charged can be billed again", "(is_charge and '' or 'r')", "'r'"),
        ("a release is booked today", "count(set, 'unconfirmed', -amount, day)", "count(set, 'unconfirmed', -amount)"),
    ),
    *of("withdraw", ("what runs is withdrawn", "if redis.call('EXISTS', 'arq:in-progress:' .. id) == 1 then return false end", "")),
    *of(
        "move",
        ("a job that was tried goes from a siding as new", "is_siding(from) and int(now) or score", "score"),
        ("a claimed job is moved", " and redis.call('EXISTS', 'arq:in-progress:' .. ARGV[i]) == 0"),
        ("what is parked moves", "redis.call('HEXISTS', P .. 'parking', from) == 1 or redis.call('HEXISTS', P .. 'parking', goal) == 1\n    or ", ""),
        ("what has moved is found by nobody", "    open(goal)\n"),
    ),
    *of(
        "submit",
        ("deadlines are forgotten", "  if #deadlines > 0 then redis.call('ZADD', P .. 'deadlines', unpack(deadlines)) end\n"),
        ("a closed batch notes deadlines", "  if record[3] then return", "  redis.call('ZADD', P .. 'deadlines', ARGV[10], batch .. '\\t' .. ARGV[7])\n  if record[3] then return"),
    ),
    *of(
        "reuse",
        ("one answer is told twice", "    seen[digests[n]] = ARGV[i + 1]\n"),
        ("a sealed batch takes answers", "  if record[2] then return redis.error_reply('BATCHCLOSED sealed') end\n"),
    ),
    *of(
        "retry",
        ("a job with another result is retried", "if redis.call('GET', 'arq:result:' .. id) == ARGV[i + 3] then", "if redis.call('EXISTS', 'arq:result:' .. id) == 1 then"),
        ("failures are counted that were retried", "if back > 0 then redis.call('HINCRBY', P .. 'batch:' .. batch, 'failed', -back) end\n"),
        ("a retried job is found by nobody", "    open(flow)\n"),
    ),
    *of(
        "drop",
        ("what runs is dropped", "redis.call('EXISTS', 'arq:in-progress:' .. id) == 0 and "),
        ("a flow stays parked for a job that is gone", "  stop_waiting(flow)\n"),
    ),
    *of(
        "reassert",
        ("what is held is held twice", "if redis.call('HEXISTS', P .. 'holds', token) == 1 then", "if false then"),
        ("what was settled is held again", " and not is_settled(token) then", " then"),
        ("a lost hold is not counted", "      count(set, 'held', hold)\n"),
        ("two attempts at a job both run", "if why == '' and owner ~= token and redis.call('HEXISTS', P .. 'holds', owner) == 1 then why = 'superseded' end\n"),
    ),
    *of(
        "fold",
        ("the overrun is not folded", "count('overrun', math.max(0, amount - hold))", "count('overrun', 0)"),
        ("a reset is not folded", "    spread()\n    return wipe()", "    return spread()"),
        ("late settles are folded into their entry's day", "day ~= '' and day or entry_day", "entry_day"),
    ),
    *of(
        "blame",
        ("wrong requests are counted across answers", " and before[3] == calls"),
        ("blame never begins anew", "  redis.call('HDEL', key, 'alike_what', 'alike_count', 'alike_calls')\n", "  redis.call('HSET', key, 'alike_count', count)\n"),
    ),
    *of("pause", ("the shorter pause wins", "if pause_ms > 0 and ends >= until_ms and not", "if pause_ms > 0 and ends < 0 and not")),
    *of("reset", ("a reset forgets what is owed", "'spent', 'overrun'", "'spent', 'unconfirmed', 'overrun'")),
    *of("limit", ("a raised limit reopens nothing", "flush()\nreopen(ARGV[4])\n", "flush()\n")),
]  # fmt: skip


def breed(mutant):
    """Let every verb that is made of the mutant's file be the mutant."""
    sound = mutant.source
    assert sound.count(mutant.text) == 1, f"{mutant.file}.lua has changed: find another place for {mutant.breaks!r}"
    for script in verbs().values():
        become(script, script.text.replace(sound, sound.replace(mutant.text, mutant.instead)))


def play(seconds):
    """Play until the judge objects or the time is over. Returns: games, and what the judge said or ""."""
    games, ends = 0, time.monotonic() + seconds
    with tempfile.TemporaryDirectory(prefix="fbm") as folder:
        server = start_server(Path(folder))

        class Played(MoneyMachine):
            def __init__(self):
                super().__init__(server.url)

        try:
            with shifted_time():
                while time.monotonic() < ends:
                    run_state_machine_as_test(seed(games)(Played), settings=GAMES)
                    games += GAMES.max_examples
        except Exception as objection:  # noqa: BLE001 - whatever the judge says
            traceback.print_exc()
            return games, f"{type(objection).__name__}: {objection}".splitlines()[0]
        finally:
            server.kill()
    return games, ""


def judge(place, seconds):
    """Play one mutant in a process of its own. Returns: its row of the table, and whether all is as it should be."""
    mutant = MUTANTS[place] if place >= 0 else None
    command = [sys.executable, "-m", "tests.money.mutants", "--seconds", str(seconds), "--play", str(place)]
    began = time.monotonic()
    played = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if played.returncode or not played.stdout:
        raise SystemExit(played.stdout + played.stderr)
    games, _, said = played.stdout.splitlines()[-1].partition(" ")
    took = f"{time.monotonic() - began:.0f} s, {games} games"
    if mutant is None:
        return f"{'SOUND' if not said else 'BROKEN ITSELF'}  no mutant ({took}) {said}", not said
    return f"{'caught' if said else 'SURVIVED'}  {mutant.file}: {mutant.breaks} ({took}) {said[:100]}", bool(said)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", help="only mutants whose file or row has one of these words")
    parser.add_argument("--seconds", type=float, default=300, help="how long to play one that is not caught")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--play", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.play is not None:
        if options.play >= 0:
            breed(MUTANTS[options.play])
        print(*play(options.seconds))  # noqa: T201 - for `judge`
        return
    wanted = {*options.words}
    chosen = [n for n, m in enumerate(MUTANTS) if not wanted or wanted & {*f"{m.file} {m.breaks}".split()}]
    rows = []
    with ThreadPoolExecutor(options.workers) as pool:
        for row, is_well in pool.map(lambda place: judge(place, options.seconds), [-1, *chosen]):
            print(row, flush=True)  # noqa: T201 - a command
            rows.append(is_well)
    print(f"{sum(rows[1:])} of {len(chosen)} caught")  # noqa: T201 - a command
    sys.exit(not all(rows))


if __name__ == "__main__":
    main()
