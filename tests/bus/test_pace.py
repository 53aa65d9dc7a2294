"""The pace of a lane: buckets that never give more than is allowed, calls in flight that adapt, probes, headers."""

import asyncio
import math

import fakeredis
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.bus_support import FIRST_TARGET, LEASE, TTL, finished, scopes
from tests.shifted_time import SHIFT, shifted_time

from farebox.batch import Batch
from farebox.errors import ProviderRateLimitError
from farebox.records import Job
from farebox_worker.attempts.failures import judge
from farebox_worker.bus.admit import Fare, admit
from farebox_worker.bus.claim import Ask, claim
from farebox_worker.bus.pace import PACE_FIELDS, Rates, felt, left_in, rates_in, read_pace, tune
from farebox_worker.bus.pause import Refusal, pause, read_pauses, resume
from farebox_worker.bus.settle import Settlement, settle

LANE = "p:a"
OTHER = "p:b"
PROVIDER = "p"
OPENAI = {
    "x-ratelimit-limit-requests": "600",
    "x-ratelimit-remaining-requests": "599",
    "x-ratelimit-reset-requests": "100ms",
    "x-ratelimit-limit-tokens": "200000",
    "x-ratelimit-remaining-tokens": "199000",
    "x-ratelimit-reset-tokens": "300ms",
}
ANTHROPIC = {
    "anthropic-ratelimit-requests-limit": "50",
    "anthropic-ratelimit-requests-remaining": "49",
    "anthropic-ratelimit-tokens-limit": "40000",
    "anthropic-ratelimit-tokens-remaining": "39000",
}


@pytest.fixture(autouse=True)
def _moved():
    with shifted_time():
        yield


async def fill(batch, count=500, lane=LANE):
    await batch.submit([Job(1, f"{lane}-{n}", lane, "chat", b"{}") for n in range(count)])


async def claims(batch, slots=100, lanes=(LANE,)):
    return await claim(batch.tongue, [Ask(lane, slots) for lane in lanes], lease_ms=LEASE)


async def enter(batch, claimed, tokens=0):
    fares = [Fare(job, 1, scopes(batch), tokens) for job in claimed]
    return [verdict.word for verdict in await admit(batch.tongue, fares)]


async def end(batch, claimed, **felt_words):
    """Settle attempts as answered."""
    group = [_felt(finished(job, amount=1), **felt_words) for job in claimed]
    return await settle(batch.tongue, group, results_ttl_ms=TTL)


def _felt(settlement, words=""):
    settlement.felt = words
    return settlement


def returned(job, words):
    return Settlement(job.job_id, job.flow, job.token, "return", "release", due=job.score, felt=words)


async def pass_s(redis, seconds):
    await redis.set(SHIFT, f"{float(await redis.get(SHIFT) or 0) + seconds:.3f}")
    await redis.hdel("farebox:ledger", "clock")


async def state(redis, *names, of="lane:p:a"):
    found = await redis.hmget(f"farebox:{of}", names)
    return found[0] and float(found[0]) if len(names) == 1 else found


async def test_a_claim_takes_no_more_than_a_seconds_worth_of_what_is_allowed_per_minute(batch, redis):
    await tune(batch.tongue, lanes={LANE: Rates(rpm=600)})
    await fill(batch)
    first = await claims(batch)
    assert len(first.jobs) == 9  # 98 % of ten, whole
    second = await claims(batch)
    assert len(second.jobs) <= 1
    assert second.jobs or second.due_in_s is not None
    await pass_s(redis, 1)
    assert 9 <= len((await claims(batch)).jobs) <= 10
    pace = read_pace(await redis.hmget("farebox:lane:p:a", PACE_FIELDS), 0)
    assert pace.rates == Rates(600, 0)


async def test_what_was_claimed_and_not_sent_gives_its_request_back(batch, redis):
    await tune(batch.tongue, lanes={LANE: Rates(rpm=60)}, providers={PROVIDER: Rates(rpm=60)})
    await fill(batch)
    (job,) = (await claims(batch)).jobs
    assert (await claims(batch)).jobs == []
    await settle(batch.tongue, [returned(job, "unsent")], results_ttl_ms=TTL)
    (job,) = (await claims(batch)).jobs
    await settle(batch.tongue, [returned(job, "")], results_ttl_ms=TTL)
    assert (await claims(batch)).jobs == [], "what was sent and refused was a request"


async def test_a_job_that_finds_no_money_gives_its_request_back(batch):
    await tune(batch.tongue, lanes={LANE: Rates(rpm=60)})
    await batch.ledger.set_limit("global", 0)
    await fill(batch)
    found = await claims(batch)
    assert await enter(batch, found.jobs) == ["no_room"]
    await batch.ledger.set_limit("global", 1000)
    assert len((await claims(batch)).jobs) == 1


async def test_lanes_of_one_provider_share_what_it_allows(batch):
    await tune(batch.tongue, providers={PROVIDER: Rates(rpm=1200)})
    for lane in (LANE, OTHER):
        await fill(batch, lane=lane)
    found = (await claims(batch, lanes=(LANE, OTHER))).jobs
    assert len(found) == 19
    lanes = [job.flow.rpartition("p:")[2] for job in found]
    assert abs(lanes.count("a") - lanes.count("b")) <= 1


async def test_tokens_are_reserved_and_what_was_not_used_comes_back(batch, redis):
    await tune(batch.tongue, lanes={LANE: Rates(tpm=1000)})
    await fill(batch)
    found = (await claims(batch, 10)).jobs
    assert await enter(batch, found, tokens=300) == ["ok"] * 3 + ["wait"] * 7
    assert (await claims(batch)).jobs == [], "nothing is claimed while tokens are short"
    await end(batch, found[:3], words="tokens:250")
    again = (await claims(batch, 10)).jobs
    assert await enter(batch, again, tokens=300) == ["ok"] * len(again)
    assert len(again) == 2


async def test_a_job_larger_than_the_bucket_goes_alone_when_it_is_full(batch, redis):
    await tune(batch.tongue, lanes={LANE: Rates(tpm=600)})
    await fill(batch)
    found = (await claims(batch, 2)).jobs
    assert await enter(batch, found, tokens=5000) == ["ok", "wait"]
    await pass_s(redis, 60)
    assert (await claims(batch)).jobs == [], "it is in debt"
    await pass_s(redis, 500)
    assert len((await claims(batch)).jobs) == 1


async def test_what_the_provider_says_is_left_lowers_a_level_and_never_raises_it(batch, redis):
    await tune(batch.tongue, lanes={LANE: Rates(600, 10_000)}, seen=True)
    await fill(batch)
    found = (await claims(batch, 2)).jobs
    await enter(batch, found, tokens=100)
    await end(batch, found[:1], words="left:9000,50")
    assert await state(redis, "tokens") < 60
    await end(batch, found[1:], words="left:9000,9000")
    assert await state(redis, "tokens") < 60
    assert await state(redis, "requests") <= 10


async def test_configuration_goes_before_headers_and_may_be_taken_back(batch, redis):
    await tune(batch.tongue, lanes={LANE: Rates(rpm=60)}, seen=True)
    await tune(batch.tongue, lanes={LANE: Rates(rpm=120)})
    assert read_pace(await redis.hmget("farebox:lane:p:a", PACE_FIELDS), 0).rates.rpm == 120
    await tune(batch.tongue, lanes={LANE: Rates()})
    assert read_pace(await redis.hmget("farebox:lane:p:a", PACE_FIELDS), 0).rates.rpm == 60


@settings(max_examples=40, deadline=None)
@given(
    rpm=st.sampled_from((1, 7, 60, 600, 10_000)),
    steps=st.lists(st.tuples(st.sampled_from((0, 0.05, 0.4, 1, 7, 61)), st.integers(1, 40)), min_size=1, max_size=12),
)
def test_no_sequence_of_claims_gets_more_requests_than_a_bucket_in_python_gives(rpm, steps):
    async def play():
        redis = fakeredis.FakeAsyncRedis(server=fakeredis.FakeServer())
        own = Batch(redis, "b1")
        await own.ledger.create()
        await own.open()
        await redis.hset(own.ledger.keys.lane(LANE), "target", 10_000)
        await fill(own, 500)
        await tune(own.tongue, lanes={LANE: Rates(rpm=rpm)})
        rate, size = rpm * 0.98 / 60, max(1, rpm * 0.98 / 60)
        least = most = size  # of what is in the bucket: time of its own passes too, and nobody knows how much
        clock = asyncio.get_running_loop().time
        before = clock()
        for seconds, slots in steps:
            await pass_s(redis, seconds)
            began = clock()
            got = len((await claims(own, slots)).jobs)
            least = min(size, least + rate * seconds)
            most = min(size, most + rate * (seconds + clock() - before + 0.01))
            assert got <= most + 0.01, "more than the bucket had"
            assert got >= min(slots, math.floor(least - 0.01)), "less than it had"
            least, most, before = least - got, most - got, began
        await redis.aclose()

    asyncio.run(play())


# --- calls in flight ------------------------------------------------------------------------------------------------


async def test_a_lane_starts_with_a_first_target_and_doubles_while_it_is_used(batch, redis):
    await fill(batch)
    found = (await claims(batch, 500)).jobs
    assert len(found) == FIRST_TARGET
    await enter(batch, found)
    await end(batch, found)
    assert await state(redis, "target") == 2 * FIRST_TARGET


async def test_calls_that_run_for_half_a_second_count_as_let_in(batch, redis):
    await fill(batch)
    first = await claims(batch, 500)
    assert len(first.jobs) == FIRST_TARGET
    await claims(batch, 500)
    await pass_s(redis, 0.6)
    assert len((await claims(batch, 500)).jobs) == FIRST_TARGET


async def test_refusals_cut_the_target_once_per_window(batch, redis):
    await fill(batch)
    found = (await claims(batch, 500)).jobs
    await enter(batch, found)
    refused = [returned(job, "cut:5000") for job in found[:20]]
    await settle(batch.tongue, refused[:10], results_ttl_ms=TTL)
    assert await state(redis, "target") == FIRST_TARGET // 2
    await settle(batch.tongue, refused[10:], results_ttl_ms=TTL)
    assert await state(redis, "target") == FIRST_TARGET // 2, "they were sent before the cut"
    await pass_s(redis, 1)
    await settle(batch.tongue, [returned(found[20], "cut:50")], results_ttl_ms=TTL)
    assert await state(redis, "target") == int((FIRST_TARGET // 2 - 1) * 0.85), "most of what was let in"
    assert await state(redis, "ceiling") == FIRST_TARGET // 2 - 1


async def used_fully(batch, redis, rounds):
    """Let so many rounds of calls be answered, each as many as the target lets in; what the target is after each."""
    targets = []
    for _ in range(rounds):
        found = (await claims(batch)).jobs
        await enter(batch, found)
        await end(batch, found)
        targets.append(await state(redis, "target"))
    return targets


async def cut_lately(redis, **fields):
    now_s, _ = await redis.time()
    await redis.hset("farebox:lane:p:a", mapping={"cut": now_s * 1000, **fields})


async def test_after_a_cut_a_target_grows_fast_until_its_ceiling_and_slowly_there(batch, redis):
    await fill(batch)
    await cut_lately(redis, target=10, ceiling=100)
    assert await used_fully(batch, redis, 1) == [12], "four answers for each more, far below the ceiling"
    await cut_lately(redis, target=10, ceiling=10)
    assert await used_fully(batch, redis, 20) == [10] * 20


async def test_a_ceiling_is_forgotten_in_time(batch, redis):
    await fill(batch)
    await cut_lately(redis, target=10, ceiling=10)
    await pass_s(redis, 31)
    assert await used_fully(batch, redis, 2) == [11, 12]


async def test_a_lane_of_few_calls_believes_no_ceiling(batch, redis):
    await fill(batch)
    await cut_lately(redis, target=1, ceiling=1)
    assert await used_fully(batch, redis, 4) == [2, 3, 4, 5], "refusals by chance do not leave one call at a time"


async def test_a_refusal_while_the_lane_fills_halves_the_target_at_most(batch, redis):
    await fill(batch)
    await redis.hset("farebox:lane:p:a", mapping={"target": 40, "cut": 1})
    found = (await claims(batch, 3)).jobs
    await enter(batch, found)
    await settle(batch.tongue, [returned(found[0], "cut:50")], results_ttl_ms=TTL)
    assert await state(redis, "target") == 20


async def test_a_lane_that_is_not_used_does_not_grow(batch, redis):
    await fill(batch)
    found = (await claims(batch, 10)).jobs
    await enter(batch, found)
    await end(batch, found)
    assert await state(redis, "target") is None


# --- pauses ---------------------------------------------------------------------------------------------------------


async def test_a_daily_quota_does_not_spin(batch, redis):
    lengths = []
    for _ in range(16):
        before = await redis.time()
        found = await pause(batch.tongue, LANE, seconds=1, why="rate_limit", refusal=Refusal(0.01, 0.5))
        shift_ms = 1000 * float(await redis.get(SHIFT) or 0)
        lengths.append((found.until_ms - shift_ms - before[0] * 1000 - before[1] / 1000) / 1000)
        await pass_s(redis, lengths[-1] + 1)
    assert [round(one) for one in lengths[:5]] == [1, 1, 2, 4, 8]
    assert round(lengths[-1]) == 3600
    await fill(batch)
    found = (await claims(batch, 1)).jobs
    await enter(batch, found)
    await end(batch, found)
    assert await state(redis, "refusals") is None, "an answer ends the row"


async def test_refusals_of_calls_sent_together_lengthen_a_pause_once(batch, redis):
    for _ in range(5):
        await pause(batch.tongue, LANE, seconds=1, why="rate_limit", refusal=Refusal(10, 0.5))
    assert await state(redis, "refusals") == 1


async def test_a_paused_provider_covers_lanes_that_come_later(batch, redis):
    await pause(batch.tongue, provider=PROVIDER, seconds=None, why="new key", by="operator")
    await fill(batch, lane=OTHER)
    assert (await claims(batch, lanes=(OTHER,))).jobs == []
    assert (await read_pauses(redis, batch.ledger.keys, [OTHER]))[OTHER].why == "new key"
    await resume(batch.tongue, provider=PROVIDER)
    assert (await claims(batch, lanes=(OTHER,))).jobs


async def test_after_an_accounts_pause_one_job_goes_first_and_its_answer_lets_the_others_go(batch, redis):
    await fill(batch)
    await fill(batch, lane=OTHER)
    (early,) = (await claims(batch, 1)).jobs
    await enter(batch, [early])
    await pause(batch.tongue, provider=PROVIDER, seconds=300, why="account")
    assert (await claims(batch)).jobs == []
    await pass_s(redis, 301)
    (probe,) = (await claims(batch, lanes=(LANE, OTHER))).jobs
    assert (await claims(batch, lanes=(LANE, OTHER))).jobs == [], "the probe still runs"
    await enter(batch, [probe])
    await end(batch, [early])
    assert (await claims(batch, lanes=(LANE, OTHER))).jobs == [], "an answer of before the pause proves nothing"
    await settle(batch.tongue, [returned(probe, "")], results_ttl_ms=TTL)
    (probe,) = (await claims(batch, lanes=(LANE, OTHER))).jobs
    await enter(batch, [probe])
    await end(batch, [probe])
    assert len((await claims(batch, lanes=(LANE, OTHER))).jobs) > 50


# --- headers --------------------------------------------------------------------------------------------------------


def test_the_headers_of_both_vendors_are_read():
    assert rates_in(OPENAI) == Rates(600, 200_000)
    assert left_in(OPENAI) == "599,199000"
    assert rates_in(ANTHROPIC) == Rates(50, 40_000)
    assert left_in(ANTHROPIC) == "49,39000"
    assert rates_in({}) == Rates()
    assert left_in({"x-ratelimit-remaining-requests": "-1"}) == ""


def test_a_quota_per_day_is_not_taken_for_one_per_minute():
    daily = OPENAI | {"x-ratelimit-limit-requests": "200", "x-ratelimit-remaining-requests": "199"}
    daily["x-ratelimit-reset-requests"] = "7m12s"
    assert rates_in(daily) == Rates(0, 200_000)


def test_limits_so_high_that_none_is_meant_are_none():
    endless = {"x-ratelimit-limit-requests": "30000", "x-ratelimit-limit-tokens": "150000000000"}
    assert rates_in(endless) == Rates(30_000, 0)
    assert rates_in({"x-ratelimit-limit-requests": "0", "x-ratelimit-limit-tokens": "-5"}) == Rates()
    assert str(read_pace([None, None, b"600", b"150000000000", None, None], 0)) == "0/600 rpm"


def test_what_a_call_felt_is_said_in_few_words():
    assert felt(is_sent=True, sent_s_ago=1, headers={}) == ""
    assert felt(is_sent=False, sent_s_ago=1, headers={}) == "unsent"
    words = felt(is_sent=True, sent_s_ago=0.25, is_cut=True, unused_tokens=7, headers=OPENAI)
    assert words == "cut:250 tokens:7 left:599,199000"


def test_a_429_that_no_waiting_can_help_fails_the_job():
    said = "openai answered 429: Request too large for gpt-4o on tokens per min (TPM): Limit 10000, Requested 12000."
    error = ProviderRateLimitError("openai", said, status_code=429, own_body=True)
    verdict = judge(error, attempts=1, doubts=0, max_attempts=5)
    assert (verdict.action, verdict.failure_class, verdict.money) == ("fail", "too_large", "release")
