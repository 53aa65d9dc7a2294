"""What the README shows, works: its Python runs, its commands and flags exist, its TOML is accepted."""

import re
import shlex
from pathlib import Path

import click
import pytest

from farebox_worker.cli import command
from farebox_worker.cli.summary import _shown
from farebox_worker.configuration import load

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
