"""What an operator sees and steers: lanes, pauses, workers, one job, and the doctor."""

import json
import os
import time

import pytest
from redis.asyncio import Redis
from tests.cli_support import KEY, prompt

from farebox.batch import Batch
from farebox.errors import InputError
from farebox.ledger import Ledger
from farebox.records import Job, Result, ResultEnvelope, encode_result
from farebox.scripts import Tongue
from farebox_worker import lanes as lanes_module
from farebox_worker.bus.admit import Fare, admit
from farebox_worker.bus.claim import Ask, claim
from farebox_worker.bus.lapse import lapse
from farebox_worker.bus.pause import pause, resume
from farebox_worker.bus.settle import Settlement, settle
from farebox_worker.cli import lanes as cli_lanes
from farebox_worker.cli.options import plain
from farebox_worker.doctor.server import check_redis
from farebox_worker.heartbeats import lines_by_lane, read_heartbeats
from farebox_worker.jobs import name_job, read_job
from farebox_worker.lanes import find_lanes, read_lanes
from farebox_worker.latency import Latencies
from farebox_worker.outage import Outage
from farebox_worker.process.pulse import Pulse
from farebox_worker.run.sight import look_at_lanes

LANE = "echo:echo"
LEASE = 30_000


class Bus:
    """A batch on a bus, and what workers do to it."""

    def __init__(self, redis):
        self.redis = redis
        self.ledger = Ledger(redis)
        self.keys = self.ledger.keys

    async def begin(self, name="b1"):
        await self.ledger.create()
        batch = Batch(self.redis, name)
        await batch.open("test")
        return batch

    async def take(self, slots=1, *, lane=LANE):
        return (await claim(self.ledger.tongue, [Ask(lane, slots)], lease_ms=LEASE)).jobs

    async def enter(self, jobs, hold=5):
        return await admit(self.ledger.tongue, [Fare(job, hold, ("global",)) for job in jobs])

    async def end(self, claimed, **how):
        how = {"action": "finish", "money": "release", "outcome": "failed", **how}
        one = Settlement(claimed.job_id, claimed.flow, claimed.token, scopes=("global",), **how)
        return await settle(self.ledger.tongue, [one], results_ttl_ms=60_000)

    async def beat(self, *lanes, name="w1", batch="", in_flight=0, away=None):
        state = {"lanes": "\n".join(lanes), "batch": batch, "in_flight": in_flight, "away": lines_by_lane(away or {})}
        tongue = Tongue(self.redis, self.keys)
        pulse = Pulse(tongue, Outage(), lease_s=30, running={}, sending={}, worker_id=name, describe=lambda: state)
        await pulse._show(state)

    async def lane(self, name=LANE):
        return next(lane for lane in await read_lanes(self.redis, self.keys) if lane.name == name)

    async def job(self, *words):
        return await read_job(self.ledger, *name_job(self.keys, words))


@pytest.fixture
async def bus(redis):
    return Bus(redis)


def jobs(count, lane=LANE):
    model_ref, _, tier = lane.partition("@")
    ids = [f"c{n}" if lane == LANE else f"{lane}-{n}" for n in range(count)]
    return [Job(1, name, model_ref, "chat", b'{"messages":[]}', tier=tier or "standard") for name in ids]


# --- lanes ------------------------------------------------------------------------------------------------------------


async def test_a_lane_tells_apart_what_is_due_now_later_in_flight_and_parked(bus):
    batch = await bus.begin()
    await batch.submit(jobs(10))
    later = Batch(bus.redis, "later")
    await later.open()
    await later.submit(jobs(2), not_before_ms=int(time.time() * 1000) + 3_600_000)
    await bus.take(3)
    lane = await bus.lane()
    assert (lane.runnable, lane.later, lane.in_flight, lane.parked_jobs) == (7, 2, 3, 0)
    assert lane.oldest_s is not None
    assert 0 <= lane.oldest_s < 3600

    await bus.ledger.set_limit("global", 30)
    assert [verdict.word for verdict in await bus.enter(await bus.take(2), hold=20)] == ["ok", "no_room"]
    lane = await bus.lane()
    assert (lane.runnable, lane.later, lane.in_flight) == (0, 2, 4)
    assert (lane.parked["global"].jobs, lane.parked["global"].flows, lane.parked["global"].need_nusd) == (6, 1, 20)


async def test_a_lane_says_how_many_of_its_jobs_no_living_worker_serves(bus):
    for name in ("b1", "b2"):
        await (await bus.begin(name)).submit(jobs(4))
    assert (await bus.lane()).unserved == 8
    await bus.beat("other:model")
    assert (await bus.lane()).unserved == 8
    await bus.beat(LANE, name="run", batch="b1")
    lane = await bus.lane()
    assert (lane.unserved, lane.workers) == (4, 1), "it serves its own batch alone"
    await bus.beat(LANE, name="fleet")
    lane = await bus.lane()
    assert (lane.unserved, lane.workers) == (0, 2)
    await bus.redis.delete(bus.keys.worker("fleet"))
    assert (await bus.lane()).unserved == 4, "a worker whose heartbeat has expired serves nothing"


async def test_a_lane_is_away_when_no_worker_finds_its_server(bus):
    await (await bus.begin("b1")).submit(jobs(4))
    await bus.beat(LANE, name="w1", away={LANE: "no route to host"})
    lane = await bus.lane()
    assert (lane.away, lane.unserved, lane.workers) == ("no route to host", 0, 1)
    assert cli_lanes._state(lane) == ["away: no route to host"]
    await bus.beat(LANE, name="w2")
    assert (await bus.lane()).away == ""


async def test_reading_costs_a_few_commands_per_flow_whatever_the_number_of_jobs(bus, monkeypatch):
    asked = []
    in_slices = lanes_module.in_slices

    async def counted(redis, items, ask):
        asked.append(len(items))
        return await in_slices(redis, items, ask)

    monkeypatch.setattr(lanes_module, "in_slices", counted)
    monkeypatch.setattr(lanes_module, "SLICE", 7)
    batch = await bus.begin()
    for number in range(20):
        await batch.submit(jobs(number + 1, lane=f"sim:m{number}"))
    found = await read_lanes(bus.redis, bus.keys)
    assert {lane.name: lane.runnable for lane in found} == {f"sim:m{number}": number + 1 for number in range(20)}
    assert asked == [20, 20, 20], "lanes, flows, and the head of each flow"


async def test_what_heartbeats_say_is_read_back(bus):
    await bus.beat("a:1", "b,2:x", name="w1", in_flight=3)
    await bus.beat(name="w2", batch="b1")
    first, second = sorted(await read_heartbeats(bus.redis, bus.keys), key=lambda one: one.worker_id)
    assert (first.lanes, first.in_flight, first.batch) == (("a:1", "b,2:x"), 3, "")
    assert (first.pid, second.lanes, second.batch) == (os.getpid(), (), "b1")
    assert first.version
    assert first.age_s < 30
    assert await bus.redis.pttl(bus.keys.workers) > 0
    assert await bus.redis.pttl(bus.keys.worker("w1")) > 0


async def test_how_long_calls_take_is_told_by_heartbeats_and_added_up_over_processes(bus):
    batch = await bus.begin()
    await batch.submit(jobs(1))
    for name, ms in (("w1", 100), ("w2", 9_000)):
        latency = Latencies()
        for n in range(10):
            latency.count(ms + 3 * n)
        state = {"lanes": LANE, "latencies": lines_by_lane({LANE: latency, "a:1": latency}, most=4_000)}
        pulse = Pulse(
            Tongue(bus.redis, bus.keys), Outage(), lease_s=30, running={}, sending={}, worker_id=name,
            describe=dict,
        )  # fmt: skip
        await pulse._show(state)
    (seen,) = await look_at_lanes(bus.redis, bus.keys)
    assert seen.latency.share_ms(0.5) == pytest.approx(127, rel=0.05)
    assert seen.latency.share_ms(0.95) == pytest.approx(9_027, rel=0.05)
    newer = Latencies()
    newer.count(5)
    (seen,) = await look_at_lanes(bus.redis, bus.keys, latencies={LANE: newer})
    assert seen.latency.share_ms(0.5) == 5
    (seen,) = await look_at_lanes(bus.redis, bus.keys, latencies={})
    assert seen.latency.share_ms(0.5) is None


# --- pauses -----------------------------------------------------------------------------------------------------------


async def test_nothing_of_a_paused_lane_is_claimed_and_nothing_is_failed(bus):
    batch = await bus.begin()
    await batch.submit(jobs(2))
    one = await pause(bus.ledger.tongue, LANE, seconds=None, why="new key", by="operator")
    assert not one.ends_by_itself
    assert str(one) == "paused by the operator until resumed (new key)"
    found = await claim(bus.ledger.tongue, [Ask(LANE, 5)], lease_ms=LEASE)
    assert (found.jobs, found.due_in_s) == ([], None), "a burst worker does not wait for a resume"
    lane = await bus.lane()
    assert (lane.runnable, lane.pause) == (2, one)
    await resume(bus.ledger.tongue, LANE)
    assert len(await bus.take(5)) == 2
    assert (await batch.progress()).failed == 0


async def test_a_resume_leaves_nothing_behind(bus):
    await bus.begin()
    for by in ("provider", "operator"):
        await pause(bus.ledger.tongue, LANE, seconds=600, why="x", by=by)
    await resume(bus.ledger.tongue, LANE)
    assert await bus.redis.hgetall(bus.keys.lane(LANE)) == {}


@pytest.mark.parametrize(
    ("first", "second", "wins"),
    [
        (("operator", None), ("provider", 60), "first"),
        (("operator", 600), ("provider", 60), "first"),
        (("operator", 60), ("provider", 600), "second"),
        (("provider", 600), ("provider", 60), "first"),
        (("provider", 600), ("operator", 60), "first"),
        (("provider", 60), ("operator", None), "second"),
        (("operator", None), ("operator", 60), "second"),
        (("operator", 600), ("operator", 60), "second"),
    ],
)
async def test_the_longer_pause_wins_but_operators_may_shorten_their_own(bus, first, second, wins):
    await bus.begin()
    tongue = bus.ledger.tongue
    one = await pause(tongue, LANE, seconds=first[1], why="first", by=first[0])
    assert (one.why, one.by) == ("first", first[0])
    two = await pause(tongue, LANE, seconds=second[1], why="second", by=second[0])
    assert two.why == wins
    assert two.by == {"first": first, "second": second}[wins][0]
    assert (two == one) == (wins == "first")
    assert (await claim(tongue, [Ask(LANE, 1)], lease_ms=LEASE)).jobs == []


async def test_a_ref_is_a_lane_a_model_or_a_provider(bus):
    batch = await bus.begin()
    names = ["sim:one", "sim:one@flex", "sim:a@b", "other:one"]
    for name in names[:2] + names[3:]:
        await batch.submit(jobs(1, lane=name))
    await bus.redis.sadd(bus.keys.lanes, "sim:a@b")

    async def find(ref):
        return await find_lanes(bus.redis, bus.keys, ref)

    assert await find("sim") == ["sim:a@b", "sim:one", "sim:one@flex"]
    assert await find("sim:one") == ["sim:one", "sim:one@flex"]
    assert await find("sim:one@standard") == ["sim:one"]
    assert await find("sim:one@flex") == ["sim:one@flex"]
    assert await find("sim:a@b") == ["sim:a@b"]
    for ref in ("sim:on", "si", "", "sim:", ":one"):
        with pytest.raises(InputError, match="no lane, model or provider"):
            await find(ref)
    with pytest.raises(InputError, match="Did you mean 'sim:one'"):
        await find("sim:on")


# --- one job ----------------------------------------------------------------------------------------------------------


def failure(claimed):
    said = Result(1, "c0", LANE, "failed", error_code="overloaded", error_message="busy\x1b[31m", attempts=2)
    envelope = ResultEnvelope(
        t=2, f="complete", a=(), k={}, et=7, s=False, r=said, st=8, ft=9, q=claimed.flow, id=claimed.job_id
    )
    return encode_result(envelope)


async def test_a_job_is_followed_from_its_submission_to_its_end(bus):
    batch = await bus.begin()
    await batch.submit(jobs(2))
    view = await bus.job("b1", "c0")
    assert (view.state, view.lane, view.custom_id, view.attempts) == ("waiting", LANE, "c0", 0)
    assert (await bus.job(view.job_id)).batch_id == "b1", "its id alone finds it"
    digest = view.job_id.partition(":")[2]
    assert (await bus.job(digest)).flow == (await bus.job(f"farebox-{digest}")).flow == view.flow

    (claimed,) = await bus.take()
    assert (await bus.job("b1", "c0")).state == "leased"
    await bus.enter([claimed])
    view = await bus.job("b1", "c0")
    assert (view.state, view.hold_nusd) == ("running", 5)
    assert view.due_ms > view.now_ms

    await bus.end(claimed, action="retry", money="unconfirmed", why="timeout", due="3600000", attempts=1)
    view = await bus.job("b1", "c0")
    assert (view.state, view.attempts, view.doubts, view.hold_nusd) == ("retry due", 1, 1, None)
    assert [(one.amount_nusd, one.why) for one in view.unconfirmed] == [(5, "timeout")]

    await bus.redis.zadd(view.flow, {view.job_id: 0})
    (claimed,) = await bus.take()
    await bus.enter([claimed])
    await bus.end(claimed, result=failure(claimed))
    view = await bus.job("b1", "c0")
    assert (view.state, view.attempts, view.ended.r.error_code) == ("failed", 2, "overloaded")
    assert len(view.unconfirmed) == 1

    entries = await batch.read()
    await batch.acknowledge(entries)
    view = await bus.job(view.job_id)
    assert (view.state, view.batch_id) == ("gone", "b1")
    with pytest.raises(InputError, match="never submitted here"):
        await bus.job("b1", "c9")


async def test_a_job_that_waits_says_for_what(bus):
    batch = await bus.begin()
    await batch.submit(jobs(2))
    await bus.ledger.set_limit("global", 10)
    await bus.enter(await bus.take(), hold=20)
    view = await bus.job("b1", "c0")
    assert (view.state, view.blocked) == ("parked", ("global", 20))
    await pause(bus.ledger.tongue, LANE, seconds=60, why="w", by="operator")
    assert (await bus.job("b1", "c1")).pause.why == "w"
    await batch.cancel()
    assert (await bus.job("b1", "c1")).cancelled_batch

    late = Batch(bus.redis, "late")
    await late.open()
    await late.submit(jobs(1), not_before_ms=int(time.time() * 1000) + 3_600_000)
    assert (await bus.job("late", "c0")).state == "not yet due"


async def test_a_job_of_a_dead_worker_waits_again_and_keeps_its_doubt(bus):
    await (await bus.begin()).submit(jobs(1))
    claimed = await bus.take()
    await bus.enter(claimed)
    await lapse(bus.ledger.tongue, dead=True)
    view = await bus.job("b1", "c0")
    assert view.state in ("waiting", "retry due")
    assert (view.doubts, len(view.unconfirmed)) == (1, 1)


async def test_a_payload_that_cannot_be_read_is_said_to_be_so(bus):
    await (await bus.begin()).submit(jobs(1))
    identity = (await bus.job("b1", "c0")).job_id
    await bus.redis.set(bus.keys.job(identity), b"\xff\xff")
    view = await bus.job("b1", "c0")
    assert (view.state, view.lane) == ("undecodable", LANE)
    assert (await bus.lane()).runnable == 1
    await bus.redis.zrem(view.flow, identity)
    assert (await bus.job(identity)).batch_id == "b1"


@pytest.mark.parametrize("words", [("",), ("zzz",), ("farebox:12",), ("a b", "c"), ("b1", "c", "d"), ("0" * 25,)])
async def test_words_that_name_no_job(bus, words):
    with pytest.raises(InputError):
        name_job(bus.keys, words)


# --- the doctor's look at a server ------------------------------------------------------------------------------------


async def test_the_doctor_knows_an_unfit_server(real_server):
    client = Redis.from_url(real_server)
    try:
        await client.flushall()
        levels = {check.name: (check.level, check.message) for check in await check_redis(client, real_server)}
        assert levels["server"][0] == "ok"
        assert levels["durability"][0] == "fail"
        assert "appendonly yes" in levels["durability"][1]
        await client.config_set("maxmemory", "100mb")
        await client.config_set("maxmemory-policy", "allkeys-lru")
        await client.config_set("save", "3600 1")
        levels = {check.name: (check.level, check.message) for check in await check_redis(client, real_server)}
        assert levels["server"][0] == "fail"
        assert "noeviction" in levels["server"][1]
        assert levels["durability"][0] == "warn"
        used = (await client.info("memory"))["used_memory"]
        await client.config_set("maxmemory-policy", "noeviction")
        await client.config_set("maxmemory", str(int(used * 1.2)))
        levels = {check.name: check.level for check in await check_redis(client, real_server)}
        assert levels["memory"] == "fail"
    finally:
        for name, value in (("maxmemory", "0"), ("maxmemory-policy", "noeviction"), ("save", "")):
            await client.config_set(name, value)
        await client.aclose()


async def test_the_doctor_names_a_server_that_is_away(tmp_path):
    url = f"unix://{tmp_path}/none"
    client = Redis.from_url(url)
    (check,) = await check_redis(client, url)
    assert (check.name, check.level) == ("server", "fail")
    assert "cannot reach" in check.message
    await client.aclose()


# --- the commands -----------------------------------------------------------------------------------------------------


def by_name(ended):
    found = {}
    for check in ended.json["checks"]:
        found.setdefault(check["name"], []).append(check)
    return found


def test_the_doctor_helps_before_the_first_use_and_creates_nothing(desk):
    for words in (["doctor"], ["doctor", "--json"], ["doctor", "--offline", "--data-dir", "here/there"]):
        ended = desk.run(*words)
        assert ended.code == 0, ended
        assert "farebox run" in ended.stdout
        assert desk.files() == []
    checks = by_name(desk.run("doctor", "--json"))
    assert "OPENAI_API_KEY" in checks["key"][-1]["message"]


def test_the_doctor_finds_keys_and_providers_and_shows_no_key(desk, simulate):
    simulated = simulate()
    ended = desk.run("doctor", "--json")
    assert ended.code == 0, ended
    assert KEY not in ended.stdout + ended.stderr
    assert {check["level"] for check in by_name(ended)["provider"]} == {"ok"}
    simulated.stop()
    ended = desk.run("doctor", "--json")
    assert (ended.code, ended.json["ok"]) == (1, False)
    assert {check["level"] for check in by_name(ended)["provider"]} == {"fail"}
    assert desk.run("doctor", "--offline").code == 0
    del desk.environment["SIM_API_KEY"]
    ended = desk.run("doctor", "--json")
    assert ended.code == 0, ended
    assert "provider" not in by_name(ended), "whose key is missing is not asked"
    assert [check["level"] for check in by_name(ended)["key"]].count("warn") == 2


def test_the_doctor_says_what_stands_still(desk):
    (desk.home / "farebox.toml").write_text('[providers.sim]\nkind = "openai"\nbase_url = "http://127.0.0.1:9/v1"\n')
    assert desk.run("budget", "set", 5).code == 0
    desk.prompts(3)
    assert desk.run("submit", "in.jsonl", "-m", "echo:echo", "--batch", "b", "--budget", "0.000001").code == 0
    assert desk.run("submit", "in.jsonl", "-m", "sim:unpriced", "--batch", "c", "--no-budget").code == 0
    assert desk.run("worker", "--burst").code == 0
    assert desk.run("lanes", "pause", "echo", "--why", "x\x1b[31my\n").code == 0
    ended = desk.run("doctor", "--json", "--offline")
    checks = by_name(ended)
    assert checks["ledger"][0]["level"] == "ok"
    assert checks["durability"][0]["level"] == "ok"
    assert "raise it with `farebox budget set USD --batch b`" in checks["parked"][0]["message"]
    assert "paused by the operator until resumed" in checks["paused"][0]["message"]
    assert desk.run("doctor", "--offline").code == ended.code


def test_lanes_are_paused_and_resumed_while_jobs_wait(desk):
    assert desk.run("budget", "set", 5).code == 0
    ended = desk.run("lanes", "pause", "echo:echo")
    assert ended.code == 2
    assert "A lane appears with its first job" in ended.stderr
    desk.prompts(5)
    assert desk.run("submit", "in.jsonl", "-m", "echo:echo", "--batch", "b").code == 0
    (lane,) = desk.run("lanes", "--json").json["lanes"]
    assert (lane["lane"], lane["runnable"], lane["unserved"], lane["workers"]) == ("echo:echo", 5, 5, 0)
    assert "nobody serves it" in desk.run("lanes").stdout

    ended = desk.run("lanes", "pause", "ekho")
    assert ended.code == 2
    assert "Did you mean 'echo'" in ended.stderr
    assert "after the word" in desk.run("lanes", "--json", "pause", "echo").stderr
    for words in (["--for", "0s"], ["--for", "soon"], ["--for", "366d"], ["--for", "5"]):
        assert desk.run("lanes", "pause", "echo", *words).code == 2
    (paused,) = desk.run("lanes", "pause", "echo:echo", "--json").json["lanes"]
    assert paused == {"lane": "echo:echo", "until_ms": None, "why": "", "by": "operator"}
    assert desk.run("worker", "--burst").code == 0
    state = desk.run("status", "b", "--json").json
    assert (state["waiting"], state["failed"], state["succeeded"]) == (5, 0, 0)
    (lane,) = desk.run("lanes", "--json").json["lanes"]
    assert lane["paused"]["by"] == "operator"

    assert desk.run("lanes", "resume", "echo", "--json").json == {"lanes": ["echo:echo"], "still_paused": []}
    assert desk.run("worker", "--burst").code == 0
    assert desk.run("status", "b", "--json").json["succeeded"] == 5
    assert desk.run("job", "b", "p1", "--json").json["state"] == "succeeded"


def test_a_provider_is_paused_with_lanes_that_come_later_and_resumed_as_a_whole(desk):
    assert desk.run("budget", "set", 5).code == 0
    (paused,) = desk.run("lanes", "pause", "echo", "--why", "new key", "--json").json["providers"]
    assert (paused["provider"], paused["why"], paused["by"]) == ("echo", "new key", "operator")
    desk.prompts(3)
    assert desk.run("submit", "in.jsonl", "-m", "echo:echo", "--batch", "b").code == 0
    assert desk.run("worker", "--burst").code == 0
    assert desk.run("status", "b", "--json").json["waiting"] == 3
    assert "new key" in desk.run("lanes").stdout
    assert "still paused" in desk.run("lanes", "resume", "echo:echo").stderr
    assert "echo:echo is open" in desk.run("lanes", "resume", "echo").stderr
    assert desk.run("worker", "--burst").code == 0
    assert desk.run("status", "b", "--json").json["succeeded"] == 3


def test_a_worker_that_runs_is_listed_with_what_it_serves_and_is_gone_after_it(desk, simulate):
    simulate("--latency-ms", 20)
    assert desk.run("budget", "set", 5).code == 0
    assert desk.run("workers", "--json").json == {"workers": []}
    worker = desk.start("worker")

    def until(condition, *words):
        deadline = time.monotonic() + 40
        while True:
            found = desk.run(*words, "--json").json
            if condition(found):
                return found
            assert time.monotonic() < deadline, found

    until(lambda found: found["workers"], "workers")
    desk.prompts(3)
    assert desk.run("submit", "in.jsonl", "-m", "sim:sim-1", "--batch", "b").code == 0
    (one,) = until(lambda found: found["workers"][0]["lanes"], "workers")["workers"]
    assert (one["pid"], one["lanes"], one["batch"]) == (worker.pid, ["sim:sim-1"], None)
    assert one.keys() >= {"host", "version", "started_ms", "in_flight", "heartbeat_age_s"}
    (lane,) = desk.run("lanes", "--json").json["lanes"]
    assert (lane["workers"], lane["unserved"]) == (1, 0)
    assert str(worker.pid) in desk.run("workers").stdout
    worker.terminate()
    assert desk.end(worker).code == 0
    ended = desk.run("workers")
    assert str(worker.pid) not in ended.stdout
    assert "no worker is running" in ended.stderr


def test_hostile_names_and_errors_reach_no_terminal(desk):
    assert plain("a\x1b[2J\u202eb\tc\nd") == "a [2J b c d"
    assert desk.run("budget", "set", 5).code == 0
    desk.write("in\x1b[31m.jsonl", [prompt(1) | {"custom_id": "x\x1b[31m"}])
    assert desk.run("submit", "in\x1b[31m.jsonl", "-m", "echo:echo", "--batch", "b").code == 0
    for words in (["batches"], ["status", "b"], ["job", "b", "x\x1b[31m"], ["lanes"], ["doctor", "--offline"]):
        ended = desk.run(*words)  # no escape code may stand in what it says
        assert ended.code == 0, ended
    assert json.loads(desk.run("job", "b", "x\x1b[31m", "--json").stdout)["custom_id"] == "x\x1b[31m"


def test_the_doctor_is_not_stopped_by_a_place_it_cannot_use(desk):
    (desk.home / "file").write_text("")
    ended = desk.run("doctor", "--offline", "--data-dir", "file/x")
    assert ended.code in (0, 1), ended
    ended = desk.run("doctor", "--offline", "--redis", f"unix://{desk.home}/none", "--json")
    assert ended.code == 1
    assert by_name(ended)["server"][0]["level"] == "fail"
    assert desk.files() == ["file"]
