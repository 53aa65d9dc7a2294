"""A run lays its lines beside what earlier runs left: what changed is asked as it is now, or refused by its number."""

import asyncio

import msgspec
import pytest
from tests.bus_support import LEASE, TTL, enter, finished, jobs, take

from farebox.errors import InputError
from farebox_worker.bus.lapse import lapse
from farebox_worker.bus.settle import settle
from farebox_worker.bus.withdraw import withdraw
from farebox_worker.files.lines import Line
from farebox_worker.files.output import OutputFile
from farebox_worker.run.follow import Follow
from farebox_worker.run.place import reconcile
from farebox_worker.run.screen import Screen


@pytest.fixture
def out(tmp_path):
    with OutputFile.open(tmp_path / "out.jsonl") as out:
        yield out


def changed(job):
    return msgspec.structs.replace(job, body=b'{"messages":[1]}')


def lines(asked):
    return [Line(number, job.custom_id, job) for number, job in enumerate(asked, 1)]


async def lay(batch, out, asked, *, is_redo=False):
    await reconcile(batch, out, lines(asked), Screen(is_quiet=True), is_redo=is_redo)


async def answer(batch):
    claimed = await take(batch)
    await enter(batch, claimed, 100)
    await settle(batch.tongue, [finished(one, amount=40) for one in claimed], results_ttl_ms=TTL)


async def test_a_line_that_changed_while_it_waited_is_asked_as_it_is_now(batch, out):
    first, second = jobs(2)
    await batch.submit([first, second])
    await lay(batch, out, [first, changed(second)])
    assert (await batch.submit([first, changed(second)])).created == 1
    assert len(await take(batch)) == 2


async def test_a_line_that_changed_while_its_call_runs_keeps_its_id(batch, out):
    [job] = jobs(1)
    await batch.submit([job])
    await take(batch, lease_ms=LEASE)
    await lay(batch, out, [changed(job)])
    assert await batch.differing([changed(job)]) == [True]


async def test_an_id_whose_call_may_still_be_answered_is_not_given_to_another_body(batch, out):
    [job] = jobs(1)
    await batch.submit([job])
    [stalled] = await take(batch, lease_ms=1)
    await enter(batch, [stalled], 100)
    await asyncio.sleep(0.01)
    await lapse(batch.tongue)
    await lay(batch, out, [changed(job)])
    assert await batch.differing([changed(job)]) == [True], "a late answer to the old body would finish the new one"
    await settle(batch.tongue, [finished(stalled, amount=40)], results_ttl_ms=TTL)
    assert (await batch.progress()).succeeded == 1


async def test_a_line_that_was_taken_out_is_withdrawn_though_a_call_of_it_may_still_be_answered(batch):
    await batch.submit(jobs(1))
    [stalled] = await take(batch, lease_ms=1)
    await enter(batch, [stalled], 100)
    await asyncio.sleep(0.01)
    await lapse(batch.tongue)
    assert await withdraw(batch.tongue, stalled.flow, [stalled.job_id], is_asked_anew=True) == 0
    assert await withdraw(batch.tongue, stalled.flow, [stalled.job_id]) == 1


async def test_an_answer_that_was_never_collected_counts_as_answered(batch, out):
    first, second = jobs(2)
    await batch.submit([first, second])
    await answer(batch)
    with pytest.raises(InputError, match="line 2 changed since it was answered: --redo"):
        await lay(batch, out, [first, changed(second)])
    assert out.lines == 2
    await lay(batch, out, [first, changed(second)], is_redo=True)
    assert (await batch.submit([changed(second)])).created == 1
    assert out.lines == 1


@pytest.mark.parametrize("count", [1, 2])
async def test_a_redo_that_was_killed_before_the_bus_forgot_goes_on(batch, out, count):
    asked = jobs(count)
    await batch.submit(asked)
    await answer(batch)
    await Follow(batch, out).catch_up()
    out.rewrite_without([batch.job_id(asked[0].custom_id)])  # and here it was killed
    await lay(batch, out, [changed(asked[0]), *asked[1:]], is_redo=True)
    assert (await batch.submit([changed(asked[0])])).created == 1
