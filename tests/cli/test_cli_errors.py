"""Whatever is wrong is said in a sentence that a person can act on, with the right exit code and no traceback."""

import json
import os
import signal
import time
from contextlib import contextmanager

import pytest
from tests.cli_support import KEY, prompt
from tests.ports import free_port

from farebox_worker.server.server_process import ask, start_server

ECHO = ["-m", "echo:echo", "--budget", 1]


def refused(desk, code, *words, **options):
    """Run a command that must fail with this exit code; return what it says."""
    ended = desk.run(*words, **options)
    assert ended.code == code, ended
    assert ended.stdout == ""
    assert ended.stderr.startswith(("farebox: ", "Usage: ")), ended.stderr
    return ended.stderr


# --- files ------------------------------------------------------------------------------------------------------


def test_no_input_file(desk):
    assert "no file nope.jsonl" in refused(desk, 2, "run", "nope.jsonl", *ECHO)
    assert "no file nope.jsonl" in refused(desk, 2, "submit", "nope.jsonl", "-m", "echo:echo")


def test_a_directory_as_input(desk):
    (desk.home / "folder").mkdir()
    assert "folder is a directory" in refused(desk, 2, "run", "folder", *ECHO)


def test_a_misspelt_command_names_the_nearest(desk):
    assert "Did you mean status?" in refused(desk, 2, "statsu")
    assert "No such command 'xyzzy'" in refused(desk, 2, "xyzzy")


def test_an_unreadable_input(desk):
    path = desk.prompts(1)
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")
    assert "cannot read in.jsonl" in refused(desk, 2, "run", "in.jsonl", *ECHO)


@pytest.mark.parametrize("content", ["", "\n\n", "\ufeff"])
def test_an_empty_input(desk, content):
    (desk.home / "in.jsonl").write_text(content)
    assert "in.jsonl holds no jobs" in refused(desk, 2, "run", "in.jsonl", *ECHO)


def test_an_input_that_is_no_text(desk):
    (desk.home / "in.jsonl").write_bytes(os.urandom(3000))
    assert "in.jsonl:1: not" in refused(desk, 2, "run", "in.jsonl", *ECHO)


BAD_LINES = {
    "{not json": "not JSON",
    '"a text"': "not a JSON object",
    "[1, 2]": "not a JSON object",
    '{"custom_id": "p0", "prompt": "x"}': "stands on line 1 already",
    '{"custom_id": 5, "prompt": "x"}': "custom_id must be a text",
    '{"prompt": "x", "stream": true}': "stream",
    '{"prompt": ""}': "the prompt is empty",
    "{}": "no messages",
    '{"messages": []}': "messages must be a list",
    '{"prompt": "x", "messages": [{"role": "user", "content": "y"}]}': "both prompt and messages",
    '{"custom_id": "a", "method": "GET", "url": "/v1/chat/completions", "body": {}}': "unknown method",
    '{"custom_id": "b", "method": "POST", "url": "/v1/completions", "body": {}}': "unknown url",
    '{"custom_id": "c", "method": "POST", "url": "/v1/chat/completions"}': "no body",
    '{"prompt": "x", "max_tokens": 0}': "max_tokens",
    '{"prompt": "\\ud800"}': "half a character",
}


def test_every_bad_line_is_named_with_its_number(desk):
    desk.write("in.jsonl", [prompt(0), *BAD_LINES, prompt(1)])
    said = refused(desk, 2, "run", "in.jsonl", *ECHO)
    for number, words in enumerate(BAD_LINES.values(), 2):
        line = next((line for line in said.splitlines() if line.startswith(f"in.jsonl:{number}:")), "")
        assert words in line, (number, line)
    assert "Nothing was sent" in said
    assert f"{len(BAD_LINES)} of {len(BAD_LINES) + 2} lines are bad" in said


def test_unknown_models_and_too_large_lines(desk):
    big = json.dumps({"prompt": "x" * 8_100_000})
    desk.write(
        "in.jsonl",
        ['{"prompt": "x", "model": "echo:ecko"}', '{"prompt": "x"}', big, '{"prompt":"x","model":"gpt-5-mini"}'],
    )
    said = refused(desk, 2, "run", "in.jsonl", "--budget", 1)
    assert "in.jsonl:1: model not found: echo:ecko. Did you mean echo:echo?" in said
    assert "in.jsonl:2: no model" in said
    assert "in.jsonl:3: larger than 8 MB" in said
    assert "in.jsonl:4: model not found: gpt-5-mini" in said


def test_an_unknown_model_of_a_vendor_without_a_key_says_which_variable(desk):
    desk.prompts(1)
    said = refused(desk, 2, "run", "in.jsonl", "-m", "openai:gpt-5-mini", "--budget", 1)
    assert "OPENAI_API_KEY" in said


@pytest.mark.parametrize("words", [["-m", "own:m"], ["-m", "echo:echo", "--fallback", "own:m"]])
def test_a_key_that_is_missing_is_said_of_the_key_and_of_no_line(desk, words):
    desk.prompts(3)
    (desk.home / "farebox.toml").write_text(
        '[providers.own]\nkind = "openai"\nbase_url = "http://127.0.0.1:9/v1"\napi_key_env = "OWN_KEY"\n'
        '[models."own:m"]\ninput_usd_per_mtok = 1.0\noutput_usd_per_mtok = 2.0\n'
    )
    said = refused(desk, 2, "run", "in.jsonl", *words, "--budget", 1)
    assert said == "farebox: providers.own: the environment variable OWN_KEY is not set; it holds the API key\n"


def test_one_reason_for_many_lines_is_said_once(desk):
    desk.prompts(500)
    said = refused(desk, 2, "run", "in.jsonl", "-m", "echo:ecko", "--budget", 1)
    assert said.count("Did you mean echo:echo?") == 1, said
    assert "500 of 500" not in said  # the flag is wrong, not the lines
    unnamed = refused(desk, 2, "run", "in.jsonl", "--budget", 1)
    assert unnamed.count("no model") == 1, unnamed
    assert "500 of 500" in unnamed


def test_a_line_that_never_fits_is_refused_with_its_cost(desk):
    desk.write("in.jsonl", [prompt(0, max_tokens=50), prompt(1, max_tokens=100_000)])
    said = refused(desk, 2, "run", "in.jsonl", "-m", "echo:echo", "--budget", 0.01)
    assert "in.jsonl:2:" in said
    assert "never fits into the budget of $0.01" in said


def test_a_foreign_output_is_kept_unless_overwritten(desk):
    desk.prompts(2)
    (desk.home / "out.jsonl").write_text('{"my": "notes"}\n')
    assert "--overwrite" in refused(desk, 2, "run", "in.jsonl", *ECHO, "-o", "out.jsonl")
    assert (desk.home / "out.jsonl").read_text() == '{"my": "notes"}\n'
    assert desk.run("run", "in.jsonl", *ECHO, "-o", "out.jsonl", "--overwrite").code == 0
    assert len(desk.out()) == 2


@pytest.mark.parametrize(
    ("out", "words"),
    [
        ("in.jsonl", "is the input file"),
        ("missing/out.jsonl", "no directory"),
        (".", "is a directory"),
        ("/dev/full", "no regular file"),
    ],
)
def test_outputs_that_cannot_be(desk, out, words):
    desk.prompts(2)
    before = (desk.home / "in.jsonl").read_bytes()
    said = refused(desk, 2, "run", "in.jsonl", *ECHO, "-o", out)
    assert words in said
    assert "-o" in said
    assert (desk.home / "in.jsonl").read_bytes() == before


def test_an_output_directory_that_is_read_only(desk):
    desk.prompts(2)
    assert "-o" in refused(desk, 2, "run", "in.jsonl", *ECHO, "-o", "/proc/out.jsonl")


def test_a_refused_file_leaves_nothing_behind(desk):
    desk.write("in.jsonl", ["{bad"])
    refused(desk, 2, "run", "in.jsonl", *ECHO)
    assert not (desk.home / "in.jsonl.out.jsonl").exists()


def test_a_damaged_sidecar(desk):
    desk.prompts(2)
    assert desk.run("run", "in.jsonl", *ECHO, "-o", "out.jsonl").code == 0
    (desk.home / "out.jsonl.farebox").write_text("{")
    said = refused(desk, 2, "run", "in.jsonl", *ECHO, "-o", "out.jsonl")
    assert "delete it and run the same command again" in said
    (desk.home / "out.jsonl.farebox").unlink()
    assert desk.run("run", "in.jsonl", *ECHO, "-o", "out.jsonl").code == 0


def test_a_data_directory_that_is_a_file(desk):
    desk.prompts(2)
    (desk.home / "data").write_text("mine")
    said = refused(desk, 2, "run", "in.jsonl", *ECHO, "--data-dir", "data")
    assert "data" in said
    assert (desk.home / "data").read_text() == "mine"


# --- flags and configuration ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "flags",
    [
        ["--budget", "lots"], ["--budget", "-1"], ["--budget", "nan"], ["--budget", "inf"], ["--budget", "1e12"],
        ["--budget", "1", "--no-budget"], ["--max-failures", "many"], ["--max-failures", "-1"],
        ["--max-failures", "150%"], ["--max-failures", "inf%"], ["--max-tokens", "9" * 20], ["--first", "0"],
        ["--frobnicate"],
        ["--config", "nope.toml"], ["--redis", "http://x"],
    ],
)  # fmt: skip
def test_flags_that_cannot_be(desk, flags):
    desk.prompts(1)
    refused(desk, 2, "run", "in.jsonl", "-m", "echo:echo", *flags)
    assert desk.files() == ["in.jsonl"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[budget\n", "not valid TOML"),
        ("[budget]\nlimit = 5\n", "limit_usd"),
        ('[budget]\nlimit_usd = "five"\n', "dollars"),
        ("[bugdet]\nlimit_usd = 5\n", "budget"),
        ("[worker]\nconcurrency = 0\n", "1 to 10000"),
        ('[providers.x]\nkind = "opanai"\n', "openai"),
        (f'[providers.x]\nbase_url = "http://x"\napi_key = "{KEY}"\n', "api_key_env"),
        ('[models."nobody:x"]\nfree = true\n', "nobody"),
    ],
)
def test_a_broken_configuration_names_file_key_and_what_was_expected(desk, text, words):
    desk.prompts(1)
    (desk.home / "farebox.toml").write_text(text)
    said = refused(desk, 2, "run", "in.jsonl", *ECHO)
    assert "farebox.toml" in said
    assert words in said
    assert KEY not in said


# --- keys and providers -----------------------------------------------------------------------------------------


def test_the_keys_variable_is_not_set(desk, simulate):
    simulated = simulate()
    desk.prompts(3)
    del desk.environment["SIM_API_KEY"]
    said = refused(desk, 2, "run", "in.jsonl", "-m", "sim:sim-1", "--budget", 1)
    assert "SIM_API_KEY" in said
    assert said.count("\n") < 6, "once is enough"
    assert simulated.bill()["calls"] == 0


@pytest.mark.parametrize("model", ["sim:sim-1", "claude:sim-1"])
def test_a_wrong_key_stops_the_process_keeps_the_jobs_and_is_never_shown(desk, simulate, model):
    simulate("--api-key", "sk-the-right-one-98765432")
    desk.prompts(40)
    run = ["run", "in.jsonl", "-m", model, "--budget", 1, "-o", "out.jsonl", "--json"]
    ended = desk.run(*run)
    assert ended.code == 1, ended
    assert (ended.json["failed"], ended.json["left"]) == (0, 40)
    assert "nothing is lost" in ended.stderr
    assert "SIM_API_KEY" in ended.stderr, "which key it is"
    found = [path for path in desk.home.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]
    assert found == []
    assert KEY not in ended.stdout + ended.stderr
    right = desk.run(*run, SIM_API_KEY="sk-the-right-one-98765432")
    assert (right.code, right.json["succeeded"]) == (0, 40)


def test_a_worker_with_a_wrong_key_serves_on_and_ends_in_order_when_it_is_told(desk, simulate):
    simulate("--api-key", "sk-the-right-one-98765432")
    desk.prompts(4)
    assert desk.run("budget", "set", 1).code == 0
    assert desk.run("submit", "in.jsonl", "-m", "sim:sim-1", "--batch", "b").code == 0
    worker = desk.start("worker")
    assert any(b"is not served here any more" in line for line in worker.stderr)
    worker.send_signal(signal.SIGTERM)
    ended = desk.end(worker)
    assert ended.code == 0, ended
    ended = desk.run("worker", "--burst")
    assert ended.code == 1, "it leaves jobs that it came for"
    assert desk.run("status", "b", "--json").json["waiting"] == 4


@pytest.mark.slow
@pytest.mark.timeout(90)
def test_a_provider_that_refuses_connections_is_given_up_when_it_never_answered(desk):
    desk.configure(f"http://127.0.0.1:{free_port()}")
    desk.prompts(5)
    began = time.monotonic()
    ended = desk.run("run", "in.jsonl", "-m", "sim:sim-1", "--budget", 1, "--json", timeout_s=80)
    assert ended.code == 1, ended
    assert 25 < time.monotonic() - began < 70
    assert "no call was answered" in ended.stderr
    assert "connect" in ended.stderr.lower()
    assert (ended.json["left"], ended.json["failed"], ended.json["spent_nusd"]) == (5, 0, 0)
    assert ended.json["unconfirmed_nusd"] == ended.json["held_nusd"] == 0


def test_an_empty_account_keeps_the_jobs_and_ctrl_c_still_works(desk, simulate):
    simulated = simulate("--account-empty-after-usd", 0.001)
    desk.prompts(60)
    process = desk.start("run", "in.jsonl", "-m", "sim:sim-1", "--budget", 1, "-o", "out.jsonl", "--json")
    deadline = time.monotonic() + 30
    while simulated.bill()["cost_nusd"] < 1_000_000 and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(2)
    assert process.poll() is None, "it waits for the account"
    process.terminate()
    ended = desk.end(process)
    assert ended.code == 130
    assert ended.json["failed"] == 0
    assert ended.json["left"] > 0


# --- Redis ------------------------------------------------------------------------------------------------------


@contextmanager
def shared_server(desk, *extra):
    folder = desk.home / "shared"
    folder.mkdir()
    server = start_server(folder, appendfsync="no", port=free_port(), extra=extra)
    try:
        yield server
    finally:
        server.kill()


@pytest.mark.parametrize(
    "words",
    [["run", "in.jsonl", *ECHO], ["submit", "in.jsonl", "-m", "echo:echo"], ["batches"], ["cost"], ["budget", "show"],
     ["budget", "set", "5"], ["status", "x"], ["results", "x", "-o", "-"], ["cancel", "x"]],
)  # fmt: skip
def test_redis_cannot_be_reached_and_its_password_is_not_shown(desk, words):
    desk.prompts(1)
    said = refused(desk, 1, *words, "--redis", "redis://me:hunter2secret@127.0.0.1:1/0",
                   FAREBOX_REDIS_WAIT_S="0")  # fmt: skip
    assert "cannot reach redis://***@127.0.0.1:1/0" in said
    assert "hunter2secret" not in said


def test_an_evicting_server_is_refused(desk):
    desk.prompts(1)
    with shared_server(desk, "--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru") as server:
        said = refused(desk, 1, "run", "in.jsonl", *ECHO, "--redis", server.url)
    assert "allkeys-lru" in said
    assert "noeviction" in said


def test_a_cluster_is_refused(desk):
    desk.prompts(1)
    with shared_server(desk, "--cluster-enabled", "yes") as server:
        said = refused(desk, 1, "budget", "set", "5", "--redis", server.url)
    assert "Cluster" in said


def test_a_wrong_password_is_refused_and_the_right_one_never_shown(desk):
    desk.prompts(3)
    with shared_server(desk) as server:
        assert ask(server.address, "CONFIG SET requirepass hunter2secret") == "+OK"
        port = server.url.partition("127.0.0.1:")[2]
        wrong, right = (f"redis://:{word}@127.0.0.1:{port}" for word in ("wrongword", "hunter2secret"))
        assert "password" in refused(desk, 1, "cost", "--redis", f"redis://127.0.0.1:{port}")
        said = refused(desk, 1, "cost", "--redis", wrong)
        assert "wrongword" not in said
        assert desk.run("budget", "set", 5, "--redis", right).code == 0
        ended = desk.run("run", "in.jsonl", "-m", "echo:echo", "--with-worker", "-o", "out.jsonl", "--redis", right)
        assert ended.code == 0, ended
        assert "hunter2secret" not in ended.stderr + ended.stdout
        assert b"hunter2secret" not in (desk.home / "out.jsonl.farebox").read_bytes()


def test_a_shared_server_without_a_ledger_gets_none_from_submit_and_worker(desk):
    desk.prompts(3)
    with shared_server(desk) as server:
        redis = ["--redis", server.url]
        commands = [
            ["submit", "in.jsonl", "-m", "echo:echo"], ["worker", "--burst"], ["worker", "--burst", "--processes", 2],
            ["budget", "show"], ["cost"], ["cost", "--json"], ["cost", "reset"], ["run", "in.jsonl", *ECHO],
        ]  # fmt: skip
        for words in commands:
            ended = desk.run(*words, *redis)
            assert (ended.code, ended.stdout) == (1, ""), ended
            assert "farebox budget set" in ended.stderr
        assert desk.run("budget", "off", *redis).code == 0
        assert desk.run("submit", "in.jsonl", "-m", "echo:echo", *redis).code == 0
        assert desk.run("worker", "--burst", *redis).code == 0


def test_redis_goes_away_under_a_run_and_comes_back(desk, simulate):
    simulated = simulate("--latency-ms", 20)
    desk.prompts(200)
    folder = desk.home / "shared"
    folder.mkdir()
    port = free_port()
    server = start_server(folder, appendfsync="always", port=port)
    try:
        assert desk.run("budget", "set", 5, "--redis", server.url).code == 0
        process = desk.start("run", "in.jsonl", "-m", "sim:sim-1", "--with-worker", "-o", "out.jsonl", "--json",
                             "--concurrency", 4, "--redis", server.url)  # fmt: skip
        while simulated.bill()["calls"] < 40:
            time.sleep(0.02)
            assert process.poll() is None
        server.kill()
        time.sleep(1)
        assert process.poll() is None
        server = start_server(folder, appendfsync="always", port=port)
        ended = desk.end(process)
    finally:
        server.kill()
    assert ended.code == 0, ended
    assert ended.stderr.count("Redis is away") == 1
    assert "Redis is back" in ended.stderr
    assert simulated.bill()["calls"] == 200
    assert ended.json["spent_nusd"] == simulated.bill()["cost_nusd"]


def test_redis_is_gone_for_good_and_a_second_ctrl_c_leaves(desk, simulate):
    simulate("--latency-ms", 20)
    desk.prompts(300)
    with shared_server(desk) as server:
        assert desk.run("budget", "set", 5, "--redis", server.url).code == 0
        process = desk.start("run", "in.jsonl", "-m", "sim:sim-1", "--with-worker", "-o", "out.jsonl",
                             "--concurrency", 4, "--redis", server.url)  # fmt: skip
        while not (desk.home / "out.jsonl").exists() or (desk.home / "out.jsonl").stat().st_size < 5000:
            time.sleep(0.02)
            assert process.poll() is None
    time.sleep(0.5)
    for _ in range(2):
        process.terminate()
        time.sleep(0.5)
    ended = desk.end(process, timeout_s=10)
    assert ended.code == 130, ended
    assert "Go on with" in ended.stderr


# --- nothing there yet ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [["batches"], ["status"], ["status", "x"], ["results", "x", "-o", "r.jsonl"], ["cancel", "x"], ["cost"],
     ["cost", "--json"], ["cost", "reset"], ["budget", "show"], ["worker", "--burst"],
     ["submit", "in.jsonl", "-m", "echo:echo"]],
)  # fmt: skip
def test_commands_on_an_empty_data_directory_say_how_to_begin(desk, words):
    desk.prompts(1)
    said = refused(desk, 2, *words)
    assert "farebox run IN --budget USD" in said
    assert desk.files() == ["in.jsonl"], "and they create nothing"


@pytest.mark.parametrize("words", [["status", "nope"], ["results", "nope", "-o", "r.jsonl"], ["cancel", "nope"]])
def test_a_batch_that_is_not_there(desk, words):
    desk.prompts(1)
    assert desk.run("run", "in.jsonl", *ECHO).code == 0
    said = refused(desk, 2, *words)
    assert "no batch 'nope'" in said
    assert "farebox batches" in said
    assert not (desk.home / "r.jsonl").exists()
