"""The registry finds providers and models, and the till counts what was spent outside the bus."""

import asyncio
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farebox.errors import ConfigError, CostLimitExceededError, ModelNotFoundError, ProviderConnectionError
from farebox.ledger import Ledger
from farebox_worker.providers import ModelCapability, ModelInfo, ModelProvider, ProviderManager, TokenUsage
from farebox_worker.providers.factory import make_provider
from farebox_worker.providers.manager import _cost_nusd


@pytest.fixture
def ledger(redis):
    """The real thing, on an empty server: it counts without having been created."""
    return Ledger(redis, namespace="farebox")


@pytest.fixture
def manager(ledger):
    return ProviderManager(ledger)


def info(model_id="m", provider_id="p", cost_in=1.0, cost_out=2.0):
    return ModelInfo(provider_id, model_id, model_id, ModelCapability.TEXT, 1000, 100, cost_in, cost_out)


class Provider:
    """The least that can be registered."""

    def __init__(self, *models, provider_id="p", error=None):
        self.provider_id, self._models, self._error = provider_id, list(models), error

    async def list_models(self):
        if self._error:
            raise self._error
        return self._models


DOWN = ProviderConnectionError("p", "down", sent=False)


async def test_a_registered_provider_is_found_by_its_models(manager):
    provider = Provider(info("a"), info("b"))
    await manager.register(provider)
    assert manager.get_provider("p:b") == (provider, "b")
    assert manager.get_model_info("p:a") == info("a")
    assert [one.model_ref for one in manager.list_all_models()] == ["p:a", "p:b"]


async def test_a_ref_is_split_at_its_first_colon_only(manager):
    provider = Provider(info("llama3:8b", "ollama"), provider_id="ollama")
    await manager.register(provider)
    assert manager.get_provider("ollama:llama3:8b") == (provider, "llama3:8b")


async def test_an_id_is_registered_once(manager):
    await manager.register(Provider(info("a")))
    with pytest.raises(ValueError, match="already registered"):
        await manager.register(Provider(info("b")))
    assert [one.model_id for one in manager.list_all_models()] == ["a"]


async def test_of_two_that_register_at_once_one_wins(manager):
    class Slow(Provider):
        async def list_models(self):
            await asyncio.sleep(0)
            return self._models

    outcomes = await asyncio.gather(
        manager.register(Slow(info("a"))), manager.register(Slow(info("b"))), return_exceptions=True
    )
    assert [type(outcome) for outcome in outcomes] == [type(None), ValueError]
    assert [one.model_id for one in manager.list_all_models()] == ["a"]


@pytest.mark.parametrize("error", [DOWN, RuntimeError("bug")])
async def test_a_discovery_that_fails_leaves_nothing_behind(manager, error):
    with pytest.raises(type(error)):
        await manager.register(Provider(error=error))
    assert manager.list_all_models() == []
    await manager.register(Provider(info("a")))


async def test_configured_models_stand_in_when_discovery_is_down(manager):
    await manager.register(Provider(error=DOWN), models=[info("a")])
    assert manager.get_provider("p:a")[1] == "a"


async def test_configured_models_do_not_hide_a_bug(manager):
    with pytest.raises(RuntimeError):
        await manager.register(Provider(error=RuntimeError("bug")), models=[info("a")])
    assert manager.list_all_models() == []


async def test_configured_models_win_over_discovered_ones(manager):
    await manager.register(Provider(info("a", cost_in=0.0), info("b")), models=[info("a", cost_in=9.0)])
    assert manager.get_model_info("p:a").input_cost_per_mtok == 9.0
    assert len(manager.list_all_models()) == 2


async def test_a_provider_that_is_unregistered_takes_its_models_along(manager):
    await manager.register(Provider(info("a")))
    await manager.register(Provider(info("b", "q"), provider_id="q"))
    manager.unregister("p")
    assert [one.model_ref for one in manager.list_all_models()] == ["q:b"]
    with pytest.raises(ModelNotFoundError):
        manager.get_provider("p:a")
    with pytest.raises(KeyError, match="not registered"):
        manager.unregister("p")


async def test_an_unknown_model_is_named_with_the_nearest_known_ones(manager):
    await manager.register(Provider(info("gpt-5-mini", "openai"), info("o9", "openai"), provider_id="openai"))
    for look_up in (manager.get_model_info, manager.get_provider):
        with pytest.raises(ModelNotFoundError, match=r"openai:gpt-5-minni.*openai:gpt-5-mini") as caught:
            look_up("openai:gpt-5-minni")
        assert caught.value.nearest == ["openai:gpt-5-mini"]


@pytest.mark.parametrize("ref", ["", "p", "p:", ":a", "q:a"])
async def test_a_ref_that_names_nothing_is_not_found(manager, ref):
    await manager.register(Provider(info("a")))
    with pytest.raises(ModelNotFoundError):
        manager.get_provider(ref)


async def test_usage_is_booked_and_its_cost_returned(manager):
    cost = await manager.record_usage(info(), TokenUsage(1_000_000, 500_000))
    assert cost == 2.0
    assert await manager.total_cost() == 2.0


async def test_cached_tokens_cost_what_input_costs(manager):
    assert await manager.record_usage(info(), TokenUsage(0, 0, 1_000_000, 1_000_000)) == 2.0


async def test_costs_are_told_by_provider_and_the_telling_is_a_copy(manager):
    assert await manager.cost_by_provider() == {}
    await manager.record_usage(info(), TokenUsage(1_000_000))
    await manager.record_usage(info(provider_id="q"), TokenUsage(2_000_000))
    told = await manager.cost_by_provider()
    assert told == {"p": 1.0, "q": 2.0}
    told["p"] = 99.0
    assert (await manager.cost_by_provider())["p"] == 1.0


async def test_a_reset_forgets_what_was_spent(manager):
    await manager.record_usage(info(), TokenUsage(1_000_000))
    await manager.reset_cost()
    assert await manager.total_cost() == 0.0
    assert await manager.cost_by_provider() == {}


async def test_what_passes_the_limit_is_booked_and_then_refused(ledger):
    manager = ProviderManager(ledger, cost_hard_limit=1.0)
    await manager.record_usage(info(), TokenUsage(1_000_000))  # the limit itself is allowed
    with pytest.raises(CostLimitExceededError) as caught:
        await manager.record_usage(info(), TokenUsage(1))
    assert caught.value.limit == 1.0
    assert caught.value.current == await manager.total_cost() == 1.000001


async def test_no_limit_means_none(manager):
    assert await manager.record_usage(info(cost_in=1000.0), TokenUsage(1_000_000_000)) == 1_000_000.0


async def test_two_managers_share_one_limit_by_their_ledger(ledger):
    one, two = ProviderManager(ledger, cost_hard_limit=1.0), ProviderManager(ledger, cost_hard_limit=1.0)
    await one.record_usage(info(), TokenUsage(900_000))
    with pytest.raises(CostLimitExceededError):
        await two.record_usage(info(), TokenUsage(200_000))


async def test_negative_counts_are_refused_and_not_booked(manager):
    with pytest.raises(ValueError, match="negative"):
        await manager.record_usage(info(), TokenUsage(-5, 1))
    assert await manager.total_cost() == 0.0


@given(
    st.integers(0, 10**9), st.integers(0, 10**9), st.decimals("0", "1000", places=6), st.decimals("0", "1000", places=6)
)
def test_a_cost_is_exact_and_rounded_up_once(tokens_in, tokens_out, rate_in, rate_out):
    model = info(cost_in=float(rate_in), cost_out=float(rate_out))
    exact = (tokens_in * rate_in + tokens_out * rate_out) * 1000  # USD per Mtok x tokens, in nano-dollars
    assert 0 <= _cost_nusd(model, TokenUsage(tokens_in, tokens_out)) - exact < 1


class Settings:
    """One [providers.<id>] section."""

    has_flex = False

    def __init__(self, kind, base_url=None, api_key_env=None, cap_field=None, free=False):
        self.kind, self.base_url, self.api_key_env, self.cap_field, self.free = (
            kind,
            base_url,
            api_key_env,
            cap_field,
            free,
        )


@pytest.mark.parametrize("kind", ["openai", "anthropic", "echo"])
async def test_the_factory_makes_every_kind(kind, monkeypatch):
    monkeypatch.setenv("MY_KEY", "k-123456789")
    made = make_provider("mine", Settings(kind, api_key_env="MY_KEY"))
    assert isinstance(made, ModelProvider)
    assert made.provider_id == "mine"
    await made.aclose()


@pytest.mark.parametrize(
    ("settings", "variable"),
    [
        (Settings("openai"), "OPENAI_API_KEY"),
        (Settings("anthropic"), "ANTHROPIC_API_KEY"),
        (Settings("openai", base_url="http://x", api_key_env="MY_KEY"), "MY_KEY"),
    ],
)
def test_a_missing_key_is_told_by_its_variable(settings, variable, monkeypatch):
    monkeypatch.delenv(variable, raising=False)
    with pytest.raises(ConfigError, match=variable):
        make_provider("p", settings)


async def test_a_server_of_ones_own_needs_no_key(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    await make_provider("p", Settings("openai", base_url="http://127.0.0.1:1")).aclose()


def test_an_unknown_kind_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"'gemini'.*openai, anthropic, echo"):
        make_provider("p", Settings("gemini"))


def test_a_kind_may_be_an_entry_point(monkeypatch):
    class Found:
        name = "mine"

        def load(self):
            return lambda provider_id, settings: (provider_id, settings.kind)

    monkeypatch.setattr("farebox_worker.providers.factory.entry_points", lambda **_: [Found()])
    assert make_provider("p", Settings("mine")) == ("p", "mine")


def test_importing_the_providers_loads_no_sdk():
    code = (
        "import sys, farebox_worker.providers, farebox_worker.providers.factory as f\n"
        "class S: kind='echo'; base_url=api_key_env=cap_field=None; free=False\n"
        "f.make_provider('echo', S)\n"
        "print(sorted(sys.modules.keys() & {'openai', 'anthropic', 'aiohttp', 'httpx2', 'pydantic'}))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
