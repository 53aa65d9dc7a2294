"""`farebox retry`, and runs that meet a mistake in every line: each job has one line, whatever happens between."""

import pytest
from tests.cli_support import Simulated, assert_exactly_once
from tests.process_support import Stage

from farebox.amend import retry_failed
from farebox.errors import InputError, ProviderOverloadedError, ProviderRequestError
from farebox_worker.cli.retry import _output_of
from farebox_worker.files.failures_in import class_of, failed_lines
from farebox_worker.files.output import OutputFile
from farebox_worker.run.follow import Follow
from farebox_worker.run.retried import take_out_failed, take_out_retried

RUN = ("run", "in.jsonl", "-m", "sim:sim-1", "-o", "out.jsonl", "--budget", "1")
FEW = "[worker]\nmax_attempts = 1\n"


@pytest.fixture
async def stage(server):
    stage = Stage(server)
    yield stage
    await stage.batch.redis.aclose(close_connection_pool=True)


def test_failed_lines_of_a_run_are_asked_again_and_each_line_is_there_once(desk, simulate):
    broken = simulate("--share-overloaded", 1, extra=FEW)
    desk.prompts(12)
    assert desk.run(*RUN).code == 3
    assert desk.run("retry", "out.jsonl", "--class", "auth").code == 2
    retried = desk.run("retry", "out.jsonl", "--class", "overloaded", "--json")
    assert (retried.code, retried.json["retried"], retried.json["classes"]) == (0, 12, {"overloaded": 12})
    assert desk.out() == []
    broken.stop()
    folder = desk.home / ".sim-mended"
    folder.mkdir()
    mended = Simulated(folder)
    desk.configure(mended.url, extra=FEW)
    ended = desk.run(*RUN)
    mended.stop()
    assert ended.code == 0, ended
    assert_exactly_once(desk.out(), [f"p{n}" for n in range(12)])
    again = desk.run("retry", "out.jsonl")
    assert (again.code, "nothing to retry" in again.stderr) == (0, True)


def test_a_mistake_in_every_line_ends_the_run_and_the_mended_file_goes_on(desk, simulate):
    simulate(extra='[models."sim:gone"]\ninput_usd_per_mtok = 1.0\noutput_usd_per_mtok = 2.0\n')
    desk.prompts(60)
    wrong = [word if word != "sim:sim-1" else "sim:gone" for word in RUN]
    ended = desk.run(*wrong, "--concurrency", 2)
    assert ended.code == 1
    assert "20 requests in a row were refused alike" in ended.stderr
    assert "farebox lanes resume sim:gone" in ended.stderr
    failed = len(desk.out())
    assert 20 <= failed < 40
    assert desk.run("retry", "out.jsonl").code == 0
    assert desk.run("lanes", "resume", "sim:gone").code == 0
    ended = desk.run(*RUN)
    assert ended.code == 0, ended
    assert_exactly_once(desk.out(), [f"p{n}" for n in range(60)])


def test_retry_of_a_batch_says_which_classes_there_are(desk, simulate):
    simulate("--share-overloaded", 1, extra=FEW)
    desk.prompts(3)
    assert desk.run("budget", "set", "1").code == 0
    assert desk.run("submit", "in.jsonl", "-m", "sim:sim-1", "--batch", "b", "--budget", "1").code == 0
    assert desk.run("worker", "--burst", "--quiet").code == 0
    refused = desk.run("retry", "b", "--class", "auth")
    assert (refused.code, "there are 3 overloaded" in refused.stderr) == (2, True)
    assert desk.run("retry", "b", "--class", "overloaded", "--json").json == {
        "retried": 3,
        "classes": {"overloaded": 3},
        "left_failed": {},
    }
    assert "nothing to retry" in desk.run("retry", "b").stderr
    assert desk.run("retry", "nobody").code == 2


def test_an_output_that_no_run_wrote_is_refused_with_what_to_do(tmp_path):
    (tmp_path / "x.jsonl").write_text("")
    with pytest.raises(InputError, match="farebox retry BATCH"):
        _output_of(str(tmp_path / "x.jsonl"))
    assert _output_of("nightly") is None


async def failing(stage, count, kinds=(ProviderOverloadedError,)):
    """A batch of which every job has failed once, of these kinds in turn."""
    await stage.begin(count)

    async def fail(n):
        raise kinds[n % len(kinds)]("sim", "no", status_code=500 if n % len(kinds) == 0 else 400, own_body=True)

    stage.provider.act = fail
    async with stage.process(max_attempts=1, concurrency=1):
        await stage.finished(count)
    stage.provider.act = None


async def collect(stage, out, *, deletes):
    follow = Follow(stage.batch, out, deletes=deletes)
    while await follow.step(block_ms=1):
        pass
    await follow.sync()
    return follow


@pytest.mark.parametrize("dies_at", ["forget", "rewrite_without", "nowhere"])
async def test_a_retry_that_is_killed_anywhere_loses_no_line_and_can_be_said_again(
    stage, tmp_path, monkeypatch, dies_at
):
    await failing(stage, 4, (ProviderOverloadedError, ProviderRequestError))
    path = tmp_path / "out.jsonl"
    with OutputFile.open(path) as out, monkeypatch.context() as killed:
        await collect(stage, out, deletes=True)
        if dies_at != "nowhere":

            def die(*_, **__):
                raise KeyboardInterrupt

            killed.setattr(stage.batch if dies_at == "forget" else out, dies_at, die)
            with pytest.raises(KeyboardInterrupt):
                await take_out_failed(stage.batch, out, ["overloaded"])
            assert len(list(failed_lines(path))) == 4
    with OutputFile.open(path) as out:
        found = await take_out_failed(stage.batch, out, ["overloaded"])
        assert (dict(found.taken), dict(found.others)) == ({"overloaded": 2}, {"request": 2})
        assert {class_of(note) for note in failed_lines(path)} == {"request"}
        await stage.submit(4)  # the run submits what has no line; the bus must take it
        async with stage.process():
            await stage.finished(4)
        await collect(stage, out, deletes=True)
        assert (out.lines, out.tally.outcomes["succeeded"], out.tally.outcomes["failed"]) == (4, 2, 2)
        progress = await stage.batch.progress()
        assert (progress.submitted, progress.succeeded, progress.failed) == (4, 2, 2), "each job is counted once"


async def test_a_failure_that_ended_and_was_not_written_yet_is_taken_out_too(stage, tmp_path):
    await failing(stage, 2)
    with OutputFile.open(tmp_path / "out.jsonl") as out:
        assert (await take_out_failed(stage.batch, out, [])).taken["overloaded"] == 2
        assert out.lines == 0
        await stage.submit(2)
        async with stage.process():
            await stage.finished(2)
        await collect(stage, out, deletes=True)
        assert out.tally.outcomes == {"succeeded": 2}


@pytest.mark.parametrize("deletes", [False, True])
async def test_lines_of_jobs_that_were_put_back_are_replaced_by_what_became_of_them(stage, tmp_path, deletes):
    await failing(stage, 3)
    with OutputFile.open(tmp_path / "out.jsonl") as out:
        await collect(stage, out, deletes=False)
        assert await take_out_retried(stage.batch, out) == 0, "nobody has put them back"
        assert await retry_failed(stage.batch) == 3
        assert await take_out_retried(stage.batch, out) == 3
        follow = await collect(stage, out, deletes=deletes)
        assert await follow.lost() == 0, "they wait again"
        async with stage.process():
            await stage.finished(3)
        for _ in range(2):
            await take_out_retried(stage.batch, out)
            follow = await collect(stage, out, deletes=deletes)
            assert await follow.lost() == 0
            assert (out.lines, out.tally.outcomes["succeeded"]) == (3, 3)
