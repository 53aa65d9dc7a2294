from __future__ import annotations

import asyncio

import pytest

from farebox.errors import ModelNotFoundError, ProviderOverloadedError
from farebox_worker.prices.catalogue import Catalogue
from farebox_worker.prices.table import PriceTable
from farebox_worker.providers.base import Facts, ModelCapability, ModelInfo
from farebox_worker.settings import ModelSettings, ProviderSettings, Settings

OPENAI = ProviderSettings(kind="openai", api_key_env="OPENAI_API_KEY")
ANTHROPIC = ProviderSettings(kind="anthropic", api_key_env="ANTHROPIC_API_KEY")
OLLAMA = ProviderSettings(kind="openai", base_url="http://127.0.0.1:11434/v1", free=True)
ECHO = ProviderSettings(kind="echo")


def catalogue(models=None, **providers) -> Catalogue:
    known = providers or {"openai": OPENAI, "anthropic": ANTHROPIC, "ollama": OLLAMA}
    settings = Settings(providers={**known, "echo": ECHO}, models=models or {})
    return Catalogue(settings, PriceTable(settings))


class Listing:
    def __init__(self, provider_id, *model_ids, window=0, most=0, error=None, delay_s=0.0):
        self.provider_id = provider_id
        self.model_ids = model_ids
        self.window = window
        self.most = most
        self.error = error
        self.delay_s = delay_s

    async def list_models(self):
        await asyncio.sleep(self.delay_s)
        if self.error:
            raise self.error
        return [
            ModelInfo(self.provider_id, name, name, ModelCapability.TEXT, self.window, self.most, 0.0, 0.0)
            for name in self.model_ids
        ]


def refusal(models: Catalogue, name: str, **choice) -> ModelNotFoundError:
    with pytest.raises(ModelNotFoundError) as caught:
        models.resolve(name, **choice)
    return caught.value


def test_a_ref_resolves_without_discovery():
    entry = catalogue().resolve("openai:gpt-5-mini")
    assert (entry.model_ref, entry.provider_id, entry.model_id) == ("openai:gpt-5-mini", "openai", "gpt-5-mini")
    assert entry.facts == Facts("gpt-5-mini", 400_000, 128_000, 8192, 2_700)
    assert entry.price.output_pusd == 2_000_000
    assert not entry.free


def test_a_bare_name_resolves_when_one_provider_has_it():
    assert catalogue().resolve("gpt-5-mini").model_ref == "openai:gpt-5-mini"
    assert catalogue().resolve("claude-haiku-5-5").model_ref == "anthropic:claude-haiku-5-5"
    assert catalogue().resolve("echo").model_ref == "echo:echo"


def test_a_ref_is_split_at_the_first_colon_only():
    assert catalogue().resolve("ollama:llama3:8b").model_id == "llama3:8b"


def test_a_colon_in_a_bare_name_is_part_of_it():
    models = catalogue({"ollama:llama3:8b": ModelSettings(rpm=3)})
    assert models.resolve("llama3:8b").model_ref == "ollama:llama3:8b"
    assert models.resolve("llama3:8b", provider="ollama").model_ref == "ollama:llama3:8b"


def test_an_ambiguous_name_lists_its_candidates_and_provider_decides():
    models = catalogue(openai=OPENAI, work=OPENAI)
    message = str(refusal(models, "gpt-5-mini"))
    assert "openai:gpt-5-mini or work:gpt-5-mini" in message
    assert "--provider" in message
    assert models.resolve("gpt-5-mini", provider="work").model_ref == "work:gpt-5-mini"


def test_an_unknown_model_names_the_nearest():
    error = refusal(catalogue(), "openai:gpt-5-mnii")
    assert error.nearest[0] == "openai:gpt-5-mini"
    assert "Did you mean openai:gpt-5-mini" in str(error)
    error = refusal(catalogue(openai=OPENAI), "gpt-5-mnii")
    assert error.nearest[0] == "openai:gpt-5-mini"


def test_a_bare_name_whose_vendor_has_no_key_names_the_key():
    message = str(refusal(catalogue(work=ANTHROPIC), "gpt-5-mini"))
    assert "gpt-5-mini is a model of openai, which has no key here: set OPENAI_API_KEY" in message
    assert "write provider:model" in message


def test_a_bare_name_that_nobody_has_says_who_was_asked():
    message = str(refusal(catalogue(openai=OPENAI), "gpt-99-unheard-of"))
    assert "no provider configured here has it (there are: openai, echo)" in message
    assert "farebox models" in message


def test_a_provider_that_is_not_configured_says_what_would_add_it():
    models = catalogue(ollama=OLLAMA)
    message = str(refusal(models, "openai:gpt-5-mini"))
    assert "OPENAI_API_KEY" in message
    assert "[providers.openai]" in message
    assert "[providers.groq]" in str(refusal(models, "groq:llama-3.3-70b"))
    assert "ANTHROPIC_API_KEY" in str(refusal(models, "claude-opus-5", provider="anthropic"))
    assert "Did you mean ollama:llama3" in str(refusal(models, "olama:llama3"))


@pytest.mark.parametrize("name", ["", "openai:", ":gpt-5-mini", "echo:other", "gpt-99"])
def test_names_of_nothing_are_refused(name):
    refusal(catalogue(openai=OPENAI), name)


async def test_a_server_of_ones_own_is_trusted_until_it_has_listed_its_models():
    models = catalogue(ollama=OLLAMA)
    assert models.resolve("llama3").model_ref == "ollama:llama3"
    failed = await models.discover([Listing("ollama", error=ProviderOverloadedError("ollama", "down"))])
    assert failed == {"ollama": "down"}
    assert models.resolve("ollama:llama3").free
    assert await models.discover([Listing("ollama", "qwen3:8b")]) == {}
    assert refusal(models, "ollama:qwen3:9b").nearest == ["ollama:qwen3:8b"]
    assert models.resolve("qwen3:8b").model_ref == "ollama:qwen3:8b"


async def test_a_configured_or_priced_model_stays_known_when_discovery_lacks_it():
    models = catalogue({"ollama:mine": ModelSettings(context_window=4096)})
    await models.discover([Listing("ollama", "other"), Listing("openai", "gpt-4o")])
    assert models.resolve("ollama:mine").facts.context_window == 4096
    assert models.resolve("openai:gpt-5-mini").price is not None


async def test_discovery_adds_models_nobody_prices():
    models = catalogue(openai=OPENAI)
    refusal(models, "openai:gpt-99")
    await models.discover([Listing("openai", "gpt-99")])
    entry = models.resolve("gpt-99")
    assert entry.price is None
    assert entry.facts == Facts("gpt-99", 128_000, 128_000, 8192)


async def test_a_slow_provider_fails_alone():
    models = catalogue()
    failed = await models.discover([Listing("openai", "x", delay_s=5), Listing("ollama", "llama3")], timeout_s=0.01)
    assert failed == {"openai": "no answer within 0.01 s"}
    assert "ollama:llama3" in models.refs()


async def test_settings_go_before_discovery_before_the_table():
    stated = ModelSettings(context_window=1000, max_output_tokens=500, default_max_tokens=100)
    models = catalogue({"openai:gpt-4o": stated})
    await models.discover([Listing("openai", "gpt-4o", "gpt-4o-mini", window=64_000, most=2_000)])
    assert models.resolve("openai:gpt-4o").facts == Facts("gpt-4o", 1000, 500, 100, 1_500)
    assert models.resolve("openai:gpt-4o-mini").facts == Facts("gpt-4o-mini", 64_000, 2_000, 2_000, 48_200)


@pytest.mark.parametrize(
    ("name", "most", "cap"),
    [
        ("gpt-3.5-turbo", 4096, 4096),
        ("gpt-4", 8192, 4096),
        ("gpt-4-turbo", 4096, 4096),
        ("gpt-4o", 16_384, 8192),
        ("gpt-4o-2024-05-13", 4096, 4096),
        ("gpt-4o-2024-08-06", 16_384, 8192),
        ("gpt-4.1-nano", 32_768, 8192),
        ("o3", 100_000, 8192),
        ("gpt-5.1", 128_000, 8192),
        ("gpt-6.1-sol", 128_000, 8192),
        ("claude-3-haiku-20240307", 4096, 4096),
        ("claude-3-5-haiku-latest", 8192, 8192),
        ("claude-opus-4-1-20250805", 32_000, 8192),
        ("claude-opus-4-20250514", 32_000, 8192),
        ("claude-opus-4-5", 64_000, 8192),
        ("claude-sonnet-4-20250514", 64_000, 8192),
        ("claude-sonnet-4-6", 128_000, 8192),
        ("claude-haiku-4-5-20251001", 64_000, 8192),
        ("claude-haiku-5-5", 128_000, 8192),
    ],
)
def test_the_most_output_of_known_families(name, most, cap):
    facts = catalogue().resolve(name).facts
    assert (facts.max_output_tokens, facts.default_max_tokens) == (most, cap)


def test_a_stated_default_never_passes_the_models_maximum():
    models = catalogue({"openai:gpt-4o": ModelSettings(default_max_tokens=50_000)})
    assert models.resolve("openai:gpt-4o").facts.default_max_tokens == 16_384


def test_limits_and_freedom_come_from_the_settings():
    models = catalogue({"openai:gpt-4o": ModelSettings(rpm=1, tpm=2, max_concurrency=3, free=True)})
    entry = models.resolve("openai:gpt-4o")
    assert (entry.rpm, entry.tpm, entry.max_concurrency, entry.free) == (1, 2, 3, True)
    assert entry.price.version == "free"


def test_the_tier_decides_the_price():
    models = catalogue()
    assert models.resolve("openai:gpt-5-mini", tier="flex").price.output_pusd == 1_000_000
    assert models.resolve("openai:gpt-4o", tier="flex").price is None


def test_a_new_price_reaches_the_entries(monkeypatch):
    models = catalogue()
    assert models.resolve("echo").price.output_pusd == 2_000_000
    monkeypatch.setattr("farebox_worker.prices.table.PRETEND", None)
    assert models._prices.refresh_if_older_than(0)
    assert models.resolve("echo").price is None


@pytest.mark.parametrize("name", ["openai:gpt-5-mini@flex", "gpt-5-mini@flex", "ollama:mine@flex"])
def test_a_lane_is_no_model_and_says_how_its_tier_is_named(name):
    assert f"{name} is a lane: name its model, {name.removesuffix('@flex')}, with --tier flex" in str(
        refusal(catalogue(), name)
    )


def test_every_ref_can_be_asked_for():
    models = catalogue()
    assert [ref for ref in models.refs() if models.resolve(ref).price is None] == []


def test_refs_hold_what_is_configured_listed_or_priced():
    refs = catalogue({"ollama:mine": ModelSettings()}, ollama=OLLAMA, openai=OPENAI).refs()
    assert {"ollama:mine", "openai:gpt-5-mini", "echo:echo"} <= set(refs)
    assert refs == sorted(refs)
