"""A repeated run reads no more than the id of a line where the input is what it was, and notices whatever is not."""

import gzip
import io
import json

import pytest
from tests.cli_support import assert_exactly_once

from farebox_worker.files.content import Content
from farebox_worker.files.source import Source, Spool
from farebox_worker.run.ask import Ask
from farebox_worker.run.plan import Planner
from farebox_worker.settings import ProviderSettings, Settings
from farebox_worker.shop import Shop


def quiet(_):
    pass


def look(path, before=None, asked="flags"):
    return Content(Source(path), asked, before, quiet)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"one\ntwo\n")
    return path


@pytest.fixture
def before(path):
    return look(path).compared(2)


def test_the_same_bytes_are_known_to_their_last_line(path, before):
    content = look(path, before)
    assert (content.known_lines, content.is_whole) == (2, True)
    assert content.compared(2) == before


def test_of_a_file_that_grew_the_earlier_lines_are_known(path, before):
    path.write_bytes(b"one\ntwo\nthree\n")
    content = look(path, before)
    assert (content.known_lines, content.is_whole) == (2, False)
    assert look(path, content.compared(3)).known_lines == 3


@pytest.mark.parametrize(
    "now", [b"one\ntwo", b"one\ntwO\n", b"", b"one\ntwo\n".replace(b"\n", b"\r\n"), b"xone\ntwo\n"]
)
def test_nothing_is_known_of_a_file_with_other_bytes(path, before, now):
    path.write_bytes(now)
    content = look(path, before)
    assert (content.known_lines, content.is_whole) == (0, False)


def test_nothing_is_known_when_the_last_line_may_have_become_longer(path):
    path.write_bytes(b"one\ntwo")
    before = look(path).compared(2)
    assert look(path, before).is_whole
    path.write_bytes(b"one\ntwo and more\n")
    assert look(path, before).known_lines == 0


def test_nothing_is_known_of_an_archive_that_grew(path):
    one = gzip.compress(b"one\n", mtime=0)
    path.write_bytes(one)
    before = look(path).compared(1)
    assert look(path, before).is_whole
    path.write_bytes(one + b"\n")
    assert look(path, before).known_lines == 0


def test_nothing_is_known_under_other_flags(path, before):
    assert look(path, before, asked="others").known_lines == 0


def test_a_file_that_is_written_to_meanwhile_is_not_remembered(path):
    content = look(path)
    path.write_bytes(b"one\ntwo\nthree\n")
    assert content.compared(2) is None


def test_a_pipe_with_the_same_content_is_known_too(path, before):
    spool = Spool(io.BytesIO(path.read_bytes()), quiet)
    assert Content(Source(path, spool=spool), "flags", before, quiet).is_whole
    spool.close()


@pytest.fixture
async def shop():
    echoes = {"echo": ProviderSettings(kind="echo"), "other": ProviderSettings(kind="echo")}
    async with Shop(Settings(providers=echoes)) as shop:
        yield shop


def planner(shop, path, **ask):
    return Planner(Ask(Source(path), **ask), shop.catalogue, shop.routes)


def judge(made, done, before=None):
    """Judge a file of which `done` is answered; return the plan, and the numbers of the lines that were read whole."""
    read, check = [], made._check_first

    def counted(job):
        read.append(job.custom_id)
        check(job)

    made._check_first = counted
    content = Content(made.source, made.digest(), before, quiet)
    plan = made.judge(limit=None, on_lines=quiet, is_done=done.__contains__, content=content)
    return plan, read, content.compared(plan.summary.last_line)


def prompts(path, *ids, **more):
    path.write_text("".join(json.dumps({"custom_id": one, "prompt": "Hello", **more}) + "\n" for one in ids))


FORMS = {
    "short": ("in.jsonl", lambda one: json.dumps({"custom_id": one, "prompt": "Hello"}), {"models": ("echo:echo",)}),
    "own model": ("in.jsonl", lambda one: json.dumps({"custom_id": one, "model": "echo:echo", "prompt": "Hello"}), {}),
    "batch": (
        "in.jsonl",
        lambda one: json.dumps({
            "custom_id": one, "method": "POST", "url": "/v1/chat/completions",
            "body": {"model": "echo:echo", "messages": [{"role": "user", "content": "Hello"}]},
        }),
        {},
    ),
    "params": (
        "in.jsonl",
        lambda one: json.dumps({
            "custom_id": one, "params": {"model": "echo:echo", "messages": [{"role": "user", "content": "Hello"}]},
        }),
        {},
    ),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
async def test_answered_lines_are_counted_but_only_the_first_of_a_model_is_read(shop, tmp_path, form):
    name, line, flags = FORMS[form]
    path = tmp_path / name
    path.write_text("".join(line(f"p{n}") + "\n" for n in range(10)))
    plan, read, before = judge(planner(shop, path, **flags), set())
    assert len(read) == plan.lines_asked == 10
    made = planner(shop, path, **flags)
    again, read, after = judge(made, {f"p{n}" for n in range(9)}, before)
    assert read == ["p0", "p9"]
    assert (again.lines_done, again.lines_asked, again.done_unread) == (9, 1, 8)
    assert (again.summary.total, again.summary.good, again.summary.lines) == (10, 10, 10)
    assert (again.pretend, again.needs_budget) == (plan.pretend, plan.needs_budget)
    assert after == before
    assert [line.custom_id for line in made.lines()] == ["p0", "p9"]
    assert [line.custom_id for line in made.all_lines()] == [f"p{n}" for n in range(10)]


async def test_rows_of_a_table_are_passed_over_by_their_id(shop, tmp_path):
    path = tmp_path / "in.csv"
    path.write_text("custom_id,prompt\n" + "".join(f"p{n},Hello\n" for n in range(5)))
    source = Source(path, "csv")
    made = Planner(Ask(source, ("echo:echo",)), shop.catalogue, shop.routes)
    _, _, before = judge(made, set())
    made = Planner(Ask(source, ("echo:echo",)), shop.catalogue, shop.routes)
    plan, read, _ = judge(made, {"p0", "p1", "p2", "p4"}, before)
    assert read == ["p0", "p3"]
    assert (plan.lines_done, plan.lines_asked) == (4, 1)


async def test_with_several_models_a_line_is_passed_over_when_all_have_answered(shop, tmp_path):
    path, models = tmp_path / "in.jsonl", ("echo:echo", "other:echo")
    prompts(path, "a", "b", "c")
    _, _, before = judge(planner(shop, path, models=models), set())
    done = {f"{one}@{ref}" for one in "ab" for ref in models} | {"c@echo:echo"}
    plan, read, _ = judge(planner(shop, path, models=models), done, before)
    assert read == ["a@echo:echo", "a@other:echo", "c@echo:echo", "c@other:echo"]
    assert (plan.lines_done, plan.lines_asked, plan.summary.lines) == (5, 1, 3)


async def test_an_id_in_a_new_line_that_an_answered_one_has_is_refused(shop, tmp_path):
    path = tmp_path / "in.jsonl"
    prompts(path, "a", "b", "c")
    _, _, before = judge(planner(shop, path, models=("echo:echo",)), set())
    prompts(path, "a", "b", "c", "b")
    plan, _, _ = judge(planner(shop, path, models=("echo:echo",)), {"a", "b", "c"}, before)
    assert plan.summary.bad == 1
    assert "stands on line 2 already" in plan.summary.first_bad[0].error


async def test_lines_after_the_first_n_that_are_answered_count_as_done(shop, tmp_path):
    path = tmp_path / "in.jsonl"
    prompts(path, *"abcdef")
    _, _, before = judge(planner(shop, path, models=("echo:echo",)), set())
    made = planner(shop, path, models=("echo:echo",), first=1)
    plan, _, _ = judge(made, {"a", "b", "d", "f"}, before)
    assert (plan.lines_done, plan.lines_asked, plan.lines_left_for_later) == (4, 1, 1)
    assert [line.custom_id for line in made.lines()] == ["a", "c"]


def test_a_file_that_grew_line_by_line_is_answered_once_each(desk):
    words = ["run", "in.jsonl", "-m", "echo:echo", "-o", "out.jsonl", "--budget", 1, "--json"]
    for count in (3, 5, 5, 9):
        desk.prompts(count)
        ended = desk.run(*words)
        assert (ended.code, ended.json["total"], ended.json["succeeded"]) == (0, count, count)
    assert_exactly_once(desk.out(), [f"p{n}" for n in range(9)])


def test_what_changed_back_and_forth_is_refused_each_time_it_is_not_what_was_answered(desk):
    words = ["run", "in.jsonl", "-m", "echo:echo", "-o", "out.jsonl", "--budget", 1, "--json"]
    desk.prompts(5)
    assert desk.run(*words).code == 0
    desk.prompts(5, max_tokens=7)
    assert desk.run(*words).code == 2
    assert desk.run(*words).code == 2, "a refusal is not remembered as a comparison"
    assert desk.run(*words, "--redo").code == 0
    assert desk.run(*words).code == 0
    desk.prompts(5)
    assert desk.run(*words).code == 2


def test_what_a_shortened_run_did_not_compare_is_compared_by_the_next(desk):
    words = ["run", "in.jsonl", "-m", "echo:echo", "-o", "out.jsonl", "--budget", 1, "--json"]
    desk.prompts(4, first=2)
    assert desk.run(*words).code == 0
    lines = (desk.home / "in.jsonl").read_text().splitlines()
    lines[3] = lines[3].replace("number 5", "number 6")
    desk.prompts(2)
    with (desk.home / "in.jsonl").open("a") as file:
        file.write("\n".join(lines) + "\n")
    assert desk.run(*words, "--first", 1).code == 0, "line 6 lies beyond what is asked"
    refused = desk.run(*words)
    assert (refused.code, "line 6 changed" in refused.stderr) == (2, True)
