"""A fleet whose server loses its memory: nothing more is sent, the books hold the bill, and adopting goes on."""

import asyncio
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from tests.cli_support import assert_exactly_once
from tests.conftest import server_binary
from tests.fleet.arena import Arena
from tests.ports import free_port
from tests.proxy import Proxy

from farebox.batch import Batch
from farebox.connection import connect
from farebox.errors import LedgerError
from farebox.records import Job
from farebox_worker.dispatch.recent import KEPT_S
from farebox_worker.server.embedded import start_server

WORKERS = 2
IN_FLIGHT = WORKERS * 2 * 3  # processes, calls at once in a lane, lanes
JOBS = 240

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not server_binary(), reason="no server to lose"),
]


class Bay(Arena):
    """An arena whose server can lose its memory, and whose clients reach it through a proxy."""

    def __init__(self, folder):
        calm = {"latency-ms": 150, "latency-jitter-ms": 100}
        super().__init__(folder, limit_usd=20.0, jobs=JOBS, faults=calm)
        self.survived_s = self.lost_s = 0.0
        self.replica = None

    def _configure(self):
        self.proxy = Proxy(self.data / "redis.sock", self.folder / "bus")
        self.url = self.proxy.url
        super()._configure()
        patient = self.config.read_text().replace("request_timeout_s = 1.0", "request_timeout_s = 60.0")
        self.config.write_text(patient)

    def __exit__(self, *exc):
        super().__exit__(*exc)
        if self.replica:
            self.replica.kill()
        self.proxy.close()

    def calls(self):
        """When each call was billed, and what it cost in nano-dollars, by the provider's own journal."""
        path = self.folder / "journal"
        entries = [json.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []
        return [(entry["time"], entry["cost_nusd"]) for entry in entries]

    def forgotten(self):
        """Calls that nobody can know of: billed after the moment that survived, longer ago than workers remember."""
        until = self.lost_s - KEPT_S + 0.5
        return [cost for billed_s, cost in self.calls() if self.survived_s <= billed_s + 0.5 and billed_s < until]

    async def _submit(self, batch):
        await batch.ledger.create()  # the jobs come when the workers are there

    def fill(self):
        """Submit the jobs."""
        self.ask(super()._submit)

    def begin_work(self, calls):
        """Start the workers, submit when all are there, and wait until so many calls were answered."""
        for _ in range(WORKERS):
            self.work()
        self.until(lambda: self.ask(lambda batch: batch.redis.zcard(batch.keys.workers)) == WORKERS, 60, "the workers")
        self.fill()
        self.wait_for_more(calls)

    def wait_for_more(self, calls):
        enough = len(self.calls()) + calls
        self.until(lambda: len(self.calls()) >= enough, 60, f"{calls} calls more")

    def ends(self):
        """Wait until every worker has ended; what they said, and their exit codes."""
        log = self.folder / "workers.log"
        self.until(lambda: None not in [worker.poll() for worker in self.workers], 60, f"every end: {log.read_text()}")
        codes = [worker.wait() for worker in self.workers]
        self.workers.clear()
        return codes, log.read_text()

    def command(self, *words):
        command = [sys.executable, "-m", "farebox_worker", *words, "--config", str(self.config)]
        return subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=False, timeout=60)

    def copy_of_the_data(self):
        """Copy the files of the running server: a backup of this moment."""
        backup = self.folder / "backup"
        shutil.copytree(self.data / "appendonlydir", backup)
        return backup


def empty(bay):
    bay.begin_work(20)
    bay.survived_s = 0.0
    bay.ask(lambda batch: batch.redis.flushall())


def restore_a_backup(bay):
    bay.begin_work(20)
    bay.survived_s = time.time()
    backup = bay.copy_of_the_data()
    bay.wait_for_more(40)
    bay.server.kill()
    shutil.rmtree(bay.data / "appendonlydir")
    shutil.copytree(backup, bay.data / "appendonlydir")
    bay.server = start_server(bay.data, appendfsync="always")


def cut_the_tail(bay):
    """What a machine's crash under `appendfsync everysec` leaves: the file without its last writes."""
    bay.begin_work(20)
    [log] = (bay.data / "appendonlydir").glob("*.incr.aof")
    bay.survived_s = time.time()
    size = log.stat().st_size
    bay.wait_for_more(30)
    bay.server.kill()
    with log.open("r+b") as file:
        file.truncate(size + 7)
    bay.server = start_server(bay.data, appendfsync="everysec")


def fail_over_to_a_stale_replica(bay):
    folder = bay.folder / "replica"
    folder.mkdir()
    port = free_port()
    bay.ask(lambda batch: batch.redis.config_set("port", port))
    bay.replica = start_server(folder, extra=["--replicaof", "127.0.0.1", str(port)])
    replica = connect(bay.replica.url)

    def is_level():
        async def ask():
            info = await replica.info("replication")
            await replica.connection_pool.disconnect()
            return info.get("master_link_status") == "up" and not info.get("master_sync_in_progress")

        return asyncio.run(ask())

    bay.until(is_level, 60, "the replica")
    bay.begin_work(20)
    bay.survived_s = time.time()
    stand_alone = connect(bay.replica.url)

    async def promote():
        await stand_alone.replicaof("NO", "ONE")  # its link is cut: what comes now it never sees
        await stand_alone.aclose()

    asyncio.run(promote())
    bay.wait_for_more(40)
    bay.proxy.lead(folder / "redis.sock")
    bay.server.kill()
    bay.server, bay.replica = bay.replica, None
    bay.data = folder


async def used(batch):
    return (await batch.ledger.scope()).used_nusd


async def submit_anew(batch):
    fresh = Batch(batch.redis, "chaos")
    await fresh.open()
    await fresh.submit([Job(1, "late", "sim:sim-1", "chat", b"{}")])


async def results_of(batch):
    after, found = "0-0", []
    while entries := await batch.read(after):
        after = entries[-1].entry_id
        found += [job for entry in entries for job in [*(job for job, _ in entry.results), *entry.gone]]
    return found


@pytest.fixture
def bay():
    with tempfile.TemporaryDirectory(prefix="fbl") as folder, Bay(folder) as bay:
        yield bay


@pytest.mark.parametrize("lose", [empty, restore_a_backup, cut_the_tail, fail_over_to_a_stale_replica])
def test_a_fleet_stops_tells_what_it_knows_and_goes_on_once_adopted(bay, lose):
    lose(bay)
    bay.lost_s = time.time()
    before = len(bay.calls())
    codes, log = bay.ends()
    assert codes == [1] * WORKERS, log
    assert log.count("worker stops:") == WORKERS, log
    assert "ledger lost:" in log
    assert f"`farebox ledger adopt --redis {bay.url}`" in log
    stopped = bay.calls()
    assert len(stopped) - before <= IN_FLIGHT, "only what was on its way"
    counted, bill = bay.ask(used), sum(cost for _, cost in stopped)
    assert counted >= bill - sum(bay.forgotten())

    refused = bay.command("worker", "--burst")
    assert refused.returncode == 1
    assert "ledger adopt" in refused.stderr
    with pytest.raises(LedgerError):
        bay.ask(submit_anew)
    assert len(bay.calls()) == len(stopped), "nothing is sent before it is adopted"
    assert bay.ask(used) == counted

    shown = bay.command("ledger", "show", "--json")
    assert json.loads(shown.stdout)["lost"]
    assert json.loads(bay.command("cost", "--json").stdout)["spent_nusd"] == json.loads(shown.stdout)["spent_nusd"]
    audited = bay.command("audit")
    assert audited.returncode == 0, audited
    if lose is empty:
        assert bay.command("ledger", "adopt").returncode == 2, "an emptied ledger has no limit"
    words = ["--budget", "20"] if lose is empty else []
    adopted = bay.command("ledger", "adopt", "--json", *words)
    assert adopted.returncode == 0, adopted
    state = json.loads(adopted.stdout)
    assert (state["lost"], state["limit_usd"]) == (None, 20.0)
    assert state["spent_nusd"] + state["held_nusd"] + state["unconfirmed_nusd"] == counted

    if lose is empty:
        bay.fill()
    for _ in range(WORKERS):
        bay.work()
    bay.settle_down(timeout_s=90)
    results = bay.ask(results_of)
    assert len(results) == len(set(results)) == JOBS
    calls = bay.calls()
    if lose is not empty:  # what was answered is not asked again, but for what nobody could know
        assert len(calls) <= JOBS + len(bay.forgotten())
    counted = bay.ask(used)
    assert counted >= sum(cost for _, cost in calls) - sum(bay.forgotten())
    assert bay.ask(lambda batch: batch.waiting()) == (0, 0, 0)


def test_a_run_of_its_own_server_says_where_to_adopt_and_goes_on(desk, simulate):
    simulated = simulate("--latency-ms", 50)
    desk.prompts(120)
    words = ["run", "in.jsonl", "-m", "sim:sim-1", "-o", "out.jsonl", "--budget", 1, "--json", "--concurrency", 4]
    process = desk.start(*words)
    deadline = time.monotonic() + 30
    while simulated.bill()["calls"] < 20:
        assert time.monotonic() < deadline
        time.sleep(0.01)

    async def flush():
        redis = connect(f"unix://{desk.home}/.farebox/redis.sock")
        await redis.flushall()
        await redis.aclose()

    asyncio.run(flush())
    lost = desk.end(process)
    place = f"--data-dir {desk.home}/.farebox"
    assert lost.code == 1
    assert f"`farebox ledger adopt {place}`" in lost.stderr
    assert "settled in the last seconds" in lost.stderr
    calls = simulated.bill()["calls"]
    again = desk.run(*words)
    assert (again.code, again.stdout) == (1, "")
    assert f"`farebox ledger adopt {place}`" in again.stderr
    without = desk.run("ledger", "adopt")
    assert without.code == 2
    assert "--budget USD" in without.stderr
    adopted = desk.run("ledger", "adopt", "--no-budget", "--data-dir", f"{desk.home}/.farebox")
    assert adopted.code == 0, adopted
    assert simulated.bill()["calls"] == calls
    ended = desk.run(*words)
    assert ended.code == 0, ended
    assert_exactly_once(desk.out(), [f"p{n}" for n in range(120)])
    assert ended.json["held_nusd"] == 0
    shown = desk.run("ledger", "show", "--json").json
    assert shown["spent_nusd"] + shown["unconfirmed_nusd"] >= simulated.bill()["cost_nusd"]


def test_adopt_refuses_flags_that_contradict_and_a_place_with_nothing(desk):
    assert desk.run("ledger", "adopt", "--budget", 1, "--no-budget").code == 2
    empty_place = desk.run("ledger", "adopt", "--data-dir", Path("nowhere"))
    assert empty_place.code == 2
    assert "nothing here yet" in empty_place.stderr
