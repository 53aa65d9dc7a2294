"""A run finds itself again: killed, interrupted, moved, robbed of its data, out of disk; nothing is asked twice."""

import csv
import gzip
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import zstandard
from tests.cli_support import assert_exactly_once, end_servers, kill_group, prompt

KILLS = 8


def run_words(budget=1, out="out.jsonl"):
    return ["run", "in.jsonl", "-m", "sim:sim-1", "-o", out, "--budget", budget, "--json", "--concurrency", 4]


def wait_for(condition, timeout_s=20.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.005)


def lines_in(path):
    return path.read_bytes().count(b"\n") if path.exists() else 0


def wait_for_lines(process, out, wanted):
    wait_for(lambda: lines_in(out) >= wanted or process.poll() is not None)


def server_pid(desk, data=None):
    return int(((data or desk.home / ".farebox") / "server.pid").read_text())


def is_alive(pid):
    return Path(f"/proc/{pid}").exists()


def kill_server(desk):
    os.kill(server_pid(desk), signal.SIGKILL)


def assert_all_right(desk, simulated, ended, count, in_flight, out="out.jsonl"):
    """Whole, once each, and no cent unaccounted for."""
    bill = simulated.bill()
    assert ended.code in (0, 3), ended
    assert_exactly_once(desk.out(out), [f"p{n}" for n in range(count)])
    assert (ended.json["total"], ended.json["parked"], ended.json["left"]) == (count, 0, 0)
    assert ended.json["held_nusd"] == 0
    assert bill["calls"] <= count + in_flight
    assert ended.json["spent_nusd"] + ended.json["unconfirmed_nusd"] >= bill["cost_nusd"]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_kill_9_of_the_process_group_at_any_instant(desk, simulate, seed):
    simulated = simulate("--latency-ms", 20)
    chance = random.Random(seed)
    desk.prompts(400)
    out = desk.home / "out.jsonl"
    for _ in range(KILLS):
        process = desk.start(*run_words())
        wait_for_lines(process, out, lines_in(out) + chance.randrange(1, 50))
        time.sleep(chance.random() * 0.05)
        kill_group(process)
        process.communicate()
    ended = desk.run(*run_words())
    assert_all_right(desk, simulated, ended, 400, 4 * KILLS)
    assert ended.code == 0
    assert "unconfirmed" in ended.stderr
    repeated = desk.run(*run_words())
    assert repeated.json | {"wall_s": 0} == ended.json | {"wall_s": 0}
    assert simulated.bill()["calls"] <= 400 + 4 * KILLS


@pytest.mark.slow
def test_kill_9_at_any_instant_leaves_table_order_and_nothing_beside_them(desk, simulate):
    simulated = simulate("--latency-ms", 5)
    chance = random.Random(7)
    rows = "".join(f'p{n},"say ""{n}"",\nplease"\n' for n in range(200))
    (desk.home / "in.csv").write_text(f"custom_id,text\n{rows}")
    words = [*run_words(out="x.csv"), "--template", "Do: {text}", "--max-tokens", 50, "--ordered"]
    words[1], out = "in.csv", desk.home / "x.jsonl"
    for _ in range(2 * KILLS):
        process = desk.start(*words)
        wait_for_lines(process, out, chance.choice((0, lines_in(out) + 20, 200)))  # starting, working, finishing
        time.sleep(chance.random() * chance.choice((0.05, 1)))
        kill_group(process)
        process.communicate()
    ended = desk.run(*words)
    assert ended.code == 0, ended
    assert [line["custom_id"] for line in desk.out("x.jsonl")] == [f"p{n}" for n in range(200)]
    with (desk.home / "x.csv").open(newline="") as table:
        written = list(csv.DictReader(table))
    assert [row["text"] for row in written] == [f'say "{n}",\nplease' for n in range(200)]
    said = [line["response"]["body"]["choices"][0]["message"]["content"] for line in desk.out("x.jsonl")]
    assert [row["answer"] for row in written] == said
    assert not [path for path in desk.home.iterdir() if path.suffix == ".tmp"]
    spent = ended.json["spent_nusd"]
    assert spent <= simulated.bill()["cost_nusd"] <= spent + ended.json["unconfirmed_nusd"]
    assert desk.run("audit").code == 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gz", "zst", "-"])
def test_kill_9_at_any_instant_though_the_input_is_packed_or_a_pipe(desk, simulate, kind):
    simulated = simulate("--latency-ms", 20)
    chance = random.Random(kind)
    given = desk.prompts(200)
    words, out = [*run_words(), *(["--ordered"] if kind == "zst" else [])], desk.home / "out.jsonl"
    if kind != "-":
        packed = gzip.compress if kind == "gz" else zstandard.ZstdCompressor().compress
        given = desk.home / f"in.jsonl.{kind}"
        given.write_bytes(packed((desk.home / "in.jsonl").read_bytes()))
    words[1] = "-" if kind == "-" else given.name
    for _ in range(KILLS):
        with given.open("rb") as stdin:
            process = desk.start(*words, stdin=stdin)
        wait_for_lines(process, out, chance.choice((0, lines_in(out) + chance.randrange(1, 40), 200)))
        time.sleep(chance.random() * chance.choice((0.05, 0.5)))
        kill_group(process)
        process.communicate()
    with given.open("rb") as stdin:
        ended = desk.run(*words, stdin=stdin)
    assert_all_right(desk, simulated, ended, 200, 4 * KILLS)
    if kind == "zst":
        assert [line["custom_id"] for line in desk.out()] == [f"p{n}" for n in range(200)]


@pytest.mark.slow
def test_what_stdout_got_before_a_kill_9_stands_in_out_and_the_next_run_says_it_again(desk, simulate):
    simulated = simulate("--latency-ms", 20)
    chance = random.Random(5)
    desk.prompts(40)  # their answers fit into the pipe that nobody empties meanwhile
    words, out = run_words(out="-"), desk.home / "in.jsonl.out.jsonl"
    words.remove("--json")
    copies = []
    for _ in range(KILLS):
        process = desk.start(*words)
        wait_for_lines(process, out, lines_in(out) + chance.randrange(1, 9))
        time.sleep(chance.random() * chance.choice((0.05, 1)))
        kill_group(process)
        copies.append(process.communicate()[0])
    ended = desk.run(*words)
    whole = out.read_bytes()
    assert (ended.code, ended.stdout.encode()) == (0, whole)
    assert all(whole.startswith(copy) for copy in copies), "what was not synced was copied"
    assert any(copies)
    assert_exactly_once(desk.out(out.name), [f"p{n}" for n in range(40)])
    assert simulated.bill()["calls"] <= 40 + 4 * KILLS


@pytest.mark.slow
def test_kill_9_of_the_server_too(desk, simulate):
    simulated = simulate("--latency-ms", 20)
    chance = random.Random(3)
    desk.prompts(400)
    out = desk.home / "out.jsonl"
    for _ in range(KILLS):
        process = desk.start(*run_words())
        wait_for_lines(process, out, lines_in(out) + chance.randrange(1, 30))
        kill_server(desk)
        time.sleep(chance.choice((0, 0.1)))
        kill_group(process)
        process.communicate()
    ended = desk.run(*run_words())
    assert_exactly_once(desk.out(), [f"p{n}" for n in range(400)])
    assert ended.code == 0
    assert simulated.bill()["calls"] <= 400 + 8 * KILLS, "a server's crash may lose its last second"


@pytest.mark.usefixtures("_prompt_disk")
def test_the_server_dies_under_a_run(desk, simulate):
    simulated = simulate("--latency-ms", 20)
    desk.prompts(400)
    process = desk.start(*run_words())
    wait_for(lambda: lines_in(desk.home / "out.jsonl") > 20)
    kill_server(desk)
    ended = desk.end(process)  # it starts the server again, and loses nothing
    assert "Redis is back" in ended.stderr
    assert_all_right(desk, simulated, ended, 400, 0)
    assert ended.json["spent_nusd"] == simulated.bill()["cost_nusd"]


def test_from_another_directory(desk, simulate):
    simulated = simulate("--latency-ms", 20)
    desk.prompts(200)
    process = desk.start(*run_words())
    wait_for(lambda: lines_in(desk.home / "out.jsonl") > 20)
    kill_group(process)
    process.communicate()
    elsewhere = desk.home / "elsewhere" / "deep"
    elsewhere.mkdir(parents=True)
    words = run_words()
    words[1], words[5] = "../../in.jsonl", "../../out.jsonl"
    ended = desk.run(*words, cwd=elsewhere)
    assert_all_right(desk, simulated, ended, 200, 4)
    assert not any(elsewhere.iterdir())


def test_from_another_directory_without_a_configuration(desk):
    desk.prompts(20)
    desk.prompts(30)  # ten more
    words = ["-m", "echo:echo", "--budget", 1, "--json"]
    desk.prompts(20)
    first = desk.run("run", "in.jsonl", *words)
    elsewhere = desk.home / "elsewhere"
    elsewhere.mkdir()
    desk.prompts(30)
    second = desk.run("run", "../in.jsonl", *words, cwd=elsewhere)
    assert second.json["batch_id"] == first.json["batch_id"]
    assert second.json["spent_nusd"] > first.json["spent_nusd"]
    assert not any(elsewhere.iterdir())


def test_ctrl_c_lets_running_calls_finish(desk, simulate):
    simulated = simulate("--latency-ms", 300)
    desk.prompts(40)
    process = desk.start(*run_words())
    wait_for(lambda: lines_in(desk.home / "out.jsonl") > 3)
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    ended = desk.end(process)
    assert time.monotonic() - began < 5
    assert ended.code == 130
    assert "Go on with:\n  farebox run in.jsonl" in ended.stderr
    assert ended.json["held_nusd"] == ended.json["unconfirmed_nusd"] == 0
    assert ended.json["spent_nusd"] == simulated.bill()["cost_nusd"]
    assert len(desk.out()) == simulated.bill()["calls"] < 40
    assert desk.run(*run_words()).code == 0
    assert_exactly_once(desk.out(), [f"p{n}" for n in range(40)])
    assert simulated.bill()["calls"] == 40


def test_ctrl_c_in_a_terminal_reaches_every_process(desk, simulate):
    simulated = simulate("--latency-ms", 300)
    desk.prompts(60)
    process = desk.start(*run_words(), "--processes", 2)
    wait_for(lambda: lines_in(desk.home / "out.jsonl") > 12)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    ended = desk.end(process)
    assert ended.code == 130
    assert ended.json["held_nusd"] == ended.json["unconfirmed_nusd"] == 0
    assert len(desk.out()) == simulated.bill()["calls"]
    assert desk.run(*run_words()).code == 0
    assert simulated.bill()["calls"] == 60


def test_a_second_ctrl_c_leaves_at_once(desk, simulate):
    simulated = simulate("--latency-ms", 20_000)
    desk.prompts(10)
    process = desk.start(*run_words())
    wait_for(lambda: simulated.bill()["calls"])
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    time.sleep(0.7)
    assert process.poll() is None, "the first one waits for running calls"
    process.send_signal(signal.SIGINT)
    ended = desk.end(process)
    assert time.monotonic() - began < 15, "the calls would take 20 s"
    assert ended.code == 130
    assert ended.json["unconfirmed_nusd"] > 0


def test_sigterm_drains_as_ctrl_c_does(desk, simulate):
    simulated = simulate("--latency-ms", 200)
    desk.prompts(40)
    process = desk.start(*run_words())
    wait_for(lambda: lines_in(desk.home / "out.jsonl") > 3)
    process.terminate()
    ended = desk.end(process)
    assert ended.code == 130
    assert len(desk.out()) == simulated.bill()["calls"]


def half_done(desk, count=60, done=20):
    """Answer the first lines of a file of `count`."""
    desk.prompts(count)
    ended = desk.run(*run_words(), "--first", done)
    assert (ended.code, len(desk.out())) == (0, done)
    return ended


def test_the_data_directory_is_gone(desk, simulate):
    simulated = simulate()
    half_done(desk)
    spent = simulated.bill()["cost_nusd"]
    shutil.rmtree(desk.home / ".farebox")
    broke = desk.run(*run_words(budget=spent / 1e9 + 0.0003))
    assert broke.code == 4, "what was spent before still counts"
    assert "carried over" in broke.stderr
    assert simulated.bill()["cost_nusd"] <= spent + 300_000
    ended = desk.run(*run_words())
    assert_all_right(desk, simulated, ended, 60, 0)
    assert ended.json["spent_nusd"] == simulated.bill()["cost_nusd"]
    assert simulated.bill()["calls"] == 60


def test_the_sidecar_is_gone(desk, simulate):
    simulated = simulate()
    before = half_done(desk)
    (desk.home / "out.jsonl.farebox").unlink()
    ended = desk.run(*run_words())
    assert ended.json["batch_id"] == before.json["batch_id"]
    assert_all_right(desk, simulated, ended, 60, 0)
    assert simulated.bill()["calls"] == 60


def test_both_are_gone_and_out_alone_goes_on(desk, simulate):
    simulated = simulate()
    half_done(desk)
    (desk.home / "out.jsonl.farebox").unlink()
    shutil.rmtree(desk.home / ".farebox")
    ended = desk.run(*run_words())
    assert_all_right(desk, simulated, ended, 60, 0)
    assert simulated.bill()["calls"] == 60
    assert ended.json["spent_nusd"] == simulated.bill()["cost_nusd"]


def test_out_was_deleted_and_everything_is_asked_anew(desk, simulate):
    simulated = simulate()
    half_done(desk)
    (desk.home / "out.jsonl").unlink()
    ended = desk.run(*run_words())
    assert ended.code == 0, ended
    assert_exactly_once(desk.out(), [f"p{n}" for n in range(60)])
    assert simulated.bill()["calls"] == 80


def test_new_lines_run_and_removed_ones_are_left_alone(desk, simulate):
    simulated = simulate()
    desk.prompts(20)
    assert desk.run(*run_words()).code == 0
    desk.prompts(15, first=10)  # p0 … p9 are gone, p20 … p24 are new
    ended = desk.run(*run_words())
    assert (ended.code, ended.json["total"]) == (0, 15)
    assert_exactly_once(desk.out(), [f"p{n}" for n in range(25)])
    assert simulated.bill()["calls"] == 25


def test_lines_removed_while_they_wait_are_not_asked(desk, simulate):
    simulated = simulate()
    desk.prompts(60)
    assert desk.run(*run_words(budget=0.0006)).code == 4
    kept = {line["custom_id"] for line in desk.out()}
    desk.write("in.jsonl", [prompt(n) for n in range(60) if f"p{n}" in kept] + [prompt(100)])
    ended = desk.run(*run_words())
    assert ended.code == 0, ended
    assert_exactly_once(desk.out(), [*kept, "p100"])
    assert simulated.bill()["calls"] == len(kept) + 1


def test_first_n_asks_no_more_than_n_though_all_were_submitted_before(desk, simulate):
    simulated = simulate()
    desk.prompts(60)
    assert desk.run(*run_words(budget=0.0006)).code == 4
    asked = simulated.bill()["calls"]
    ended = desk.run(*run_words(), "--first", 3)
    assert (ended.code, ended.json["total"]) == (0, asked + 3)
    assert simulated.bill()["calls"] == asked + 3
    assert desk.run(*run_words()).code == 0
    assert simulated.bill()["calls"] == 60
    assert_exactly_once(desk.out(), [f"p{n}" for n in range(60)])


def test_an_answered_line_that_changed_is_refused_by_number(desk, simulate):
    simulated = simulate()
    desk.prompts(10)
    assert desk.run(*run_words()).code == 0
    desk.write("in.jsonl", [prompt(n) | ({"prompt": "Something else."} if n in (3, 7) else {}) for n in range(10)])
    refused = desk.run(*run_words())
    assert refused.code == 2
    assert "line 4, 8" in refused.stderr
    assert "--redo" in refused.stderr
    assert desk.run("batches", "--json").json["batches"][0]["state"] == "complete", "whoever follows it would wait"
    assert simulated.bill()["calls"] == 10
    redone = desk.run(*run_words(), "--redo")
    assert redone.code == 0
    assert simulated.bill()["calls"] == 12
    assert_exactly_once(desk.out(), [f"p{n}" for n in range(10)])
    assert redone.json["spent_nusd"] == simulated.bill()["cost_nusd"]
    (batch,) = desk.run("batches", "--json").json["batches"]
    assert (batch["submitted"], batch["succeeded"], batch["state"]) == (10, 10, "complete"), "each line counts once"
    assert sum(batch["finishes"].values()) == 10
    assert desk.run(*run_words()).code == 0


def test_a_line_that_changed_while_it_waited_is_asked_as_it_is_now_and_once(desk, simulate):
    simulated = simulate()
    desk.prompts(60)
    assert desk.run(*run_words(budget=0.0006)).code == 4
    desk.write("in.jsonl", [prompt(n) | ({"prompt": "Something else."} if n == 59 else {}) for n in range(60)])
    changed = desk.run(*run_words())
    assert changed.code == 0
    assert "1 jobs of an earlier run were still waiting and are not asked so now: withdrawn" in changed.stderr
    assert simulated.bill()["calls"] == 60
    assert_exactly_once(desk.out(), [f"p{n}" for n in range(60)])


def limited_to(size):
    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return limit


def test_a_full_disk_loses_nothing(desk, simulate):
    simulated = simulate("--latency-ms", 10)
    desk.prompts(150)
    data = desk.home / "keep"  # its server is started first, without the limit
    assert desk.run("budget", "off", "--data-dir", data).code == 0
    holder = desk.start("worker", "--data-dir", data, "--quiet")
    wait_for(lambda: is_alive(server_pid(desk, data)))
    full = desk.run(*run_words(), "--data-dir", data, preexec_fn=limited_to(20_000))
    assert full.code == 1, full
    assert "out.jsonl" in full.stderr
    assert "nothing is lost" in full.stderr
    assert len(desk.out()) < 150
    ended = desk.run(*run_words(), "--data-dir", data)
    assert_all_right(desk, simulated, ended, 150, 4)
    assert simulated.bill()["calls"] == 150
    holder.terminate()
    desk.end(holder)


def test_a_tiny_disk_holds_everything(desk, simulate):
    simulated = simulate("--latency-ms", 5)
    disk = desk.home / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=200k", "none", disk], capture_output=True, check=False
    ).returncode:
        pytest.skip("no right to mount")
    try:
        desk.prompts(300)
        words = run_words(out="disk/out.jsonl")
        full = desk.run(*words)
        assert full.code == 1, full
        assert "ENOSPC" in full.stderr
        subprocess.run(["mount", "-o", "remount,size=20m", disk], check=True)
        ended = desk.run(*words)
        assert_all_right(desk, simulated, ended, 300, 0, out="disk/out.jsonl")
    finally:
        end_servers(desk.home)
        subprocess.run(["umount", disk], check=False)


def test_two_runs_share_a_data_directory_and_keep_to_their_own(desk, simulate):
    simulated = simulate("--latency-ms", 20)
    desk.prompts(120, "a.jsonl")
    desk.prompts(120, "b.jsonl", first=1000)
    words = ["-m", "sim:sim-1", "--budget", 1, "--json", "--concurrency", 4]
    both = [desk.start("run", name, *words) for name in ("a.jsonl", "b.jsonl")]
    ended = [desk.end(process) for process in both]
    assert [one.code for one in ended] == [0, 0], ended
    assert_exactly_once(desk.out("a.jsonl.out.jsonl"), [f"p{n}" for n in range(120)])
    assert_exactly_once(desk.out("b.jsonl.out.jsonl"), [f"p{n}" for n in range(1000, 1120)])
    assert sum(one.json["spent_nusd"] for one in ended) == simulated.bill()["cost_nusd"]
    assert simulated.bill()["calls"] == 240


def test_a_run_that_reads_a_long_file_does_not_end_the_calls_of_another(desk, simulate):
    simulated = simulate("--latency-ms", 4000)
    desk.prompts(30_000, "long.jsonl")
    desk.prompts(10, first=100_000)
    long = desk.start("run", "long.jsonl", "-m", "echo:echo", "--budget", 100)  # the first to use the directory
    wait_for((desk.home / ".farebox" / "users.lock").exists)
    ended = desk.run(*run_words(), "--concurrency", 10)
    assert (ended.code, ended.json["unconfirmed_nusd"]) == (0, 0)
    assert simulated.bill()["calls"] == 10
    assert desk.end(long).code == 0


def test_one_of_two_runs_is_killed_and_the_other_goes_on(desk, simulate):
    simulated = simulate("--latency-ms", 20)
    desk.prompts(300, "a.jsonl")
    desk.prompts(200, "b.jsonl", first=1000)
    words = ["-m", "sim:sim-1", "--budget", 1, "--json", "--concurrency", 4]
    first = desk.start("run", "a.jsonl", *words)
    wait_for(lambda: lines_in(desk.home / "a.jsonl.out.jsonl") > 10)
    second = desk.start("run", "b.jsonl", *words)
    wait_for(lambda: lines_in(desk.home / "b.jsonl.out.jsonl") > 5)
    kill_group(first)  # it had started the server
    other = desk.end(second)
    assert other.code == 0
    assert other.json["unconfirmed_nusd"] == 0, "the other's calls are its own"
    ended = desk.run("run", "a.jsonl", *words)
    assert ended.code == 0
    assert_exactly_once(desk.out("a.jsonl.out.jsonl"), [f"p{n}" for n in range(300)])
    assert simulated.bill()["calls"] <= 504


def test_the_same_out_is_refused_while_a_run_writes_it(desk, simulate):
    simulate("--latency-ms", 1000)
    desk.prompts(60)
    first = desk.start(*run_words())
    wait_for(lambda: lines_in(desk.home / "out.jsonl") > 2)
    second = desk.run(*run_words())
    assert second.code == 2
    assert "another run is writing" in second.stderr
    first.terminate()
    assert desk.end(first).code == 130
    assert desk.run(*run_words(), "--concurrency", 60).code == 0
    assert_exactly_once(desk.out(), [f"p{n}" for n in range(60)])


def test_a_torn_last_line_is_cut(desk, simulate):
    simulated = simulate()
    half_done(desk)
    with (desk.home / "out.jsonl").open("ab") as out:
        out.write(json.dumps(desk.out()[0]).encode()[:77])
    ended = desk.run(*run_words())
    assert_all_right(desk, simulated, ended, 60, 0)
