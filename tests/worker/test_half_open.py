"""Connections whose peer vanished without a word: who waits on them notices, and no job waits for that."""

import asyncio
import logging
import os
import signal
import socket

import pytest
from tests.conftest import server_binary
from tests.process_support import COST, Stage, until
from tests.proxy import Proxy

from farebox import connection
from farebox_worker.dispatch import doorbells
from farebox_worker.process import half_open

pytestmark = [pytest.mark.server, pytest.mark.skipif(not server_binary(), reason="no server to lose")]


async def test_jobs_are_found_though_every_connection_leads_nowhere(trouble, monkeypatch, caplog):
    caplog.set_level(logging.WARNING, "farebox_worker")
    monkeypatch.setattr(connection, "ANSWER_S", 600.0)  # a timeout is not what saves it
    stage = Stage(trouble.url)
    await stage.begin(1)
    async with stage.process() as process:
        await stage.finished(1)
        await until(lambda: not process.in_flight and trouble.proxy.alive(b"SUBSCRIBE"))
        assert trouble.proxy.vanish(b"") >= 3
        await stage.batch.redis.connection_pool.disconnect()  # who submits comes anew
        await stage.submit(3, start=1)
        await stage.finished(4, 30)
        assert await stage.money() == (4 * COST, 0, 0)
        await until(lambda: trouble.proxy.alive(b"SUBSCRIBE"))
        await until(lambda: not process._outage.is_on)
    told = [line.event for line in caplog.records]
    assert told.count("redis_away") == told.count("redis_back") == 1, caplog.text
    await stage.batch.redis.aclose(close_connection_pool=True)


async def test_what_was_asked_while_the_network_was_away_is_asked_again_when_it_is_back(trouble, monkeypatch):
    monkeypatch.setattr(connection, "ANSWER_S", 600.0)
    monkeypatch.setattr(half_open, "SILENCE_S", 0.3)
    monkeypatch.setattr(half_open, "NEWCOMER_S", 0.3)
    stage = Stage(trouble.url)
    await stage.begin(40)
    gate = asyncio.Event()

    async def act(number):
        if number > 4:
            await gate.wait()

    stage.provider.act = act
    async with stage.process(concurrency=4) as process:
        await until(lambda: len(stage.provider.posted) == 8)
        await until(lambda: process.dispatch.settler.pending == 0)
        trouble.proxy.be("swallow")
        gate.set()
        await asyncio.sleep(2)
        assert process.dispatch.settler.pending == 4, "what ended is kept"
        assert len(stage.provider.posted) == 8, "nothing is sent"
        trouble.proxy.be("pass")
        await stage.batch.redis.connection_pool.disconnect()
        await stage.finished(40, 30)
        assert await stage.money() == (40 * COST, 0, 0)
        assert len(stage.provider.posted) == 40
    await stage.batch.redis.aclose(close_connection_pool=True)


async def test_a_server_that_is_slow_is_not_taken_for_dead(trouble, monkeypatch):
    monkeypatch.setattr(half_open, "SILENCE_S", 0.3)
    stage = Stage(trouble.url)
    await stage.begin(1)
    async with stage.process() as process:
        await stage.finished(1)
        await until(lambda: not process.in_flight and trouble.proxy.alive(b"SUBSCRIBE"))

        def connections():
            return {one["id"] for one in trouble.admin.client_list() if one["cmd"] not in {"client|list", "ping"}}

        before = connections()

        pid = trouble.admin.info("server")["process_id"]
        os.kill(pid, signal.SIGSTOP)  # as a disk stops it that does not take the append-only file
        await asyncio.sleep(4)
        os.kill(pid, signal.SIGCONT)
        await stage.submit(3, start=1)
        await stage.finished(4)
        assert process._outage.times == 0
        assert before <= connections()
        assert len(stage.provider.posted) == 4
    await stage.batch.redis.aclose(close_connection_pool=True)


async def test_a_dead_connection_of_control_messages_is_noticed_and_replaced(trouble, monkeypatch):
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


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="this system's sockets have no such deadline")
async def test_the_kernel_gives_up_a_peer_that_acknowledges_nothing(trouble):
    proxy = Proxy(trouble.server.address)
    redis = connection.connect(proxy.url)
    try:
        held = await redis.connection_pool.get_connection()
        of = held._writer.get_extra_info("socket")
        await redis.connection_pool.release(held)
        assert of.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert of.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 5000
        assert of.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 3
    finally:
        await redis.aclose(close_connection_pool=True)
        proxy.close()
