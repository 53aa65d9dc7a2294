"""`farebox run`, `estimate`, `submit` and `export` with tables, pipes, archives, several models, and in order."""

import csv
import gzip
import json
import os
import signal
import subprocess
import time
from functools import partial

import pytest
import zstandard
from tests.cli_support import COMMAND, assert_exactly_once, kill_group, prompt

ROWS = [["id", "text"], ["a", 'say "x", twice'], ["b", "two\nlines"], ["c", "é"]]
TIMES = "\u00d7"
ECHOES = '[providers.e1]\nkind = "echo"\n[providers.e2]\nkind = "echo"\n'


def write_csv(path, rows=ROWS, **options):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, **options).writerows(rows)


def read_csv(path, delimiter=","):
    with path.open(newline="", encoding="utf-8-sig") as file:
        return list(csv.reader(file, delimiter=delimiter))


def table_run(desk, *more, out="out.csv", model="echo:echo"):
    return desk.run("run", "in.csv", "-m", model, "--template", "Say {text}", "--id-column", "id", "-o", out,
                    "--budget", 1, "--json", *more)  # fmt: skip


def ids(desk, name="out.jsonl"):
    return [line["custom_id"] for line in desk.out(name)]


def test_a_table_gets_a_column_of_answers_and_keeps_its_own(desk):
    write_csv(desk.home / "in.csv", delimiter=";")
    ended = table_run(desk)
    assert ended.code == 0, ended
    answers = [["answer", "answer_error"], *([f"Say {text}", ""] for _, text in ROWS[1:])]
    assert read_csv(desk.home / "out.csv", ";") == [row + added for row, added in zip(ROWS, answers, strict=True)]
    assert_exactly_once(desk.out(), ["a", "b", "c"])
    before = (desk.home / "out.csv").read_bytes()
    (desk.home / "out.csv").unlink()
    assert table_run(desk).code == 0
    assert (desk.home / "out.csv").read_bytes() == before, "it is made of IN and OUT alone"


def test_without_a_name_the_table_stands_beside_out(desk):
    write_csv(desk.home / "in.csv")
    ended = desk.run("run", "in.csv", "-m", "echo:echo", "--template", "{text}", "--budget", 1)
    assert (ended.code, "in.csv.out.csv has 3 rows" in ended.stderr) == (0, True)
    assert set(ids(desk, "in.csv.out.jsonl")) == {"line-2", "line-3", "line-4"}
    assert len(read_csv(desk.home / "in.csv.out.csv")) == 4


def test_a_row_that_failed_says_so_in_its_column_and_a_parked_one_is_empty(desk, simulate):
    simulate()
    write_csv(desk.home / "in.csv", [["id", "text"], *([f"p{n}", f"{n}"] for n in range(20))])
    words = ["--max-tokens", 50]
    ended = desk.run("run", "in.csv", "-m", "sim:sim-1", "--template", "Say {text}", "-o", "out.csv", "--budget",
                     0.0015, *words, "--json")  # fmt: skip
    assert ended.code == 4, ended
    rows = read_csv(desk.home / "out.csv")
    assert len(rows) == 21
    assert sum(bool(row[2]) for row in rows[1:]) == ended.json["succeeded"] < 20


def test_a_table_has_the_delimiter_of_its_name_and_its_file_is_named_when_its_header_is_wrong(desk):
    desk.prompts(1)
    assert desk.run("run", "in.jsonl", "-m", "echo:echo", "-o", "out.tsv", "--budget", 1).code == 0
    assert (desk.home / "out.tsv").read_text().startswith("custom_id\tanswer\tanswer_error")
    (desk.home / "twice.csv").write_text("prompt,prompt\nx,y\n")
    refused = desk.run("run", "twice.csv", "-m", "echo:echo", "--budget", 1)
    assert (refused.code, "twice.csv: the header names 'prompt' twice" in refused.stderr) == (2, True)


def test_an_export_whose_reader_went_away_ends_without_a_word(desk):
    desk.prompts(400)
    assert desk.run("run", "in.jsonl", "-m", "echo:echo", "-o", "out.jsonl", "--budget", 9).code == 0
    command = " ".join([*COMMAND, "export", "out.jsonl", "-o", "-"])
    ended = subprocess.run(
        ["bash", "-c", f"{command} | head -1; exit ${{PIPESTATUS[0]}}"], cwd=desk.home, env=desk.environ(),
        capture_output=True, timeout=30, check=False,
    )  # fmt: skip
    assert (ended.returncode, ended.stdout.count(b"\n"), ended.stderr) == (1, 1, b"")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--template", "{txet}"], "in.csv: no column 'txet': there are id, text"),
        (["--template", "{text.__class__}"], "no column 'text.__class__'"),
        (["--template", "{text"], "single '{' at character 1"),
        (["--template", "fixed"], "names no field"),
        (["--template", "@none"], "--template @none: cannot read it"),
        ([], "say with --template what to ask"),
        (["--template", "{text}", "--answer-column", "text"], "has a column 'text' already"),
        (["--template", "{text}", "-o", "in.csv"], "in.csv is the input file"),
        (["--template", "{text}", "-o", "mine.csv"], "no run made it"),
        (["--template", "{text}", "-o", "o.jsonl.gz"], "farebox export o.jsonl -o o.jsonl.gz"),
        (["--template", "{text}", "--schema", "none"], "--schema none: cannot read it"),
        (["--template", "{text}", "-m", "echo:echo"], "-m names echo:echo twice"),
        (["--template", "{text}", "-o", "-"], "both write to stdout"),
    ],
)
def test_what_cannot_be_asked_so_is_refused_before_anything_is_sent(desk, words, says):
    write_csv(desk.home / "in.csv")
    (desk.home / "mine.csv").write_text("mine")
    refused = desk.run("run", "in.csv", "-m", "echo:echo", "--budget", 1, "--json", *words)
    assert (refused.code, refused.stdout) == (2, "")
    assert says in refused.stderr
    assert desk.files() == [".farebox", "in.csv", "mine.csv"] or desk.files() == ["in.csv", "mine.csv"]


def piped(desk, content, *words):
    with (desk.home / ".piped").open("wb") as file:
        file.write(content)
    with (desk.home / ".piped").open("rb") as file:
        cat = subprocess.Popen(["cat"], stdin=file, stdout=subprocess.PIPE)
        ended = desk.run(*words, stdin=cat.stdout)
        cat.stdout.close()
        cat.wait(10)
    return ended


def lines(first, last):
    return "".join(json.dumps(prompt(n)) + "\n" for n in range(first, last)).encode()


def test_what_comes_through_a_pipe_goes_on_when_it_is_piped_again(desk):
    words = ["run", "-", "-m", "echo:echo", "-o", "out.jsonl", "--budget", 1, "--json"]
    assert piped(desk, lines(0, 20), *words).code == 0
    ended = piped(desk, lines(0, 30), *words)
    assert (ended.code, ended.json["total"]) == (0, 30)
    assert_exactly_once(desk.out(), [f"p{n}" for n in range(30)])
    assert piped(desk, gzip.compress(lines(0, 30)), *words).json["total"] == 30
    changed = piped(desk, lines(0, 2).replace(b"number 1", b"word 1"), *words)
    assert (changed.code, "line 2 changed" in changed.stderr) == (2, True)


def test_a_pipe_needs_a_file_for_its_answers(desk):
    for words in (["-"], ["-", "-o", "-"]):
        refused = piped(desk, lines(0, 1), "run", *words, "-m", "echo:echo", "--budget", 1)
        assert (refused.code, "IN is a pipe: name a file with -o" in refused.stderr) == (2, True)


def test_stdout_gets_every_line_of_out_also_of_earlier_runs(desk):
    desk.prompts(30)
    words = ["run", "in.jsonl", "-m", "echo:echo", "-o", "-", "--budget", 1]
    first = desk.run(*words, "--first", 10)
    whole = desk.run(*words)
    assert (first.code, whole.code) == (0, 0)
    assert whole.stdout.startswith(first.stdout)
    assert whole.stdout.encode() == (desk.home / "in.jsonl.out.jsonl").read_bytes()
    assert_exactly_once([json.loads(line) for line in whole.stdout.splitlines()], [f"p{n}" for n in range(30)])
    ordered = desk.run(*words, "--ordered")
    assert [json.loads(line)["custom_id"] for line in ordered.stdout.splitlines()] == [f"p{n}" for n in range(30)]


def test_when_nobody_reads_stdout_the_answers_are_kept(desk):
    desk.write("in.jsonl", [{"custom_id": f"p{n}", "prompt": "x" * 4000} for n in range(300)])
    run = desk.start("run", "in.jsonl", "-m", "echo:echo", "-o", "-", "--budget", 9)
    run.stdout.read(10)
    run.stdout.close()
    error = run.stderr.read().decode()
    assert (run.wait(30), "nobody reads stdout any more" in error, "Exception" in error) == (1, True, False)
    assert desk.run("run", "in.jsonl", "-m", "echo:echo", "--budget", 9).code == 0
    assert_exactly_once(desk.out("in.jsonl.out.jsonl"), [f"p{n}" for n in range(300)])


def test_when_stdout_is_a_full_disk_the_answers_are_kept(desk):
    desk.prompts(5)
    fill = partial(os.dup2, os.open("/dev/full", os.O_WRONLY), 1)
    run = desk.start("run", "in.jsonl", "-m", "echo:echo", "-o", "-", "--budget", 9, preexec_fn=fill)
    error = run.stderr.read().decode()
    assert (run.wait(30), "No space left on device. in.jsonl.out.jsonl keeps the answers" in error) == (1, True)
    assert len(desk.out("in.jsonl.out.jsonl")) == 5


@pytest.mark.parametrize("kind", ["gz", "zst"])
def test_archives_are_read_and_go_on_and_are_never_out(desk, kind):
    pack = gzip.compress if kind == "gz" else zstandard.ZstdCompressor().compress
    name = f"in.jsonl.{kind}"
    (desk.home / name).write_bytes(pack(lines(0, 10)))
    assert desk.run("run", name, "-m", "echo:echo", "--budget", 1, "-o", "out.jsonl").code == 0
    (desk.home / name).write_bytes(pack(lines(0, 20)))
    ended = desk.run("run", name, "-m", "echo:echo", "--budget", 1, "-o", "out.jsonl", "--json")
    assert (ended.code, ended.json["total"]) == (0, 20)
    assert_exactly_once(desk.out(), [f"p{n}" for n in range(20)])
    (desk.home / name).write_bytes(pack(lines(0, 30))[:-9])
    cut = desk.run("run", name, "-m", "echo:echo", "--budget", 1, "-o", "out.jsonl")
    assert (cut.code, f"the .{kind} archive ends too early" in cut.stderr) == (2, True)


def test_every_model_is_asked_and_a_model_that_comes_later_alone(desk):
    desk.prompts(10)
    (desk.home / "farebox.toml").write_text(ECHOES)
    words = ["run", "in.jsonl", "-o", "out.jsonl", "--budget", 1, "--json"]
    assert desk.run(*words, "-m", "e1:echo").json["total"] == 10
    both = desk.run(*words, "-m", "e1:echo", "-m", "e2:echo")
    assert (both.code, both.json["total"], f"10 lines {TIMES} 2 models, 20 jobs" in both.stderr) == (0, 20, True)
    assert_exactly_once(desk.out(), [*(f"p{n}" for n in range(10)), *(f"p{n}@e2:echo" for n in range(10))])
    assert both.json["by_model"]["e1:echo"]["jobs"] == both.json["by_model"]["e2:echo"]["jobs"] == 10
    three = desk.run(*words, "-m", "e2:echo", "-m", "echo:echo", "-m", "e1:echo", "--ordered")
    assert (three.code, three.json["total"], len(desk.out())) == (0, 30, 30)
    assert ids(desk)[:3] == ["p0@e2:echo", "p0@echo:echo", "p0"]
    one = desk.run(*words, "-m", "e1:echo")
    assert (one.code, one.json["total"], len(desk.out())) == (0, 10, 30)
    other = desk.run(*words, "-m", "echo:echo")
    assert (other.code, "changed since it was answered" in other.stderr) == (2, True), "the plain names are e1's"
    told = desk.run("estimate", "in.jsonl", "-o", "out.jsonl", "-m", "e1:echo", "-m", "e2:echo")
    assert f"10 lines {TIMES} 2 models, 20 jobs, 20 of them answered" in told.stderr


def test_the_first_n_lines_are_asked_of_every_model(desk):
    desk.prompts(10)
    (desk.home / "farebox.toml").write_text(ECHOES)
    words = ["run", "in.jsonl", "-o", "out.jsonl", "--budget", 1, "--json", "-m", "e1:echo", "-m", "e2:echo"]
    assert desk.run(*words, "--first", 3).json["total"] == 6
    ended = desk.run(*words, "--first", 3)
    assert (ended.json["total"], ended.json["later"]) == (12, 8)
    assert {name.partition("@")[0] for name in ids(desk)} == {f"p{n}" for n in range(6)}


def test_a_table_has_a_column_for_each_model(desk):
    write_csv(desk.home / "in.csv")
    (desk.home / "farebox.toml").write_text(ECHOES)
    assert table_run(desk, model="e1:echo").code == 0
    assert table_run(desk, "-m", "e2:echo", model="e1:echo").code == 0
    head, first, *_ = read_csv(desk.home / "out.csv")
    assert head == ["id", "text", "answer e1:echo", "answer e1:echo_error", "answer e2:echo", "answer e2:echo_error"]
    assert first[2] == first[4] == 'Say say "x", twice'


def test_in_order_is_the_order_of_the_input_with_what_it_no_longer_has_behind(desk, simulate):
    simulate()
    desk.prompts(40)
    words = ["run", "in.jsonl", "-m", "sim:sim-1", "-o", "out.jsonl", "--budget", 1, "--json"]
    assert desk.run(*words, "--concurrency", 16).code == 0
    desk.write("in.jsonl", [prompt(n) for n in [*range(59, 20, -1)]])
    assert desk.run(*words, "--ordered").code == 0
    assert ids(desk)[:39] == [f"p{n}" for n in range(59, 20, -1)]
    assert set(ids(desk)[39:]) == {f"p{n}" for n in range(21)}
    before = (desk.home / "out.jsonl").stat().st_ino
    assert desk.run(*words, "--ordered").code == 0
    assert (desk.home / "out.jsonl").stat().st_ino == before, "nothing is written when it is in order"


def test_a_killed_run_leaves_its_order_and_its_table_to_the_next(desk, simulate):
    simulated = simulate("--latency-ms", 20)
    write_csv(desk.home / "in.csv", [["id", "text"], *([f"p{n}", str(n)] for n in range(100))])
    words = ["run", "in.csv", "-m", "sim:sim-1", "--template", "{text}", "--id-column", "id", "-o", "out.csv",
             "--budget", 1, "--json", "--ordered", "--concurrency", 4, "--max-tokens", 50]  # fmt: skip
    process = desk.start(*words)
    deadline = time.monotonic() + 20
    while not (desk.home / "out.jsonl").exists() or not (desk.home / "out.jsonl").stat().st_size:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    kill_group(process)
    process.communicate()
    process = desk.start(*words)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    desk.end(process)
    ended = desk.run(*words)
    assert ended.code == 0, ended
    assert ids(desk) == [f"p{n}" for n in range(100)]
    assert [row[0] for row in read_csv(desk.home / "out.csv")[1:]] == ids(desk)
    assert all(row[2] for row in read_csv(desk.home / "out.csv")[1:])
    assert simulated.bill()["calls"] <= 104


def test_a_system_message_and_a_schema_reach_the_provider(desk):
    desk.write("in.jsonl", [{"prompt": "a"}])
    (desk.home / "s.json").write_text('{"type": "object", "properties": {"label": {"type": "string"}}}')
    plain = desk.run("run", "in.jsonl", "-m", "echo:echo", "--budget", 1, "-o", "a.jsonl", "--json")
    worded = desk.run("run", "in.jsonl", "-m", "echo:echo", "--budget", 1, "-o", "b.jsonl", "--json", "--system",
                      "Answer in JSON.", "--schema", "s.json")  # fmt: skip
    assert (plain.code, worded.code) == (0, 0)
    assert worded.json["input_tokens"] > plain.json["input_tokens"]
    json.loads(desk.out("b.jsonl")[0]["response"]["body"]["choices"][0]["message"]["content"])


def test_export_gives_what_openai_would_and_tables_and_archives(desk, simulate):
    simulate()
    desk.write("in.jsonl", [prompt(0), prompt(1), prompt(2) | {"model": "sim:none"}])
    desk.run("run", "in.jsonl", "--skip-invalid", "-o", "out.jsonl", "--budget", 1, "-m", "sim:sim-1")
    done = desk.run("export", "out.jsonl", "--format", "openai-files", "-o", "files")
    assert (done.code, "3 lines exported" in done.stderr) == (0, True)
    given = [json.loads(line) for line in (desk.home / "files/output.jsonl").read_text().splitlines()]
    assert all(line.keys() == {"id", "custom_id", "response", "error"} for line in given)
    assert all(line["response"].keys() == {"status_code", "request_id", "body"} for line in given)
    assert all(line["id"].startswith("batch_req_") and line["error"] is None for line in given)
    assert [line["response"]["body"] for line in given] == [line["response"]["body"] for line in desk.out()]
    again = desk.run("export", "out.jsonl", "--format", "openai-files", "-o", "files")
    assert (again.code, "is there already" in again.stderr) == (2, True)
    for name, unpack in (("o.jsonl.gz", gzip.decompress), ("o.jsonl.zst", unzstd)):
        assert desk.run("export", "out.jsonl", "-o", name).code == 0
        assert unpack((desk.home / name).read_bytes()) == (desk.home / "out.jsonl").read_bytes()
    assert desk.run("export", "o.jsonl.zst", "-o", "-").stdout.encode() == (desk.home / "out.jsonl").read_bytes()
    assert desk.run("export", "out.jsonl", "-o", "o.csv").code == 0
    head, *rows = read_csv(desk.home / "o.csv")
    assert head[:3] == ["custom_id", "model_ref", "outcome"]
    assert [row[0] for row in rows] == ids(desk)
    assert desk.run("export", "out.jsonl", "-o", "o.tsv").code == 0
    assert (desk.home / "o.tsv").read_text().splitlines()[0].split("\t") == head
    foreign = desk.run("export", "in.jsonl", "-o", "x.csv")
    assert (foreign.code, "in.jsonl:1: not a line of Farebox's" in foreign.stderr) == (2, True)
    assert not (desk.home / "x.csv").exists()


def unzstd(packed):
    return zstandard.ZstdDecompressor().decompressobj().decompress(packed)


def test_a_batch_is_submitted_from_a_table_and_exported(desk):
    write_csv(desk.home / "in.csv")
    assert desk.run("budget", "set", 1).code == 0
    words = ["-m", "echo:echo", "--template", "{text}", "--id-column", "id"]
    assert desk.run("submit", "in.csv", "--batch", "b", *words).code == 0
    assert desk.run("worker", "--burst", "--quiet").code == 0
    done = desk.run("export", "b", "-o", "b.csv")
    assert (done.code, "3 lines exported" in done.stderr) == (0, True)
    assert {row[0]: row[4] for row in read_csv(desk.home / "b.csv")[1:]} == dict(ROWS[1:])
    assert desk.run("export", "b", "-o", "-").stdout.count("\n") == 3


def test_bad_lines_are_left_out_once_whatever_the_number_of_models(desk):
    (desk.home / "farebox.toml").write_text(ECHOES)
    desk.write("in.jsonl", [prompt(0), prompt(0) | {"prompt": "twice"}, "{bad", prompt(1)])
    words = ["run", "in.jsonl", "--skip-invalid", "--budget", 1, "--ordered", "--quiet", "-m", "e1:echo"]
    assert desk.run(*words, "-o", "one.jsonl").code == 0
    assert ids(desk, "one.jsonl") == ["p0", "p1"]
    assert desk.run(*words, "-o", "out.jsonl", "-m", "e2:echo").code == 0
    assert ids(desk) == ["p0@e1:echo", "p0@e2:echo", "p1@e1:echo", "p1@e2:echo"]
