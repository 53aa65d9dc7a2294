"""Where chaos happens: a server, a provider that is simulated and keeps its own bill, workers, jobs; and the judge."""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from farebox.batch import Batch
from farebox.connection import connect
from farebox.money import nusd_from_usd
from farebox.records import Job
from farebox_worker.audit import audit
from farebox_worker.server.embedded import start_server

HOSTILE = {
    "share-429": 0.05, "share-500": 0.05, "share-dropped": 0.03, "share-hung": 0.03,
    "latency-ms": 200, "latency-jitter-ms": 200, "retry-after-s": 0.5,
}  # fmt: skip
MODELS = ("sim:sim-1", "sim:sim-2", "other:sim-1")
TOKENS = 100  # the output cap of every call
MONEY = ("spent_nusd", "held_nusd", "unconfirmed_nusd", "calls")


@dataclass
class Seen:
    """What one run showed; money in nano-dollars. Of calls that were paid, `twice` gave a job another answer; no more
    may than were in flight when something was killed (`at_risk`).
    """

    limit: int
    hold: int
    jobs: int
    billed_calls: int = 0
    bill: int = 0
    spent: int = 0
    held: int = 0
    unconfirmed: int = 0
    answered: int = 0
    failed: int = 0
    cancelled: int = 0
    reused: int = 0
    retried: int = 0
    left: int = 0
    twice: int = 0
    at_risk: int = 0
    worker_kills: int = 0
    server_kills: int = 0
    refused_starts: int = 0
    seconds: float = 0.0
    broken: list[str] = field(default_factory=list)
    log: str = field(default="", repr=False)

    @property
    def lost(self):
        return self.jobs - self.answered - self.failed - self.cancelled - self.left

    def table(self):
        rows = [
            ("limit", f"${self.limit / 1e9:.4f}"), ("bill", f"${self.bill / 1e9:.4f} ({self.billed_calls} calls)"),
            ("spent", f"${self.spent / 1e9:.4f}"), ("unconfirmed", f"${self.unconfirmed / 1e9:.4f}"),
            ("unused", f"${(self.limit - self.spent - self.held - self.unconfirmed) / 1e9:.4f}"),
            ("jobs", f"{self.jobs}: {self.answered} answered ({self.reused} reused), {self.left} wait"),
            ("", f"{self.failed} failed (and {self.retried} were retried), {self.cancelled} cancelled"),
            ("lost", f"{self.lost}"),
            ("paid twice", f"{self.twice}, of {self.at_risk} calls in flight at kills at the most"),
            ("kills", f"{self.worker_kills} workers, {self.server_kills} servers"),
            ("found none", f"{self.refused_starts} workers began while there was no server"),
            ("took", f"{self.seconds:.1f} s"),
        ]  # fmt: skip
        return "\n".join(f"  {name:<12}{value}" for name, value in [*rows, *(("BROKEN", word) for word in self.broken)])


class Arena:
    """A server, a simulated provider, workers and batches (one, if nothing else is said), in a directory of their own.

    Args:
        folder: an empty directory with a short path.
        hold_usd, cost_usd: what a call may cost, and what it costs.
        faults: options of `farebox simulate`.
    """

    batches = ("chaos",)

    def __init__(self, folder, *, limit_usd=1.0, hold_usd=0.02, cost_usd=0.002, concurrency=2, jobs=800, faults=None):
        self.folder = Path(folder)
        self.seen = Seen(nusd_from_usd(limit_usd), nusd_from_usd(hold_usd), jobs)
        self.cost_usd = cost_usd
        self.concurrency = concurrency
        self.faults = HOSTILE if faults is None else faults
        self.workers: list[subprocess.Popen] = []
        self.simulator = None
        self.server = None

    def __enter__(self):
        try:
            self._begin()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc):
        for process in [*self.workers, *([self.simulator] if self.simulator else [])]:
            process.kill()
            process.wait()
        if self.server:
            self.server.kill()

    def _begin(self):
        self._start_server()
        self._simulate()
        self._configure()
        self.ask(self._submit)

    def _start_server(self):
        self.data = self.folder / "data"
        self.data.mkdir(mode=0o700)
        self.server = start_server(self.data, appendfsync="always")
        self.url = self.server.url

    def _simulate(self):
        ready = self.folder / "ready"
        words = [word for name, value in self.faults.items() for word in (f"--{name}", str(value))]
        tokens = round(TOKENS * self.cost_usd * 1e9 / self.seen.hold)
        words += ["--output-tokens", f"{tokens}-{tokens}", "--cost-usd", str(self.cost_usd)]
        words += ["--model", "sim-1", "--model", "sim-2", "--journal", str(self.folder / "journal"), "--port", "0"]
        command = [sys.executable, "-m", "farebox_worker.simulate", *words, "--ready-file", str(ready)]
        self.simulator = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.until(ready.exists, 30, "the simulator")
        self.until(ready.read_text, 5, "the simulator's address")
        self.provider = ready.read_text().strip()

    def _configure(self):
        rate = self.seen.hold / TOKENS / 1000  # dollars per million tokens, so that the cap costs one hold
        parts = [
            f'[redis]\nurl = "{self.url}"',
            f"[worker]\nconcurrency = {self.concurrency}\nlease_s = 2.0\ndrain_s = 5.0\nrequest_timeout_s = 1.0",
        ]
        parts += [
            f'[providers.{provider}]\nkind = "openai"\nbase_url = "{self.provider}/v1"'
            for provider in sorted({model.partition(":")[0] for model in MODELS})
        ]
        parts += [
            f'[models."{model}"]\ninput_usd_per_mtok = 0.0\noutput_usd_per_mtok = {rate}\ncontext_window = 10000'
            for model in MODELS
        ]
        self.config = self.folder / "farebox.toml"
        self.config.write_text("\n".join(parts) + "\n")

    async def _submit(self, batch):
        await batch.ledger.create()
        await batch.ledger.set_limit("global", self.seen.limit)
        await batch.open()
        body = json.dumps({"messages": [{"role": "user", "content": "hi"}], "max_tokens": TOKENS}).encode()
        jobs = [Job(1, f"c{n}", MODELS[n % len(MODELS)], "chat", body) for n in range(self.seen.jobs)]
        await batch.submit(jobs)
        await batch.seal(len(jobs))

    def ask(self, act):
        """Run `await act(batch)` on a connection of its own."""

        async def run():
            redis = connect(self.url)
            try:
                return await act(Batch(redis, "chaos"))
            finally:
                await redis.aclose()

        return asyncio.run(run())

    def work(self, **variables):
        """Start one worker process more, with these environment variables."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("FAREBOX_")}
        environment |= variables
        command = [sys.executable, "-m", "farebox_worker", "worker", "--quiet", "--config", str(self.config)]
        with (self.folder / "workers.log").open("ab") as log:
            self.workers.append(subprocess.Popen(command, env=environment, cwd=self.folder, stdout=log, stderr=log))

    def kill_worker(self, chance):
        """Kill one with SIGKILL and start another."""
        victim = self.workers.pop(chance.randrange(len(self.workers)))
        victim.kill()
        victim.wait()
        self._note_kills(1)
        self.work()

    def kill_worker_at(self, place):
        """Kill this one with SIGKILL."""
        victim = self.workers.pop(place)
        victim.kill()
        victim.wait()
        self._note_kills(1)

    def _note_kills(self, workers):
        self.seen.worker_kills += workers
        self.seen.at_risk += workers * self.concurrency * len(MODELS)

    def revive(self):
        """Start those again that found no server when they began, as any supervisor would."""
        for worker in [worker for worker in self.workers if worker.poll() is not None]:
            self.workers.remove(worker)
            self.seen.refused_starts += 1
            self.work()

    def kill_server(self, away_s=0.3):
        """Kill the server with SIGKILL, and start it on the same directory."""
        self.server.kill()
        self.seen.server_kills += 1
        time.sleep(away_s)
        self.server = start_server(self.data, appendfsync="always")
        assert self.server.url == self.url

    def kill_all_workers(self):
        """Kill every worker at once with SIGKILL, as a machine that loses its power does."""
        for worker in self.workers:
            worker.kill()
        for worker in self.workers:
            worker.wait()
        self._note_kills(len(self.workers))
        self.workers.clear()

    def bill(self):
        """Read the provider's own book."""
        with urllib.request.urlopen(f"{self.provider}/bill", timeout=5) as answer:
            return json.load(answer)

    def waiting(self):
        """How many jobs are parked, wait and run, in all batches."""

        async def of_all(batch):
            found = [await Batch(batch.redis, one).waiting() for one in self.batches]
            return tuple(map(sum, zip(*found, strict=True)))

        return self.ask(of_all)

    def settle_down(self, timeout_s=90):
        """Wait until nothing is in flight and all that is left is parked."""

        def is_still():
            self.revive()
            held, waits, running = self.waiting()
            return waits == running == 0 or (held and not running and not waits)

        try:
            self.until(is_still, timeout_s, "the end")
        except TimeoutError as error:
            seen = f"parked, waiting, running: {self.waiting()}"
            error.add_note(f"{seen}\n{(self.folder / 'workers.log').read_text()[-3000:]}")
            raise
        time.sleep(1.2)  # calls that hung are over, what was unconfirmed stays

    @staticmethod
    def until(is_so, timeout_s, what):
        deadline = time.monotonic() + timeout_s
        while True:
            with contextlib.suppress(OSError):
                if is_so():
                    return
            if time.monotonic() > deadline:
                raise TimeoutError(f"{what} did not come within {timeout_s} s")
            time.sleep(0.05)

    def judge(self):
        """Compare the ledger with the provider's bill; what is broken is named in `seen.broken`."""
        bill = self.bill()
        self.seen.bill, self.seen.billed_calls = bill["cost_nusd"], bill["billed_calls"]
        self.ask(self._judge)
        return self.seen

    async def _judge(self, batch):
        seen = self.seen
        scopes = {scope.name: scope for scope in await batch.ledger.scopes()}
        total = scopes["global"]
        seen.spent, seen.held, seen.unconfirmed = total.spent_nusd, total.held_nusd, total.unconfirmed_nusd
        results, finished = Counter(), 0
        for one in [Batch(batch.redis, name) for name in self.batches]:
            progress = await one.progress()
            finished += progress.finished
            seen.answered += progress.succeeded
            seen.failed += progress.failed
            seen.cancelled += progress.cancelled_jobs
            seen.reused += progress.reused
            seen.left += sum(await one.waiting())
            after = "0-0"
            while entries := await one.read(after):
                after = entries[-1].entry_id
                results.update(job for entry in entries for job in [*(job for job, _ in entry.results), *entry.gone])
        seen.twice = total.calls - (seen.answered - seen.reused)
        doubts = await batch.ledger.unconfirmed()
        owed = sum(one.amount_nusd for one in doubts)

        def sums(kind):
            found = [scope for scope in scopes.values() if scope.name.startswith(kind)]
            return [sum(getattr(scope, name) for scope in found) for name in MONEY]

        books = await audit(batch.ledger.redis, batch.ledger.keys)
        log = (self.folder / "workers.log").read_text()
        said = {words for words in ("Traceback", "ledger is not") if words in log}
        promises = {
            "the bill is within the limit": seen.bill <= seen.limit,
            "spent + held + unconfirmed is within the limit": total.used_nusd <= seen.limit,
            "what was billed is counted": seen.spent + seen.unconfirmed >= seen.bill,
            "nothing is held": seen.held == 0,
            "unconfirmed money is listed": owed == seen.unconfirmed,
            "unused is less than one call, or everything is done": not seen.left
            or seen.limit - total.used_nusd < seen.hold,
            "every call billed is booked or unconfirmed": seen.billed_calls <= total.calls + len(doubts),
            "paid twice are at most the calls in flight at a kill": 0 <= seen.twice <= seen.at_risk,
            "one result per job, and one per retry": results.total() == finished + seen.retried,
            "no job is lost": seen.lost == 0,
            "models, providers, batches and the total agree": sums("model:")
            == sums("provider:")
            == sums("batch:")
            == sums("global"),
            "the books agree": books.agrees,
            "no worker lost the ledger or its mind": not {"Traceback", "ledger is not"} & said,
        }
        seen.log = log
        seen.broken = [promise for promise, is_kept in promises.items() if not is_kept]
