"""Jobs that fail: what is kept of each attempt, bad requests in a row, deadlines, poison."""

import asyncio

import msgspec
import pytest
from tests.polling import until
from tests.process_support import HOLD, LANE, Stage

from farebox.amend import drop, retry_failed
from farebox.errors import (
    BatchClosedError,
    JobConflictError,
    ProviderAuthError,
    ProviderOverloadedError,
    ProviderRateLimitError,
    ProviderRequestError,
    ProviderTimeoutError,
)
from farebox.records import Job, JobEnvelope, encode_job
from farebox_worker.attempts.failures import judge
from farebox_worker.attempts.history import MOST_LETTERS, read_tried, tried_line
from farebox_worker.bus.blame import MOST_ALIKE
from farebox_worker.bus.claim import Ask, claim
from farebox_worker.bus.expire import expire
from farebox_worker.bus.lapse import lapse
from farebox_worker.bus.pause import Refusal, pause, read_pauses, resume
from farebox_worker.bus.scripts import BLAME
from farebox_worker.bus.settle import Settlement, settle
from farebox_worker.bus.sweep import sweep
from farebox_worker.bus.withdraw import withdraw
from farebox_worker.files.output import OutputFile
from farebox_worker.heartbeats import read_heartbeats
from farebox_worker.jobs import read_job
from farebox_worker.run.follow import Follow

TTL = 600_000
TOO_LATE = ("failed", "deadline", "deadline")


@pytest.fixture
async def stage(server):
    stage = Stage(server)
    yield stage
    await stage.batch.redis.aclose(close_connection_pool=True)


async def history(stage, custom_id="c0"):
    return (await read_job(stage.batch.ledger, stage.batch.job_id(custom_id), "b1")).history


def overloaded(message="try later"):
    return ProviderOverloadedError("sim", message, status_code=503, own_body=True, request_id="req-1")


def refused(message="no such parameter"):
    return ProviderRequestError("sim", message, status_code=400, code="invalid", own_body=True)


# --- history ----------------------------------------------------------------------------------------------------------


async def test_every_attempt_that_did_not_answer_is_kept_with_its_money_and_expires_with_the_result(stage, monkeypatch):
    monkeypatch.setattr("farebox_worker.attempts.failures.RETRY_BASE_S", 0.001)
    await stage.begin(1)

    async def act(n):
        if n == 1:
            raise overloaded("busy\twith\nothers")
        if n == 2:
            raise ProviderTimeoutError("sim", "no answer in time")

    stage.provider.act = act
    async with stage.process():
        await stage.finished(1)
    first, second = await history(stage)
    assert (first.failure_class, first.status_code, first.request_id) == ("overloaded", 503, "req-1")
    assert (first.money, first.amount_nusd, first.lane) == ("release", 0, LANE)
    assert first.message == "busy with others"
    assert first.worker
    assert (second.failure_class, second.money, second.amount_nusd) == ("timeout", "unconfirmed", HOLD)
    assert first.when_ms <= second.when_ms
    assert 0 < await stage.batch.redis.pttl(stage.batch.keys.history(stage.batch.job_id("c0"))) <= 7 * 86_400_000


async def test_a_job_that_is_answered_at_once_keeps_no_history(stage):
    await stage.begin(3)
    async with stage.process():
        await stage.finished(3)
    assert await stage.batch.redis.keys("farebox:history:*") == []


async def test_a_rate_limited_attempt_is_kept_though_it_is_not_counted(stage):
    await stage.begin(1)

    async def act(n):
        if n == 1:
            raise ProviderRateLimitError("sim", "slow down", retry_after=0.01, status_code=429, own_body=True)

    stage.provider.act = act
    async with stage.process():
        await stage.finished(1)
    [only] = await history(stage)
    assert (only.failure_class, only.status_code) == ("rate_limit", 429)


async def test_a_history_keeps_the_last_20_and_says_when_a_worker_died(stage):
    await stage.begin(1)
    tongue = stage.batch.tongue
    for number in range(25):
        [one] = (await claim(tongue, [Ask(LANE, 1)], lease_ms=100_000)).jobs
        line = tried_line(LANE, "overloaded", f"try {number}", overloaded(), owed_nusd=None, latency_ms=3)
        settlement = Settlement(one.job_id, one.flow, one.token, "retry", "release", due="0", attempts=1, history=line)
        await settle(tongue, [settlement, settlement], results_ttl_ms=TTL)
        await settle(tongue, [settlement], results_ttl_ms=TTL)  # sent again
    kept = await history(stage)
    assert [one.message for one in kept] == [f"try {number}" for number in range(5, 25)]


async def test_a_lease_that_lapsed_after_it_was_admitted_is_in_the_history(stage):
    await stage.begin(1)
    started = asyncio.Event()

    async def act(n):
        started.set()
        await asyncio.Event().wait()

    stage.provider.act = act
    async with stage.process() as process:
        await asyncio.wait_for(started.wait(), 5)
        await until(lambda: process.dispatch.sending)
        await lapse(stage.batch.tongue, dead=True)
    [died, *_] = await history(stage)
    assert (died.failure_class, died.worker, died.lane) == ("lapsed", "", LANE)
    assert (died.money, died.amount_nusd) == ("unconfirmed", HOLD)


async def test_a_retry_keeps_the_history_and_collecting_the_result_deletes_it(stage):
    await stage.begin(1)

    async def refuse(n):
        raise refused()

    stage.provider.act = refuse
    async with stage.process():
        await stage.finished(1)
        assert await retry_failed(stage.batch, classes=["overloaded"]) == 0
        assert await retry_failed(stage.batch, classes=["request"]) == 1
        key = stage.batch.keys.history(stage.batch.job_id("c0"))
        await until(lambda: _has_length(stage, key, 2))
        await stage.finished(1)
    [(_, result)] = await stage.results()
    assert (result.failure_class, result.error_code) == ("request", "invalid")
    assert await stage.batch.redis.pttl(key) > 0
    await stage.batch.acknowledge(await stage.batch.read())
    assert not await stage.batch.redis.exists(key)


async def test_who_collects_while_failures_are_retried_loses_no_answer(stage, tmp_path):
    await stage.begin(2)
    asked = []

    async def refuse_once(n):
        asked.append(n)
        if len(asked) <= 2:
            raise refused()

    stage.provider.act = refuse_once
    with OutputFile.open(tmp_path / "out.jsonl") as out:
        follow = Follow(stage.batch, out)
        async with stage.process():
            await stage.finished(2)
            assert await follow.step() == 2  # both failures stand in OUT, and are not acknowledged yet
            assert out.tally.outcomes == {"failed": 2}
            assert await retry_failed(stage.batch) == 2
            await stage.finished(2)
            await follow.sync()
            assert await follow.step() == 2
            await follow.sync()
        assert (out.lines, out.tally.outcomes) == (2, {"succeeded": 2})
    assert len((tmp_path / "out.jsonl").read_bytes().splitlines()) == 2
    assert await stage.batch.read(block_ms=1) == []


async def _has_length(stage, key, length):
    return await stage.batch.redis.llen(key) == length


def test_a_line_is_short_whole_and_holds_no_control_characters():
    line = tried_line("p:m", "request", "a\tb\nc\x00\ud800" + "x" * 1000, None, owed_nusd=5, latency_ms=7)
    tried = read_tried(b"12\t" + line)
    assert (tried.when_ms, tried.failure_class, tried.amount_nusd, tried.latency_ms) == (12, "request", 5, 7)
    assert tried.message.startswith("a b c ")
    assert len(tried.message) == MOST_LETTERS


def test_what_is_no_line_of_ours_is_read_as_far_as_it_goes():
    assert read_tried(b"\xff\t\t").when_ms == 0
    assert read_tried(b"7\tw\tl\tc\t-\t\t\tx\t\tm\tmore").message == "m"


# --- bad requests in a row --------------------------------------------------------------------------------------------


async def test_twenty_requests_refused_alike_pause_the_lane_until_it_is_resumed(stage):
    await stage.begin(60)
    texts = (f"line {n}: no 'x{n}' in messages[{n}]" for n in range(1000))

    async def refuse(n):
        raise refused(next(texts))

    stage.provider.act = refuse
    async with stage.process(concurrency=2) as process:
        await stage.finished(MOST_ALIKE)
        await until(lambda: _is_paused(stage))
        await until(lambda: not process.in_flight)
        (paused,) = (await read_pauses(stage.batch.redis, process.keys, [LANE])).values()
        assert not paused.ends_by_itself
        assert "20 requests in a row were refused alike" in paused.why
        assert "messages" in paused.why
        assert MOST_ALIKE <= len(stage.provider.posted) <= MOST_ALIKE + 2
        stage.provider.act = None
        await resume(stage.batch.tongue, LANE)
        await stage.finished(60)
    assert (await stage.batch.progress()).failed == len(stage.provider.posted) - (
        await stage.batch.progress()
    ).succeeded


async def _is_paused(stage):
    return await read_pauses(stage.batch.redis, stage.batch.keys, [LANE])


@pytest.mark.parametrize("between", ["an answer", "another mistake"])
async def test_an_answer_or_another_mistake_between_them_begins_the_count_anew(stage, between):
    await stage.begin(3 * MOST_ALIKE)

    async def refuse(n):
        if n % (MOST_ALIKE - 1):
            raise refused("wrong")
        if between == "another mistake":
            raise refused("too long")

    stage.provider.act = refuse
    async with stage.process(concurrency=1):
        await stage.finished(3 * MOST_ALIKE)
        assert not await _is_paused(stage)


async def test_the_count_is_the_fleets(stage):
    await stage.begin(MOST_ALIKE)

    async def refuse(n):
        raise refused()

    stage.provider.act = refuse
    async with stage.process(concurrency=1), stage.process(concurrency=1):
        await stage.finished(MOST_ALIKE)
        await until(lambda: _is_paused(stage))


def alike(message, status=400, **fields):
    error = ProviderRequestError("p", message, status_code=status, own_body=True, **fields)
    return judge(error, attempts=1, doubts=0, max_attempts=5).alike


def test_refusals_are_alike_whatever_numbers_ids_and_quotations_they_hold():
    assert alike("'a' is 12 tokens too long (req_8f2)") == alike("'bb' is 7 tokens too long (req_11)")
    assert alike("unknown parameter: 'seed'") != alike("messages is missing")
    assert alike("wrong") != alike("wrong", 404)
    assert alike("wrong", code="a") != alike("wrong", code="b")
    assert not judge(overloaded(), attempts=1, doubts=0, max_attempts=5).alike


# --- credentials ------------------------------------------------------------------------------------------------------


async def test_a_process_whose_key_is_refused_says_so_in_its_heartbeat_and_others_go_on(stage):
    await stage.begin(4)
    bad = asyncio.Event()

    async def refuse(n):
        if not bad.is_set():
            bad.set()
            raise ProviderAuthError("sim", "no such key", status_code=401, own_body=True)

    stage.provider.act = refuse
    async with stage.process(concurrency=1) as first:
        await until(lambda: "sim" in first.routes.stopped)
        async with stage.process(concurrency=1) as second:
            await stage.finished(4)
            await until(lambda: _say_stopped(stage, [first, second]))
    assert len(stage.provider.posted) == 5


async def test_a_line_that_a_filter_forbids_fails_alone_and_the_others_are_answered(stage):
    await stage.begin(6)

    async def forbid(n):
        if n == 3:
            raise ProviderAuthError("sim", "blocked by the firewall", status_code=403, own_body=True)

    stage.provider.act = forbid
    async with stage.process(concurrency=1) as process:
        await stage.finished(6)
        assert not process.routes.stopped
    failures = [result.error_message for _, result in await stage.results() if result.outcome == "failed"]
    assert failures == ["blocked by the firewall"]


async def test_a_key_that_is_refused_now_and_then_is_still_served_and_a_revoked_one_is_not(stage):
    await stage.begin(4)
    revoked = asyncio.Event()

    async def flap(n):
        if n == 3 or revoked.is_set():
            raise ProviderAuthError("sim", "no such key", status_code=401, own_body=True)

    stage.provider.act = flap
    async with stage.process(concurrency=1) as process:
        await stage.finished(4)
        assert len(stage.provider.posted) == 5
        revoked.set()
        await stage.submit(6, start=4)
        await until(lambda: "sim" in process.routes.stopped)
    assert len(stage.provider.posted) == 10


async def _say_stopped(stage, processes):
    beats = {beat.worker_id: beat.stopped for beat in await read_heartbeats(stage.batch.redis, stage.batch.keys)}
    first, second = (beats.get(process.worker_id) for process in processes)
    return second == {} and first and first["sim"].startswith("no such key")


# --- deadlines --------------------------------------------------------------------------------------------------------


async def now_ms(redis):
    seconds, micros = await redis.time()
    return seconds * 1000 + micros // 1000


@pytest.mark.parametrize("why", ["parked", "paused", "due later"])
async def test_a_job_that_waits_past_its_deadline_fails_and_what_is_behind_it_goes_on(stage, why):
    await stage.begin()
    redis, batch = stage.batch.redis, stage.batch
    soon = await now_ms(redis) + 400
    late = Job(1, "late", LANE, "chat", b"{}", deadline_ms=soon)
    await batch.submit([late], not_before_ms=soon + 3_600_000 if why == "due later" else 0)
    await batch.submit([Job(1, "patient", LANE, "chat", b"{}")])
    if why == "parked":
        await batch.ledger.set_limit("global", 1)
    if why == "paused":
        await pause(batch.tongue, LANE, seconds=None, why="", by="operator")
    async with stage.process():
        await stage.finished(2 if why == "due later" else 1, 30)
        [late_result] = [result for _, result in await stage.results() if result.custom_id == "late"]
        assert (late_result.outcome, late_result.error_code, late_result.failure_class) == ("failed",) + (
            "deadline",
        ) * 2
        if why == "parked":
            await batch.ledger.set_limit("global", None)
        if why == "paused":
            await resume(batch.tongue, LANE)
        await stage.finished(2)
    assert await redis.zcard(batch.keys.deadlines) == 0
    assert (await batch.progress()).succeeded == 1


async def test_a_job_in_flight_at_its_deadline_is_left_to_its_worker(stage):
    await stage.begin()
    redis, batch = stage.batch.redis, stage.batch
    await batch.submit([Job(1, "c0", LANE, "chat", b"{}", deadline_ms=await now_ms(redis) + 50)])
    assert (await claim(batch.tongue, [Ask(LANE, 1)], lease_ms=60_000)).jobs
    await asyncio.sleep(0.1)
    assert await expire(batch.tongue, results_ttl_ms=TTL) == 0
    assert await redis.zcard(batch.keys.deadlines) == 1
    await lapse(batch.tongue, dead=True)
    await redis.zadd(batch.keys.deadlines, {f"b1\t{batch.job_id('c0')}": 1})
    assert await expire(batch.tongue, results_ttl_ms=TTL) == 1
    assert (await batch.progress()).failed == 1


@pytest.mark.parametrize("why", ["sealed", "cancelled", "another body"])
async def test_a_submit_that_is_refused_leaves_no_deadline_behind(stage, why):
    await stage.begin(1)
    redis, batch = stage.batch.redis, stage.batch
    if why == "sealed":
        await batch.seal(1)
    if why == "cancelled":
        await batch.cancel()
    late = await now_ms(redis) + 3_600_000
    jobs = [Job(1, "new", LANE, "chat", b"{}", deadline_ms=late), Job(1, "c0", LANE, "chat", b"{}", deadline_ms=late)]
    if why == "another body":
        jobs[1] = msgspec.structs.replace(jobs[1], body=b'{"n":2}')
    with pytest.raises(JobConflictError if why == "another body" else BatchClosedError):
        await batch.submit(jobs, not_before_ms=late)
    assert await redis.zcard(batch.keys.deadlines) == 0
    assert not await redis.exists(batch.keys.waiting(LANE))


async def test_a_job_that_is_submitted_again_keeps_the_deadline_it_has(stage):
    await stage.begin()
    redis, batch = stage.batch.redis, stage.batch
    late = await now_ms(redis) + 3_600_000
    for deadline_ms in (late, late + 1, 0):
        await batch.submit([Job(1, "c0", LANE, "chat", b"{}", deadline_ms=deadline_ms)])
    assert await redis.zrange(batch.keys.deadlines, 0, -1, withscores=True) == [
        (f"b1\t{batch.job_id('c0')}".encode(), late)
    ]


async def test_deadlines_of_jobs_that_have_ended_are_forgotten_and_a_retry_takes_a_passed_one_off(stage):
    await stage.begin()
    redis, batch = stage.batch.redis, stage.batch
    await batch.submit([Job(1, "c0", LANE, "chat", b"{}", deadline_ms=1)])
    assert await expire(batch.tongue, results_ttl_ms=TTL) == 1
    assert await expire(batch.tongue, results_ttl_ms=TTL) == 0
    assert await retry_failed(batch) == 1
    async with stage.process():
        await stage.finished(1)
    assert (await batch.progress()).succeeded == 1
    await redis.zadd(batch.keys.deadlines, {f"b1\t{batch.job_id('c0')}": 1, "b1\tnobody": 1})
    assert await expire(batch.tongue, results_ttl_ms=TTL) == 0
    assert await redis.zcard(batch.keys.deadlines) == 0


async def test_a_job_that_is_claimed_while_it_expires_keeps_its_deadline(stage, monkeypatch):
    batch, redis = stage.batch, stage.batch.redis
    await stage.begin(0)
    await batch.submit([Job(1, "c0", LANE, "chat", b"{}", deadline_ms=1)])

    async def claimed_first(tongue, group, **options):
        assert len((await claim(tongue, [Ask(LANE, 1, 0)], lease_ms=60_000)).jobs) == 1
        return await settle(tongue, group, **options)

    monkeypatch.setattr("farebox_worker.bus.expire.settle", claimed_first)
    assert await expire(batch.tongue, results_ttl_ms=TTL) == 0
    assert await redis.zcard(batch.keys.deadlines) == 1


async def test_a_deadline_is_forgotten_with_its_job(stage):
    batch, redis = stage.batch, stage.batch.redis
    await stage.begin(0)
    await batch.submit([Job(1, f"c{n}", LANE, "chat", b"{}", deadline_ms=10**13) for n in range(3)])
    flow = batch.keys.flow(0, "b1", LANE)
    assert await drop(batch, batch.job_id("c0"), "c0", flow)
    assert await withdraw(batch.tongue, flow, [batch.job_id("c1")]) == 1
    await batch.cancel()
    assert await sweep(batch.tongue, results_ttl_ms=TTL) == 1
    assert await redis.zcard(batch.keys.deadlines) == 0


async def test_a_retry_notes_deadlines_with_its_jobs_and_one_that_is_refused_notes_none(stage):
    batch, redis, late = stage.batch, stage.batch.redis, 10**13
    await stage.begin(0)
    await batch.submit([Job(1, "c0", LANE, "chat", b"{}", deadline_ms=late)])

    async def refuse(n):
        raise refused()

    stage.provider.act = refuse
    async with stage.process():
        await stage.finished(1)
    assert await redis.zcard(batch.keys.deadlines) == 0
    assert await retry_failed(batch) == 1
    noted = {f"b1\t{batch.job_id('c0')}".encode(): late}
    assert dict(await redis.zrange(batch.keys.deadlines, 0, -1, withscores=True)) == noted
    async with stage.process():
        await stage.finished(1)
    await batch.cancel()
    with pytest.raises(BatchClosedError):
        await retry_failed(batch)
    assert await redis.zcard(batch.keys.deadlines) == 0


async def test_a_retry_of_nothing_does_not_keep_a_complete_batch_for_good(stage):
    batch = stage.batch
    await stage.begin(0)
    await batch.seal(0)
    assert await retry_failed(batch) == 0
    assert await batch.redis.pttl(batch.keys.batch("b1")) > 0


async def test_garbage_in_a_lane_and_its_provider_stops_no_verb(stage):
    batch, redis = stage.batch, stage.batch.redis
    await stage.begin(1)
    words = ("paused_until", "rpm", "tpm", "requests", "tokens", "paced", "window", "need", "mean", "target", "cut",
             "ceiling", "grown", "grew", "refusals", "refused", "alike_count", "short", "starved")  # fmt: skip
    keys = (batch.keys.lane(LANE), batch.keys.provider(LANE.partition(":")[0]))
    for key in keys:
        await redis.hset(key, mapping=dict.fromkeys(words, "garbage") | {"alike_what": "this", "alike_calls": "0"})
    await redis.hset(batch.keys.parking, batch.keys.flow(0, "b1", LANE), "global\t5\t1")
    await batch.tongue.say(BLAME, LANE, f"model:{LANE}", "this", 3)
    await lapse(batch.tongue, dead=True)
    assert (await pause(batch.tongue, LANE, seconds=1, why="why", refusal=Refusal(0.0, 1.0))).until_ms
    await resume(batch.tongue, LANE)
    assert len((await claim(batch.tongue, [Ask(LANE, 1, 0)], lease_ms=60_000)).jobs) == 1


async def test_jobs_without_a_deadline_are_not_noted(stage):
    await stage.begin(3)
    assert not await stage.batch.redis.exists(stage.batch.keys.deadlines)


# --- poison -----------------------------------------------------------------------------------------------------------

NESTED = b"[" * 100_000 + b"]" * 100_000
POISON = {
    "nested body": encode_job(Job(1, "c0", LANE, "chat", b'{"messages":' + NESTED + b"}"), 1),
    "nested envelope": b"\x91" * 50_000 + b"\xc0",
    "9 MB": encode_job(Job(1, "c0", LANE, "chat", b'{"messages":"' + b"x" * 9_000_000 + b'"}'), 1),
    "9 MB of nothing": b"\x00" * 9_000_000,
    "not UTF-8": encode_job(Job(1, "c0", LANE, "chat", b'{"messages":"\xff\xfe"}'), 1),
    "a lone surrogate": encode_job(Job(1, "c0", LANE, "chat", b'{"messages":"\\ud800"}'), 1),
    "a huge number": encode_job(Job(1, "c0", LANE, "chat", b'{"max_tokens":1' + b"0" * 5000 + b"}"), 1),
    "a number for a model": msgspec.msgpack.encode(
        {"t": None, "f": "x", "a": [[1, "c", 7, "chat", b""]], "k": {}, "et": 1}
    ),
    "another lane": encode_job(Job(1, "c0", "other:lane", "chat", b"{}"), 1),
    "another api": encode_job(msgspec.structs.replace(Job(1, "c0", LANE, "chat", b"{}"), api="smoke"), 1),
    "a huge deadline": msgspec.msgpack.encode(
        JobEnvelope(None, "complete", (Job(1, "c0", LANE, "chat", b"{}", deadline_ms=2**63),), {}, 2**63)
    ),
    "a tag that names two": encode_job(Job(1, "c0", LANE, "chat", b"{}", tags=("a,b\n",)), 1),
    "empty": b"",
}


@pytest.mark.parametrize("name", sorted(POISON))
async def test_poison_ends_visibly_and_kills_no_worker(stage, name):
    """A worker that meets it serves on; the job has one result, whatever that is."""
    await stage.begin(2)
    await stage.batch.redis.set(stage.batch.keys.job(stage.batch.job_id("c0")), POISON[name])
    async with stage.process() as process:
        await stage.finished(2)
        await stage.submit(1, start=2)
        await stage.finished(3)
        assert not process.task.done()
    results = await stage.results()
    assert len(results) == 3
    assert sum(result.outcome == "succeeded" for _, result in results) >= 2
    assert (await stage.money())[1] == 0


@pytest.mark.parametrize("error", [RecursionError(), MemoryError()], ids=["deep", "big"])
async def test_a_payload_that_breaks_its_preparation_fails_and_kills_no_worker(stage, error):
    await stage.begin(2)

    def act(job):
        if job.custom_id == "c0":
            raise error

    stage.provider.on_prepare = act
    async with stage.process() as process:
        await stage.finished(2)
        assert not process.task.done()
    results = {result.custom_id: result.error_code for _, result in await stage.results()}
    assert results == {"": "unprepared", "c1": ""}


async def test_a_provider_that_answers_with_what_is_no_text_fails_its_job_and_no_worker(stage):
    await stage.begin(2)

    async def act(n):
        raise ProviderRequestError("sim", "no \ud800 good \x00", status_code=400, own_body=True, code="\ud800")

    stage.provider.act = act
    async with stage.process() as process:
        await stage.finished(2)
        assert not process.task.done()
    assert {result.failure_class for _, result in await stage.results()} == {"request"}
    assert await stage.money() == (0, 0, 0)


async def test_a_lane_whose_name_is_no_text_is_passed_over(stage):
    await stage.begin(1)
    await stage.batch.redis.sadd("farebox:lanes", b"\xff\xfe:x")
    async with stage.process() as process:
        await stage.finished(1)
        assert not process.task.done()
