"""What tests of the verbs share: a batch on an empty server, jobs for it, and the steps of a job's life."""

import pytest

from farebox.batch import Batch
from farebox.records import Job, Result, ResultEnvelope, encode_result
from farebox_worker.bus.admit import Fare, admit
from farebox_worker.bus.claim import Ask, claim
from farebox_worker.bus.settle import Settlement

LANE = "echo:echo"
LEASE = 30_000
TTL = 60_000
FIRST_TARGET = 64  # calls in flight before anything was learned, as in pace.lua


def jobs(count, start=0, lane=LANE):
    return [Job(1, f"c{n}", lane, "chat", b'{"messages":[]}') for n in range(start, start + count)]


def scopes(batch):
    return ("global", f"batch:{batch.batch_id}", "provider:echo", "model:echo:echo")


def finished(claimed, *, amount=0, outcome="succeeded answered", money="actual", result=True):
    envelope = ResultEnvelope(
        t=1,
        f="complete",
        a=(),
        k={},
        et=1,
        s=True,
        r=Result(1, claimed.job_id, LANE, "succeeded"),
        st=1,
        ft=2,
        q=claimed.flow,
        id=claimed.job_id,
    )
    return Settlement(
        claimed.job_id,
        claimed.flow,
        claimed.token,
        "finish",
        money,
        amount,
        3,
        4,
        outcome=outcome,
        result=encode_result(envelope) if result else b"",
    )


@pytest.fixture
async def batch(redis):
    batch = Batch(redis, "b1")
    await batch.ledger.create()
    await batch.open("test")
    return batch


async def take(batch, slots=10, **options):
    return (await claim(batch.tongue, [Ask(LANE, slots)], lease_ms=options.pop("lease_ms", LEASE), **options)).jobs


async def enter(batch, claimed, hold):
    return await admit(batch.tongue, [Fare(job, hold, scopes(batch)) for job in claimed])
