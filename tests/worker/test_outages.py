"""Whatever a server answers instead of an answer: nothing is sent meanwhile, nothing is lost, and it is said once."""

import asyncio
import logging
import re
from types import SimpleNamespace

import pytest
from redis.exceptions import AuthenticationError, NoPermissionError, ResponseError, WatchError
from redis.exceptions import ConnectionError as RedisConnectionError
from tests.conftest import server_binary
from tests.polling import until
from tests.process_support import COST, Stage
from tests.trouble import Trouble

from farebox.connection import PASSING, check_server, connect, passes, reason_of, word_of
from farebox.errors import LedgerLostError, ServerAwayError, ServerError
from farebox_worker.dispatch import pacing as pacing_module
from farebox_worker.dispatch.pacing import Pacing
from farebox_worker.dispatch.steering import quietly
from farebox_worker.outage import Outage
from farebox_worker.process import housekeeping

pytestmark = [pytest.mark.server, pytest.mark.skipif(not server_binary(), reason="no server to trouble")]


TROUBLES = {
    "BUSY": Trouble.busy,
    "READONLY": Trouble.readonly,
    "MASTERDOWN": Trouble.masterdown,
    "OOM": Trouble.oom,
    "NOREPLICAS": Trouble.noreplicas,
    "MISCONF": Trouble.misconf,
    "LOADING": lambda trouble: trouble.answering("LOADING Redis is loading the dataset in memory"),
    "CLUSTERDOWN": lambda trouble: trouble.answering("CLUSTERDOWN The cluster is down"),
    "UNBLOCKED": lambda trouble: trouble.answering("UNBLOCKED force unblock from blocking operation"),
    "TRYAGAIN": lambda trouble: trouble.answering("TRYAGAIN Multiple keys request during rehashing of slot"),
    "away": Trouble.cut,
}


def test_every_word_that_passes_is_played():
    assert set(TROUBLES) - {"away"} == set(PASSING)


@pytest.mark.parametrize("word", [*TROUBLES, "NOAUTH"])
async def test_a_worker_waits_sends_nothing_settles_what_it_holds_and_says_it_once(word, trouble, caplog):
    caplog.set_level(logging.WARNING, "farebox_worker")
    stage = Stage(trouble.url)
    await stage.begin(40)
    gate = asyncio.Event()

    async def act(number):
        if number > 8:
            await gate.wait()

    stage.provider.act = act
    play = TROUBLES.get(word, Trouble.noauth)
    async with stage.process(concurrency=4, lease_s=3.0) as process:
        await until(lambda: len(stage.provider.posted) == 12)
        await until(lambda: process.dispatch.settler.pending == 0)
        with play(trouble):
            await until(lambda: process._outage.is_on, 15)
            gate.set()
            await asyncio.sleep(1.0)
            assert len(stage.provider.posted) == 12, "nothing is sent"
            assert process.dispatch.settler.pending == 4, "what ended is kept"
            assert not process.task.done()
            with pytest.raises(ServerError) as refused:
                await check(trouble, word)
            assert isinstance(refused.value, ServerAwayError) == (word != "NOAUTH")
        await stage.finished(40, 20)
        assert not process._outage.is_on
    told = [line.event for line in caplog.records]
    assert told.count("redis_away") == told.count("redis_back") == 1, caplog.text
    if word not in {"away", "NOAUTH"}:
        first = f"({word}|UNBLOCKED)"  # who blocks while it is demoted is told so
        assert re.search(f"Redis answers {first}", caplog.text), caplog.text
    assert await stage.money() == (40 * COST, 0, 0)
    assert len(stage.provider.posted) == 40
    await stage.batch.redis.aclose(close_connection_pool=True)


async def check(trouble, word):
    """What a process that starts now meets. A server that is a replica, or cannot write, still answers INFO."""
    if word in {"READONLY", "OOM", "NOREPLICAS", "MISCONF"}:
        raise ServerAwayError(word)
    redis = connect(trouble.url)
    try:
        await check_server(redis, url=trouble.url)
    finally:
        await redis.aclose(close_connection_pool=True)


async def test_a_chore_that_meets_an_outage_is_left_for_later(monkeypatch):
    async def away(*_, **__):
        raise RedisConnectionError("Connection closed by server.")

    monkeypatch.setattr(housekeeping, "sweep", away)
    stage = Stage("")
    async with stage.process() as process:
        chores = {cron.name: cron.coroutine for cron in process.cron_jobs}
        assert await chores["farebox:tidy"]({}) == 0
    await stage.batch.redis.aclose(close_connection_pool=True)


async def test_a_process_that_ends_leaves_no_chore_to_meet_closed_connections():
    stage = Stage("")
    await stage.begin()
    async with stage.process() as process:
        chore = process.tasks["chore"] = asyncio.create_task(asyncio.Event().wait())
        process.drain()
        await asyncio.wait_for(process.task, 10)
        assert chore.cancelled()
    await stage.batch.redis.aclose(close_connection_pool=True)


@pytest.mark.parametrize(
    ("error", "word"),
    [
        (ResponseError("OOM command not allowed when used memory > 'maxmemory'."), "OOM"),
        (ResponseError("Error running script (call to f_1): @user_script:3: -OOM command not allowed"), "OOM"),
        (ResponseError("Error running script (call to f_1): @user_script:3: -READONLY You can't write"), "READONLY"),
        (ResponseError("BUSY Redis is busy running a script."), "BUSY"),
        (ResponseError("WRONGTYPE Operation against a key, by a BUSY man"), ""),
        (
            ResponseError("Command # 2 (SET k my secret) of pipeline caused error: ('MISCONF Errors writing',)"),
            "MISCONF",
        ),
        (ResponseError("Command # 2 (SET k OOM: -BUSY) of pipeline caused error: NOPERM for it"), ""),
        (AuthenticationError("WRONGPASS"), ""),
    ],
)
def test_the_word_of_a_refusal_is_found(error, word):
    assert word_of(error) == word
    assert passes(error) == bool(word)
    assert "secret" not in reason_of(error)


def test_a_connection_that_arq_lost_while_it_watched_a_key_is_an_outage_and_no_refusal(caplog):
    outage = Outage()
    outage.begin(WatchError("A ConnectionError occurred on while watching one or more keys"))  # redis-py's word for it
    assert outage.is_on
    assert [line.event for line in caplog.records] == ["redis_away"]


@pytest.mark.parametrize(
    ("error", "level"),
    [
        (RedisConnectionError("Connection refused."), logging.DEBUG),
        (LedgerLostError("gone"), logging.DEBUG),
        (NoPermissionError("no right to run publish"), logging.WARNING),
    ],
)
async def test_what_calls_mean_for_others_is_not_told_a_thousand_times_in_an_outage(caplog, error, level):
    caplog.set_level(logging.DEBUG, "farebox_worker")

    async def refused():
        raise error

    await quietly(refused(), "sim:one")
    assert [(line.event, line.levelno) for line in caplog.records] == [("pause_failed", level)]


async def test_a_rate_that_could_not_be_told_is_news_again(monkeypatch):
    tries = []

    async def tune(tongue, *, lanes, seen):
        tries.append(lanes)
        if len(tries) == 1:
            raise RedisConnectionError("Connection refused.")

    monkeypatch.setattr(pacing_module, "tune", tune)
    pacing = Pacing(None, None, {})
    answered = SimpleNamespace(headers={"x-ratelimit-limit-requests": "600"}, route=SimpleNamespace(lane="sim:one"))
    with pytest.raises(RedisConnectionError):
        await pacing.learn(answered)
    await pacing.learn(answered)
    assert pacing.learn(answered) is None, "what was told is no news"
    assert [rates["sim:one"].rpm for rates in tries] == [600, 600]


async def test_a_refusal_of_one_verb_alone_is_no_outage_and_is_told_once(caplog):
    outage, tries = Outage(), []

    async def verb():
        tries.append(1)
        if len(tries) < 4:
            raise ResponseError("WRONGTYPE Operation against a key")
        return "done"

    assert await outage.insist(verb) == "done"
    assert (outage.times, [line.event for line in caplog.records]) == (0, ["verb_refused"])
