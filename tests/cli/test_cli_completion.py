"""What a shell offers on TAB: commands, batches, models; whole words in bash; and never a complaint."""

import os
import shutil
import subprocess
import sys

import pytest
from click.shell_completion import ZshComplete

from farebox_worker.cli import command as farebox
from farebox_worker.cli.completion import SOON, VARIABLE, SoonZsh
from farebox_worker.server.embedded import EmbeddedServer

ECHO = ("-m", "echo:echo", "--budget", 1)


def tab(desk, line, breaks=" :="):
    """What bash is offered with the cursor at the end of a line."""
    ended = desk.run(COMP_LINE=line, COMP_BREAKS=breaks, _FAREBOX_COMPLETE="bash_complete")
    assert (ended.code, ended.stderr) == (0, "")
    return ended.stdout.split()


def test_commands_and_flags_are_offered(desk):
    assert tab(desk, "farebox wat") == ["plain,watch"]
    assert tab(desk, "farebox watch --q") == ["plain,--quiet"]
    assert "plain,--help" in tab(desk, "farebox --")
    assert tab(desk, "farebox status --redis ") == []


@pytest.mark.parametrize(
    "command", ["status", "watch", "results", "cancel", "retry", "export", "unconfirmed release --batch"]
)
def test_batches_are_offered_of_files_here_and_of_a_server_that_runs(desk, command):
    desk.prompts(2)
    name = desk.run("run", "in.jsonl", *ECHO, "--json").json["batch_id"]
    of_files = f"plain,{name}"
    assert of_files in tab(desk, f"farebox {command} ")
    with EmbeddedServer(desk.home / ".farebox"):
        other = desk.run("submit", "in.jsonl", "-m", "echo:echo").stdout.strip()
        assert {of_files, f"plain,{other}"} <= set(tab(desk, f"farebox {command} "))
        assert tab(desk, f"farebox {command} {other[:-2]}")[-1] == f"plain,{other}"


def test_models_are_offered_and_bash_gets_what_stands_behind_the_colon(desk, simulate):
    simulate()
    assert {"plain,echo:echo", "plain,sim:sim-1"} <= set(tab(desk, "farebox run in.jsonl -m "))
    assert tab(desk, "farebox run in.jsonl -m sim:") == ["plain,sim-1"]
    assert tab(desk, "farebox run in.jsonl --model=sim:") == ["plain,sim-1"]
    assert tab(desk, "farebox run in.jsonl -m sim:", breaks=" =") == ["plain,sim:sim-1"]
    assert "plain,sim" in tab(desk, "farebox run in.jsonl --provider ")
    assert "plain,gpt-5-mini" in tab(desk, "farebox estimate in.jsonl -m openai:gpt-5-m")  # though there is no key


def test_what_is_offered_without_asking_the_command_is_what_the_command_offers(desk, simulate, monkeypatch):
    desk.prompts(1)
    desk.run("run", "in.jsonl", *ECHO, "-o", "out.jsonl")
    simulate()
    monkeypatch.chdir(desk.home)
    for words in ([name, "x", flag] if flag else [name] for name, flags in SOON.items() for flag in flags):
        soon, asked = (
            {(item.type, item.value) for item in shell(farebox, {}, "farebox", VARIABLE).get_completions(words, "")}
            for shell in (SoonZsh, ZshComplete)
        )
        assert soon == asked != set(), words


def test_files_are_left_to_the_shell(desk):
    assert tab(desk, "farebox run ") == ["file,"]
    assert tab(desk, "farebox run in.jsonl --schema ") == ["file,"]
    assert tab(desk, "farebox retry ")[0] == "file,"


@pytest.mark.parametrize("url", ["redis://127.0.0.1:1/0", "unix:///nowhere", "nonsense"])
def test_without_a_server_or_with_a_broken_file_nothing_is_offered_and_nothing_said(desk, url):
    assert tab(desk, f"farebox status --redis {url} ") == []
    desk.write("farebox.toml", ["[redis"])
    assert tab(desk, "farebox status ") == []
    assert tab(desk, "farebox run in.jsonl -m ") == []
    desk.write("other.farebox", ["{"])
    assert tab(desk, "farebox status ") == []


@pytest.mark.skipif(not shutil.which("bash"), reason="no bash here")
def test_bash_completes_a_model_behind_its_colon(desk, tmp_path):
    script = desk.run("completion", "bash").stdout
    command = tmp_path / "bin" / "farebox"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m farebox_worker "$@"\n')
    command.chmod(0o755)
    asked = f'{script}\nCOMP_LINE="farebox run -m echo:e"; COMP_POINT=${{#COMP_LINE}}; _farebox_completion farebox\n'
    environ = desk.environ(PATH=f"{command.parent}:{os.environ['PATH']}")
    ended = subprocess.run(
        ["bash", "--norc", "-c", f'{asked}\nprintf "%s\\n" "${{COMPREPLY[@]}}"'],
        cwd=desk.home, env=environ, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert (ended.stdout, ended.stderr) == ("echo\n", "")


def test_every_shell_gets_its_script(desk):
    for shell in ("bash", "zsh", "fish"):
        assert "_FAREBOX_COMPLETE" in desk.run("completion", shell).stdout
    assert desk.run("completion", "tcsh").code == 2
