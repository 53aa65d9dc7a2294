"""docs/users.acl on a real server: each role can do all of its work; and what an ACL cannot separate."""

import re
import subprocess

import pytest
from redis import Redis as SyncRedis
from redis.exceptions import RedisError, ResponseError
from tests.acl_server import (
    KEYS,
    LANE,
    REFUSAL,
    RULES,
    jobs,
    refusals,
    serve,
    submitted,
)
from tests.conftest import server_binary

from farebox import keys as keys_module
from farebox.amend import drop, retry_failed
from farebox.batch import Batch, Submitted
from farebox.connection import check_server
from farebox.errors import InputError, NoLedgerError
from farebox.ledger import Ledger
from farebox.progress import list_batches
from farebox.records import Job, encode_job
from farebox.reuse import ReusingBatch
from farebox_worker.bus.admit import Fare, admit
from farebox_worker.bus.claim import Ask, claim
from farebox_worker.bus.lapse import lapse
from farebox_worker.bus.pause import pause, resume
from farebox_worker.bus.withdraw import withdraw

pytestmark = [pytest.mark.server, pytest.mark.skipif(server_binary() is None, reason="no server to test on")]


# --- what each role can do -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["producer", "worker", "operator"])
async def test_the_check_of_the_server_needs_no_more_than_a_role_has(enter, admin, role):
    await check_server(enter(role))
    assert refusals(admin) == []


async def test_producer_and_worker_do_their_work_without_a_single_refusal(enter, admin, ledger):
    await ledger.set_limit("tag:nightly", 1_000_000_000)
    producer = enter("producer")
    batch = Batch(producer, "b1")
    await batch.open("in.jsonl")
    await batch.ledger.set_limit("batch:b1", 2_000_000_000)
    assert (await batch.submit(jobs(20, tags=("nightly",)))).created == 20
    await batch.submit(jobs(21), not_before_ms=1)
    assert sum(await batch.waiting()) == 21
    await batch.seal(21)
    assert await serve(enter("worker")) == 21

    progress = await batch.progress()
    assert (progress.complete, progress.succeeded) == (True, 21)
    entries = await batch.read(block_ms=10)
    assert sum(len(entry.results) for entry in entries) == 21
    await batch.acknowledge(entries)
    assert await batch.read(block_ms=1) == []
    assert (await batch.lanes(), await batch.parked()) == (set(), [])
    await batch.forget([batch.job_id("c0"), batch.job_id("c1")], counted=["succeeded"])
    assert (await batch.progress()).succeeded == 19
    assert [one.batch_id for one in await list_batches(producer)] == ["b1"]

    books = Ledger(producer)
    assert (await books.scope("tag:nightly")).spent_nusd > 0
    assert await books.spent() == (await books.spent_by("batch"))["b1"] > 0
    assert await books.unconfirmed() == []
    assert refusals(admin) == []


async def test_a_producer_cancels_and_withdraws_without_a_single_refusal(enter, admin, ledger):
    batch = await submitted(enter, count=4)
    flow = KEYS.flow(0, "b1", LANE)
    assert await withdraw(batch.tongue, flow, [batch.job_id("c0")]) == 1
    assert await batch.cancel()
    assert await batch.reopen()
    assert await batch.cancel()
    assert await serve(enter("worker")) == 0
    assert (await batch.progress()).cancelled_jobs == 3
    assert refusals(admin) == []


async def test_a_producer_retries_what_failed_and_cancels_one_job_without_a_single_refusal(enter, admin, ledger):
    batch = Batch(enter("producer"), "b1")
    await batch.open()
    await batch.submit(jobs(2, deadline_ms=1))
    await serve(enter("worker"))
    assert (await batch.progress()).failed == 2
    failed = await batch.read()
    assert await retry_failed(batch) == 2
    await batch.acknowledge(failed)
    assert await drop(batch, batch.job_id("c0"), "c0", KEYS.flow(0, "b1", LANE))
    assert (await batch.progress()).cancelled_jobs == 1
    assert refusals(admin) == []


async def test_a_producer_reuses_answers_without_a_single_refusal(enter, admin, ledger):
    batch = ReusingBatch(enter("producer"), "b1")
    await batch.open()
    assert (await batch.submit(jobs(3))).reused == 0
    await serve(enter("worker"))
    await batch.acknowledge(await batch.read())
    spent = await Ledger(enter("producer")).spent()
    again = ReusingBatch(enter("producer"), "b2")
    await again.open()
    assert await again.submit(jobs(3)) == Submitted(3, 0, 3)
    assert refusals(admin) == []
    await again.seal(3)
    assert (await again.progress()).complete
    results = [result for entry in await again.read() for _, result in entry.results]
    assert {result.reused_from for result in results} <= {batch.job_id(f"c{n}") for n in range(3)}
    assert await Ledger(enter("producer")).spent() == spent > 0


async def test_a_batch_that_ended_before_it_was_sealed_is_sealed(enter, admin, ledger):
    batch = await submitted(enter)
    await serve(enter("worker"))
    await batch.seal(3)
    assert admin.pttl("farebox:ids:b1") > 0
    assert admin.pttl("farebox:scope:batch:b1") == -1, "what counts its money is not its producer's to expire"


async def test_what_parked_for_a_batch_s_budget_goes_on_when_its_producer_raises_it(enter, admin, ledger):
    batch = await submitted(enter)
    await batch.ledger.set_limit("batch:b1", 1)
    assert await serve(enter("worker")) == 0
    assert [scope for _, scope, _ in await batch.parked()] == ["batch:b1"]
    await batch.ledger.set_limit("batch:b1", 1_000_000_000)
    assert await serve(enter("worker")) == 3
    assert refusals(admin) == []


async def test_an_operator_does_all_that_is_to_be_done_about_money(enter, admin, ledger):
    await submitted(enter)
    worker = Ledger(enter("worker")).tongue
    taken = await claim(worker, [Ask(LANE, 2)], lease_ms=30_000)
    fares = [Fare(one, 1_000_000, ("global", "batch:b1")) for one in taken.jobs]
    assert [verdict.word for verdict in await admit(worker, fares)] == ["ok", "ok"]

    operator = ledger.tongue
    assert len(await lapse(operator, dead=True)) == 2
    first, second = (entry.token for entry in await ledger.unconfirmed())
    assert (await ledger.confirm([first], is_charge=False))[0] == 1
    assert (await ledger.confirm([second], is_charge=True))[0] == 1
    assert await ledger.spent() == 1_000_000
    await pause(operator, LANE, seconds=None, why="a look", by="operator")
    await resume(operator, LANE)
    for scope in ("tag:nightly", "provider:echo", "model:echo:echo", "batch:b1"):
        await ledger.set_limit(scope, 7)
        assert await ledger.set_limit(scope, None) == 7
    await ledger.book(provider_id="x", model_ref="x:y", cost_nusd=5, input_tokens=1, output_tokens=1)
    assert await ledger.reset() == 1_000_005
    assert refusals(admin) == []


def test_the_command_line_works_as_each_role(desk, guarded, admin):
    admin.flushall()
    desk.prompts(4)

    def run(role, *words):
        ended = desk.run(*words, FAREBOX_REDIS_URL=guarded.url(role))
        assert ended.code == 0, ended
        return ended

    run("operator", "budget", "set", 5)
    batch = run("producer", "submit", "in.jsonl", "-m", "echo:echo", "--budget", 1).stdout.strip()
    run("worker", "worker", "--burst")
    run("producer", "results", batch, "-o", "out.jsonl", "--delete")
    assert len(desk.out()) == 4
    run("producer", "submit", "in.jsonl", "-m", "echo:echo", "--batch", "second")
    run("producer", "cancel", "second")
    assert run("producer", "status", "second", "--json").json["state"] == "cancelled"
    run("producer", "cost", "--by", "model")
    for role in ("producer", "operator"):
        for words in (["audit"], ["budget", "show"], ["unconfirmed", "list"], ["ledger", "show"], ["lanes"]):
            run(role, *words)
    run("operator", "budget", "set", 3, "--per", "day")
    run("operator", "lanes", "pause", "echo:echo")
    run("operator", "cost", "reset")
    refused = desk.run("budget", "set", 500, FAREBOX_REDIS_URL=guarded.url("producer"))
    assert refused.code == 1
    assert REFUSAL.search(refused.stderr)
    assert admin.get("farebox:limit:global") == b"5000000000"


@pytest.mark.parametrize("user", [None, "default", "farebox-producer"])
def test_nobody_enters_without_a_password(guarded, user):
    refusal = re.compile("auth|password", re.IGNORECASE)
    stranger = SyncRedis(unix_socket_path=str(guarded.socket), username=user, password=user and "")
    with stranger, pytest.raises(RedisError, match=refusal):
        stranger.ping()


def test_the_file_as_it_is_lets_no_server_start(tmp_path):
    """No password is in it: whoever forgets to set them finds no open server, but none."""
    (tmp_path / "users.acl").write_text(RULES)
    command = [server_binary(), "--port", "0", "--unixsocket", "s", "--dir", tmp_path, "--aclfile", "users.acl"]
    ended = subprocess.run(command, capture_output=True, timeout=30, check=False)
    assert ended.returncode != 0
    assert b"ACL" in ended.stdout


def documented_keys():
    """The keys of the table in farebox.keys, with a name where the table has a variable, but for channels."""
    rows = re.findall(r"^\| (`.+?`) \| (\w+) \|", keys_module.__doc__, re.MULTILINE)
    return [
        re.sub(r"<\w+>", "x", name.replace("<ns>", "farebox"))
        for names, kind in rows
        for name in re.findall(r"`(.+?)`", names)
        if kind != "channel"
    ]


@pytest.mark.parametrize("key", documented_keys())
def test_a_key_that_is_added_to_the_table_is_added_to_the_file(admin, key):
    """A worker writes whatever is no limit and no list of batches; an operator everything; prompts are workers'."""
    if key.startswith("arq:"):
        key = key.removesuffix("x") + "farebox:x"

    def may(user, *words):
        return admin.execute_command("ACL", "DRYRUN", f"farebox-{user}", *words) == b"OK"

    assert may("operator", "DEL", key)
    assert may("worker", "DEL", key) == (":limit:" not in key and key != KEYS.batches)
    assert may("worker", "GET", key)
    assert may("producer", "GET", key) == (not key.startswith("arq:") or "result" in key)


async def test_two_namespaces_on_one_server_do_not_meet(enter, guarded, admin, ledger):
    await submitted(enter)
    stranger = enter("producer", "other")
    for words in (["HGETALL", "farebox:ledger"], ["GET", "farebox:limit:global"], ["UNLINK", "arq:result:farebox:1"]):
        with pytest.raises(ResponseError, match=REFUSAL):
            await stranger.execute_command(*words)
    theirs = Ledger(enter("operator", "other"), "other")
    await theirs.create()
    batch = Batch(stranger, "b1", namespace="other")
    await batch.open()
    assert (await batch.submit(jobs(1))).created == 1
    with pytest.raises(InputError):
        await Batch(stranger, "b2", namespace="other").progress()


# --- what an ACL cannot separate: docs/security.md says so -----------------------------------------------------------


async def test_producers_of_a_namespace_share_its_batches(enter, ledger, admin):
    await submitted(enter, "theirs")
    hostile = Batch(enter("producer"), "theirs")
    assert (await hostile.ledger.set_limit("batch:theirs", 1)) is None, "it sets the budget of any batch"
    await hostile.redis.hset(KEYS.batch("theirs"), "name", "renamed")
    payload = encode_job(Job(1, "c0", LANE, "chat", b'{"messages":[]}'), 1)
    await hostile.redis.mset({KEYS.job(hostile.job_id("c0")): payload})
    assert await hostile.cancel(), "it cancels any batch"


async def test_producers_of_a_namespace_read_forge_and_delete_each_other_s_answers(enter, ledger):
    batch = await submitted(enter, "theirs")
    await batch.seal(3)
    await serve(enter("worker"))
    hostile = Batch(enter("producer"), "theirs")
    entries = await hostile.read()
    assert sum(len(entry.results) for entry in entries) == 3
    first, _ = entries[0].results[0]
    await hostile.redis.set(KEYS.result(first), b"forged")
    await hostile.acknowledge(entries)
    assert await batch.read() == []


async def test_a_producer_can_stop_the_fleet_but_not_make_it_overspend(enter, ledger, admin):
    """The ledger's identity is in a hash that every verb writes; a foreign epoch stops whoever met the true one."""
    producer = enter("producer")
    await producer.hset(KEYS.ledger, "epoch", "forged")
    with pytest.raises(Exception, match="ledger"):
        await ledger.set_limit("global", 9)
    assert admin.get(KEYS.limit("global")) == b"5000000000"


async def test_a_tag_binds_only_who_says_it(enter, ledger):
    await ledger.set_limit("tag:nightly", 0)
    batch = await submitted(enter)
    await batch.seal(3)
    assert await serve(enter("worker")) == 3
    assert (await batch.progress()).succeeded == 3


async def test_a_producer_removes_jobs_that_wait(enter, ledger):
    batch = await submitted(enter, "theirs")
    await enter("producer").delete(*(KEYS.job(batch.job_id(f"c{n}")) for n in range(3)))
    assert await serve(enter("worker")) == 0


async def test_on_an_empty_server_a_producer_could_write_a_ledger_but_never_by_farebox_itself(enter, admin):
    producer = enter("producer")
    with pytest.raises(NoLedgerError):
        await Batch(producer, "b1").open()
    with pytest.raises(ResponseError, match=REFUSAL):
        await Ledger(producer).create()
    await producer.hset(KEYS.ledger, "epoch", "forged")
    batch = await submitted(enter)
    await batch.seal(3)
    assert await serve(enter("worker")) == 3, "a worker that starts now knows no better"


async def test_a_budget_that_is_no_number_stops_its_own_batch_alone(enter, ledger):
    spoilt, other = await submitted(enter, "spoilt"), await submitted(enter, "other")
    await spoilt.redis.set(KEYS.limit("batch:spoilt"), "much")
    assert await serve(enter("worker")) == 3
    assert (await other.progress()).succeeded == 3


@pytest.mark.parametrize("field", ["total", "succeeded"])
async def test_records_that_a_producer_spoils_cost_it_its_answers_but_no_money_goes_astray(enter, ledger, field):
    batch = await submitted(enter)
    await batch.seal(3)
    await batch.redis.hset(KEYS.batch("b1"), field, "spoilt")
    await serve(enter("worker"))
    total = await ledger.scope()
    assert (total.calls, total.held_nusd, total.unconfirmed_nusd) == (3, 0, 0)
