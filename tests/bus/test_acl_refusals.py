"""docs/users.acl on a real server: nobody can do what is not its work.

A producer may send Lua of its own, so each hostile act is tried twice: as a command, and from within a script.
"""

import pytest
from redis.exceptions import ResponseError
from tests.acl_server import (
    KEYS,
    LANE,
    REFUSAL,
    submitted,
)
from tests.conftest import server_binary

from farebox.ledger import Ledger
from farebox_worker.bus.admit import Fare, admit
from farebox_worker.bus.claim import Ask, claim
from farebox_worker.bus.lapse import lapse
from farebox_worker.bus.pause import pause
from farebox_worker.bus.settle import Settlement, settle

pytestmark = [pytest.mark.server, pytest.mark.skipif(server_binary() is None, reason="no server to test on")]

ANY_COMMAND = "return redis.call(unpack(ARGV))"
FORGED = Settlement("farebox:1", KEYS.flow(0, "b1", LANE), "0" * 16, "finish", "actual", -5, outcome="succeeded")


async def confirm_all(ledger, *, is_charge):
    await ledger.confirm([entry.token for entry in await ledger.unconfirmed()], is_charge=is_charge)


def named(*acts):
    return [pytest.param(act.split(" "), id=act.replace("farebox:", "")) for act in acts]


AGAINST_THE_MONEY = named(
    "SET farebox:limit:global 1",
    "DEL farebox:limit:global",
    "GETDEL farebox:limit:global",
    "PEXPIRE farebox:limit:global 1",
    "RENAME farebox:limit:global farebox:limit:batch:b1",
    "COPY farebox:limit:batch:b1 farebox:limit:global REPLACE",
    "MSET farebox:limit:batch:b1 1 farebox:limit:global 1",
    "MSET arq:job:farebox:1 1 farebox:limit:global 1",
    "SET farebox:limit:tag:nightly 1",
    "SET farebox:limit:provider:echo 1",
    "SET farebox:limit:model:echo:echo 1",
    "SET farebox:limit:day:global 1",
    "SET farebox:limit:month:batch:b1 1",
    "DEL farebox:limit:day:global",
    "HINCRBY farebox:scope:global spent -1",
    "HSET farebox:scope:global held 0",
    "HDEL farebox:scope:global unconfirmed",
    "DEL farebox:scope:global",
    "HINCRBY farebox:scope:batch:b1 spent -1",
    "PEXPIRE farebox:scope:batch:b1 1",
    "DEL farebox:scope:batch:b1",
    "HINCRBY farebox:window:day:2026-01-01:global spent -1",
    "DEL farebox:window:day:2026-01-01:global",
    "SREM farebox:scopes global",
    "DEL farebox:scopes",
    "DEL farebox:holds",
    "HDEL farebox:holds token",
    "HSET farebox:holds token 0",
    "DEL farebox:unconfirmed",
    "HDEL farebox:unconfirmed token",
    "APPEND farebox:marks:0123 x",
    "SET farebox:claim:x 1",
    "DEL farebox:journal",
    "XTRIM farebox:journal MAXLEN 0",
    "XDEL farebox:journal 1-1",
    "XADD farebox:journal * a b",
    "XADD farebox:journal MAXLEN 0 * a b",
    "XSETID farebox:journal 9-9",
    "DEL farebox:checkpoint",
    "HSET farebox:checkpoint a b",
    "SET farebox:checkpoint:global 1",
    "DEL farebox:ledger",
    "HDEL farebox:ledger epoch",
    "SET arq:in-progress:farebox:1 token",
    "DEL arq:in-progress:farebox:1",
    "SET arq:retry:farebox:1 0",
    "DEL farebox:results:b1",
    "XTRIM farebox:results:b1 MAXLEN 0",
    "ZADD farebox:leases:echo:echo 1 farebox:1",
    "ZREM farebox:leases:echo:echo farebox:1",
    "ZADD farebox:parked:global 1 flow",
    "SET farebox:starved:global flow",
    "HSET farebox:parking flow x",
    "HSET farebox:lane:echo:echo paused_until 9",
    "HSET farebox:worker:x pid 1",
)
PRIVATE = named(
    "GET arq:job:farebox:1",
    "MGET arq:job:farebox:1",
    "DUMP arq:job:farebox:1",
    "GETRANGE arq:job:farebox:1 0 9",
    "SORT farebox:lanes BY nosort GET arq:job:*",
)
AGAINST_THE_SERVER = named(
    "FLUSHALL",
    "FLUSHDB",
    "SWAPDB 0 1",
    "SHUTDOWN NOSAVE",
    "DEBUG SLEEP 0",
    "CONFIG GET *",
    "CONFIG SET appendonly no",
    "CONFIG REWRITE",
    "ACL SETUSER farebox-producer allkeys",
    "ACL LIST",
    "ACL LOAD",
    "KEYS *",
    "SCAN 0",
    "RANDOMKEY",
    "SCRIPT FLUSH",
    "FUNCTION FLUSH",
    "MONITOR",
    "CLIENT LIST",
    "CLIENT KILL TYPE normal",
    "SAVE",
    "BGREWRITEAOF",
    "REPLICAOF NO ONE",
    "MODULE LIST",
    "MIGRATE 127.0.0.1 1 x 0 1",
    "RESTORE farebox:x 0 x",
    "SLOWLOG GET",
    "LATENCY RESET",
    "SELECT 1",
)
ELSEWHERE = named(
    "GET other:limit:global",
    "SET other:limit:batch:b1 1",
    "HGETALL other:scope:global",
    "MGET arq:result:farebox:1 arq:result:other:1",
    "MSET arq:job:other:1 x",
    "MSET arq:job:stranger x",
    "GET stranger",
    "SET stranger 1",
    "SET farebox2 1",
    "PUBLISH other:control x",
    "SUBSCRIBE other:control",
    "EVAL return(1) 1 other:ledger",
    "ZADD arq:queue 1 x",
)


# In scripts these are refused to everybody, whatever their rights.
NOT_IN_SCRIPTS = {
    *(
        "ACL",
        "BGREWRITEAOF",
        "CLIENT",
        "CONFIG",
        "DEBUG",
        "EVAL",
        "FUNCTION",
        "LATENCY",
        "MIGRATE",
        "MODULE",
        "MONITOR",
    ),
    *("REPLICAOF", "SAVE", "SCRIPT", "SHUTDOWN", "SLOWLOG", "SUBSCRIBE"),
}


def assert_refused(client, words):
    with pytest.raises(ResponseError, match=REFUSAL):
        client.execute_command(*words)
    with pytest.raises(ResponseError, match=None if words[0] in NOT_IN_SCRIPTS else REFUSAL):
        client.execute_command("EVAL", ANY_COMMAND, 0, *words)


@pytest.fixture
async def books(enter, ledger, admin):
    """Books with something in every kind of key, and a way to say what they hold."""
    await submitted(enter, count=5)
    worker = Ledger(enter("worker")).tongue
    for slots in (1, 2):  # the first attempt lapses
        taken = await claim(worker, [Ask(LANE, slots)], lease_ms=30_000)
        await admit(worker, [Fare(one, 1_000_000, ("global", "batch:b1")) for one in taken.jobs])
        if slots == 1:
            await lapse(worker, dead=True)
    for scope in ("batch:b1", "tag:nightly", "day:global", "other"):
        admin.set(KEYS.limit(scope), 10)
    admin.hset("farebox:checkpoint", "rows", 0)
    admin.set("other:limit:global", 10)
    admin.set("arq:result:farebox:1", "x")

    def held():
        keys = [key for key in admin.scan_iter() if key != b"farebox:ledger"]
        return {key: (admin.dump(key), admin.pttl(key) > 0) for key in keys}

    return held


@pytest.mark.parametrize("words", AGAINST_THE_MONEY + PRIVATE + AGAINST_THE_SERVER + ELSEWHERE)
async def test_a_producer_cannot(guarded, books, words):
    before = books()
    with guarded.eyes("producer") as producer:
        assert_refused(producer, words)
    assert books() == before


@pytest.mark.parametrize(
    "speak",
    [
        pytest.param(lambda ledger: ledger.create(), id="create"),
        pytest.param(lambda ledger: ledger.set_limit("global", 9), id="set the limit"),
        pytest.param(lambda ledger: ledger.set_limit("global", None), id="remove the limit"),
        pytest.param(lambda ledger: ledger.set_limit("tag:nightly", 9), id="limit a tag"),
        pytest.param(lambda ledger: ledger.carry_over(["global"], -5), id="book"),
        pytest.param(lambda ledger: ledger.reset(), id="reset"),
        pytest.param(lambda ledger: lapse(ledger.tongue, dead=True), id="lapse"),
        pytest.param(lambda ledger: claim(ledger.tongue, [Ask(LANE, 1)], lease_ms=9), id="claim"),
        pytest.param(lambda ledger: pause(ledger.tongue, LANE, seconds=None, why="", by="operator"), id="pause"),
        pytest.param(lambda ledger: settle(ledger.tongue, [FORGED], results_ttl_ms=9), id="settle"),
        pytest.param(lambda ledger: confirm_all(ledger, is_charge=False), id="release"),
        pytest.param(lambda ledger: confirm_all(ledger, is_charge=True), id="charge"),
    ],
)
async def test_a_producer_cannot_speak_the_verbs_of_others(enter, books, speak):
    before = books()
    with pytest.raises(ResponseError, match=REFUSAL):
        await speak(Ledger(enter("producer")))
    assert books() == before


@pytest.mark.parametrize(
    "words",
    named(
        "SET farebox:limit:global 1",
        "DEL farebox:limit:global",
        "SET farebox:limit:batch:b1 1",
        "SET farebox:limit:day:global 1",
        "PEXPIRE farebox:limit:tag:nightly 1",
    )
    + AGAINST_THE_SERVER
    + ELSEWHERE,
)
async def test_a_worker_cannot(guarded, books, words):
    before = books()
    with guarded.eyes("worker") as worker:
        assert_refused(worker, words)
    assert books() == before


@pytest.mark.parametrize("words", AGAINST_THE_SERVER + ELSEWHERE)
async def test_an_operator_cannot(guarded, books, words):
    before = books()
    with guarded.eyes("operator") as operator:
        assert_refused(operator, words)
    assert books() == before
