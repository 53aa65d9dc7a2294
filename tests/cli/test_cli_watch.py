"""`farebox watch` follows what others do, changes nothing, and ends as the batch does; `--reuse` pays a line once."""

import signal
import time

from tests.cli_support import prompt

ECHO = ("-m", "echo:echo")


def test_a_batch_of_another_process_is_followed_to_its_end(desk, simulate):
    simulate("--latency-ms", 800)
    desk.prompts(40)
    running = desk.start("run", "in.jsonl", "-m", "sim:sim-1", "--budget", 1, "-o", "out.jsonl", "--concurrency", 3)
    deadline = time.monotonic() + 30
    while (watched := desk.run("watch")).code != 0 or "nothing" in watched.stderr:
        assert time.monotonic() < deadline
    assert desk.end(running).code == 0
    assert watched.code == 0
    assert "40 of 40 done" in watched.stderr
    assert watched.stdout == ""
    name = desk.run("batches", "--json").json["batches"][0]["batch_id"]
    after = desk.run("watch", name, "--json", "--quiet")
    assert (after.code, after.stderr, after.json["batches"][0]["succeeded"]) == (0, "", 40)
    assert "nothing to watch" in desk.run("watch").stderr


def test_a_parked_batch_ends_with_4_and_the_command_that_moves_it(desk):
    desk.prompts(5)
    assert desk.run("run", "in.jsonl", *ECHO, "--budget", "0.0003", "-o", "out.jsonl").code == 4
    watched = desk.run("watch")
    assert watched.code == 4
    assert "farebox budget set USD --batch" in watched.stderr


def test_a_failure_ends_with_3_and_ctrl_c_with_130(desk, simulate):
    simulate("--share-500", 1)
    desk.environment["FAREBOX_WORKER_MAX_ATTEMPTS"] = "1"
    desk.prompts(2)
    assert desk.run("run", "in.jsonl", "-m", "sim:sim-1", "--budget", 1, "-o", "out.jsonl").code == 3
    name = desk.run("batches", "--json").json["batches"][0]["batch_id"]
    watched = desk.run("watch", name)
    assert (watched.code, f"farebox retry {name}" in watched.stderr) == (3, True)
    assert desk.run("budget", "off").code == 0
    desk.prompts(1, name="more.jsonl")
    waiting = desk.run("submit", "more.jsonl", *ECHO).stdout.strip()
    watching = desk.start("watch", waiting)
    time.sleep(2)
    watching.send_signal(signal.SIGINT)
    assert desk.end(watching).code == 130


def test_a_batch_that_ended_shows_what_each_model_did_and_why_jobs_failed(desk, simulate):
    simulate("--share-500", 0.5, "--latency-ms", 20)
    desk.environment["FAREBOX_WORKER_MAX_ATTEMPTS"] = "1"
    desk.run("budget", "set", 1)
    desk.prompts(30)
    name = desk.run("submit", "in.jsonl", "-m", "sim:sim-1").stdout.strip()
    assert desk.run("worker", "--burst").code == 0
    watched = desk.run("watch", name)
    assert watched.code == 3
    head, row = (line.split() for line in watched.stderr.splitlines()[1:3])
    assert head == ["model", "jobs", "failed", "p50", "p95", "tokens", "in", "tokens", "out", "cost"]
    assert row[:2] == ["sim:sim-1", "30"]
    assert " failed, " in watched.stderr.splitlines()[3]  # a cause and an example
    by_model = desk.run("watch", name, "--json", "--quiet").json["batches"][0]["by_model"]["sim:sim-1"]
    assert (by_model["jobs"], by_model["failed"]) == (30, int(row[2]))
    assert 0 < by_model["p50_ms"] <= by_model["p95_ms"]


def test_results_that_were_collected_are_not_counted_again(desk):
    desk.prompts(3)
    name = desk.run("run", "in.jsonl", *ECHO, "--budget", 1, "--json").json["batch_id"]
    watched = desk.run("watch", name)
    assert (watched.code, len(watched.stderr.splitlines())) == (0, 1)  # the run has shown its table


def test_an_unknown_batch_is_named(desk):
    desk.prompts(1)
    desk.run("run", "in.jsonl", *ECHO, "--budget", 1)
    watched = desk.run("watch", "nobody")
    assert (watched.code, "no batch 'nobody'" in watched.stderr) == (2, True)


def test_a_line_that_was_asked_with_reuse_is_not_paid_again(desk):
    desk.prompts(6)
    assert desk.run("run", "in.jsonl", *ECHO, "--budget", 1, "-o", "a.jsonl", "--reuse").code == 0
    desk.write("other.jsonl", [prompt(n) | {"custom_id": f"other-{n}"} for n in range(8)])
    second = desk.run("run", "other.jsonl", *ECHO, "--budget", 1, "-o", "b.jsonl", "--reuse", "--json")
    assert "6 reused, $0." in second.stderr
    assert (second.json["reused"], second.json["succeeded"]) == (6, 8)
    first = {line["custom_id"]: line for line in desk.out("a.jsonl")}
    for line in desk.out("b.jsonl"):
        own, number = line["farebox"], int(line["custom_id"].removeprefix("other-"))
        if number < 6:
            assert own["reused_from"] == first[f"p{number}"]["farebox"]["job"]
            assert own["cost_nusd"] == 0
            assert line["response"] == first[f"p{number}"]["response"]
        else:
            assert "reused_from" not in own
    assert desk.run("audit").code == 0
