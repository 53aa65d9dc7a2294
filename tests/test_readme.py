"""What the README shows, works: its Python runs, its commands and flags exist, its TOML is accepted."""

import asyncio
import re
import shlex
import threading
from pathlib import Path

import click
import fakeredis
import pytest
from tests.producer.stand_in import StandIn

from farebox.ledger import Ledger
from farebox.records import decode_job, job_id
from farebox_worker.cli import command
from farebox_worker.cli.summary import _shown
from farebox_worker.settings import load

README = (Path(__file__).parent.parent / "README.md").read_text("utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands():
    lines = [line.strip() for line in README.splitlines() if re.match(r"\s+(\$ )?farebox ", line)]
    return [shlex.split(line.removeprefix("$ ").partition("#")[0])[1:] for line in lines]


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_command_and_flag_exists(words):
    found, context = command, click.Context(command)
    while isinstance(found, click.Group) and words and not words[0].startswith("-"):
        name, *words = words
        found = found.get_command(context, name)
        assert found is not None, name
    known = {flag for parameter in found.params for flag in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= known


def answer_everything(server, is_over):
    """Answer whatever is submitted, as the workers would."""

    async def answer():
        redis = fakeredis.FakeAsyncRedis(server=server)
        while not is_over.is_set():
            for batch in await redis.zrange("farebox:batches", 0, -1):
                for key in await redis.keys("arq:job:*"):
                    job = decode_job(await redis.get(key)).a[0]
                    if key.endswith(job_id("farebox", batch.decode(), job.custom_id).encode()):
                        await StandIn(redis).answer(job.custom_id, batch=batch.decode(), text=f"yes {job.custom_id}")
            await asyncio.sleep(0.01)

    asyncio.run(answer())


def test_the_python_asks_and_is_answered(monkeypatch, capsys):
    server, is_over = fakeredis.FakeServer(), threading.Event()
    asyncio.run(Ledger(fakeredis.FakeAsyncRedis(server=server)).create())
    monkeypatch.setattr("farebox.client.connect", lambda url: fakeredis.FakeAsyncRedis(server=server))
    (source,) = blocks("python")
    workers = threading.Thread(target=answer_everything, args=(server, is_over))
    workers.start()
    try:
        exec(compile(source.replace("range(1000)", "range(3)"), "README.md", "exec"), {})
    finally:
        is_over.set()
        workers.join()
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["yes q-1 1e-06", *(f"row-{n} yes row-{n}" for n in range(3))]


def test_the_toml_is_a_configuration(tmp_path):
    (tmp_path / "farebox.toml").write_text("\n".join(blocks("toml")), "utf-8")
    settings = load(tmp_path / "farebox.toml", environ={})
    assert settings.providers["rehearsal"].base_url == "http://127.0.0.1:8900/v1"
    assert settings.models["rehearsal:sim-1"].output_usd_per_mtok == 2.0


@pytest.mark.parametrize(
    "word", ["redis://:secret@h:1/0", "--redis=redis://u:secret@h", "rediss://h/0?password=secret"], ids=str
)
def test_the_command_to_repeat_shows_no_password(word):
    assert "secret" not in _shown(word)
    assert _shown("-o") == "-o"
