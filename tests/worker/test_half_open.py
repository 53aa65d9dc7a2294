"""Connections whose peer vanished without a word: who waits on them notices, and no job waits for that."""

import asyncio

import pytest
from tests.conftest import server_binary
from tests.process_support import COST, Stage, until
from tests.worker.test_outages import trouble  # noqa: F401 - a fixture

from farebox import connection
from farebox_worker.dispatch import doorbells

pytestmark = [pytest.mark.server, pytest.mark.skipif(not server_binary(), reason="no server to lose")]


async def test_jobs_are_found_though_every_connection_leads_nowhere(trouble, monkeypatch):  # noqa: F811
    monkeypatch.setattr(doorbells, "BELL_WAIT_S", 0.3)
    monkeypatch.setattr(connection, "ANSWER_S", 1.0)
    stage = Stage(trouble.url)
    await stage.begin(1)
    async with stage.process() as process:
        await stage.finished(1)
        await until(lambda: not process.in_flight and trouble.proxy.alive(b"SUBSCRIBE"))
        assert trouble.proxy.vanish(b"") >= 3
        await stage.batch.redis.connection_pool.disconnect()  # who submits comes anew
        await stage.submit(3, start=1)
        await stage.finished(4)
        assert await stage.money() == (4 * COST, 0, 0)
    await stage.batch.redis.aclose(close_connection_pool=True)


async def test_a_dead_connection_of_control_messages_is_noticed_and_replaced(trouble, monkeypatch):  # noqa: F811
    monkeypatch.setattr(doorbells, "BELL_WAIT_S", 0.3)
    stage = Stage(trouble.url)
    await stage.begin()
    async with stage.process():
        await until(lambda: trouble.proxy.alive(b"SUBSCRIBE"))
        await asyncio.sleep(1)
        assert len(trouble.proxy.alive(b"SUBSCRIBE")) == 1, "silence alone is no death"
        assert trouble.proxy.vanish(b"SUBSCRIBE") == 1
        await until(lambda: trouble.proxy.alive(b"SUBSCRIBE"))
    await stage.batch.redis.aclose(close_connection_pool=True)
