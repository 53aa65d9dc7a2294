"""What the pages say, is there: links lead somewhere, commands and options exist, TLS checks what the page says."""

import re
import shlex
from pathlib import Path

import click
import pytest

from farebox.connection import connect
from farebox_worker.cli import command
from farebox_worker.settings import load

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
            ends = [i for i, word in enumerate(words) if word in {"|", ">", "2>", "&&", "||", ";"}]
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
    assert {path.name for path in (ROOT / "docs").iterdir() if path.name != "README.md"} <= linked


def test_tls_checks_the_certificate_and_the_host_name():
    connection = connect("rediss://bus:6379/0").connection_pool.make_connection()
    assert (connection.check_hostname, connection.ssl_context.cert_reqs.name) == (True, "CERT_REQUIRED")
