from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from farebox.errors import ConfigError
from farebox_worker.configuration import load
from farebox_worker.settings import ProviderSettings, Settings


def write(folder: Path, text: str) -> Path:
    path = folder / "farebox.toml"
    path.write_text(text, encoding="utf-8")
    return path


def read(folder: Path, text: str, **environ: str) -> Settings:
    write(folder, text)
    return load(cwd=folder, environ=environ)


def refusal(folder: Path, text: str, **environ: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read(folder, text, **environ)
    return str(caught.value)


def test_without_a_file_there_are_defaults_and_echo(tmp_path):
    settings = load(cwd=tmp_path, environ={})
    assert settings.path is None
    assert settings.redis.url is None
    assert settings.redis.data_dir == tmp_path / ".farebox"
    assert settings.budget.limit_usd is None
    assert settings.worker.concurrency == 256
    assert settings.retention.ids_days == 90
    assert settings.providers == {"echo": ProviderSettings(kind="echo")}


def test_a_key_in_the_environment_makes_its_provider(tmp_path):
    settings = load(cwd=tmp_path, environ={"OPENAI_API_KEY": "sk-x", "ANTHROPIC_API_KEY": "sk-y"})
    assert settings.providers["openai"] == ProviderSettings(kind="openai", api_key_env="OPENAI_API_KEY")
    assert settings.providers["anthropic"].api_key_env == "ANTHROPIC_API_KEY"
    assert settings.providers["anthropic"].cap_field == "max_tokens"
    assert "sk-x" not in repr(settings)
    assert "openai" not in load(cwd=tmp_path, environ={"OPENAI_API_KEY": ""}).providers


def test_the_file_is_found_above_and_its_data_dir_is_relative_to_it(tmp_path):
    write(tmp_path, '[redis]\ndata_dir = "state/box"\n')
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    settings = load(cwd=below, environ={})
    assert settings.path == tmp_path / "farebox.toml"
    assert settings.redis.data_dir == tmp_path / "state" / "box"


def test_the_default_data_dir_is_beside_the_file(tmp_path):
    write(tmp_path, "")
    (tmp_path / "a").mkdir()
    assert load(cwd=tmp_path / "a", environ={}).redis.data_dir == tmp_path / ".farebox"


def test_flags_beat_variables_beat_the_file(tmp_path):
    text = '[redis]\nurl = "redis://file"\ndata_dir = "file"\n[worker]\nconcurrency = 3\n[budget]\nlimit_usd = 1\n'
    write(tmp_path, text)
    assert load(cwd=tmp_path, environ={}).redis.url == "redis://file"
    environ = {
        "FAREBOX_REDIS_URL": "redis://variable",
        "FAREBOX_REDIS_DATA_DIR": "variable",
        "FAREBOX_WORKER_CONCURRENCY": "4",
        "FAREBOX_BUDGET_LIMIT_USD": "2.50",
    }
    settings = load(cwd=tmp_path, environ=environ)
    assert settings.redis.url == "redis://variable"
    assert settings.redis.data_dir == tmp_path / "variable"
    assert settings.worker.concurrency == 4
    assert settings.budget.limit_usd == 2.5
    settings = load(cwd=tmp_path, environ=environ, redis_url="rediss://flag", data_dir=Path("flag"))
    assert settings.redis.url == "rediss://flag"
    assert settings.redis.data_dir == tmp_path / "flag"


def test_the_config_flag_beats_farebox_config_beats_the_file_here(tmp_path):
    write(tmp_path, '[redis]\nnamespace = "here"\n')
    for name in ("flag", "variable"):
        (tmp_path / f"{name}.toml").write_text(f'[redis]\nnamespace = "{name}"\n', encoding="utf-8")
    environ = {"FAREBOX_CONFIG": "variable.toml"}
    assert load(cwd=tmp_path, environ={}).redis.namespace == "here"
    assert load(cwd=tmp_path, environ=environ).redis.namespace == "variable"
    assert load(Path("flag.toml"), cwd=tmp_path, environ=environ).redis.namespace == "flag"
    with pytest.raises(ConfigError, match=r"cannot read .*none\.toml"):
        load(Path("none.toml"), cwd=tmp_path, environ={})


def test_an_empty_variable_counts_as_unset(tmp_path):
    assert load(cwd=tmp_path, environ={"FAREBOX_REDIS_URL": ""}).redis.url is None


def test_variables_of_other_sections_are_not_ours(tmp_path):
    load(cwd=tmp_path, environ={"FAREBOX_DEBUG": "1", "FAREBOX_BUDGETARY": "x", "FAREBOX_CONFIG": ""})


def test_an_unknown_variable_names_the_nearest(tmp_path):
    with pytest.raises(ConfigError, match=r"FAREBOX_WORKER_CONCURENCY is unknown.*FAREBOX_WORKER_CONCURRENCY"):
        load(cwd=tmp_path, environ={"FAREBOX_WORKER_CONCURENCY": "3"})


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("FAREBOX_WORKER_CONCURRENCY", "many"),
        ("FAREBOX_WORKER_CONCURRENCY", "0"),
        ("FAREBOX_BUDGET_LIMIT_USD", "$5"),
        ("FAREBOX_BUDGET_LIMIT_USD", "-1"),
        ("FAREBOX_BUDGET_LIMIT_USD", "nan"),
        ("FAREBOX_BUDGET_LIMIT_USD", "inf"),
        ("FAREBOX_REDIS_URL", "localhost:6379"),
    ],
)
def test_a_wrong_variable_is_named_with_what_was_expected(tmp_path, name, text):
    with pytest.raises(ConfigError) as caught:
        load(cwd=tmp_path, environ={name: text})
    assert name in str(caught.value)
    assert text in str(caught.value)
    assert "expected" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("\n[worker]\nconcurrency = 0\n", ["farebox.toml:3:", "[worker] concurrency is 0", "1 to 10000"]),
        ("[worker]\nconcurrency = true\n", ["[worker] concurrency is true", "whole number"]),
        ('[worker]\nlease_s = "30s"\n', ['lease_s is "30s"', "seconds, 1 to 3600"]),
        ("[worker]\nlease_s = nan\n", ["lease_s", "expected seconds"]),
        ("[worker]\nconcurency = 3\n", ["farebox.toml:2:", "concurency", "Did you mean concurrency?"]),
        ("[wroker]\nconcurrency = 3\n", ["farebox.toml:1:", "[wroker]", "Did you mean worker?"]),
        ("worker = 3\n", ["[worker]", "expected a table"]),
        ("[budget]\nlimit_usd = -1\n", ["[budget] limit_usd is -1", "dollars, 0 to"]),
        ('[redis]\nnamespace = "a b"\n', ["namespace", "1 to 32 of"]),
        ('[redis]\nnamespace = "a\\n"\n', ["namespace", "1 to 32 of"]),
        (f'[redis]\nnamespace = "{"x" * 33}"\n', ["namespace", "1 to 32 of"]),
        ('[redis]\nurl = "http://x"\n', ["url", "redis://"]),
        ("[retention]\nids_days = 3\n", ["farebox.toml:2: [retention] ids_days is 3", "results_days"]),
        ("[worker\n", ["is not valid TOML", "line 1"]),
        ('[providers."a:b"]\nkind = "openai"\n', ['"a:b" is no provider id']),
        ("[providers.groq]\nfree = true\n", ["farebox.toml:1:", "[providers.groq]", "base_url"]),
        ('[providers.groq]\nkind = "opnai"\n', ["[providers.groq] kind", "Did you mean openai?"]),
        ('[providers.groq]\nbase_url = "localhost:8000"\n', ["base_url", "http://"]),
        ('[providers.openai]\ncap_field = "limit"\n', ["cap_field", '"max_completion_tokens" or "max_tokens"']),
        ('[models."gpt-5"]\nrpm = 3\n', ['[models."gpt-5"]', "provider:model"]),
        ('[models."opnai:gpt-5"]\nrpm = 3\n', ['no provider "opnai"', "Did you mean openai?"]),
        ('[models."openai:gpt-5"]\nrpn = 3\n', ["farebox.toml:2:", "rpn", "Did you mean rpm?"]),
        ('[models."openai:gpt-5"]\ninput_usd_per_mtok = 250000\n', ["input_usd_per_mtok", "per million tokens"]),
        ('[models."openai:gpt-5"]\ninput_usd_per_mtok = 0.00000025\n', ["per million tokens, not per token"]),
    ],
)
def test_a_mistake_in_the_file_says_where_and_what_was_expected(tmp_path, text, said):
    message = refusal(tmp_path, text)
    assert str(tmp_path / "farebox.toml") in message or "retention" in message
    for part in said:
        assert part in message


@pytest.mark.parametrize(
    "text",
    [
        '[providers.openai]\napi_key = "SECRET-1"\n',
        '[providers.openai]\napi_key_env = "sk-SECRET-1"\n',
        '[providers.openai]\napi_key_env = "SECRET-1"\n',
        '[providers.openai]\nbase_url = "sk-SECRET-1"\n',
        '[redis]\nurl = "http://me:SECRET-1@host"\n',
        '[redis]\npassword = "SECRET-1"\n',
    ],
)
def test_a_secret_in_the_file_is_refused_and_not_repeated(tmp_path, text):
    message = refusal(tmp_path, text)
    assert "SECRET-1" not in message
    assert "[redis]" in message or "environment" in message


def test_a_file_that_is_not_text_is_refused(tmp_path):
    (tmp_path / "farebox.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="UTF-8"):
        load(cwd=tmp_path, environ={})


def test_providers_take_their_defaults_from_their_kind_and_address(tmp_path):
    text = """
    [providers.openai]
    [providers.work]
    kind = "openai"
    [providers.local]
    base_url = "http://127.0.0.1:8000/v1"
    free = true
    [providers.groq]
    base_url = "https://api.groq.com/openai/v1"
    api_key_env = "GROQ_API_KEY"
    """
    providers = read(tmp_path, text).providers
    assert providers["openai"] == ProviderSettings(kind="openai", api_key_env="OPENAI_API_KEY")
    assert providers["work"].api_key_env == "OPENAI_API_KEY"
    assert providers["local"].kind == "openai"
    assert providers["local"].api_key_env is None
    assert providers["local"].free
    assert providers["groq"].api_key_env == "GROQ_API_KEY"
    assert set(providers) == {"openai", "work", "local", "groq", "echo"}


def test_a_provider_in_the_file_is_not_replaced_by_its_key_variable(tmp_path):
    text = '[providers.openai]\nbase_url = "http://127.0.0.1:1/v1"\n'
    assert read(tmp_path, text, OPENAI_API_KEY="sk-x").providers["openai"].api_key_env is None


def test_models_may_be_stated_for_a_provider_that_has_no_key_yet(tmp_path):
    models = read(tmp_path, '[models."openai:gpt-5-mini"]\ninput_usd_per_mtok = 1\nfree = false\n').models
    assert models["openai:gpt-5-mini"].input_usd_per_mtok == 1


def test_settings_import_nothing_heavy():
    code = "import sys, farebox_worker.configuration; print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"redis", "arq", "openai", "anthropic", "genai_prices", "asyncio", "pydantic"} & set(out)
