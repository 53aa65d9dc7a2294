"""Limits per UTC day and month, beside those for good: what counts, what midnight changes, what it does not."""

import asyncio
from datetime import UTC, date, datetime, timedelta

import pytest
from tests.shifted_time import SHIFT, shifted_time

from farebox.batch import Batch
from farebox.ledger import Limit
from farebox.records import Job
from farebox.scripts import SHARED
from farebox_worker.bus.admit import Fare, admit
from farebox_worker.bus.claim import Ask, claim
from farebox_worker.bus.lapse import lapse
from farebox_worker.bus.pause import pause
from farebox_worker.bus.settle import Settlement, settle

LANE = "echo:echo"
LONG = 10**12
TTL = 60_000
DAY_S = 86_400
BEGINS = datetime(2028, 2, 28, 12, tzinfo=UTC)


@pytest.fixture
async def batch(redis):
    """A batch of 20 jobs, at noon of the day before a leap day."""
    with shifted_time():
        seconds, _ = await redis.time()
        await redis.set(SHIFT, int(BEGINS.timestamp()) - seconds)
        batch = Batch(redis, "b1")
        await batch.ledger.create()
        await batch.open()
        await batch.submit([Job(1, f"c{n}", LANE, "chat", b"{}") for n in range(20)])
        yield batch


async def pass_days(batch, days=1):
    await batch.redis.incrby(SHIFT, days * DAY_S)
    await batch.redis.hincrby("farebox:ledger", "clock", days * DAY_S * 1000)  # nothing was away
    await batch.redis.hdel("farebox:ledger", "lapsed")


async def take(batch, count=1, lease_ms=LONG):
    return (await claim(batch.tongue, [Ask(LANE, count)], lease_ms=lease_ms)).jobs


async def enter(batch, claimed, hold, scopes=("global", "tag:t")):
    return await admit(batch.tongue, [Fare(job, hold, scopes) for job in claimed])


async def spend(batch, amount, hold=None):
    [job] = await take(batch)
    assert [verdict.word for verdict in await enter(batch, [job], hold or amount)] == ["ok"]
    await end(batch, job, amount)


async def refused(batch, hold):
    """Ask for every job that is to be had; none has room. Returns: the limits that leave none."""
    found = set()
    while jobs := await take(batch, 64):
        verdicts = await enter(batch, jobs, hold)
        assert {verdict.word for verdict in verdicts} == {"no_room"}
        found |= {verdict.scope for verdict in verdicts}
    return found


async def end(batch, job, amount, money="actual"):
    ending = Settlement(
        job.job_id, job.flow, job.token, "finish", money, amount, outcome="succeeded answered", result=b"r"
    )
    return await settle(batch.tongue, [ending], results_ttl_ms=TTL)


async def doubted(batch, hold):
    """An attempt whose worker died."""
    [job] = await take(batch, lease_ms=1)
    await enter(batch, [job], hold)
    await asyncio.sleep(0.01)
    await batch.redis.hdel("farebox:ledger", "lapsed")
    assert [one.hold_nusd for one in await lapse(batch.tongue)] == [hold]
    return job


async def window(batch, per, day, scope="global"):
    counts = await batch.redis.hmget(
        batch.keys.window(per, day), [f"{counter} {scope}" for counter in ("spent", "unconfirmed")]
    )
    return tuple(int(count or 0) for count in counts)


async def test_the_servers_dates_are_the_calendars_from_1970_to_2100(redis):
    shared = [(SHARED / f"{name}.lua").read_text() for name in ("prelude", "tally")]
    act = "local days = {} for day = ARGV[4], ARGV[5] do days[#days + 1] = date_of(day) end return days"
    count = (date(2100, 12, 31) - date(1970, 1, 1)).days
    found = await redis.eval("\n".join([*shared, act]), 1, "farebox:ledger", "farebox:", "!", 0, 0, count)
    assert [day.decode() for day in found] == [
        (date(1970, 1, 1) + timedelta(days=n)).isoformat() for n in range(count + 1)
    ]


async def test_today_is_the_servers_utc_day(batch):
    await spend(batch, 5)
    assert await window(batch, "day", "2028-02-28") == (5, 0)
    assert await window(batch, "month", "2028-02-28") == (5, 0)
    await pass_days(batch)
    await spend(batch, 7)
    await pass_days(batch)
    await spend(batch, 9)
    days = [await window(batch, "day", day) for day in ("2028-02-28", "2028-02-29", "2028-03-01")]
    assert days == [(5, 0), (7, 0), (9, 0)]
    assert await window(batch, "month", "2028-02-01") == (12, 0)
    assert await window(batch, "month", "2028-03-01") == (9, 0)


@pytest.mark.parametrize(("per", "days"), [("day", 40), ("month", 400)])
async def test_windows_are_forgotten_long_after_they_are_over(batch, per, days):
    await spend(batch, 5)
    left_s = await batch.redis.ttl(batch.keys.window(per, "2028-02-28"))
    assert (days - 1) * DAY_S < left_s <= days * DAY_S


async def test_a_limit_set_at_noon_knows_the_morning(batch):
    await spend(batch, 60)
    await batch.ledger.set_limit("global", 100, "day")
    assert [v.word for v in await enter(batch, await take(batch), 41)] == ["no_room"]
    await batch.ledger.set_limit("global", 101, "day")
    assert [v.word for v in await enter(batch, await take(batch), 41)] == ["ok"]


@pytest.mark.parametrize("name", ["global", "day:global", "month:global", "tag:t", "day:tag:t", "month:tag:t"])
async def test_an_attempt_is_admitted_by_all_its_limits_or_not_at_all(batch, name):
    for scope in ("global", "tag:t"):
        for per in (None, "day", "month"):
            await batch.ledger.set_limit(scope, 100, per)
    await batch.redis.set(batch.keys.limit(name), 99)
    [verdict] = await enter(batch, await take(batch), 100)
    assert (verdict.word, verdict.scope, verdict.need_nusd) == ("no_room", name, 100)
    assert [limit.held_nusd for limit in await batch.ledger.limits()] == [0] * 6
    assert [(parked, need) for _, parked, need in await batch.parked()] == [(name, 100)]
    await batch.redis.set(batch.keys.limit(name), 100)
    await batch.redis.hdel("farebox:ledger", "lapsed")
    await lapse(batch.tongue)
    assert [v.word for v in await enter(batch, await take(batch), 100)] == ["ok"]
    assert [limit.headroom_nusd for limit in await batch.ledger.limits()] == [0] * 6


@pytest.mark.parametrize("per", ["day", "month"])
async def test_a_hundred_admits_at_once_pass_exactly_five(batch, per):
    await batch.ledger.set_limit("tag:t", 59, per)
    claimed = await take(batch, 20)
    verdicts = await asyncio.gather(*(enter(batch, [job], 10) for job in claimed for _ in range(5)))
    assert len({job.job_id for job in claimed}) == 20
    assert (await batch.ledger.scope("tag:t")).held_nusd == 50
    assert {verdict.word for [verdict] in verdicts} == {"ok", "no_room", "lost"}


async def test_midnight_wakes_what_waits_for_the_day_and_not_what_waits_for_the_month(batch):
    await batch.ledger.set_limit("global", 100, "day")
    await batch.ledger.set_limit("global", 150, "month")
    await spend(batch, 100)
    assert await refused(batch, 50) == {"day:global"}
    await lapse(batch.tongue)
    assert await take(batch) == []
    await pass_days(batch)
    await lapse(batch.tongue)
    await spend(batch, 50)
    assert await refused(batch, 50) == {"month:global"}
    await pass_days(batch)  # the first of March
    await lapse(batch.tongue)
    await spend(batch, 50)


async def test_what_is_held_at_midnight_counts_in_the_new_day_and_is_booked_there(batch):
    await batch.ledger.set_limit("global", 100, "day")
    [job] = await take(batch)
    await enter(batch, [job], 70)
    await pass_days(batch)
    [limit] = await batch.ledger.limits()
    assert [v.word for v in await enter(batch, await take(batch), 31)] == ["no_room"]
    await end(batch, job, 20)
    assert (limit.held_nusd, await window(batch, "day", "2028-02-28"), await window(batch, "day", "2028-02-29")) == (
        70,
        (0, 0),
        (20, 0),
    )
    await spend(batch, 80)


@pytest.mark.parametrize(("act", "yesterday"), [("late", (30, 0)), ("release", (0, 0)), ("charge", (70, 0))])
async def test_unconfirmed_money_stays_in_its_own_day_whatever_becomes_of_it(batch, act, yesterday):
    job = await doubted(batch, 70)
    await pass_days(batch)
    await spend(batch, 4)
    assert await window(batch, "day", "2028-02-28") == (0, 70)
    if act == "late":
        await end(batch, job, 30)
    else:
        assert await batch.ledger.confirm([job.token], is_charge=act == "charge") == (1, 70)
    assert await window(batch, "day", "2028-02-28") == yesterday
    assert await window(batch, "day", "2028-02-29") == (4, 0)
    assert await window(batch, "month", "2028-02-01") == (yesterday[0] + 4, 0)
    assert (await batch.ledger.scope()).unconfirmed_nusd == 0


async def test_a_worker_that_dies_after_midnight_owes_in_the_new_day(batch):
    [job] = await take(batch)
    await enter(batch, [job], 70)
    await pass_days(batch)
    await lapse(batch.tongue, dead=True)
    assert await window(batch, "day", "2028-02-28") == (0, 0)
    assert await window(batch, "day", "2028-02-29") == (0, 70)


async def test_money_freed_today_wakes_the_day_though_in_all_none_is_free(batch):
    """Yesterday's late bill, above its bound, takes more in all than today's settle frees."""
    job = await doubted(batch, 10)
    await pass_days(batch)
    await batch.ledger.set_limit("global", 100, "day")
    running, waiting = await take(batch, 2)
    await enter(batch, [running], 90)
    assert [v.scope for v in await enter(batch, [waiting], 50)] == ["day:global"]
    late, done = (
        Settlement(j.job_id, j.flow, j.token, "finish", "actual", n, outcome="succeeded answered", result=b"r")
        for j, n in ((job, 500), (running, 40))
    )
    await settle(batch.tongue, [late, done], results_ttl_ms=TTL)
    assert await batch.parked() == []


async def test_a_limit_below_what_is_used_stops_admission_and_a_higher_one_wakes_at_once(batch):
    await batch.redis.set(SHIFT, 0)  # `limits` reads the server's own clock
    await spend(batch, 60)
    listener = batch.redis.pubsub()
    await listener.subscribe("farebox:control")
    await batch.ledger.set_limit("global", 40, "month")
    [limit] = await batch.ledger.limits()
    assert limit == Limit("global", "month", 40, 60, 0, 0)
    assert limit.headroom_nusd == -20
    assert await refused(batch, 1) == {"month:global"}
    assert await batch.ledger.set_limit("global", 70, "month") == 40
    assert [v.word for v in await enter(batch, await take(batch), 1)] == ["ok"]
    heard = [await listener.get_message(timeout=5) for _ in range(3)]
    assert [message["data"] for message in heard[1:]] == [b"limit month:global"] * 2
    await listener.aclose()


async def test_a_removed_window_limit_lets_everything_go_on(batch):
    await batch.ledger.set_limit("tag:t", 0, "day")
    assert [v.scope for v in await enter(batch, await take(batch), 5)] == ["day:tag:t"]
    assert await batch.ledger.set_limit("tag:t", None, "day") == 0
    await spend(batch, 5)
    assert await batch.ledger.limits() == []


async def test_a_reset_forgets_what_was_spent_in_all_and_not_what_the_day_has_cost(batch):
    await batch.ledger.set_limit("global", 100, "day")
    await spend(batch, 60)
    assert await batch.ledger.reset() == 60
    assert (await batch.ledger.scope()).spent_nusd == 0
    assert [v.word for v in await enter(batch, await take(batch), 41)] == ["no_room"]


async def test_what_is_spent_elsewhere_counts_in_the_windows_too(batch):
    await batch.ledger.book(provider_id="echo", model_ref=LANE, cost_nusd=60, input_tokens=1, output_tokens=1)
    await batch.ledger.set_limit("global", 100, "day")
    assert [v.word for v in await enter(batch, await take(batch), 41)] == ["no_room"]


async def test_a_big_job_that_waits_for_the_day_stops_smaller_ones(batch):
    await batch.ledger.set_limit("global", 100, "day")
    [running] = await take(batch)
    await enter(batch, [running], 60)
    big = await take(batch)
    assert [v.word for v in await enter(batch, big, 90)] == ["no_room"]
    await batch.redis.hset("farebox:parking", big[0].flow, "day:global\t90\t1")
    await batch.redis.hdel("farebox:ledger", "lapsed")
    await lapse(batch.tongue)
    await batch.submit([Job(1, "small", LANE, "chat", b"{}")], priority=9)
    [small] = await take(batch)
    assert [(v.word, v.scope) for v in await enter(batch, [small], 1)] == [("no_room", "day:global")]
    await end(batch, running, 5)
    assert [v.word for v in await enter(batch, await take(batch), 90)] == ["ok"]


async def test_limits_are_listed_with_what_counts_against_them(redis):
    batch = Batch(redis, "b1")
    await batch.ledger.create()
    assert await batch.ledger.limits() == []
    await batch.ledger.book(provider_id="echo", model_ref=LANE, cost_nusd=60, input_tokens=1, output_tokens=1)
    await batch.ledger.set_limit("provider:echo", 100, "day")
    await batch.ledger.set_limit("provider:echo", 200)
    await batch.ledger.set_limit("global", 300, "month")
    assert [(limit.name, limit.limit_nusd, limit.spent_nusd) for limit in await batch.ledger.limits()] == [
        ("month:global", 300, 60),
        ("provider:echo", 200, 60),
        ("day:provider:echo", 100, 60),
    ]


async def test_what_waits_in_a_paused_lane_keeps_nobody_from_the_money(batch):
    await batch.ledger.set_limit("global", 100)
    [running] = await take(batch)
    await enter(batch, [running], 60)
    big = await take(batch)
    assert [v.word for v in await enter(batch, big, 90)] == ["no_room"]
    await batch.redis.hset("farebox:parking", big[0].flow, "global\t90\t1")
    await pause(batch.tongue, LANE, seconds=600, why="look")
    await batch.redis.hdel("farebox:ledger", "lapsed")
    await lapse(batch.tongue)
    await batch.submit([Job(1, "small", "echo:other", "chat", b"{}")])
    small = (await claim(batch.tongue, [Ask("echo:other", 1)], lease_ms=LONG)).jobs
    assert [v.word for v in await enter(batch, small, 1)] == ["ok"]
