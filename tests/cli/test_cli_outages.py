"""The command line when its server is not there: started before it, killed under it; and a cancel of very many jobs."""

import asyncio
import os
import signal
import time
from contextlib import contextmanager

import pytest
from redis import Redis
from tests.cli.test_cli_commands import submit
from tests.ports import free_port

from farebox.batch import Batch
from farebox.connection import connect
from farebox.records import Job
from farebox_worker.server.server_process import start_server

MANY = 50_000


class Shared:
    """A server of our own on a port, that can be killed and started again on what it had written."""

    def __init__(self, folder):
        self.folder = folder
        self.folder.mkdir()
        self.port = free_port()
        self.start()
        self.url = self.server.url

    def start(self):
        self.server = start_server(self.folder, appendfsync="always", port=self.port)

    def kill(self):
        self.server.kill()

    @contextmanager
    def eyes(self):
        with Redis.from_url(self.url) as client:
            yield client


@pytest.fixture
def shared(desk):
    shared = Shared(desk.home / "shared")
    desk.environment["FAREBOX_REDIS_URL"] = shared.url
    yield shared
    shared.kill()


def told(process, words):
    """Wait until a process says something; whatever it says before is passed over."""
    while words not in (line := process.stderr.readline().decode()):
        assert line, f"it ended without saying {words!r}"
    return line


def test_a_worker_and_a_command_that_start_before_their_server_wait_for_it_and_say_so(desk, shared):
    desk.environment["FAREBOX_REDIS_WAIT_S"] = "60"
    assert desk.run("budget", "set", 5).code == 0
    desk.prompts(5)
    batch = submit(desk, "in.jsonl", "-m", "echo:echo")
    shared.kill()
    worker, command = desk.start("worker", "--burst"), desk.start("batches", "--json")
    assert "Waiting for it." in told(worker, "cannot reach")
    assert "Waiting for it for up to 60 s." in told(command, "cannot reach")
    shared.start()
    assert desk.end(command).json["batches"][0]["batch_id"] == batch
    ended = desk.end(worker)
    assert (ended.code, ended.stderr.count("Redis is there")) == (0, 1), ended
    assert desk.run("status", batch, "--json").json["succeeded"] == 5


@pytest.mark.usefixtures("_prompt_disk")
def test_workers_on_the_embedded_server_bring_it_back_and_owe_nothing(desk, simulate):
    simulated = simulate("--latency-ms", 150)
    assert desk.run("budget", "set", 5).code == 0
    desk.prompts(200)
    submit(desk, "in.jsonl", "-m", "sim:sim-1")
    workers = [desk.start("worker", "--burst", FAREBOX_WORKER_CONCURRENCY="4") for _ in range(2)]
    for worker in workers:
        told(worker, "serving namespace")
    while simulated.bill()["calls"] < 20:
        assert all(worker.poll() is None for worker in workers)
        time.sleep(0.02)
    os.kill(int((desk.home / ".farebox" / "server.pid").read_text()), signal.SIGKILL)
    for worker in workers:
        ended = desk.end(worker)
        assert ended.code == 0, ended
        assert ended.stderr.count("Redis is away") == ended.stderr.count("Redis is back") == 1, ended
    bill, money = simulated.bill(), desk.run("budget", "show", "--json").json
    assert bill["calls"] == 200
    assert (money["spent_nusd"], money["held_nusd"], money["unconfirmed_nusd"]) == (bill["cost_nusd"], 0, 0)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_cancel_of_very_many_jobs_stops_them_all_at_once_and_leaves_the_sweep_to_the_workers(desk, shared, simulate):
    simulated = simulate("--latency-ms", 100)
    assert desk.run("budget", "set", 5).code == 0
    asyncio.run(submit_many(shared.url))
    workers = [desk.start("worker", FAREBOX_WORKER_CONCURRENCY="4") for _ in range(2)]
    while simulated.bill()["calls"] < 8:
        assert not any(worker.poll() for worker in workers)
        time.sleep(0.02)
    cancelling = desk.start("cancel", "many", "--json")
    with shared.eyes() as redis:
        while not redis.hexists("farebox:batch:many", "cancelled"):
            assert cancelling.poll() is None
            time.sleep(0.002)
    calls = simulated.bill()["calls"]
    ended = desk.end(cancelling, timeout_s=240)
    assert ended.code == 0, ended
    assert ended.json["state"] == "cancelled"
    seen = desk.run("status", "many", "--json").json
    while seen["waiting"]:  # by the workers: the command has ended
        time.sleep(0.2)
        seen = desk.run("status", "many", "--json").json
    for worker in workers:
        worker.terminate()
        assert desk.end(worker).code == 0
    bill = simulated.bill()
    assert bill["calls"] <= calls + 8, "what was claimed before the mark, and nothing more"
    seen = desk.run("status", "many", "--json").json
    assert (seen["succeeded"], seen["cancelled"]) == (bill["calls"], MANY - bill["calls"])
    with shared.eyes() as redis:
        assert not list(redis.scan_iter("farebox:flow:*", count=10_000)), "memory is swept"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_cancel_that_nobody_sweeps_for_is_told_and_interrupted_and_loses_no_line(desk, shared):
    assert desk.run("budget", "set", 5).code == 0
    asyncio.run(submit_many(shared.url))
    cancelling = desk.start("cancel", "many")
    assert "No worker lives" in told(cancelling, "nothing of it is sent any more")
    cancelling.send_signal(signal.SIGINT)
    assert desk.end(cancelling).code == 130
    assert 0 < desk.run("status", "many", "--json").json["waiting"] < MANY
    assert desk.run("results", "many", "-o", "out.jsonl").code == 3
    lines = desk.out()
    assert len({line["custom_id"] for line in lines}) == len(lines) == MANY
    assert {line["error"]["code"] for line in lines} == {"cancelled"}


async def submit_many(url):
    redis = connect(url)
    try:
        batch = Batch(redis, "many")
        await batch.open()
        body = b'{"messages":[{"role":"user","content":"hi"}],"max_tokens":5}'
        await batch.submit(Job(1, f"c{n}", "sim:sim-1", "chat", body) for n in range(MANY))
        await batch.seal(MANY)
    finally:
        await redis.aclose(close_connection_pool=True)


@pytest.mark.parametrize("words", ["worker", "run"])
def test_whose_words_nobody_reads_any_more_drains_none_the_less(desk, simulate, words):
    simulated = simulate("--latency-ms", 1000)
    assert desk.run("budget", "set", 5).code == 0
    desk.prompts(40)
    if words == "worker":
        submit(desk, "in.jsonl", "-m", "sim:sim-1")
        ended = desk.start("worker", FAREBOX_WORKER_CONCURRENCY="4")
    else:
        ended = desk.start("run", "in.jsonl", "-m", "sim:sim-1", "--budget", 1, "--concurrency", 4)
    while not simulated.bill()["peak_in_flight"]:
        time.sleep(0.02)
    ended.stderr.close()
    ended.send_signal(signal.SIGTERM)
    assert ended.wait(30) == (0 if words == "worker" else 130)
    ended.stdout.close()
    bill, money = simulated.bill(), desk.run("budget", "show", "--json").json
    assert bill["calls"] > 0
    assert (money["spent_nusd"], money["held_nusd"], money["unconfirmed_nusd"]) == (bill["cost_nusd"], 0, 0)
