"""Connections that are lost at any moment: whoever uses one is told so by one name, and a call is sent again."""

import asyncio
import importlib.util

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from tests.conftest import server_binary
from tests.polling import until

from farebox import link as link_module
from farebox.connection import break_connections, connect

pytestmark = [pytest.mark.server, pytest.mark.skipif(server_binary() is None, reason="no server to lose")]


async def ping(connection):
    await connection.send_command("PING")
    return await connection.read_response()


async def test_who_blocks_on_a_connection_that_is_broken_hears_of_it_and_goes_on_with_a_new_one(real_server):
    redis = connect(real_server)
    try:
        blocked = asyncio.create_task(redis.blpop(["nothing"], 60))
        await redis.ping()
        pool = redis.connection_pool
        await until(lambda: len(pool._in_use_connections) == len(pool._available_connections) == 1)
        break_connections(redis, also_used=False)
        await asyncio.sleep(0.05)  # redis-py looks whether an idle one has ended, not whether it is just ending
        assert await redis.ping()
        assert not blocked.done()
        break_connections(redis, also_used=True)
        with pytest.raises(RedisConnectionError):
            await blocked
        assert await redis.ping()
        assert len(pool._available_connections) == 2
    finally:
        await redis.aclose(close_connection_pool=True)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_connection_that_is_lost_before_a_command_is_written_is_a_lost_connection(real_server, loop):
    if not importlib.util.find_spec(loop):
        pytest.skip("a producer alone has it not")

    async def lose_it():
        redis = connect(real_server)
        try:
            connection = await redis.connection_pool.get_connection()
            connection._writer.transport.abort()
            await asyncio.sleep(0)
            with pytest.raises(RedisConnectionError):
                await ping(connection)
            await redis.connection_pool.release(connection)
            assert await redis.ping()
        finally:
            await redis.aclose(close_connection_pool=True)

    with asyncio.Runner(loop_factory=importlib.import_module(loop).new_event_loop) as runner:
        runner.run(lose_it())


async def test_a_connection_that_is_taken_away_while_it_writes_is_a_lost_connection(real_server):
    redis = connect(real_server)
    try:
        connection = await redis.connection_pool.get_connection()
        sending = asyncio.create_task(connection.send_command("PING"))
        await asyncio.sleep(0)
        writer = connection._writer
        connection._reader = connection._writer = None  # as redis-py's own `disconnect` does to whoever writes
        writer.close()
        with pytest.raises(RedisConnectionError):
            await sending
        await redis.connection_pool.release(connection)
        assert await redis.ping()
    finally:
        await redis.aclose(close_connection_pool=True)


@pytest.mark.parametrize("place", ["before", "while"])
async def test_no_cancellation_is_lost_however_busy_the_connection_is(real_server, place):
    redis = connect(real_server)
    turns = []

    async def work():
        for n in range(100):
            if place == "before" and n == 50:  # as Ctrl-C does to a task that computes
                asyncio.current_task().cancel()
            if place == "while" and n == 50:
                asyncio.get_running_loop().call_soon(asyncio.current_task().cancel)
            turns.append(await redis.get(f"k{n}"))

    try:
        await redis.ping()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.create_task(work())
        assert len(turns) == 50
        assert [await redis.echo(str(n)) for n in range(5)] == [b"0", b"1", b"2", b"3", b"4"], "no reply is left unread"
    finally:
        await redis.aclose(close_connection_pool=True)


async def test_a_call_that_a_dead_connection_took_all_its_time_is_sent_again_once(client, monkeypatch):
    monkeypatch.setattr(link_module, "RESEND_S", 0.0)
    tries = []

    async def act():
        tries.append(1)
        if len(tries) == 1:
            raise RedisTimeoutError("Timeout reading from a peer that is gone")
        return "done"

    assert await client._link.do(act) == "done"
