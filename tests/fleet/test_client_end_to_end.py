"""The client with everything behind it: a worker process on a real server, the documented ACL, and the example."""

import asyncio
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from redis import Redis as SyncRedis
from tests.acl_server import refusals, serve
from tests.cli_support import kill_group
from tests.conftest import server_binary
from tests.polling import until

import farebox

pytestmark = [pytest.mark.server, pytest.mark.skipif(server_binary() is None, reason="no server to test on")]
ECHO = "echo:echo"
ROOT = Path(__file__).parents[2]


class Echoed(msgspec.Struct):
    echo: str


class Shouted(msgspec.Struct):
    shout: str


@pytest.fixture
def url(real_server, desk):
    """An empty server with a limit of $1 that a worker process serves."""
    with SyncRedis.from_url(real_server) as redis:
        redis.flushall()
    desk.environment["FAREBOX_REDIS_URL"] = real_server
    assert desk.run("budget", "set", 1).code == 0
    desk.start("worker")
    return real_server


async def test_jobs_are_answered_paid_and_never_paid_twice(url):
    async with farebox.Client(url) as client:
        handles = [await client.submit(ECHO, prompt=f"Say {n}", max_tokens=20, job_id=f"j{n}") for n in range(50)]
        answers = await asyncio.gather(*(handle.result(timeout=60) for handle in handles))
        assert [answer.text for answer in answers] == [f"Say {n}" for n in range(50)]
        assert {answer.outcome for answer in answers} == {"succeeded"}
        spent = await client.cost()
        assert spent.spent_nusd == sum(answer.cost_nusd for answer in answers) > 0
        again = await client.submit(ECHO, prompt="Say 7", max_tokens=20, job_id="j7")
        assert (again.is_new, (await again.result(timeout=30)).text, (await again.status()).state) == (
            False,
            "Say 7",
            "succeeded",
        )
        assert (await client.cost()).spent_nusd == spent.spent_nusd


async def test_a_job_past_its_deadline_fails_unsent_and_unpaid(url):
    async with farebox.Client(url) as client:
        late = await client.submit(ECHO, prompt="Hi", deadline=timedelta(0))
        answer = await late.result(timeout=60)
        assert (answer.error.code, answer.attempts, answer.cost_nusd) == ("deadline", 0, 0)
        in_time = await client.submit(ECHO, prompt="Hi", deadline=timedelta(hours=1))
        assert (await in_time.result(timeout=60)).text == "Hi"
        assert (await client.cost()).spent_nusd == (await in_time.result()).cost_nusd


async def test_structured_output_is_asked_for_and_read(url):
    async with farebox.Client(url) as client:
        answer = await (await client.submit(ECHO, prompt="Hi", response_schema=Echoed)).result(timeout=60)
        assert answer.parse(Echoed) == Echoed("Hi")
        with pytest.raises(farebox.ReplyInvalidError, match="shout") as caught:
            answer.parse(Shouted)
        assert caught.value.cost_usd == answer.cost_usd > 0


async def test_responses_and_vectors_are_asked_for_and_read(url):
    async with farebox.Client(url) as client:
        said = await client.submit(ECHO, api="responses", input="Hi", max_output_tokens=20, response_schema=Echoed)
        made = await client.submit(ECHO, api="embeddings", input=["Hi", "Ho"], dimensions=4)
        assert (await said.result(timeout=60)).parse(Echoed) == Echoed("Hi")
        answer = await made.result(timeout=60)
        assert [len(vector) for vector in answer.embeddings] == [4, 4]
        assert answer.usage.output_tokens == 0 < answer.cost_nusd
        lines = [{"custom_id": "e", "url": "/v1/embeddings", "body": {"model": ECHO, "input": "Hi", "dimensions": 4}}]
        batch = await client.submit_batch(lines, name="vectors")
        assert [result.embeddings async for result in batch.results()] == [[answer.embeddings[0]]]


async def test_at_the_limit_a_job_parks_and_is_cancelled_or_goes_on(url):
    async with farebox.Client(url) as client:
        await client.begin_batch(name="poor", budget_usd=0.000001)
        handle = await client.submit(ECHO, prompt="Hi", max_tokens=1000, batch="poor")
        other = await client.submit(ECHO, prompt="Ho", max_tokens=1000, batch="poor")

        async def is_parked():
            return (await handle.status()).state == "parked"

        await until(is_parked, 60)
        assert await handle.cancel()
        assert (await handle.result(timeout=30)).error.code == "cancelled"
        await client.begin_batch(name="poor", budget_usd=0.5)
        assert (await other.result(timeout=60)).text == "Ho"


async def test_a_batch_is_answered_while_it_is_filled_and_what_failed_is_retried(url):
    def items():
        for n in range(3000):
            yield {"custom_id": f"c{n}", "prompt": f"Say {n}", "max_tokens": 20}
        yield {"custom_id": "bad", "messages": [{"role": 5}]}

    async with farebox.Client(url) as client:
        batch = await client.submit_batch(items(), name="b", model=ECHO, window_jobs=1000)
        seen = [answer async for answer in batch.results()]
        assert sorted(answer.job_id for answer in seen) == sorted(["bad", *(f"c{n}" for n in range(3000))])
        assert [answer.job_id for answer in seen if answer.error] == ["bad"]
        assert await batch.retry_failed() == 1
        progress = await batch.wait(timeout=60)
        assert (progress.succeeded, progress.failed, progress.total) == (3000, 1, 3001)
        again = [answer async for answer in batch.results(seen[-1].cursor)]
        assert [answer.job_id for answer in again if answer.error] == ["bad"]


@pytest.mark.slow
async def test_who_waits_is_told_though_workers_are_killed_and_connections_cut(real_server, desk):
    (desk.home / "farebox.toml").write_text("[worker]\nlease_s = 2.0\n")
    desk.environment["FAREBOX_REDIS_URL"] = real_server
    with SyncRedis.from_url(real_server) as redis:
        redis.flushall()
        assert desk.run("budget", "set", 1).code == 0
        worker = desk.start("worker")
        async with farebox.Client(real_server) as client:

            async def ask(n):
                handle = await client.submit(ECHO, prompt=f"Say {n}", max_tokens=20, job_id=f"j{n}", batch=f"b{n % 3}")
                return (await handle.result(timeout=90)).text

            asking = [asyncio.create_task(ask(n)) for n in range(1500)]
            for _ in range(3):
                await asyncio.sleep(0.4)
                redis.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
                kill_group(worker)
                worker.communicate()
                worker = desk.start("worker")
            assert await asyncio.gather(*asking) == [f"Say {n}" for n in range(1500)]
        assert [redis.hget(f"farebox:batch:b{n}", "submitted") for n in range(3)] == [b"500"] * 3


def test_the_client_that_blocks_meets_a_worker(url):
    with farebox.SyncClient(url) as client:
        assert client.submit(ECHO, prompt="Hi").result(timeout=60).text == "Hi"
        batch = client.submit_batch(({"prompt": f"Say {n}"} for n in range(20)), model=ECHO)
        assert {answer.text for answer in batch.results()} == {f"Say {n}" for n in range(20)}


def test_the_example_runs(url):
    environment = os.environ | {"FAREBOX_REDIS_URL": url}
    command = [sys.executable, ROOT / "examples" / "client.py", ECHO]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=90, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "200 answers" in ended.stdout
    assert "$" in ended.stdout


async def test_a_producer_s_rights_are_enough_for_the_client(guarded, enter, admin, ledger):
    async with farebox.Client(guarded.url("producer")) as client:
        handle = await client.submit(ECHO, prompt="Hi", batch="b", tags=["t"])
        waiting = asyncio.create_task(handle.result(timeout=60))
        await asyncio.sleep(0.05)
        assert str(await handle.status()) == "unserved: no worker runs"
        assert await handle.cancel()
        assert (await waiting).outcome == "cancelled"
        batch = await client.submit_batch([{"custom_id": "bad", "messages": [{"role": 5}]}], model=ECHO, name="c")
        await serve(enter("worker"))
        assert [answer.outcome async for answer in batch.results()] == ["failed"]
        assert await batch.retry_failed() == 1
        assert await batch.cancel()
        assert (await client.cost("tag:t")).spent_nusd == 0
    assert refusals(admin) == []
