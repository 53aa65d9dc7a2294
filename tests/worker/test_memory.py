"""What a call in flight keeps: its job as it came, the request made of it, and little more."""

import gc
import math
import tracemalloc

from tests.polling import until
from tests.process_support import COST, LANE, Shelf

from farebox.records import VERSION, Job, encode_job
from farebox_worker.attempts.sending import prepare
from farebox_worker.bus.claim import Claimed
from farebox_worker.dispatch import settler as settler_module
from farebox_worker.providers import body as bodies
from farebox_worker.providers.echo import EchoProvider
from farebox_worker.routes import Route

BODY = b'{"messages":[{"role":"user","content":"' + b"x" * 60_000 + b'"}],"max_tokens":100}'
MANY = 50


def bytes_of_each(make):
    """How many bytes each of many things takes, what is made once for all not among them."""
    make(MANY)
    gc.collect()
    tracemalloc.start()
    try:
        made = [make(number) for number in range(MANY)]
        return tracemalloc.get_traced_memory()[0] / len(made)
    finally:
        tracemalloc.stop()


def attempt(number):
    payload = encode_job(Job(VERSION, f"c{number}", LANE, "chat", BODY), 1)
    route = Route(LANE, Shelf().resolve(LANE, tier="standard"), EchoProvider("sim"))
    claimed = Claimed(f"ns:{number}", f"ns:flow:0:b:{LANE}", f"{number:016}", "1", 0, 0, 0, bytes(memoryview(payload)))
    return prepare(claimed, "b", route, deadline=math.inf)


def test_a_call_in_flight_holds_its_body_twice_as_it_came_and_as_it_is_sent():
    assert 2 * len(BODY) < bytes_of_each(attempt) < 2.1 * len(BODY)


def test_a_body_takes_no_more_memory_than_its_bytes():
    fields = bodies.fields_of(BODY)
    assert len(BODY) <= bytes_of_each(lambda _: bodies.written(fields)) < 1.05 * len(BODY)


async def test_a_call_that_ended_keeps_nothing_of_what_it_asked_while_its_settlement_waits(stage, monkeypatch):
    await stage.begin(1)
    kept, settle = [], settler_module.settle

    async with stage.process() as process:

        async def look_first(*args, **options):
            await until(lambda: not process.dispatch.sending)
            kept.extend((one.claimed.payload, one.prepared.body) for one in process.dispatch.running.values())
            return await settle(*args, **options)

        monkeypatch.setattr(settler_module, "settle", look_first)
        await stage.finished(1)
    assert kept == [(b"", b"")]
    assert await stage.money() == (COST, 0, 0)
