"""The other commands as an operator meets them: submit, worker, results, status, cancel, budget, cost, models."""

import json
import signal
import subprocess
import sys
import time

import pytest
from tests.cli_support import COMMAND, EXAMPLES, assert_exactly_once, prompt

from farebox_worker.server.embedded import EmbeddedServer

MONEY = {f"{name}_{unit}" for name in ("limit", "spent", "held", "unconfirmed") for unit in ("nusd", "usd")}


@pytest.fixture
def ledger(desk):
    """A data directory with a ledger, so that submit finds one."""
    assert desk.run("budget", "set", 5).code == 0


def submit(desk, *words):
    ended = desk.run("submit", *words)
    assert ended.code == 0, ended
    return ended.stdout.split()[-1]


def test_submit_work_collect(desk, ledger):
    batch = submit(desk, EXAMPLES, "-m", "echo:echo", "--budget", 1, "--tag", "nightly")
    state = desk.run("status", batch, "--json").json
    assert (state["state"], state["total"], state["waiting"], state["succeeded"]) == ("waiting", 200, 200, 0)
    assert desk.run("worker", "--burst").code == 0
    state = desk.run("status", batch, "--json").json
    assert (state["state"], state["succeeded"], state["waiting"], state["running"]) == ("complete", 200, 0, 0)
    assert state.keys() >= MONEY

    written = desk.run("results", batch, "-o", "out.jsonl", "--json").json
    assert (written["written"], written["lines"]) == (200, 200)
    before = (desk.home / "out.jsonl").read_bytes()
    again = desk.run("results", batch, "-o", "out.jsonl", "--json").json
    assert (again["written"], again["lines"]) == (0, 200), "repeating it changes nothing"
    assert (desk.home / "out.jsonl").read_bytes() == before
    lines = desk.out()
    assert len({line["custom_id"] for line in lines}) == 200
    assert sum(line["farebox"]["cost_nusd"] for line in lines) == state["spent_nusd"]

    plain = desk.run("results", batch, "-o", "-")
    assert sorted(plain.stdout.encode().splitlines()) == sorted(before.splitlines())
    assert desk.run("results", batch, "-o", "out.jsonl", "--delete").code == 0
    assert (desk.home / "out.jsonl").read_bytes() == before
    assert desk.run("results", batch, "-o", "-").stdout == "", "they are deleted from Redis"
    assert len(desk.out()) == 200


def test_two_runs_share_a_lane_that_takes_few_calls(desk, simulate):
    simulated = simulate("--latency-ms", 100)
    desk.configure(simulated.url, extra="max_concurrency = 2\n")
    runs = []
    for name in ("one", "two"):
        desk.prompts(400, f"{name}.jsonl", first=1000 * len(runs))
        runs.append(desk.start("run", f"{name}.jsonl", "-m", "claude:sim-1", "--budget", 1, "-o", f"{name}.out.jsonl"))
    done = [desk.home / "one.out.jsonl", desk.home / "two.out.jsonl"]
    ends = time.monotonic() + 60
    while not all(out.exists() for out in done) or sum(len(out.read_bytes().splitlines()) for out in done) < 150:
        assert time.monotonic() < ends
        time.sleep(0.05)
    for run in runs:
        run.send_signal(signal.SIGINT)
    assert [desk.end(run).code for run in runs] == [130, 130]
    counts = [len(out.read_bytes().splitlines()) for out in done]
    assert min(counts) > 0.25 * sum(counts), counts
    assert simulated.bill()["peak_in_flight"] <= 2


def test_submitting_twice_is_submitting_once(desk, ledger):
    desk.prompts(5)
    words = ["in.jsonl", "-m", "echo:echo", "--batch", "nightly"]
    assert submit(desk, *words) == "nightly"
    again = desk.run("submit", *words, "--json").json
    assert (again["batch_id"], again["submitted"], again["existing"], again["total"]) == ("nightly", 0, 5, 5)
    desk.prompts(8)
    assert desk.run("submit", *words, "--json").json["submitted"] == 3
    desk.write("in.jsonl", [prompt(0) | {"prompt": "another"}])
    refused = desk.run("submit", *words)
    assert refused.code == 2
    assert "line 1 (p0) was submitted to nightly before with another body" in refused.stderr


def test_submit_needs_no_key(desk, ledger):
    desk.prompts(2)
    batch = submit(desk, "in.jsonl", "-m", "openai:gpt-5-mini")
    ended = desk.run("worker", "--burst")
    assert ended.code == 0
    assert "OPENAI_API_KEY" in ended.stderr, "a worker says what it cannot serve"
    assert desk.run("status", batch, "--json").json["waiting"] == 2


@pytest.mark.parametrize("name", ["", "a b", "ä", "x" * 65, "a/b", "a:b"])
def test_batch_names_that_cannot_be(desk, ledger, name):
    desk.prompts(1)
    for words in (["submit", "in.jsonl", "-m", "echo:echo", "--batch", name], ["status", name or " "]):
        ended = desk.run(*words)
        if name or words[0] != "submit":
            assert ended.code == 2, ended
            assert "batch" in ended.stderr


def test_follow_waits_for_the_last_one(desk, ledger, simulate):
    simulate("--latency-ms", 100)
    desk.prompts(20)
    batch = submit(desk, "in.jsonl", "-m", "sim:sim-1")
    following = desk.start("results", batch, "-o", "out.jsonl", "--follow", "--json")
    printing = desk.start("results", batch, "-o", "-", "--follow")
    time.sleep(1)
    assert following.poll() is None
    assert desk.run("worker", "--burst").code == 0
    assert desk.end(following).json["written"] == 20
    assert len(desk.end(printing).stdout.splitlines()) == 20
    assert_exactly_once(desk.out(), [f"p{n}" for n in range(20)])


def test_ctrl_c_ends_following_and_worker_in_peace(desk, ledger):
    desk.prompts(2)
    batch = submit(desk, "in.jsonl", "-m", "openai:gpt-5-mini")
    following = desk.start("results", batch, "-o", "out.jsonl", "--follow")
    worker = desk.start("worker")
    several = desk.start("worker", "--processes", 2)
    deadline = time.monotonic() + 40
    while len(desk.run("workers", "--json").json["workers"]) < 3 and time.monotonic() < deadline:
        time.sleep(0.1)
    for process, code in ((following, 130), (worker, 0), (several, 0)):
        process.send_signal(2)
        ended = desk.end(process)
        assert ended.code == code, ended


def test_processes_whose_supervisor_was_killed_drain_and_end(desk, ledger):
    process = desk.start("worker", "--processes", 2)
    deadline = time.monotonic() + 40
    while len(desk.run("workers", "--json").json["workers"]) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    process.kill()
    ended = desk.end(process)  # not before the last of them has closed its stderr
    assert ended.code == -9
    assert ended.stderr.count(f"process {process.pid}, which started this worker, is gone: draining") == 2
    assert desk.run("workers", "--json").json["workers"] == []


def test_a_closed_pipe_is_no_drama(desk, ledger):
    batch = submit(desk, EXAMPLES, "-m", "echo:echo")
    assert desk.run("worker", "--burst").code == 0
    command = " ".join([*COMMAND, "results", batch, "-o", "-"])
    ended = subprocess.run(
        ["bash", "-c", f"{command} | head -1"], cwd=desk.home, env=desk.environ(), capture_output=True, timeout=30,
        check=False,
    )  # fmt: skip
    assert ended.stdout.count(b"\n") == 1
    assert ended.stderr == b""


def test_a_run_on_a_fleet_without_workers_says_that_nobody_serves_it(desk, ledger):
    desk.prompts(1)
    with EmbeddedServer(desk.home / ".farebox") as server:
        process = desk.start("run", "in.jsonl", "-m", "echo:echo", "--no-budget", "--redis", server.url)
        assert any(b"nobody serves echo:echo: `farebox worker" in line for line in process.stderr)
        process.send_signal(signal.SIGINT)
        assert desk.end(process).code == 130


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-"])
def test_a_file_that_the_caller_closed_is_no_drama(desk, ledger, closed):
    command = " ".join([*COMMAND, "batches", "--json", closed])
    ended = subprocess.run(["bash", "-c", command], cwd=desk.home, env=desk.environ(), timeout=30, check=False)
    assert ended.returncode == 0


def test_cancel_before_anything_was_sent(desk, ledger):
    desk.prompts(10)
    batch = submit(desk, "in.jsonl", "-m", "openai:gpt-5-mini")
    cancelled = desk.run("cancel", batch, "--json").json
    assert (cancelled["state"], cancelled["cancelled"]) == ("cancelled", 10)
    assert desk.run("cancel", batch).code == 0, "twice is once"
    assert desk.run("results", batch, "-o", "out.jsonl").code == 3
    lines = desk.out()
    assert_exactly_once(lines, [f"p{n}" for n in range(10)])
    assert {line["error"]["code"] for line in lines} == {"cancelled"}
    assert {line["farebox"]["cost_nusd"] for line in lines} == {0}
    refused = desk.run("submit", "in.jsonl", "-m", "openai:gpt-5-mini", "--batch", batch, "--max-tokens", 3)
    assert refused.code == 2
    assert "cancelled" in refused.stderr


def test_cancelling_a_batch_that_has_ended_leaves_it_as_it_was(desk, ledger):
    desk.prompts(3)
    batch = submit(desk, "in.jsonl", "-m", "echo:echo", "--batch", "nightly")
    assert desk.run("worker", "--burst").code == 0
    cancelled = desk.run("cancel", batch, "--now", "--json").json
    assert (cancelled["state"], cancelled["succeeded"]) == ("complete", 3)
    assert desk.run("status", batch, "--json").json["state"] == "complete"
    desk.prompts(4)
    assert submit(desk, "in.jsonl", "-m", "echo:echo", "--batch", batch) == batch, "it takes more, as before"


def test_the_batch_of_every_programs_single_jobs_is_not_cancelled(desk, ledger):
    desk.prompts(2)
    submit(desk, "in.jsonl", "-m", "echo:echo", "--batch", "default")
    refused = desk.run("cancel", "default")
    assert (refused.code, "`farebox budget set 0 --batch default" in refused.stderr) == (2, True)
    assert desk.run("status", "default", "--json").json["state"] == "waiting"


def test_a_refused_submit_leaves_a_whole_batch_whole(desk, ledger):
    desk.prompts(3)
    batch = submit(desk, "in.jsonl", "-m", "echo:echo", "--batch", "nightly")
    refused = desk.run("submit", "in.jsonl", "-m", "echo:echo", "--batch", batch, "--max-tokens", 3)
    assert (refused.code, "with another body" in refused.stderr) == (2, True)
    assert desk.run("status", batch, "--json").json["state"] == "waiting", "not open: nobody waits for more of it"


def test_results_in_a_form_that_cannot_be_appended_to_are_refused(desk, ledger):
    desk.prompts(1)
    batch = submit(desk, "in.jsonl", "-m", "echo:echo")
    for name in ("out.csv", "out.jsonl.gz"):
        refused = desk.run("results", batch, "-o", name)
        assert (refused.code, f"farebox export {batch} -o {name}" in refused.stderr) == (2, True)
        assert not (desk.home / name).exists()


def test_cancel_while_a_run_is_going(desk, simulate):
    simulated = simulate("--latency-ms", 1000)
    desk.prompts(100)
    process = desk.start(
        "run", "in.jsonl", "-m", "sim:sim-1", "--budget", 1, "-o", "out.jsonl", "--concurrency", 4, "--json"
    )
    while not (desk.home / "out.jsonl").exists() or not (desk.home / "out.jsonl").stat().st_size:
        time.sleep(0.02)
        assert process.poll() is None
    batch = desk.run("batches", "--json").json["batches"][0]["batch_id"]
    assert desk.run("cancel", batch).code == 0
    ended = desk.end(process)
    assert ended.code == 3, ended
    assert ended.json["succeeded"] + ended.json["cancelled"] == 100
    assert ended.json["cancelled"] > 50
    assert ended.json["spent_nusd"] == simulated.bill()["cost_nusd"]
    assert simulated.bill()["calls"] == ended.json["succeeded"]
    assert_exactly_once(desk.out(), [f"p{n}" for n in range(100)])
    assert "cancelled" in ended.stderr
    words = ["run", "in.jsonl", "-m", "sim:sim-1", "--budget", 1, "-o", "out.jsonl"]
    refused = desk.run(*words)
    assert (refused.code, "`farebox retry out.jsonl --class cancelled`" in refused.stderr) == (2, True)
    assert "nothing to retry" in desk.run("retry", "out.jsonl").stderr
    retried = desk.run("retry", "out.jsonl", "--class", "cancelled", "--json").json
    assert (retried["retried"], retried["classes"]) == (ended.json["cancelled"], {"cancelled": ended.json["cancelled"]})
    assert desk.run(*words).code == 0
    assert_exactly_once(desk.out(), [f"p{n}" for n in range(100)])
    assert simulated.bill()["calls"] == 100, "what was answered before is not paid again"
    status = desk.run("status", batch, "--json").json
    assert (status["succeeded"], status["cancelled"], status["state"]) == (100, 0, "complete")
    assert status["spent_nusd"] == simulated.bill()["cost_nusd"]


def test_a_run_that_was_cancelled_before_it_began_goes_on(desk, simulate):
    simulated = simulate("--latency-ms", 1000)
    desk.prompts(20)
    words = ["run", "in.jsonl", "-m", "sim:sim-1", "--budget", 1, "-o", "out.jsonl"]
    process = desk.start(*words, "--concurrency", 1)
    while not (desk.home / "out.jsonl.farebox").exists():
        time.sleep(0.02)
        assert process.poll() is None
    process.kill()
    process.wait()
    batch = desk.run("batches", "--json").json["batches"][0]["batch_id"]
    assert desk.run("cancel", batch).code == 0
    assert desk.run("retry", "out.jsonl", "--class", "cancelled").code == 0
    assert desk.run(*words).code == 0
    assert_exactly_once(desk.out(), [f"p{n}" for n in range(20)])
    assert simulated.bill()["calls"] <= 21


def test_limits_are_set_shown_and_lifted(desk):
    assert desk.run("budget", "set", 2.5).code == 0
    desk.prompts(3)
    batch = submit(desk, "in.jsonl", "-m", "echo:echo")
    assert desk.run("budget", "set", 0.25, "--batch", batch).code == 0
    shown = desk.run("budget", "show", "--json").json
    assert shown.keys() >= MONEY
    assert (shown["limit_nusd"], shown["limit_usd"]) == (2_500_000_000, 2.5)
    limits = {limit["scope"]: limit["limit_usd"] for limit in shown["limits"]}
    assert limits == {"global": 2.5, f"batch:{batch}": 0.25}, "a limit shows before anything is spent"
    assert "$2.50" in desk.run("budget", "show").stdout
    assert desk.run("budget", "off", "--batch", batch).code == 0
    assert desk.run("budget", "off").code == 0
    shown = desk.run("budget", "show", "--json").json
    assert shown["limit_nusd"] is None
    assert shown["limits"] == []


def test_a_limit_of_a_batch_that_is_not_there_yet_is_pointed_out(desk, ledger):
    ended = desk.run("budget", "set", 1, "--batch", "nope")
    assert ended.code == 0
    assert "there is no batch 'nope' yet" in ended.stderr


def test_a_raised_limit_frees_a_parked_worker_at_once(desk, simulate):
    simulate()
    desk.prompts(40)
    assert desk.run("budget", "set", 0.0015).code == 0
    batch = submit(desk, "in.jsonl", "-m", "sim:sim-1")
    worker = desk.start("worker", "--quiet")
    while desk.run("status", batch, "--json").json["parked"] == 0:
        time.sleep(0.1)
    shown = desk.run("status", batch)
    assert "parked at the global limit" in shown.stdout
    assert desk.run("budget", "set", 1).code == 0
    assert desk.run("results", batch, "-o", "out.jsonl", "--follow", timeout_s=10).code == 0
    assert len(desk.out()) == 40
    worker.terminate()
    assert desk.end(worker).code == 0


def test_cost_by_provider_and_model_and_reset(desk, simulate):
    simulated = simulate()
    desk.prompts(10)
    for model in ("sim:sim-1", "claude:sim-1"):
        assert desk.run("run", "in.jsonl", "-m", model, "--budget", 1, "-o", f"{model[:3]}.jsonl").code == 0
    cost = desk.run("cost", "--json").json
    assert cost.keys() >= MONEY | {"by_provider", "by_model"}
    assert cost["spent_nusd"] == simulated.bill()["cost_nusd"]
    assert cost["spent_usd"] == pytest.approx(cost["spent_nusd"] / 1e9)
    assert set(cost["by_provider"]) == {"sim", "claude"}
    assert sum(part["spent_nusd"] for part in cost["by_model"].values()) == cost["spent_nusd"]
    people = desk.run("cost")
    assert "sim:sim-1" in people.stdout
    assert "spent" in people.stdout
    assert desk.run("cost", "reset").code == 0
    cost = desk.run("cost", "--json").json
    assert cost["spent_nusd"] == 0


def test_models_are_listed_with_their_prices(desk, simulate):
    simulate("--model", "sim-1", "--model", "sim-2")
    found = {model["model_ref"]: model for model in desk.run("models", "--json").json["models"]}
    assert found["sim:sim-1"]["input_usd_per_mtok"] == 1.0
    assert found["sim:sim-2"]["input_usd_per_mtok"] is None
    assert found["echo:echo"]["pretend"]
    assert "sim:sim-2" in desk.run("models", "sim-2").stdout
    assert "claude:sim-1" not in desk.run("models", "sim:").stdout


def test_models_when_a_server_is_down_still_lists_the_rest(desk):
    desk.configure("http://127.0.0.1:1")
    ended = desk.run("models")
    assert ended.code == 0
    assert "echo:echo" in ended.stdout
    assert "sim does not say which models it has" in ended.stderr


def test_batches_and_status_without_a_batch(desk, ledger):
    desk.prompts(3)
    names = [submit(desk, "in.jsonl", "-m", "echo:echo", "--batch", name) for name in ("first", "second")]
    for words in (["batches"], ["status"]):
        assert [one["batch_id"] for one in desk.run(*words, "--json").json["batches"]] == names[::-1]
        assert "second" in desk.run(*words).stdout


def test_the_environment_leads_to_another_data_directory(desk):
    desk.prompts(2)
    assert desk.run("run", "in.jsonl", "-m", "echo:echo", FAREBOX_REDIS_DATA_DIR="here").code == 0
    assert (desk.home / "here" / "appendonlydir").is_dir()
    assert not (desk.home / ".farebox").exists()
    assert desk.run("batches", "--json", "--data-dir", "here").json["batches"][0]["total"] == 2


def test_simulate_tells_its_url_and_its_bill(desk):
    ready = desk.home / "ready"
    process = desk.start("simulate", "--port", 0, "--ready-file", ready)
    while not ready.exists():
        time.sleep(0.02)
    process.send_signal(2)
    ended = desk.end(process)
    assert ended.code == 0
    assert ready.read_text() in ended.stderr
    assert '"calls":0' in ended.stderr


def test_help_and_version_are_quick_and_clean(desk):
    for words in (["--help"], ["run", "--help"], ["--version"], ["budget", "--help"], ["cost", "--help"]):
        ended = desk.run(*words)
        assert (ended.code, ended.stderr) == (0, "")
        assert ended.stdout
    assert desk.run("frobnicate").code == 2
    loaded = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "farebox_worker", "--help"], capture_output=True, text=True,
        check=True,
    ).stderr  # fmt: skip
    assert not [
        name for name in ("openai", "anthropic", "genai_prices", "arq") if f"| {name}\n" in loaded.replace(" " * 2, "")
    ]
    assert desk.files() == []


def test_json_is_one_object_even_when_logs_are_written(desk, ledger):
    desk.prompts(1)
    ended = desk.run("submit", "in.jsonl", "-m", "echo:echo", "--json")
    assert json.loads(ended.stdout)["submitted"] == 1
