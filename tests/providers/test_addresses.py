"""Addresses of Redis are shown without their passwords, however badly written; silent connections are given up."""

import asyncio

import pytest
from redis.exceptions import TimeoutError as RedisTimeoutError

from farebox.connection import connect, shown
from farebox.errors import ConfigError


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("redis://h:1/0", "redis://h:1/0"),
        ("unix:///tmp/x?db=3", "unix:///tmp/x?db=3"),
        ("redis://me:hunter2@h:1/0", "redis://***@h:1/0"),
        ("redis://h:1/0?password=hunter2&db=3", "redis://***@h:1/0?db=3"),
        ("redis://:/hunter2@h:1/0", "redis://***"),
        ("redis://:12/hunter2@h:1/0", "redis://***"),
    ],
)
def test_an_address_is_shown_without_its_password(url, said):
    assert shown(url) == said


@pytest.mark.parametrize("password", ["hunter2/x", "hunter2#x", "hunter2[x", "hunter2?x"])
def test_an_address_that_cannot_be_read_is_refused_without_its_password(password):
    with pytest.raises(ConfigError, match="password") as refused:
        connect(f"redis://:{password}@127.0.0.1:1/0")
    assert "hunter2" not in str(refused.value)


async def test_a_connection_that_falls_silent_is_given_up(monkeypatch):
    monkeypatch.setattr("farebox.connection.ANSWER_S", 0.2)

    async def say_nothing(reader, writer):
        await reader.read()
        writer.close()

    async with await asyncio.start_server(say_nothing, "127.0.0.1", 0) as server:
        redis = connect(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0")
        async with asyncio.timeout(5):
            with pytest.raises(RedisTimeoutError):
                await redis.ping()
        await redis.aclose()
