"""What others see of a process and of the fleet: over real HTTP, in the log, and in the page that documents both."""

import ast
import contextlib
import json
import logging
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import types
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from redis.exceptions import NoPermissionError
from tests.cli_support import COMMAND, KEY, kill_group

from farebox.batch import Batch
from farebox.connection import connect
from farebox.ledger import Ledger
from farebox.records import Job
from farebox_worker import outage as outage_module
from farebox_worker.bus.admit import Fare, admit
from farebox_worker.bus.admit import Verdict as Admission
from farebox_worker.bus.claim import Ask, claim
from farebox_worker.bus.pause import pause
from farebox_worker.cli.options import _StderrHandler
from farebox_worker.dispatch import witness as witness_module
from farebox_worker.events import EVENTS, JsonLines, PlainLines, event, secrets_in
from farebox_worker.meters import Histogram
from farebox_worker.observe import fleet as fleet_module
from farebox_worker.observe.fleet import Timed, fleet_metrics, read_fleet
from farebox_worker.outage import Outage
from farebox_worker.server.server_process import start_server

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
PROMPT = "The very private prompt of nobody else"
WITHIN_S = 40


# --- what is read --------------------------------------------------------------------------------------------------


def get(url):
    """Status and text of a page; (0, "") while nobody listens."""
    try:
        with urllib.request.urlopen(url, timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return 0, ""


def figures(url):
    """Every sample of a /metrics page by name and labels; the page must be one that Prometheus can read."""
    status, text = get(f"{url}/metrics")
    assert status == 200
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def lane_figure(url, name, **labels):
    return figures(url).get((name, *sorted(labels.items())))


def wait_for(is_so, what):
    ends = time.monotonic() + WITHIN_S
    while not (found := is_so()):
        assert time.monotonic() < ends, f"never: {what}"
        time.sleep(0.05)
    return found


class Log:
    """The stderr of a command, in a file, as it grows."""

    def __init__(self, path):
        self.path = path

    @property
    def text(self):
        return self.path.read_text()

    def lines(self):
        return [json.loads(line) for line in self.text.splitlines(keepends=True) if line.endswith("\n")]

    def find(self, name):
        return [line for line in self.lines() if line["event"] == name]

    def wait(self, name):
        return wait_for(lambda: self.find(name), f"the event {name} in {self.text}")[0]


@pytest.fixture
def start(desk):
    """Starts commands whose log is read while they run."""
    running = []

    def start(*words, **environ):
        path = desk.home / f"log{len(running)}"
        with path.open("wb") as file:
            process = subprocess.Popen(
                [*COMMAND, *map(str, words)], cwd=desk.home, env=desk.environ(**environ), stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL, stderr=file, start_new_session=True,
            )  # fmt: skip
        running.append(process)
        return process, Log(path)

    yield start
    for process in running:
        kill_group(process)
        process.wait()


class Shared:
    """A Redis that keeps every write, and can be killed and started again."""

    def __init__(self, folder):
        self.folder = folder
        self.up()

    def up(self):
        self.server = start_server(self.folder, appendfsync="always")
        self.url = self.server.url


@pytest.fixture
def shared(desk):
    """The Redis of the desk."""
    with tempfile.TemporaryDirectory(prefix="fbo") as folder:
        shared = Shared(Path(folder))
        desk.environment["FAREBOX_REDIS_URL"] = shared.url
        yield shared
        shared.server.kill()


def submit(desk, count, *words, first=0):
    """Submit prompts to the simulator."""
    lines = [{"custom_id": f"p{n}", "prompt": f"{PROMPT} {n}", "max_tokens": 50} for n in range(first, first + count)]
    desk.write("in.jsonl", lines)
    ended = desk.run("submit", "in.jsonl", "-m", "sim:sim-1", *words)
    assert ended.code == 0, ended


# --- a worker process ----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_worker_tells_what_it_does_through_an_outage_and_a_drain(desk, simulate, shared, start):
    simulated = simulate("--latency-ms", 50)
    assert desk.run("budget", "set", 5).code == 0
    submit(desk, 30, "--batch", "b1")
    worker, log = start("worker", "--log-json", "--verbose", "--metrics-port", 0)
    url = log.wait("listening")["url"]
    wait_for(lambda: get(f"{url}/readyz") == (200, "ready\n"), "ready")
    done = {"lane": "sim:sim-1", "outcome": "succeeded"}
    wait_for(lambda: lane_figure(url, "farebox_attempts_total", **done) == 30, "30 answers")
    found, bill, lane = figures(url), simulated.bill(), ("lane", "sim:sim-1")
    assert found["farebox_cost_usd_total", lane] == pytest.approx(float(bill["cost_usd"]), abs=1e-9)
    assert found["farebox_tokens_total", ("direction", "output"), lane] == bill["output_tokens"]
    assert found["farebox_calls_total", ("class", "answered"), lane] == 30
    assert found["farebox_call_duration_seconds_count", lane] == 30
    assert found["farebox_claimed_jobs_total", lane] == 30
    assert found["farebox_admissions_total", lane, ("verdict", "ok")] == 30
    assert found["farebox_settle_group_jobs_sum",] == 30
    assert (found["farebox_in_flight", lane], found["farebox_slots", lane]) == (0, 256)
    assert (found["farebox_redis_up",], found["farebox_ready",], found["farebox_unsettled",]) == (1, 1, 0)

    shared.server.kill()
    wait_for(lambda: get(f"{url}/readyz")[0] == 503, "not ready without Redis")
    assert "Redis has not answered" in get(f"{url}/readyz")[1]
    assert get(f"{url}/healthz") == (200, "alive\n")
    assert figures(url)["farebox_redis_up",] == 0
    assert figures(url)["farebox_redis_outage_seconds_total",] > 0
    shared.up()
    wait_for(lambda: get(f"{url}/readyz")[0] == 200, "ready again")
    wait_for(lambda: log.find("redis_back"), "Redis is back")
    assert figures(url)["farebox_redis_outages_total",] == len(log.find("redis_away")) == 1
    assert lane_figure(url, "farebox_attempts_total", **done) == 30, "an outage forgets nothing"

    worker.send_signal(signal.SIGTERM)
    assert worker.wait(WITHIN_S) == 0
    assert log.find("draining")[0]["signal"] == "SIGTERM"
    assert log.find("ended")[-1]["answered"] == 30

    assert all({"time", "level", "event", "message"} <= line.keys() for line in log.lines())
    for name in ("serving", "claimed", "admitted", "sent", "answered", "settled"):
        assert log.find(name), f"the log lacks {name}"
    assert log.find("sent")[0].keys() >= {"job", "lane", "attempt"}
    for hidden in (KEY, PROMPT):
        assert hidden not in log.text


@pytest.mark.slow
def test_a_draining_worker_is_alive_and_not_ready(desk, simulate, shared, start):
    simulate("--latency-ms", 8000)
    assert desk.run("budget", "set", 5).code == 0
    submit(desk, 2, "--batch", "b1")
    worker, log = start("worker", "--log-json", "--metrics-port", 0)
    url = log.wait("listening")["url"]
    wait_for(lambda: lane_figure(url, "farebox_in_flight", lane="sim:sim-1") == 2, "two calls")
    worker.send_signal(signal.SIGTERM)
    wait_for(lambda: get(f"{url}/readyz")[0] == 503, "draining")
    assert get(f"{url}/readyz")[1].startswith("draining")
    assert get(f"{url}/healthz") == (200, "alive\n")
    assert figures(url)["farebox_draining",] == 1
    assert worker.wait(WITHIN_S) == 0
    assert (log.find("ended")[-1]["answered"], log.find("draining")[-1]["in_flight"]) == (2, 2)


@pytest.mark.slow
def test_a_worker_whose_key_is_refused_or_missing_is_not_ready(desk, simulate, shared, start):
    simulate("--api-key", "sk-another-0123456789abcdef")
    assert desk.run("budget", "set", 5).code == 0
    submit(desk, 1, "--batch", "b1")
    _, log = start("worker", "--log-json", "--metrics-port", 0)
    url = log.wait("listening")["url"]
    # The other provider of this desk speaks the other wire with the same key, and has nothing to do.
    wait_for(lambda: figures(url).get(("farebox_provider_unusable", ("provider", "sim"))) == 1, "the key is refused")
    assert get(f"{url}/readyz")[0] == 200, "another provider could still work"
    assert log.wait("provider_stopped")["provider"] == "sim"
    assert KEY not in log.text

    _, log = start("worker", "--log-json", "--metrics-port", 0, SIM_API_KEY="")
    url = log.wait("listening")["url"]
    wait_for(lambda: "no provider has a usable key" in get(f"{url}/readyz")[1], "no key")
    status, why = get(f"{url}/readyz")
    assert status == 503
    assert "SIM_API_KEY" in why


def free_ports(count):
    """The first of so many ports in a row that nobody listens on."""
    while True:
        with contextlib.ExitStack() as stack:
            first = stack.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1]
            with contextlib.suppress(OSError, OverflowError):
                for port in range(first + 1, first + count):
                    stack.enter_context(socket.create_server(("127.0.0.1", port)))
                return first


@pytest.mark.slow
def test_processes_take_ports_one_after_the_other(desk, shared, start):
    assert desk.run("budget", "set", 5).code == 0

    def listening(port):
        process, log = start("worker", "--processes", 3, "--log-json", "--metrics-port", port)
        lines = wait_for(lambda: found if len(found := log.find("listening")) == 3 else [], "three listen")
        process.terminate()
        assert process.wait(20) == 0
        return {int(line["url"].rpartition(":")[2]) for line in lines}

    first = free_ports(3)
    assert listening(first) == {first, first + 1, first + 2}
    assert len(listening(0)) == 3


def test_a_port_that_is_taken_is_an_error_that_says_so(desk):
    assert desk.run("budget", "set", 5).code == 0
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        ended = desk.run("worker", "--burst", "--metrics-port", port)
        assert ended.code == 2
        assert f"127.0.0.1 port {port}" in ended.stderr
        ended = desk.run("worker", "--burst", "--log-json", FAREBOX_WORKER_METRICS_PORT=str(port))
        assert ended.code == 2, "the configuration names the port too"
        last = json.loads(ended.stderr.splitlines()[-1])
        assert (last["event"], last["code"]) == ("ended", 2)


@pytest.mark.parametrize("word", ["65536", "-1", "x"])
def test_a_port_that_is_none_is_refused_by_name(desk, word):
    ended = desk.run("worker", "--burst", FAREBOX_WORKER_METRICS_PORT=word)
    assert ended.code == 2
    assert "FAREBOX_WORKER_METRICS_PORT" in ended.stderr


def test_many_jobs_cost_few_lines_at_info(desk):
    assert desk.run("budget", "set", 5).code == 0
    desk.prompts(400)
    assert desk.run("submit", "in.jsonl", "-m", "echo:echo").code == 0
    ended = desk.run("worker", "--burst", "--log-json")
    assert ended.code == 0, ended
    lines = [json.loads(line) for line in ended.stderr.splitlines()]
    assert [line["event"] for line in lines if line["event"] != "progress"] == ["serving", "ended"]
    assert len(lines) < 20
    assert lines[-1]["answered"] == 400


# --- the fleet -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_exporter_tells_what_redis_holds_and_that_it_is_away(desk, simulate, shared, start):
    simulate()
    assert desk.run("budget", "set", 5).code == 0
    assert desk.run("budget", "set", 1, "--model", "sim:sim-1", "--per", "day").code == 0
    submit(desk, 7, "--batch", "b1", "--tag", "nightly")
    _, log = start("exporter", "--port", 0, "--log-json")
    _, wide_log = start("exporter", "--port", 0, "--log-json", "--tags", "--batches")
    url, wide = log.wait("listening")["url"], wide_log.wait("listening")["url"]
    found, lane = figures(url), ("lane", "sim:sim-1")
    assert (found["farebox_up",], found["farebox_ledger_present",], found["farebox_workers",]) == (1, 1, 0)
    assert found["farebox_lane_runnable_jobs", lane] == found["farebox_runnable_jobs",] == 7
    assert found["farebox_lane_unserved_jobs", lane] == 7
    assert found["farebox_scope_limit_usd", ("scope", "global")] == 5
    assert found["farebox_window_limit_usd", ("per", "day"), ("scope", "model:sim:sim-1")] == 1
    assert json.loads(get(f"{url}/runnable")[1]) == {"runnable": 7}
    assert desk.run("worker", "--burst").code == 0
    spent = desk.run("cost", "--json").json["spent_usd"]
    found = figures(wide)
    for scope in ("global", "provider:sim", "model:sim:sim-1", "tag:nightly", "batch:b1"):
        assert found["farebox_scope_spent_usd", ("scope", scope)] == pytest.approx(spent), scope
        assert found["farebox_scope_held_usd", ("scope", scope)] == 0
    scopes = {dict(labels)["scope"] for name, *labels in figures(url) if name == "farebox_scope_spent_usd"}
    assert scopes == {"global", "provider:sim", "model:sim:sim-1"}, "tags and batches only where asked for"
    assert figures(url)["farebox_runnable_jobs",] == 0

    shared.server.kill()
    found = figures(url)
    assert {name for name, *_ in found} == {"farebox_up", "farebox_scrape_duration_seconds"}
    assert found["farebox_up",] == 0
    assert get(f"{url}/runnable")[0] == get(f"{url}/readyz")[0] == 503
    assert get(f"{url}/healthz")[0] == 200
    late, late_log = start("exporter", "--port", 0, "--log-json")
    late_url = late_log.wait("listening")["url"]
    assert figures(late_url)["farebox_up",] == 0, "it may start before Redis does"
    shared.up()
    for one in (url, late_url):
        wait_for(lambda one=one: figures(one)["farebox_up",] == 1, "up again")
        assert figures(one)["farebox_scope_spent_usd", ("scope", "global")] == pytest.approx(spent)
    late.send_signal(signal.SIGTERM)
    assert late.wait(WITHIN_S) == 0


async def submitted(redis, lane, count, batch="b1"):
    one = Batch(redis, batch)
    await one.open()
    await one.submit([Job(1, f"{lane}{n}", lane, "chat", b"{}") for n in range(count)])


async def test_runnable_leaves_out_what_no_worker_could_run(redis):
    ledger = Ledger(redis)
    await ledger.create()
    for lane, batch in (("a:one", "b1"), ("a:two", "b2"), ("a:three", "b3")):
        await submitted(redis, lane, 5, batch)
    await pause(ledger.tongue, "a:two", seconds=60.0, why="rate_limit")
    running = await claim(ledger.tongue, [Ask("a:one", 2)], lease_ms=30_000)
    assert len(running.jobs) == 2
    await ledger.set_limit("batch:b3", 1500)
    taken = await claim(ledger.tongue, [Ask("a:three", 2)], lease_ms=30_000)
    words = await admit(ledger.tongue, [Fare(one, 1000, ("global", "batch:b3")) for one in taken.jobs])
    assert [word.word for word in words] == ["ok", "no_room"]
    found = await read_fleet(ledger, ["global"])
    assert {lane.name: lane.runnable for lane in found.lanes} == {"a:one": 3, "a:two": 5, "a:three": 0}
    assert {lane.name: lane.parked_jobs for lane in found.lanes}["a:three"] == 4
    assert found.runnable == 3
    paused = {
        (sample.labels["lane"], sample.labels["by"]): sample.value
        for family in fleet_metrics(found, 0.0)
        if family.name == "farebox_lane_paused"
        for sample in family.samples
    }
    assert [key for key, value in paused.items() if value] == [("a:two", "provider")]


async def test_series_are_bounded_and_what_is_left_out_is_told(redis, monkeypatch):
    monkeypatch.setattr(fleet_module, "MOST", 3)
    ledger = Ledger(redis)
    await ledger.create()
    for number in range(5):
        await submitted(redis, f"a:m{number}", 1, f"b{number}")
        await ledger.set_limit(f"model:a:m{number}", 10)
    found = await read_fleet(ledger, ["global", "model"])
    assert [scope.name for scope in found.scopes] == ["model:a:m0", "model:a:m1", "model:a:m2"]
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in fleet_metrics(found, 0.0)
        for sample in family.samples
    }
    assert samples["farebox_left_out", "model"] == samples["farebox_left_out", "lane"] == 2
    assert len([name for name, *_ in samples if name == "farebox_lane_runnable_jobs"]) == 3
    assert samples["farebox_runnable_jobs",] == 5, "sums count everything"


async def test_a_fleet_without_a_ledger_or_without_a_server_is_told_apart(redis, caplog):
    ledger = Ledger(redis)
    found = {family.name: family for family in fleet_metrics(await read_fleet(ledger, ["global"]), 0.0)}
    assert (found["farebox_up"].samples[0].value, found["farebox_ledger_present"].samples[0].value) == (1, 0)
    away = connect("redis://127.0.0.1:1/0")
    timed = Timed(Ledger(away), ["global"])
    assert (await timed.read())[0] is (await timed.read())[0] is None
    assert "Connection refused" in timed.why or "Connect call failed" in timed.why
    assert [line.event for line in caplog.records] == ["redis_away"], "told once"
    await away.aclose()


@pytest.mark.server
async def test_the_user_on_the_page_is_enough_for_the_exporter_and_may_change_nothing(real_server):
    admin = connect(real_server)
    await admin.flushall()
    await Ledger(admin).create()
    await submitted(admin, "a:one", 3)
    await Ledger(admin).set_limit("global", 10, per="day")
    rules = re.search(r"user farebox-exporter on #EXPORTER (.+)", PAGE)[1].split()
    await admin.execute_command("ACL", "SETUSER", "seer", "reset", "on", ">secret", *rules)
    seer = connect(f"{real_server.replace('unix://', 'unix://seer:secret@')}")
    try:
        found = await read_fleet(Ledger(seer), ["global", "batch"])
        assert (found.runnable, [limit.per for limit in found.limits]) == (3, ["day"])
        assert found.lanes[0].oldest_s is not None
        with pytest.raises(NoPermissionError):
            await seer.set("farebox:limit:global", 10**15)
    finally:
        await admin.execute_command("ACL", "DELUSER", "seer")
        await seer.aclose()
        await admin.aclose()


# --- the log and its page ------------------------------------------------------------------------------------------


def rows(title):
    """The first cells of the table under a title of the page."""
    section = PAGE.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]
    return {
        name for line in section.splitlines() if (found := re.match(r"\| `([^`]+)`", line)) for name in found.groups()
    }


def events_in_code():
    """Every name given to `event(…)`, and the words that may stand in its place."""
    names = set()
    for path in [*(ROOT / "worker").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) in (
                "event",
                "_tell",
            ):
                names |= (
                    {leaf.value for leaf in ast.walk(node.args[0]) if isinstance(leaf, ast.Constant)}
                    if node.args
                    else set()
                )
    return names


def test_every_event_is_in_the_list_and_on_the_page():
    assert rows("The log") == EVENTS
    assert events_in_code() <= EVENTS
    computed = {"log", "admitted", "refused", "retried", "returned", "failed", "cancelled"}  # a word of the bus
    assert EVENTS - computed <= events_in_code(), "a name nobody says"


def test_every_log_call_of_the_worker_names_its_event():
    silent = [
        f"{path.name}:{node.lineno}"
        for path in (ROOT / "worker").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and getattr(node.func.value, "id", "") == "log"
        and not any(word.arg == "extra" for word in node.keywords)
        and node.func.attr in {"debug", "info", "warning", "error", "exception", "log"}
    ]
    assert silent == []


def test_every_metric_is_on_the_page_and_named_as_prometheus_asks():
    code = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "worker/farebox_worker/observe").glob("*.py"))
    named = set(re.findall(r"\"(farebox_[a-z_]+)\"", code))
    fleet = {family.name for family in fleet_metrics(fleet_module.Fleet(seq=1), 0.0)}
    assert named | fleet == rows("Metrics of a worker process") - {"process_cpu_seconds_total"} | rows(
        "Metrics of the fleet"
    )
    for kind, name in re.findall(r"(counter|gauge|histogram|one|total)\(\s*\"(farebox_[a-z_]+)\"", code):
        assert name.endswith("_total") == (kind in ("counter", "total")), name


def record(**extra):
    made = logging.LogRecord("farebox_worker.x", logging.WARNING, "x.py", 1, "lane %s is %s", ("a:b", KEY), None)
    made.__dict__.update(extra)
    return made


def test_a_json_line_holds_the_event_and_its_fields_and_no_key():
    line = JsonLines([KEY]).format(record(**event("paused", lane="a:b", seconds=1.5, path=Path("x"))))
    assert "\n" not in line
    said = json.loads(line)
    assert (said["event"], said["level"], said["lane"], said["seconds"]) == ("paused", "warning", "a:b", 1.5)
    assert said["message"] == "lane a:b is ***"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", said["time"])
    assert json.loads(JsonLines().format(record()))["event"] == "log"


def test_a_line_is_written_at_once_so_that_processes_do_not_break_each_others(monkeypatch):
    written = []
    monkeypatch.setattr(sys, "stderr", types.SimpleNamespace(write=written.append, flush=lambda: None))
    handler = _StderrHandler()
    handler.setFormatter(JsonLines(()))
    handler.emit(logging.makeLogRecord({"msg": "draining", **event("draining", signal="SIGTERM", in_flight=0)}))
    [line] = written
    assert line.endswith("}\n")


@pytest.mark.parametrize("lines", [JsonLines(), PlainLines()])
def test_an_exception_is_shown_without_what_it_says(lines):
    try:
        int(PROMPT)
    except ValueError:
        shown = lines.format(record(exc_info=sys.exc_info()))
    assert "builtins.ValueError" in shown
    assert "test_observability.py" in shown
    assert PROMPT not in shown


def test_the_secrets_are_the_keys_and_the_password():
    environ = {"A_KEY": KEY, "EMPTY": "", "SHORT": "abc", "OTHER": "not-a-key-of-ours"}
    found = secrets_in(environ, ["A_KEY", "EMPTY", "SHORT", None], "redis://me:pass%40word@bus:6379/0")
    assert set(found) == {KEY, "pass%40word", "pass@word"}
    assert secrets_in({}, [], None) == secrets_in({}, [], "redis://bus:6379") == ()


def test_a_histogram_counts_a_bound_within_and_the_rest_above():
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 9.0):
        histogram.add(value)
    assert list(histogram.buckets()) == [("1.0", 2), ("2.0", 3), ("+Inf", 4)]
    assert histogram.total == 12.0


def test_an_outage_is_counted_once_however_often_it_is_met(caplog, monkeypatch):
    outage, before = Outage(), time.monotonic()
    for _ in range(5):
        outage.begin(OSError("gone"))
    outage.end(before)  # an answer that was on its way when the server went
    assert outage.is_on
    outage.end(time.monotonic())
    outage.end(time.monotonic())
    outage.begin(OSError("what a connection met that was lost in it"))
    assert (outage.times, outage.is_on) == (1, False)
    monkeypatch.setattr(outage_module, "AFTERMATH_S", -1.0)
    outage.expect()
    outage.begin(OSError("gone"))
    assert (outage.times, outage.is_on) == (2, True)
    assert [one.event for one in caplog.records] == ["redis_away", "redis_back", "redis_away"]


def attempt_of(lane):
    return types.SimpleNamespace(route=types.SimpleNamespace(lane=lane), claimed=None, hold_nusd=5)


def test_parking_and_a_run_of_pauses_are_told_once(caplog, monkeypatch):
    caplog.set_level(logging.INFO, logger="farebox_worker")
    clock = [0.0]
    monkeypatch.setattr(witness_module.time, "monotonic", lambda: clock[0])
    witness, one, none = witness_module.Witness(), attempt_of("a:b"), Admission("no_room", "batch:b1", 7)
    for admission in (none, none, Admission("ok"), none):
        witness.admitted(one, admission)
    assert [line.fields["scope"] for line in caplog.records] == ["batch:b1", "batch:b1"]
    caplog.clear()
    for _ in range(20):
        witness.paused("a:b", 1.0, "rate_limit")
        clock[0] += 1.5
    assert len(caplog.records) == 1
    witness.paused("a:b", 300.0, "account")
    assert len(caplog.records) == 2, "a long pause is always news"
    clock[0] += 1000.0
    witness.paused("a:b", 1.0, "rate_limit")
    assert len(caplog.records) == 3, "and so is one after a calm time"
    assert witness.meters.pauses["a:b", "rate_limit"] == 21
