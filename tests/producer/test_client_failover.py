"""A client behind Sentinel, with whatever redis-py is installed: its primary is killed, and one is demoted alive."""

import asyncio
import contextlib
import tempfile
from pathlib import Path

import pytest
from redis.exceptions import RedisError
from tests.conftest import server_binary
from tests.polling import until
from tests.producer.stand_in import StandIn
from tests.sentinels import Guarded

import farebox
from farebox.connection import connect
from farebox.errors import ServerAwayError

pytestmark = [
    pytest.mark.slow,
    pytest.mark.server,
    pytest.mark.timeout(240),
    pytest.mark.skipif(not server_binary(), reason="no server to run as sentinel"),
]
REF, BATCH = "openai:gpt-5-mini", "b"


@pytest.fixture
def guarded():
    with tempfile.TemporaryDirectory(prefix="fbc") as folder:
        guarded = Guarded(Path(folder))
        try:
            guarded.start()
            yield guarded
        finally:
            guarded.close()


class Application:
    """Submits jobs one by one, again when the server was away too long, and waits for each."""

    def __init__(self, client, bus):
        self.client = client
        self.bus = bus
        self.answers = {}
        self.waiting = []

    async def submit(self, *names):
        for name in names:
            while True:
                try:
                    handle = await self.client.submit(REF, prompt="Hi", job_id=name, batch=BATCH)
                    break
                except farebox.ServerAwayError:
                    continue
            self.waiting.append(asyncio.create_task(self._wait(name, handle)))

    async def _wait(self, name, handle):
        self.answers[name] = (await handle.result()).text

    async def answer(self, *names):
        for name in names:
            while (await self.status(name)) != "succeeded":
                try:
                    await self.bus.answer(name, batch=BATCH, text=f"to {name}")
                except RedisError:
                    await asyncio.sleep(0.1)

    async def status(self, name):
        while True:
            try:
                return (await self.client.job(name, batch=BATCH).status()).state
            except farebox.ServerAwayError:
                continue


async def copied(redis):
    """Wait until the replica has what was written."""
    await until(lambda: redis.execute_command("WAIT", 1, 100), 30)


def names(letter):
    return [f"{letter}{number}" for number in range(20)]


async def test_a_client_outlives_the_death_and_the_demotion_of_its_primary(guarded):
    redis = connect(guarded.url)
    ledger = farebox.ledger.Ledger(redis)
    await ledger.create()
    seen = []
    async with farebox.Client(guarded.url) as client:
        app = Application(client, StandIn(redis))
        await client.begin_batch(name=BATCH)
        batch = client.batch(BATCH)

        async def follow():
            while True:
                with contextlib.suppress(ServerAwayError):  # a failover may take longer than a client waits
                    async for result in batch.results(after=seen[-1].cursor if seen else ""):
                        seen.append(result)  # noqa: PERF401 - it is looked at meanwhile

        following = asyncio.create_task(follow())
        await app.submit(*names("a"), *names("b"))
        await app.answer(*names("a"))
        await until(lambda: len(app.answers) == 20 == len(seen))
        await copied(redis)

        first = await asyncio.to_thread(guarded.primary)
        guarded.kill(first)
        await app.submit(*names("c"))  # while there is none
        await app.answer(*names("b"))
        await until(lambda: len(app.answers) == 40 == len(seen), 60)

        second = await asyncio.to_thread(guarded.primary)
        assert second not in {0, first}
        await asyncio.to_thread(guarded.node, first)  # it believes that it is the primary, and is made a replica
        await asyncio.to_thread(guarded.wait_for_copy, first)
        await asyncio.to_thread(guarded.demote, second)
        await app.submit(*names("d"))
        await app.answer(*names("c"), *names("d"))
        await until(lambda: len(app.answers) == 80 == len(seen), 60)

        everybody = {name for letter in "abcd" for name in names(letter)}
        assert app.answers == {name: f"to {name}" for name in everybody}
        assert {result.job_id for result in seen} == everybody, "each once"
        progress = await batch.progress()
        assert (progress.submitted, progress.succeeded) == (80, 80)
        assert all(task.done() and not task.exception() for task in app.waiting)
        assert not following.done()
        following.cancel()
    await redis.aclose(close_connection_pool=True)
