"""What we override and call of arq is as it was when we wrote it, and arq's own Job understands our jobs."""

import inspect
import time

import arq.jobs
import msgspec
import pytest
from arq.cron import cron
from arq.jobs import JobStatus
from arq.worker import Worker, func
from tests.process_support import Stage

from farebox.batch import Batch
from farebox.records import FUNCTION, Job
from farebox_worker.bus.admit import Fare, admit
from farebox_worker.bus.claim import Ask, claim
from farebox_worker.bus.settle import Settlement, settle
from farebox_worker.process.process import Process

LANE = "sim:one"
DECODE = msgspec.msgpack.decode
SIGNATURES = {
    Worker.main: "self", Worker.close: "self", Worker._poll_iteration: "self",
    Worker.handle_sig: "self signum", Worker._add_signal_handler: "self signum handler",
    Worker.start_jobs: "self job_ids", Worker.run_job: "self job_id score", Worker.heart_beat: "self",
    Worker.run_cron: "self n delay num_windows", Worker.record_health: "self",
    Worker.finish_failed_job: "self job_id result_data",
    arq.jobs.Job.__init__: "self job_id redis _queue_name _deserializer",
    arq.jobs.Job.status: "self", arq.jobs.Job.info: "self", arq.jobs.Job.result_info: "self",
    arq.jobs.serialize_job: "function_name args kwargs job_try enqueue_time_ms serializer",
    arq.jobs.serialize_result: (
        "function args kwargs job_try enqueue_time_ms success result start_ms finished_ms ref queue_name job_id "
        "serializer"
    ),
    arq.jobs.deserialize_job: "r deserializer", arq.jobs.deserialize_job_raw: "r deserializer",
    arq.jobs.deserialize_result: "r deserializer",
}  # fmt: skip
OPTIONS = {
    "functions", "queue_name", "cron_jobs", "redis_pool", "burst", "handle_signals", "poll_delay",
    "health_check_interval", "health_check_key", "job_serializer", "job_deserializer", "log_results",
}  # fmt: skip


@pytest.mark.parametrize("act", SIGNATURES, ids=lambda act: act.__qualname__)
def test_a_signature_is_what_it_was(act):
    assert " ".join(inspect.signature(act).parameters) == SIGNATURES[act]


def test_the_options_we_pass_exist():
    assert set(inspect.signature(Worker.__init__).parameters) >= OPTIONS
    assert {"name", "second"} <= set(inspect.signature(cron).parameters)
    assert "name" in inspect.signature(func).parameters
    assert isinstance(inspect.getattr_static(Worker, "pool"), property)


def test_every_override_overrides_something():
    """A method of arq's that we replace must still be there, and take the same."""
    ours = {name: value for name, value in vars(Process).items() if inspect.isfunction(value) and name != "__init__"}
    shared = [name for name in ours if hasattr(Worker, name)]
    assert {"main", "close", "handle_sig"} <= set(shared)
    for name in shared:
        assert (
            inspect.signature(ours[name]).parameters.keys()
            == inspect.signature(getattr(Worker, name)).parameters.keys()
        )


def test_an_envelope_is_arqs_own():
    job = Job(1, "c", LANE, "chat", b"{}")
    theirs = arq.jobs.serialize_job(FUNCTION, (job,), {}, None, 5, serializer=msgspec.msgpack.encode)
    assert set(DECODE(theirs)) == {"t", "f", "a", "k", "et"}


async def test_arqs_job_tells_where_our_job_is(redis):
    batch = Batch(redis, "b1")
    await batch.ledger.create()
    await batch.open()
    await batch.submit([Job(1, "now", LANE, "chat", b"{}")])
    later_ms = int(time.time() * 1000) + 60_000
    await batch.submit([Job(1, "later", LANE, "chat", b"{}")], not_before_ms=later_ms)
    flow = batch.keys.flow(0, "b1", LANE)

    def stock(custom_id):
        return arq.jobs.Job(batch.job_id(custom_id), redis, _queue_name=flow, _deserializer=DECODE)

    assert await stock("now").status() == JobStatus.queued
    assert await stock("later").status() == JobStatus.deferred
    assert await stock("never").status() == JobStatus.not_found
    info = await stock("later").info()
    assert (info.function, info.score, info.job_try, info.args[0][1]) == (FUNCTION, later_ms, None, "later")

    [claimed] = (await claim(batch.tongue, [Ask(LANE, 5)], lease_ms=30_000)).jobs
    assert await stock("now").status() == JobStatus.in_progress
    await admit(batch.tongue, [Fare(claimed, 5, ("global",))])
    assert await stock("now").status() == JobStatus.in_progress
    assert (await stock("now").info()).function == FUNCTION

    retry = Settlement(claimed.job_id, flow, claimed.token, "retry", "release", due="60000", attempts=1)
    await settle(batch.tongue, [retry], results_ttl_ms=60_000)
    assert await stock("now").status() == JobStatus.deferred
    await redis.zadd(flow, {claimed.job_id: 10**12}, xx=True)
    await redis.zadd(f"farebox:wait:{LANE}", {flow: 1})
    [again] = (await claim(batch.tongue, [Ask(LANE, 5)], lease_ms=30_000)).jobs
    assert (again.job_id, again.attempts) == (claimed.job_id, 1)

    result = arq.jobs.serialize_result(
        FUNCTION, (), {}, 2, 5, success=True, result={"x": 1}, start_ms=6, finished_ms=7, ref="r", queue_name=flow,
        job_id=again.job_id, serializer=msgspec.msgpack.encode,
    )  # fmt: skip
    done = Settlement(again.job_id, flow, again.token, "finish", "release", outcome="succeeded answered", result=result)
    await settle(batch.tongue, [done], results_ttl_ms=60_000)
    assert await stock("now").status() == JobStatus.complete
    info = await stock("now").info()
    assert (info.success, info.result, info.job_try, info.score) == (True, {"x": 1}, 2, None)
    assert await stock("now").result(timeout=1) == {"x": 1}


async def test_arqs_job_reads_the_result_a_worker_writes(server):
    stage = Stage(server)
    await stage.begin(1)
    async with stage.process():
        await stage.finished(1)
    redis = stage.batch.redis
    job_id = stage.batch.job_id("c0")
    stock = arq.jobs.Job(job_id, redis, _queue_name=stage.batch.keys.flow(0, "b1", LANE), _deserializer=DECODE)
    info = await stock.info()
    assert (await stock.status(), info.success, info.job_try, info.function) == (JobStatus.complete, True, 1, FUNCTION)
    assert (await stock.result(timeout=1))[1:4] == ["c0", LANE, "succeeded"]
    await redis.aclose(close_connection_pool=True)
