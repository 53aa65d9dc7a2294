"""Chaos: worker processes, a hostile provider and a server that are killed at random, and the provider's bill as judge.

By hand: `python -m tests.fleet.chaos --seconds 300 --workers 4 --seed 7`. Rages over jobs of every kind, then repeats
the cases in which gateways overspend; prints a table of what was seen as it goes, and exits 1 when a promise broke.
"""

import argparse
import json
import random
import sys
import tempfile
import time

from tests.fleet.arena import MODELS, TOKENS, Arena

from farebox.amend import retry_failed
from farebox.batch import Batch
from farebox.money import nusd_from_usd
from farebox.records import Job
from farebox.reuse import batch_of

QUESTIONS = 20  # that many jobs ask the same again


class Medley(Arena):
    """An arena with jobs of every kind: with fallbacks, spread, with deadlines, asked before; under limits per minute.

    What an operator does goes on meanwhile, see `meddle`: a batch is cancelled with its calls, failed jobs are retried,
    and questions that were answered are asked again.
    """

    batches = ("chaos", "doomed", "again")

    def _configure(self):
        super()._configure()
        with self.config.open("a") as config:
            config.write("rpm = 1200\n")  # of the last model

    async def _submit(self, batch):
        await batch.ledger.create()
        await batch.ledger.set_limit("global", self.seen.limit)
        doomed = Batch(batch.redis, "doomed")
        first = batch_of(batch.redis, "again", reuse="content")
        await self._fill(batch, [self._job(n) for n in range(self.seen.jobs - 2 * QUESTIONS - self.seen.jobs // 8)])
        await self._fill(doomed, [self._job(n) for n in range(self.seen.jobs // 8)], priority=5)
        await first.open()
        await first.submit(self._questions("first"), priority=9)

    async def _fill(self, batch, jobs, priority=0):
        await batch.open()
        await batch.submit(jobs, priority=priority)
        await batch.seal(len(jobs))

    def _job(self, n):
        first, *others = MODELS[n % len(MODELS) :] + MODELS[: n % len(MODELS)]
        kinds = (
            {"tags": ("t",)},
            {"fallbacks": others},
            {"fallbacks": others, "spread": True},
            {"deadline_ms": int((time.time() + 4) * 1000)},
        )
        return Job(1, f"c{n}", first, "chat", body("hi"), **kinds[n // len(MODELS) % len(kinds)])

    def _questions(self, when):
        return [Job(1, f"{when}{n}", MODELS[0], "chat", body(f"question {n}")) for n in range(QUESTIONS)]

    def meddle(self, step):
        """Do what operators and producers do in the middle, one thing after the other, once it has a meaning."""
        act, batch_id, outcome = [
            (self._cancel, "chaos", "finished"),
            (self._ask_again, "again", "succeeded"),
            (self._retry, "chaos", "failed"),
        ][step]
        self.until(lambda: self._count(batch_id, outcome), 60, f"the first job of {batch_id} that has {outcome}")
        self.ask(act)

    def _count(self, batch_id, outcome):
        return getattr(self.ask(lambda batch: Batch(batch.redis, batch_id).progress()), outcome)

    async def _cancel(self, batch):
        await Batch(batch.redis, "doomed").cancel(now=True)
        self.seen.at_risk += len(self.workers) * self.concurrency * len(MODELS)

    async def _retry(self, batch):
        self.seen.retried += await retry_failed(batch)

    async def _ask_again(self, batch):
        again = batch_of(batch.redis, "again", reuse="content")
        await again.submit(self._questions("again"))
        await again.seal(2 * QUESTIONS)


def body(question):
    return json.dumps({"messages": [{"role": "user", "content": question}], "max_tokens": TOKENS}).encode()


def rage(folder, *, seconds, workers=3, seed=0, server_kills=2, every_s=1.5, **options):
    """Kill at random for so many seconds, let it settle down, judge. Returns: Seen."""
    chance = random.Random(seed)
    began = time.monotonic()
    with Medley(folder, **options) as arena:
        for _ in range(workers):
            arena.work()
        arena.until(lambda: arena.bill()["billed_calls"], 60, "the first call")
        ends = time.monotonic() + seconds
        murders = sorted(chance.uniform(0, seconds) for _ in range(server_kills))
        steps = 0
        while (left := ends - time.monotonic()) > 0:
            if steps < 3 and seconds - left >= seconds * (steps + 1) / 4:
                arena.meddle(steps)
                steps += 1
            if murders and seconds - left >= murders[0]:
                murders.pop(0)
                arena.kill_server(chance.uniform(0.1, 1.5))
            else:
                arena.kill_worker(chance)
            time.sleep(min(left, every_s * chance.uniform(0.5, 1.5)))
        for step in range(steps, 3):
            arena.meddle(step)
        arena.settle_down()
        seen = arena.judge()
        seen.seconds = time.monotonic() - began
        return seen


def crowd(folder, *, processes, concurrency, jobs=300, **options):
    """Let many workers run at a limit together, all well. Returns: Seen."""
    began = time.monotonic()
    calm = {"latency-ms": 300}
    with Arena(folder, cost_usd=0.02, concurrency=concurrency, jobs=jobs, faults=calm, **options) as arena:
        for _ in range(processes):
            arena.work()
        arena.settle_down()
        seen = arena.judge()
        seen.seconds = time.monotonic() - began
        return seen


def blackout(folder, *, after_usd=0.8, workers=3, **options):
    """Let workers finish calls for so much money, kill them all at once, let others go on. Returns: Seen."""
    began = time.monotonic()
    calm = {"latency-ms": 300}
    with Arena(folder, cost_usd=0.02, jobs=100, faults=calm, **options) as arena:
        for _ in range(workers):
            arena.work()
        enough = nusd_from_usd(after_usd)
        arena.until(
            lambda: arena.ask(lambda batch: batch.ledger.spent()) >= enough, 90, f"${after_usd} of finished calls"
        )
        arena.kill_all_workers()
        for _ in range(workers):
            arena.work()
        arena.settle_down()
        seen = arena.judge()
        seen.seconds = time.monotonic() - began
        return seen


CASES = {
    "1 process, 500 calls at once": lambda folder: crowd(folder, processes=1, concurrency=500),
    "2 processes, 250 each": lambda folder: crowd(folder, processes=2, concurrency=250),
    "4 processes, 50 each": lambda folder: crowd(folder, processes=4, concurrency=50),
    "kill -9 of all workers after $0.80": blackout,
}
COLUMNS = (
    "case", "limit", "bill", "spent", "unconfirmed", "unused", "answered", "kills (workers, servers)", "lost",
    "paid twice", "broken",
)  # fmt: skip


def row(case, seen):
    """What was seen, as a line of a table in Markdown."""
    unused = seen.limit - seen.spent - seen.held - seen.unconfirmed
    amounts = [f"${nusd / 1e9:.4f}" for nusd in (seen.limit, seen.bill, seen.spent, seen.unconfirmed, unused)]
    kills = f"{seen.worker_kills}, {seen.server_kills}"
    ends = [f"{seen.answered} of {seen.jobs}", kills, f"{seen.lost}", f"{seen.twice} of {seen.billed_calls}"]
    cells = [case, *amounts, *ends, "; ".join(seen.broken) or "nothing"]
    return f"| {' | '.join(cells)} |"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--limit", type=float, default=5.0)
    parser.add_argument("--jobs", type=int, default=10_000)
    options = parser.parse_args()

    def fury(folder):
        return rage(
            folder, seconds=options.seconds, workers=options.workers, seed=options.seed,
            server_kills=max(1, int(options.seconds / 10)), limit_usd=options.limit, jobs=options.jobs,
        )  # fmt: skip

    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}", flush=True)  # noqa: T201 - a command
    is_broken = False
    for case, act in {f"{options.seconds:g} s of kill -9, seed {options.seed}": fury, **CASES}.items():
        with tempfile.TemporaryDirectory(prefix="fbc") as folder:
            seen = act(folder)
        print(row(case, seen), flush=True)  # noqa: T201 - a command
        is_broken |= bool(seen.broken)
    sys.exit(1 if is_broken else 0)


if __name__ == "__main__":
    main()
