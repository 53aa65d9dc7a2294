"""What the pages say, is there: links lead somewhere, commands and options exist, TLS checks what the page says."""

import asyncio
import json
import os
import re
import runpy
import shlex
import subprocess
import sys
import threading
from itertools import groupby
from pathlib import Path

import click
import fakeredis
import pytest
from tests.producer.stand_in import StandIn

from farebox.connection import connect
from farebox.ledger import Ledger
from farebox.records import decode_job, job_id
from farebox_worker.cli import command
from farebox_worker.configuration import load

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")


def name_of(value):
    return str(value.relative_to(ROOT)) if isinstance(value, Path) else None


def anchors(page):
    """The anchors of a page's headings, as they are made from their words."""
    heads = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text("utf-8"), re.DOTALL | re.MULTILINE)


def farebox_lines(page):
    """Every `farebox …` of a page's shell: in ```sh blocks, and in indented blocks, with or without a prompt."""
    shell = "\n".join(blocks(page, "sh")).replace("\\\n", " ")
    indented = re.findall(r"^    (?:\$ )?(farebox .*)$", page.read_text("utf-8"), re.MULTILINE)
    for line in [*shell.splitlines(), *indented]:
        words = shlex.split(line, comments=True)
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            words.pop(0)
        if words and words[0] == "farebox":
            ends = [i for i, word in enumerate(words) if word in {"|", ">", "2>", "&&", "||", ";", "&"}]
            yield words[1 : ends[0] if ends else None]


def commands():
    found = {" ".join(words): words for page in PAGES for words in farebox_lines(page) if words[-1:] != [":"]}
    return [pytest.param(words, id=line) for line, words in sorted(found.items())]


def parse(words):
    """Parse a command line as the command itself would, without running it. Raises: click's usage errors."""
    found, context = command, click.Context(command, info_name="farebox")
    while isinstance(found, click.Group) and words and not words[0].startswith("-"):
        name, *words = words
        found = found.get_command(context, name)
        assert found is not None, f"there is no command {name!r}"
    assert not (isinstance(found, click.Group) and not found.invoke_without_command), "a subcommand is missing"
    return found.make_context(found.name, list(words), parent=context)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_leads_somewhere(page):
    broken = []
    for target in LINK.findall(page.read_text("utf-8")):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        if not there.exists() or (anchor and anchor not in anchors(there)):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("words", commands())
def test_every_command_of_the_pages_exists(words):
    parse(words)


@pytest.mark.parametrize(
    "line", ["frobnicate", "run", "run in.jsonl --budgett 3", "budget", "budget set much", "submit a b"]
)
def test_the_look_for_commands_finds_what_does_not_exist(line):
    with pytest.raises((AssertionError, click.UsageError)):
        parse(line.split(" "))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_toml_of_the_pages_is_a_configuration(page, tmp_path):
    for number, text in enumerate(blocks(page, "toml")):
        (tmp_path / f"{number}.toml").write_text(text, "utf-8")
        load(tmp_path / f"{number}.toml", environ={})


def test_the_index_names_every_page():
    linked = set(LINK.findall((ROOT / "docs/README.md").read_text("utf-8")))
    assert {path.name for path in (ROOT / "docs").iterdir() if path.suffix in {".md", ".acl"}} - {"README.md"} <= linked


def test_the_reference_of_the_configuration_is_what_the_settings_say():
    made = runpy.run_path(str(ROOT / "docs/configuration.py"))["page"]()
    assert (ROOT / "docs/configuration.md").read_text("utf-8") == made, "run `make docs`, and commit what it wrote"


def test_every_message_that_is_explained_can_be_met():
    sources = [path.read_text("utf-8") for folder in ("producer", "worker") for path in (ROOT / folder).rglob("*.py")]
    said = re.sub(r'"\s*\n\s*f?"', "", "\n".join(sources))  # messages stand on several lines
    messages = re.findall(r"^### `(.+)`$", (ROOT / "docs/troubleshooting.md").read_text("utf-8"), re.MULTILINE)
    assert len(messages) >= 30
    unknown = [message for message in messages for part in message.split("…") if part.strip() not in said]
    assert unknown == []


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


def pythons():
    """Every Python of the pages that is a whole program."""
    for page in PAGES:
        for number, source in enumerate(blocks(page, "python"), 1):
            yield pytest.param(page, source, id=f"{name_of(page)}-{number}")


@pytest.mark.parametrize(("page", "source"), list(pythons()))
def test_the_python_of_the_pages_asks_and_is_answered(page, source, monkeypatch, capsys):
    server, is_over = fakeredis.FakeServer(), threading.Event()
    asyncio.run(Ledger(fakeredis.FakeAsyncRedis(server=server)).create())
    monkeypatch.setattr("farebox.client.connect", lambda url: fakeredis.FakeAsyncRedis(server=server))
    workers = threading.Thread(target=answer_everything, args=(server, is_over))
    workers.start()
    try:
        exec(compile(source.replace("range(1000)", "range(3)"), page.name, "exec"), {"__name__": "__main__"})
    finally:
        is_over.set()
        workers.join()
    lines = capsys.readouterr().out.splitlines()
    if page.name == "README.md":
        assert lines == ["yes q-1 1e-06", *(f"row-{n} yes row-{n}" for n in range(3))]
    assert any("yes" in line for line in lines)


def sessions(page):
    """What a page shows to be typed, and what it shows to be answered."""
    for text in blocks(page, "console"):
        lines = [(line.startswith("$ "), line) for line in text.splitlines()]
        groups = [(typed, [line for _, line in group]) for typed, group in groupby(lines, key=lambda one: one[0])]
        for at, (typed, shown) in enumerate(groups):
            if typed:
                for line in shown[:-1]:
                    yield line[2:], []
                yield shown[-1][2:], groups[at + 1][1] if at + 1 < len(groups) else []


def pattern(shown):
    """What is shown, as a pattern: any number or batch for one, anything for a line that is only an ellipsis."""
    said = []
    for line in shown:
        words = [re.escape(words) for words in re.split(r"run-\w+|\d[\d.,]*(?:e-\d+)?", line)]
        said.append(r"(?:.*\n)*?" if line == "…" else r"[\w.,-]+".join(words) + r"\n")
    return "".join(said)


def test_the_quick_start_does_what_it_shows(tmp_path):
    page = ROOT / "docs/quickstart.md"
    for name, text in re.findall(
        r'^```json title="(.+?)"\n(.*?)^```', page.read_text("utf-8"), re.DOTALL | re.MULTILINE
    ):
        (tmp_path / name).write_text(text, "utf-8")
        assert all(json.loads(line) for line in text.splitlines())
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for typed, shown in sessions(page):
        done = subprocess.run(
            ["bash", "-c", f"{typed} 2>&1"],
            check=False,
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        said = done.stdout + (f"[exit {done.returncode}]\n" if done.returncode else "")
        assert re.fullmatch(pattern(shown), said), f"$ {typed}\n{said}"


def test_tls_checks_the_certificate_and_the_host_name():
    connection = connect("rediss://bus:6379/0").connection_pool.make_connection()
    assert (connection.check_hostname, connection.ssl_context.cert_reqs.name) == (True, "CERT_REQUIRED")
