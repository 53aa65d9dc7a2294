"""`farebox init` writes a file that says what the settings know, replaces nothing, and names the next command."""

import re
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import msgspec
import pytest
from click.testing import CliRunner

from farebox_worker.cli import command
from farebox_worker.configuration import load
from farebox_worker.settings import SECTIONS, ModelSettings, ProviderSettings
from farebox_worker.starter import VENDORS, Found, look_around, starter_text


def keys_in(text):
    return re.findall(r"^# (\w+) = ", text, re.MULTILINE)


def test_every_key_of_the_settings_is_there_with_its_default():
    text = starter_text(Found())
    structs = [*SECTIONS.values(), ProviderSettings, ModelSettings]
    assert keys_in(text) == [field.name for struct in structs for field in msgspec.structs.fields(struct)]
    assert "# calls at once, per lane and process: a whole number of 1 to 10000\n# concurrency = 256\n" in text


@pytest.mark.parametrize("vendors", [(), VENDORS], ids=["nothing found", "every vendor found"])
def test_the_file_is_a_configuration_that_changes_nothing(tmp_path, vendors):
    path = tmp_path / "farebox.toml"
    path.write_text(starter_text(Found(vendors, {"ollama": ("llama3:8b",)})), "utf-8")
    settings, bare = load(path, environ={}, cwd=tmp_path), load(environ={}, cwd=tmp_path.parent)
    for name in ("budget", "worker", "retention", "models"):
        assert getattr(settings, name) == getattr(bare, name)
    assert settings.providers["ollama"].free
    named = {vendor.provider_id for vendor in vendors if vendor.base_url}
    assert named <= set(settings.providers)


def test_what_is_commented_out_can_be_taken_in(tmp_path):
    text = starter_text(Found())
    text = re.sub(r"^# (\w+ = |\[)", r"\1", text, flags=re.MULTILINE).replace("provider:model", "openai:m")
    (tmp_path / "farebox.toml").write_text(text.replace("NAME", "openai"), "utf-8")
    settings = load(tmp_path / "farebox.toml", environ={})
    assert settings.worker.concurrency == 256
    assert settings.models["openai:m"].rpm == 500


def test_it_is_written_once_and_holds_no_key(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    environment = {vendor.variable: None for vendor in VENDORS} | {
        "GROQ_API_KEY": "gsk_secret",
        "REDIS_URL": "redis://:pw@h",
    }
    done = CliRunner().invoke(command, ["init"], env=environment)
    assert done.exit_code == 0, done.output
    text = (tmp_path / "farebox.toml").read_text("utf-8")
    assert "[providers.groq]" in text
    assert not re.search("gsk_secret|:pw@", text + done.output)
    assert "farebox run prompts.jsonl -m " in done.output
    again = CliRunner().invoke(command, ["init"])
    assert "left as it is" in str(again.exception)
    assert (tmp_path / "farebox.toml").read_text("utf-8") == text
    assert CliRunner().invoke(command, ["init", "--print"], env=environment).stdout == text


def test_it_writes_the_file_that_config_names(tmp_path):
    named = tmp_path / "bus.toml"
    assert CliRunner().invoke(command, ["init", "--config", str(named), "--data-dir", "d"]).exit_code == 0
    assert "[worker]" in named.read_text("utf-8")
    nowhere = CliRunner().invoke(command, ["init", "--config", str(tmp_path / "no" / "bus.toml")])
    assert "cannot write" in str(nowhere.exception)


def test_prompts_that_are_there_are_not_written_over_by_what_comes_next(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "mine"}\n', "utf-8")
    done = CliRunner().invoke(command, ["init"])
    assert "farebox run prompts.jsonl -m " in done.output
    assert "> prompts.jsonl" not in done.output


@pytest.mark.parametrize("body", [b'{"data": [{"id": "llama3:8b"}]}', b"<html>", b"[]", b'{"data": 5}'])
def test_a_server_on_this_machine_is_found_when_it_speaks_the_api(body):
    class Local(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Local)
    thread = threading.Thread(target=server.handle_request)
    thread.start()
    found = look_around({}, local={"ollama": f"http://127.0.0.1:{server.server_port}"})
    thread.join()
    server.server_close()
    assert found.local == ({"ollama": ("llama3:8b",)} if body.startswith(b'{"data": [') else {})
    assert look_around({}, local={"vllm": f"http://127.0.0.1:{server.server_port}"}).local == {}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_of_a_shell_is_printed_with_how_to_install_it(shell):
    done = CliRunner().invoke(command, ["completion", shell], prog_name="farebox")
    assert done.exit_code == 0
    assert "_FAREBOX_COMPLETE" in done.stdout
    assert f"farebox completion {shell}" in done.stdout.splitlines()[0]


def test_every_command_s_help_has_an_example():
    """A help without one teaches nobody."""
    bare = []
    for name in command.list_commands(None):
        shown = command.get_command(None, name)
        text = (shown.help or "") + (shown.epilog or "")
        if f"farebox {name}" not in text and not hasattr(shown, "commands"):
            bare.append(name)
    assert bare == []
