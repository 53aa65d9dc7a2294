"""The client that blocks: the same answers and errors, from threads, and in processes forked before its first use."""

import asyncio
import os
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor

import fakeredis
import pytest
from redis.asyncio import Redis
from tests.conftest import server_binary
from tests.producer.stand_in import StandIn

import farebox
from farebox import client as client_module
from farebox.ledger import Ledger

MODEL = "openai:gpt-5-mini"


class Bus:
    """The other side, for code that does not await."""

    def __init__(self, connect):
        self._connect = connect
        self.do(lambda redis: Ledger(redis).create())

    def do(self, act):
        async def run():
            redis = self._connect()
            try:
                return await act(redis)
            finally:
                await redis.aclose()

        return asyncio.run(run())

    def answer(self, *names, **fields):
        self.do(lambda redis: StandIn(redis).answer(*names, **fields))

    def fail(self, *names, **fields):
        self.do(lambda redis: StandIn(redis).fail(*names, **fields))


@pytest.fixture
def bus(server, monkeypatch):
    if server:
        bus = Bus(lambda: Redis.from_url(server))
        bus.do(lambda redis: redis.flushall())
        bus.url = server
        bus.do(lambda redis: Ledger(redis).create())
        return bus
    fake = fakeredis.FakeServer()
    monkeypatch.setattr(client_module, "connect", lambda url: fakeredis.FakeAsyncRedis(server=fake))
    bus = Bus(lambda: fakeredis.FakeAsyncRedis(server=fake))
    bus.url = "redis://fake"
    return bus


def items(count):
    return ({"custom_id": f"c{n}", "prompt": f"Say {n}"} for n in range(count))


def test_it_does_what_the_other_client_does(bus):
    with farebox.SyncClient(bus.url) as client:
        handle = client.submit(MODEL, prompt="Hi", job_id="a", temperature=0)
        assert (handle.is_new, str(handle.status())) == (True, "unserved: no worker runs")
        bus.answer("a", text="Hello")
        assert handle.result(timeout=30).text == client.job("a").result(timeout=30).text == "Hello"
        cancelled = client.submit(MODEL, prompt="Hi", job_id="b")
        assert cancelled.cancel()
        assert cancelled.result(timeout=30).error.code == "cancelled"
        batch = client.submit_batch(items(3), name="b", model=MODEL, budget_usd=2)
        assert batch.created == 3
        assert client.cost("batch:b").limit_usd == 2.0
        bus.answer("c0", "c1", batch="b")
        bus.fail("c2", batch="b")
        assert batch.wait(timeout=30).finished == 3
        assert [answer.job_id for answer in batch.results()] == ["c0", "c1", "c2"]
        assert batch.retry_failed() == 1
        assert batch.progress().failed == 0
        assert client.batch("b").cancel()


def test_errors_are_the_same(bus):
    with farebox.SyncClient(bus.url) as client:
        client.submit(MODEL, prompt="Hi", job_id="a")
        with pytest.raises(farebox.JobConflictError, match="with another body: a"):
            client.submit(MODEL, prompt="Ho", job_id="a")
        with pytest.raises(TimeoutError):
            client.job("a").result(timeout=0.02)
        with pytest.raises(farebox.InputError, match="item 2"):
            client.submit_batch([{"prompt": "Hi"}, {}], model=MODEL)


def test_items_are_iterated_in_the_calling_thread_and_results_may_be_left_early(bus):
    threads = set()

    def source():
        for item in items(1200):
            threads.add(threading.get_ident())
            yield item

    with farebox.SyncClient(bus.url) as client:
        batch = client.submit_batch(source(), name="b", model=MODEL)
        assert (batch.created, threads) == (1200, {threading.get_ident()})
        bus.answer("c0", "c1", batch="b")
        assert next(iter(batch.results())).job_id == "c0"
        for answer in batch.results():
            assert answer.job_id == "c0"
            break


def test_threads_share_one_client(bus):
    with farebox.SyncClient(bus.url) as client, ThreadPoolExecutor(8) as pool:
        handles = list(pool.map(lambda n: client.submit(MODEL, prompt="Hi", job_id=f"j{n}"), range(40)))
        results = [pool.submit(handle.result, 60) for handle in handles[:8]]
        bus.answer(*(f"j{n}" for n in range(40)))
        assert {future.result().text for future in results} == {"yes"}
        assert sum(thread.name == "farebox" for thread in threading.enumerate()) == 1


def test_a_closed_client_ends_its_thread_and_may_be_used_again(bus):
    client = farebox.SyncClient(bus.url)
    client.submit(MODEL, prompt="Hi", job_id="a")
    client.close()
    client.close()
    assert not any(thread.name == "farebox" for thread in threading.enumerate())
    assert client.job("a").status().state == "unserved"
    client.close()


def test_a_server_that_is_refused_leaves_no_thread():
    with pytest.raises(farebox.ServerError, match="cannot reach"), farebox.SyncClient("unix:///nowhere/at/all"):
        pass
    assert not any(thread.name == "farebox" for thread in threading.enumerate())


FORKING = """
    import os, sys
    import farebox

    client = farebox.SyncClient(sys.argv[1])
    if sys.argv[2] == "used":
        client.submit("p:m", prompt="Hi", job_id="parent")
    children = []
    for n in range(3):
        pid = os.fork()
        if pid == 0:
            ok = client.submit("p:m", prompt="Hi", job_id=f"child{n}").status().state == "unserved"
            client.close()
            os._exit(0 if ok else 1)
        children.append(pid)
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
    assert client.submit("p:m", prompt="Hi", job_id="parent").status().state == "unserved"
    client.close()
    print(codes)
"""


@pytest.mark.server
@pytest.mark.skipif(server_binary() is None or not hasattr(os, "fork"), reason="no server to test on, or no fork")
@pytest.mark.parametrize("how", ["unused", "used"])
def test_forked_processes_have_connections_of_their_own(real_server, how):
    bus = Bus(lambda: Redis.from_url(real_server))
    bus.do(lambda redis: redis.flushall())
    bus.do(lambda redis: Ledger(redis).create())
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(FORKING), real_server, how]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout.strip()) == (0, "[0, 0, 0]"), ended.stderr
    assert bus.do(lambda redis: redis.hget("farebox:batch:default", "submitted")) == b"4"
