"""The examples run, on a real server with a worker process and a simulated provider; so does what the pages show."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
import types
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import httpx
import pytest
from arq.connections import ArqRedis
from arq.worker import Worker
from redis import Redis as SyncRedis
from tests.conftest import server_binary

import farebox

pytestmark = [pytest.mark.server, pytest.mark.skipif(server_binary() is None, reason="no server to test on")]
ROOT = Path(__file__).parents[1]
SIM = "sim:sim-1"


@pytest.fixture
def url(real_server, desk, simulate):
    """An empty server with a limit of $1, a worker process, and a simulated provider behind it."""
    with SyncRedis.from_url(real_server) as redis:
        redis.flushall()
    simulate(extra='[models."sim:sim-2"]\ninput_usd_per_mtok = 1.0\noutput_usd_per_mtok = 2.0\n')
    desk.environment["FAREBOX_REDIS_URL"] = real_server
    assert desk.run("budget", "set", 1).code == 0
    desk.start("worker")
    return real_server


def example(name, url, *words):
    """Run an example to its end; what it said."""
    command = [sys.executable, ROOT / "examples" / name, *words]
    environment = os.environ | {"FAREBOX_REDIS_URL": url}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=90, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_a_csv_is_classified_row_by_row_and_asked_once(url, desk):
    source = desk.home / "tickets.csv"
    shutil.copy(ROOT / "examples" / "tickets.csv", source)
    for _ in range(2):
        assert "tickets.classified.csv" in example("classify.py", url, source, SIM)
        with (desk.home / "tickets.classified.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert [row["id"] for row in rows] == [f"t-{n:02}" for n in range(1, 13)]
        assert {(row["category"], row["urgent"], row["error"]) for row in rows} == {("billing", "True", "")}
    with farebox.SyncClient(url) as client:
        assert client.batch("classify-tickets").progress().submitted == 12


def test_a_panel_is_judged_and_a_second_run_pays_nothing(url):
    words = ["sim:sim-1", "sim:sim-2", "claude:sim-1", "sim:sim-1"]
    said = example("panel.py", url, *words)
    assert said.count("$") == 3
    with farebox.SyncClient(url) as client:
        spent = client.cost().spent_nusd
        assert spent > 0
        assert sorted(example("panel.py", url, *words).splitlines()) == sorted(said.splitlines())
        assert client.cost().spent_nusd == spent


@pytest.fixture
def web(url, monkeypatch):
    monkeypatch.setenv("FAREBOX_REDIS_URL", url)
    monkeypatch.setenv("SUMMARY_MODEL", SIM)
    spec = spec_from_file_location("web_example", ROOT / "examples" / "web.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.app


async def test_a_web_application_submits_and_lets_results_be_picked_up_later(web, url):
    async with (
        web.router.lifespan_context(web),
        httpx.AsyncClient(transport=httpx.ASGITransport(web), base_url="http://app") as browser,
    ):
        posted = await browser.post("/summaries", content=json.dumps({"text": "Long ago there was a queue."}))
        assert posted.status_code == 202
        async with farebox.Client(url) as client:
            answer = await client.job(posted.json()["id"], batch="summaries").result(timeout=60)
        got = await browser.get(posted.headers["location"])
        assert (got.status_code, got.json()["summary"]) == (200, answer.text)
        again = await browser.post("/summaries", content=json.dumps({"text": "Long ago there was a queue."}))
        assert again.json() == posted.json()
        assert (await browser.post("/summaries", content="no JSON")).status_code == 400
        assert (await browser.post("/summaries", content='{"txt": 1}')).status_code == 400
        assert (await browser.get("/summaries/unknown")).status_code == 404
        web.state.client = farebox.Client("redis://127.0.0.1:1/0")
        away = await browser.get(posted.headers["location"])
        assert (away.status_code, "is away" in away.json()["error"]) == (503, True)


def shown(title):
    """A file that docs/pipelines.md shows."""
    page = (ROOT / "docs/pipelines.md").read_text("utf-8")
    (source,) = re.findall(rf'^```py title="{title}"\n(.*?)^```', page, re.DOTALL | re.MULTILINE)
    return source.replace("openai:gpt-5-mini", SIM)


async def test_the_arq_task_of_the_page_awaits_its_answer_and_pays_it_once(url):
    tasks = {}
    exec(compile(shown("tasks.py").replace("redis://bus:6379/0", url), "tasks.py", "exec"), tasks)
    settings = tasks["WorkerSettings"]
    redis = ArqRedis.from_url(url)
    try:
        for number in range(2):
            job = await redis.enqueue_job("review", "A text.", _job_id=f"again-{number}")
            worker = Worker(
                settings.functions, on_startup=settings.on_startup, on_shutdown=settings.on_shutdown, burst=True,
                redis_pool=redis, job_timeout=settings.job_timeout, handle_signals=False, poll_delay=0.05,
            )  # fmt: skip
            await worker.main()
            assert (await job.result_info()).result
            assert worker.jobs_complete == 1
        async with farebox.Client(url) as client:
            assert (await client.batch("reviews").progress()).submitted == 1
    finally:
        await redis.aclose()


def test_the_celery_task_of_the_page_comes_again_until_the_answer_is_there(url, monkeypatch):
    """Celery itself is not installed here: what its decorator does is small."""
    celery = types.ModuleType("celery")
    celery.shared_task = lambda **options: lambda task: task
    monkeypatch.setitem(sys.modules, "celery", celery)
    tasks = {}
    exec(compile(shown("celery_tasks.py").replace("redis://bus:6379/0", url), "celery_tasks.py", "exec"), tasks)

    class Retried(Exception):  # noqa: N818 - Celery's word
        pass

    class Bound:
        def retry(self, countdown):
            raise Retried

    def run():
        while True:
            try:
                return tasks["review"](Bound(), "doc-1", "A text.")
            except Retried:
                continue

    try:
        assert run() == run() != ""
        with farebox.SyncClient(url) as client:
            assert client.batch("reviews").progress().submitted == 1
    finally:
        tasks["client"].close()
