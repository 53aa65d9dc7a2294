"""The journal of bookings: what is written, what is folded, and what the audit makes of it."""

import asyncio
from datetime import UTC, date, datetime, timedelta

import pytest
from msgspec import structs
from redis.exceptions import ResponseError
from tests.shifted_time import SHIFT, shifted_time

from farebox.batch import Batch
from farebox.errors import InputError
from farebox.journal import Spend, rows, spend_by, sums
from farebox.ledger import Ledger
from farebox.records import Job
from farebox_worker import audit as auditing
from farebox_worker.audit import Difference, audit
from farebox_worker.bus.admit import Fare, admit
from farebox_worker.bus.claim import Ask, claim
from farebox_worker.bus.fold import fold
from farebox_worker.bus.lapse import lapse
from farebox_worker.bus.settle import NOTE_LETTERS, Settlement, booking_note, settle

MOST_TARGET = 10_000  # as in pace.lua: nothing bounds the calls in flight
LANE = "echo:echo"
TTL = 60_000
NOTE = booking_note("0.0.65 2026-11-22", "req_1", 7, 0, "flex")


@pytest.fixture
async def batch(redis):
    batch = Batch(redis, "b1")
    await batch.ledger.create()
    await batch.open()
    await batch.submit([Job(1, f"c{n}", LANE, "chat", b"{}") for n in range(30)])
    return batch


def scopes(batch_id="b1"):
    return ("global", f"batch:{batch_id}", "provider:echo", f"model:{LANE}", "tag:t")


async def take(batch, count=1, hold=100, lease_ms=30_000):
    claimed = (await claim(batch.tongue, [Ask(LANE, count)], lease_ms=lease_ms, only_batch=batch.batch_id)).jobs
    fares = [Fare(job, hold, scopes(batch.batch_id)) for job in claimed]
    assert {verdict.word for verdict in await admit(batch.tongue, fares)} == {"ok"}
    return claimed


def ending(job, amount=30, money="actual", action="finish", **more):
    return Settlement(
        job.job_id,
        job.flow,
        job.token,
        action,
        money,
        amount,
        3,
        4,
        outcome="succeeded answered",
        result=b"r",
        scopes=scopes(),
        note=more.pop("note", NOTE),
        **more,
    )


async def spend(batch, *amounts, hold=100):
    jobs = await take(batch, len(amounts), hold)
    await settle(batch.tongue, [ending(j, n) for j, n in zip(jobs, amounts, strict=True)], results_ttl_ms=TTL)
    return jobs


async def doubted(batch, hold=100):
    [job] = await take(batch, 1, hold, lease_ms=1)
    await asyncio.sleep(0.01)
    await batch.redis.hdel("farebox:ledger", "lapsed")
    assert len(await lapse(batch.tongue)) == 1
    return job


async def journal(batch):
    return [row async for row in rows(batch.redis, batch.keys)]


def short(row):
    return row.kind, row.amount_nusd, row.hold_nusd, row.calls, row.unpriced


async def everything(batch):
    """One of each booking there is."""
    await batch.ledger.set_limit("global", 10**6)
    await spend(batch, 30, 130, 0)
    first, second, third, fourth = [await doubted(batch, hold) for hold in (100, 90, 80, 70)]
    await settle(batch.tongue, [ending(first, 40)], results_ttl_ms=TTL)
    await settle(batch.tongue, [ending(second, 0, "release", "retry", due="0")], results_ttl_ms=TTL)
    await batch.ledger.confirm([third.token], is_charge=False)
    await batch.ledger.confirm([fourth.token], is_charge=True)
    await batch.ledger.book(provider_id="echo", model_ref=LANE, cost_nusd=11, input_tokens=1, output_tokens=2)
    await batch.ledger.carry_over(["global"], 12)
    await batch.ledger.set_limit("global", None, "day")
    [unpriced] = await take(batch, 1, 50)
    await settle(batch.tongue, [ending(unpriced, 0, "unpriced")], results_ttl_ms=TTL)


async def test_every_booking_has_its_row(batch):
    await everything(batch)
    told = [short(row) for row in await journal(batch)]
    assert told == [
        ("limit", 0, None, 0, 0),
        ("settle", 30, 100, 1, 0),
        ("settle", 130, 100, 1, 0),
        ("settle", 0, 100, 1, 0),
        *[("doubt", hold, None, 0, 0) for hold in (100, 90, 80, 70)],
        ("late", 40, 100, 1, 0),
        ("late", 0, 90, 0, 0),
        ("release", 80, None, 0, 0),
        ("charge", 70, None, 0, 0),
        ("book", 11, None, 1, 0),
        ("book", 12, None, 0, 0),
        ("limit", 0, None, 0, 0),
        ("settle", 0, 50, 1, 1),
    ]
    assert await batch.ledger.reset() == 30 + 130 + 40 + 70 + 11 + 12
    assert short((await journal(batch))[-1]) == ("reset", 293, None, 0, 0)
    assert [row.number for row in await journal(batch)] == list(range(1, 18))
    assert (await audit(batch.redis, batch.keys)).agrees


async def test_a_row_tells_whose_money_it_was_and_what_to_look_for_on_the_invoice(batch):
    [job] = await spend(batch, 30)
    [row] = await journal(batch)
    assert (row.token, f"farebox:{row.job}", row.scopes) == (job.token, job.job_id, scopes())
    assert (row.amount_nusd, row.hold_nusd, row.input_tokens, row.output_tokens) == (30, 100, 3, 4)
    parts = row.note_parts
    assert (parts.price_version, parts.request_id, parts.tier) == ("0.0.65 2026-11-22", "req_1", "flex")
    assert (parts.cache_read_tokens, parts.cache_write_tokens) == (7, 0)
    seconds, _ = await batch.redis.time()
    assert abs(row.at_ms / 1000 - seconds) < 3600
    assert abs(row.day - datetime.fromtimestamp(seconds, UTC).date()) <= timedelta(days=1)


async def test_a_limit_change_tells_before_and_after(batch):
    await batch.ledger.set_limit("tag:a b", 500, "day")
    await batch.ledger.set_limit("tag:a b", None, "day")
    assert [row.note.split("\t") for row in await journal(batch)] == [
        ["day:tag:a b", "", "500"],
        ["day:tag:a b", "500"],
    ]


async def test_a_doubt_tells_why(batch):
    [job] = await take(batch)
    await settle(batch.tongue, [ending(job, 0, "unconfirmed", why="timeout")], results_ttl_ms=TTL)
    assert [(row.kind, row.note) for row in await journal(batch)] == [("doubt", "timeout")]


async def test_what_moves_no_money_leaves_no_row(batch):
    one, two = await take(batch, 2)
    await settle(
        batch.tongue,
        [ending(one, 0, "release"), ending(two, 0, "release", "return", due=two.score)],
        results_ttl_ms=TTL,
    )
    assert await journal(batch) == []
    assert (await audit(batch.redis, batch.keys)).agrees


async def test_a_group_is_one_entry_and_a_settle_sent_again_is_none(batch):
    jobs = await spend(batch, 1, 2, 3)
    assert await batch.redis.xlen("farebox:journal") == 1
    await settle(batch.tongue, [ending(job, 5) for job in jobs], results_ttl_ms=TTL)
    assert [row.amount_nusd for row in await journal(batch)] == [1, 2, 3]


async def test_a_row_takes_no_more_memory_than_promised(batch, server):
    if not server:
        pytest.skip("a fake server takes none")
    jobs = await take(batch, 30)
    note = booking_note("0.0.65 2026-11-22", "chatcmpl-CmXq0ZVpQ7jLq1c3t0JkYd5bWm8Ea", 0, 0, "")
    await settle(batch.tongue, [ending(job, 523_400, note=note) for job in jobs], results_ttl_ms=TTL)
    assert await batch.redis.memory_usage("farebox:journal", samples=0) / 30 < 160


async def test_an_attempt_of_many_lapses_at_once_is_told_in_several_entries(redis):
    batch = Batch(redis, "b1")
    await batch.ledger.create()
    await batch.open()
    await batch.submit([Job(1, f"c{n}", LANE, "chat", b"{}") for n in range(1200)])
    await redis.hset(f"farebox:lane:{LANE}", "target", MOST_TARGET)
    for _ in range(12):
        await take(batch, 100)
    assert len(await lapse(batch.tongue, dead=True)) == 1200
    assert await redis.xlen("farebox:journal") == 3
    assert len({row.token for row in await journal(batch)}) == 1200
    assert (await audit(redis, batch.keys)).agrees


@pytest.mark.parametrize(
    "request_id", ["a\tb\nc\r\x00\x1b[31m", "x" * 10_000, "\ud800", "日本語", "s1", "", "a\t" * 300], ids=repr
)
async def test_a_hostile_request_id_breaks_nothing(batch, request_id):
    [job] = await take(batch)
    raw = structs.replace(ending(job), note=f"v\t{request_id}\tx")
    await settle(batch.tongue, [raw], results_ttl_ms=TTL)
    [job] = await take(batch)
    await settle(batch.tongue, [ending(job, note=booking_note("v", request_id, 5, 6, "flex"))], results_ttl_ms=TTL)
    one, two = await journal(batch)
    assert len(one.note) <= NOTE_LETTERS
    assert len(two.note) <= NOTE_LETTERS
    assert two.note_parts.price_version == "v"
    assert (two.note_parts.cache_read_tokens, two.note_parts.cache_write_tokens, two.note_parts.tier) == (5, 6, "flex")
    assert all(letter.isprintable() for letter in two.note_parts.request_id)
    assert (one.amount_nusd, two.amount_nusd) == (30, 30)
    assert (await audit(batch.redis, batch.keys)).agrees


async def test_money_is_booked_even_if_the_job_cannot_be_finished_and_the_job_is_when_it_is_sent_again(batch):
    [job] = await take(batch)
    await batch.redis.set("farebox:results:b1", "no stream")
    with pytest.raises(ResponseError):
        await settle(batch.tongue, [ending(job)], results_ttl_ms=TTL)
    scope = await batch.ledger.scope()
    assert (scope.spent_nusd, scope.held_nusd) == (30, 0)
    assert (await audit(batch.redis, batch.keys)).agrees
    await batch.redis.delete("farebox:results:b1")
    assert await settle(batch.tongue, [ending(job)], results_ttl_ms=TTL) == ["done"]
    assert await settle(batch.tongue, [ending(job)], results_ttl_ms=TTL) == ["repeat"]
    assert (await batch.ledger.scope()).spent_nusd == 30
    assert [entry for _, entry in await batch.redis.xrange("farebox:results:b1")] == [
        {job.job_id.encode(): b"succeeded"}
    ]


async def test_what_is_spent_without_a_ledger_is_in_the_books_too(redis):
    ledger = Ledger(redis)
    assert await ledger.book(provider_id="p", model_ref="p:m", cost_nusd=5, input_tokens=1, output_tokens=2) == 5
    assert await ledger.reset() == 5
    assert await ledger.book(provider_id="p", model_ref="p:m", cost_nusd=7, input_tokens=1, output_tokens=2) == 7
    report = await audit(redis, ledger.keys)
    assert (report.agrees, report.rows, report.scopes) == (True, 3, 3)


# --- fold -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("entries", [1, 3, 50])
async def test_a_fold_changes_no_sum_and_no_verdict_of_the_audit(batch, entries):
    await everything(batch)
    before = await sums(batch.redis, batch.keys)
    folded = 0
    while count := await fold(batch.tongue, keep_days=100, keep_rows=0, slice_entries=entries):
        folded += count
        assert await sums(batch.redis, batch.keys) == before
        report = await audit(batch.redis, batch.keys)
        assert report.agrees, report
    assert folded == 14
    assert await batch.redis.xlen("farebox:journal") == 0
    await spend(batch, 8)
    assert (await audit(batch.redis, batch.keys)).agrees


async def test_a_reset_is_folded_in_its_place(batch):
    await spend(batch, 10)
    await doubted(batch, 60)
    await fold(batch.tongue, keep_days=100, keep_rows=0)
    await spend(batch, 20)
    await batch.ledger.reset()
    await spend(batch, 40)
    assert await fold(batch.tongue, keep_days=100, keep_rows=0) == 3
    assert (await batch.ledger.scope()).spent_nusd == 40
    assert await batch.redis.hget("farebox:checkpoint:scope:global", "spent") == b"40"
    assert await batch.redis.hget("farebox:checkpoint:scope:global", "unconfirmed") == b"60"
    assert (await audit(batch.redis, batch.keys)).agrees


async def test_rows_are_kept_until_there_are_too_many(batch):
    for _ in range(5):
        await spend(batch, 1, 2)
    assert await fold(batch.tongue, keep_days=100, keep_rows=10) == 0
    assert await fold(batch.tongue, keep_days=100, keep_rows=7) == 1
    assert len(await journal(batch)) == 8
    assert await fold(batch.tongue, keep_days=100, keep_rows=2) == 3
    assert [row.number for row in await journal(batch)] == [9, 10]


async def test_rows_are_kept_until_they_are_old(batch):
    await spend(batch, 1)
    with shifted_time():
        assert await fold(batch.tongue, keep_days=1) == 0
        await batch.redis.set(SHIFT, 2 * 86_400)
        assert await fold(batch.tongue, keep_days=3) == 0
        assert await fold(batch.tongue, keep_days=1) == 1


async def test_a_batch_that_was_forgotten_and_comes_again_starts_anew(batch):
    await spend(batch, 10)
    await fold(batch.tongue, keep_days=100, keep_rows=0)
    await spend(batch, 20)
    await batch.redis.delete("farebox:scope:batch:b1")  # its retention is over
    report = await audit(batch.redis, batch.keys)
    assert (report.agrees, report.forgotten) == (True, 1)
    await spend(batch, 40)
    assert (await batch.ledger.scope("batch:b1")).spent_nusd == 40
    report = await audit(batch.redis, batch.keys)
    assert (report.agrees, report.forgotten) == (True, 0)
    while await fold(batch.tongue, keep_days=100, keep_rows=0, slice_entries=1):
        assert (await audit(batch.redis, batch.keys)).agrees
    await spend(batch, 80)
    assert (await audit(batch.redis, batch.keys)).agrees


async def test_late_money_of_a_forgotten_batch_does_not_bring_it_back(batch):
    job = await doubted(batch)
    await batch.redis.delete("farebox:scope:batch:b1")
    await batch.ledger.confirm([job.token], is_charge=True)
    assert not await batch.redis.exists("farebox:scope:batch:b1")
    assert (await batch.ledger.scope()).spent_nusd == 100
    report = await audit(batch.redis, batch.keys)
    assert (report.agrees, report.forgotten) == (True, 1)


async def test_a_fold_forgets_the_names_of_forgotten_batches(batch):
    await spend(batch, 10)
    await fold(batch.tongue, keep_days=100, keep_rows=0)
    await batch.ledger.set_limit("batch:b2", 5, "day")
    await batch.redis.delete("farebox:scope:batch:b1")
    await spend_elsewhere(batch)
    await fold(batch.tongue, keep_days=100, keep_rows=0)
    assert {b"batch:b1", b"batch:b2"} & await batch.redis.smembers("farebox:scopes") == {b"batch:b2"}
    assert not await batch.redis.exists("farebox:checkpoint:scope:batch:b1")


async def spend_elsewhere(batch):
    await batch.ledger.book(provider_id="echo", model_ref=LANE, cost_nusd=1, input_tokens=0, output_tokens=0)


# --- audit ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "counter", ["spent", "held", "unconfirmed", "overrun", "calls", "input_tokens", "output_tokens", "unpriced"]
)
@pytest.mark.parametrize("is_folded", [False, True])
async def test_a_wrong_counter_is_found(batch, counter, is_folded):
    await everything(batch)
    if is_folded:
        await fold(batch.tongue, keep_days=100, keep_rows=3)
    true = int(await batch.redis.hget("farebox:scope:provider:echo", counter) or 0)
    await batch.redis.hincrby("farebox:scope:provider:echo", counter, 1)
    report = await audit(batch.redis, batch.keys)
    assert not report.agrees
    found = {(one.counter.split(" ")[0], one.scope, one.counted, one.booked) for one in report.differences}
    assert found == {(counter, "provider:echo", true + 1, true)}


@pytest.mark.parametrize("per", ["day", "month"])
@pytest.mark.parametrize("counter", ["spent", "unconfirmed"])
@pytest.mark.parametrize("is_folded", [False, True])
async def test_a_wrong_window_is_found(batch, per, counter, is_folded):
    await spend(batch, 5)
    await doubted(batch)
    if is_folded:
        await fold(batch.tongue, keep_days=100, keep_rows=0)
    [key] = await batch.redis.keys(f"farebox:window:{per}:*")
    before = int(await batch.redis.hget(key, f"{counter} tag:t"))
    await batch.redis.hincrby(key, f"{counter} tag:t", 1)
    report = await audit(batch.redis, batch.keys)
    assert report.differences == (Difference(f"{counter} ({per})", "tag:t", before + 1, before),)


async def test_a_missing_entry_is_found(batch):
    await spend(batch, 5, 6)
    await batch.ledger.set_limit("global", 5)
    await spend_elsewhere(batch)
    [_, (entry_id, _), _] = await batch.redis.xrange("farebox:journal")
    await batch.redis.xdel("farebox:journal", entry_id)
    report = await audit(batch.redis, batch.keys)
    assert (report.missing_rows, report.differences, report.agrees) == (1, (), False)


@pytest.mark.parametrize(("key", "counter"), [("holds", "held"), ("unconfirmed", "unconfirmed")])
async def test_a_missing_record_is_found(batch, key, counter):
    await doubted(batch)
    await batch.ledger.confirm([], is_charge=True)
    await take(batch)
    await batch.redis.delete(f"farebox:{key}")
    report = await audit(batch.redis, batch.keys)
    assert {(one.counter, one.counted, one.booked) for one in report.differences} == {(f"{counter} (records)", 100, 0)}
    assert {one.scope for one in report.differences} == set(scopes())


async def test_an_audit_tells_which_limits_are_passed(batch):
    await spend(batch, 60)
    await batch.ledger.set_limit("tag:t", 45)
    await batch.ledger.set_limit("global", 50, "month")
    await batch.ledger.set_limit("global", 100)
    report = await audit(batch.redis, batch.keys)
    assert (report.agrees, report.limits, report.passed) == (True, 3, {"tag:t": 15, "month:global": 10})


async def test_an_audit_looks_again_when_the_journal_is_folded_under_it(batch, monkeypatch):
    for _ in range(4):
        await spend(batch, 5)
    true, folds = auditing.rows, []

    async def rows_and_a_fold(*args, **options):
        async for row in true(*args, **options):
            if len(folds) < 3:
                folds.append(await fold(batch.tongue, keep_days=100, keep_rows=0, slice_entries=1))
            yield row

    monkeypatch.setattr(auditing, "rows", rows_and_a_fold)
    report = await audit(batch.redis, batch.keys)
    assert folds == [1, 1, 1]
    assert (report.agrees, report.rows) == (True, 1)


async def test_an_audit_in_the_middle_of_the_work_agrees(batch):
    async def work():
        for n in range(10):
            await spend(batch, n, n)
            await fold(batch.tongue, keep_days=100, keep_rows=5)

    working = asyncio.create_task(work())
    reports = []
    while not working.done():
        reports.append(await audit(batch.redis, batch.keys))
        await asyncio.sleep(0)
    await working
    assert all(report.agrees for report in reports)
    assert (await audit(batch.redis, batch.keys)).agrees


# --- cost by … --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_folded", [False, True])
async def test_what_was_spent_is_told_by_model_provider_batch_tag_and_day(batch, is_folded):
    await spend(batch, 30, 40)
    await doubted(batch, 9)
    if is_folded:
        await fold(batch.tongue, keep_days=100, keep_rows=0)
    [row, *_] = [*await sums(batch.redis, batch.keys)]
    day = row[0]
    for kind, name in (("model", LANE), ("provider", "echo"), ("batch", "b1"), ("tag", "t")):
        assert await spend_by(batch.redis, batch.keys, [kind]) == [Spend(None, name, 70, 9, 2, 6, 8)]
        assert await spend_by(batch.redis, batch.keys, ["day", kind]) == [Spend(day, name, 70, 9, 2, 6, 8)]
    assert await spend_by(batch.redis, batch.keys, ["day"]) == [Spend(day, "", 70, 9, 2, 6, 8)]
    await batch.ledger.reset()
    assert await spend_by(batch.redis, batch.keys, ["model"]) == [Spend(None, LANE, 0, 9, 0, 0, 0)]
    assert await spend_by(batch.redis, batch.keys, ["day", "model"]) == [Spend(day, LANE, 70, 9, 2, 6, 8)]


@pytest.mark.parametrize("by", [[], ["model", "tag"], ["day", "day"], ["model", "model"]])
async def test_other_combinations_are_refused(batch, by):
    with pytest.raises(InputError, match="name one of model, provider, batch, tag"):
        await spend_by(batch.redis, batch.keys, by)


async def test_a_batch_that_owes_is_not_forgotten_before_it_is_settled(batch):
    job = await doubted(batch)
    [again] = await take(batch)
    scope = "farebox:scope:batch:b1"
    await batch.redis.pexpire(scope, 10**6)  # a retention that had begun
    await settle(batch.tongue, [ending(again, money="unconfirmed", why="x")], results_ttl_ms=TTL)
    assert await batch.redis.ttl(scope) == -1
    await batch.seal(1)
    await batch.redis.hset("farebox:batch:b1", "total", 0)  # complete
    await batch.retain()
    assert await batch.redis.ttl(scope) == -1 < await batch.redis.ttl("farebox:ids:b1")
    await batch.ledger.confirm([job.token], is_charge=False)
    assert await batch.redis.ttl(scope) == -1
    await batch.ledger.confirm([again.token], is_charge=True)
    assert 0 < await batch.redis.ttl(scope) <= await batch.redis.ttl("farebox:batch:b1")
    assert (await audit(batch.redis, batch.keys)).agrees


async def test_limits_of_a_batchs_windows_are_forgotten_with_it(batch):
    await batch.ledger.set_limit("batch:b1", 10**6, "day")
    await batch.ledger.set_limit("batch:b1", 10**6, "month")
    await batch.seal(1)
    await spend(batch, 10)
    assert await batch.redis.ttl("farebox:limit:day:batch:b1") > 0
    assert await batch.redis.ttl("farebox:limit:month:batch:b1") > 0


async def test_what_has_no_price_is_no_overrun(batch):
    [job] = await take(batch, hold=-1)
    await settle(batch.tongue, [ending(job, 50, money="unpriced")], results_ttl_ms=TTL)
    scope = await batch.ledger.scope()
    assert (scope.spent_nusd, scope.unpriced, scope.overrun_nusd) == (50, 1, 0)
    assert (await audit(batch.redis, batch.keys)).agrees


async def test_a_fold_of_large_entries_takes_some_thousand_rows_at_a_time(batch):
    await batch.submit([Job(1, f"more{n}", LANE, "chat", b"{}") for n in range(2_600)])
    await batch.redis.hset(f"farebox:lane:{LANE}", "target", MOST_TARGET)
    for _ in range(13):
        await take(batch, 200)
    await lapse(batch.tongue, dead=True)
    assert await fold(batch.tongue, keep_days=100, keep_rows=0) == 4
    assert await fold(batch.tongue, keep_days=100, keep_rows=0) == 2
    assert (await audit(batch.redis, batch.keys)).agrees


async def test_an_audit_at_midnight_compares_one_day(batch, monkeypatch):
    await batch.ledger.set_limit("global", 100, "day")
    await spend(batch, 90)
    real, told = auditing._today, []

    async def yesterday_first(redis, keys):
        today = await real(redis, keys)
        told.append(today if told else today - timedelta(days=1))
        return told[-1]

    monkeypatch.setattr(auditing, "_today", yesterday_first)
    report = await audit(batch.redis, batch.keys)
    assert report.agrees
    assert report.day == told[-1] != told[0]


async def test_after_months_without_a_verb_the_books_agree_though_windows_have_expired(batch):
    await spend(batch, 90)
    [entry] = await batch.redis.xrange(batch.keys.journal)
    now_ms = int(entry[0].partition(b"-")[0])
    long_ago = datetime.fromtimestamp(now_ms / 1000, UTC) - timedelta(days=60)
    day = (long_ago.date() - date(1970, 1, 1)).days
    await batch.redis.delete(batch.keys.journal, *(await batch.redis.keys("farebox:window:*")))
    await batch.redis.xadd(batch.keys.journal, entry[1] | {b"d": day}, id="1-1")
    await batch.redis.hset(
        "farebox:window:month:" + f"{long_ago:%Y-%m}", mapping={"spent " + name: 90 for name in scopes()}
    )
    await batch.redis.hset("farebox:ledger", "clock", int(long_ago.timestamp() * 1000))
    report = await audit(batch.redis, batch.keys)
    assert report.differences == ()
