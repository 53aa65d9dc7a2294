"""Which models there are, under which names, with which limits and prices: what a `model` in a job means.

It owns the rules by which a name becomes a model_ref and the order of sources for each fact: farebox.toml, what the
provider says, the price table, then careful guesses. It works without discovery, and never sends a completion.
"""

from __future__ import annotations

import asyncio
import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from farebox.errors import ModelNotFoundError
from farebox.records import Tier
from farebox_worker.prices.overlay import overlay
from farebox_worker.prices.rates import FREE
from farebox_worker.providers.base import Facts, ModelInfo, ModelProvider
from farebox_worker.settings import KEY_VARIABLES, ModelSettings

if TYPE_CHECKING:
    from farebox_worker.prices.table import Price, PriceTable
    from farebox_worker.settings import Settings

UNKNOWN_CONTEXT_WINDOW = 128_000
DEFAULT_MAX_TOKENS = 8192
PRICED_TIERS = ("standard", "flex", "priority", "batch")  # what a provider may say that it served
_MTOK = 1_000_000
_REMEMBERED = 10_000  # names whose entry is kept; a file names a handful

# The most output tokens of a model, by the start of its name; the first match counts. Only families whose vendor
# states one number are here; discovery and farebox.toml go before it.
# Sources: developers.openai.com/api/docs/models/* (each model's page) and platform.claude.com/docs/en/models
# ("Max output": 128K from Claude Opus 4.6 and Sonnet 4.6 on, 64K for the 4.5 family), read in November 2026.
_MAX_OUTPUT = [
    (re.compile(pattern), tokens)
    for pattern, tokens in (
        (r"gpt-5(\.\d+)?-chat|gpt-4o-2024-0[8-9]|gpt-4o-2024-1|gpt-4o-mini|gpt-4o$|chatgpt-4o", 16_384),
        (r"gpt-5-pro", 272_000),
        (r"gpt-[56]", 128_000),
        (r"gpt-4\.1", 32_768),
        (r"o1-preview", 32_768),
        (r"o1-mini", 65_536),
        (r"o1|o3|o4-mini", 100_000),
        (r"gpt-4o-2024-05-13|gpt-4-turbo|gpt-4-\d{4}-preview|gpt-3\.5-turbo", 4_096),
        (r"gpt-4(-0314|-0613)?$", 8_192),
        (r"claude-3-(haiku|opus|sonnet)", 4_096),
        (r"claude-3[-.]5-", 8_192),
        (r"claude-3[-.]7-|claude-sonnet-4[-.][05]|claude-sonnet-4(-2025\d{4})?$", 64_000),
        (r"claude-(haiku|opus)-4[-.]5", 64_000),
        (r"claude-opus-4([-.][01])?(-2025\d{4})?$", 32_000),
        (r"claude-opus-4[-.][678]|claude-sonnet-4[-.]6|claude-(fable|mythos|opus|sonnet|haiku)-5", 128_000),
    )
]


@dataclass(frozen=True, slots=True)
class Entry:
    """A model as the rest of the worker sees it, in one tier.

    `price` is None when nobody states one; limits are None when unset. `prices` has every tier whose price is known,
    the vendor's word for it included that cannot be asked for: what was served decides what is booked.
    """

    model_ref: str
    provider_id: str
    model_id: str
    facts: Facts
    price: Price | None
    free: bool
    rpm: int | None
    tpm: int | None
    max_concurrency: int | None
    prices: Mapping[str, Price] = field(default_factory=dict)


class Catalogue:
    """The models of the configured providers."""

    def __init__(self, settings: Settings, prices: PriceTable) -> None:
        self._settings = settings
        self._prices = prices
        self._listed: dict[str, dict[str, ModelInfo]] = {}
        self._entries: dict[tuple[str, str | None, str], Entry] = {}
        self._revision = prices.revision

    async def discover(self, providers: Iterable[ModelProvider], *, timeout_s: float = 10.0) -> dict[str, str]:
        """Ask all providers at once for their models; return why, by provider id, where it failed.

        What a provider said earlier stays when it fails now.
        """
        asked = list(providers)
        answers = await asyncio.gather(
            *(asyncio.wait_for(provider.list_models(), timeout_s) for provider in asked), return_exceptions=True
        )
        failed = {}
        for provider, answer in zip(asked, answers, strict=True):
            if isinstance(answer, BaseException):
                silent = f"no answer within {timeout_s:g} s" if isinstance(answer, TimeoutError) else ""
                failed[provider.provider_id] = silent or str(answer) or type(answer).__name__
            else:
                self._listed[provider.provider_id] = {model.model_id: model for model in answer}
        self._entries.clear()
        return failed

    def resolve(self, name: str, *, provider: str | None = None, tier: str = "standard") -> Entry:
        """Turn a name into a model: a model_ref, or a bare name when `provider` or the name itself says whose it is.

        Raises: ModelNotFoundError naming the nearest refs, the candidates, or what would add the provider.
        """
        if self._revision != self._prices.revision:
            self._revision = self._prices.revision
            self._entries.clear()
        key = name, provider, tier
        if key not in self._entries:
            if len(self._entries) >= _REMEMBERED:
                self._entries.clear()
            self._entries[key] = self._entry(*self._find(name, provider), tier)
        return self._entries[key]

    def tiers(self, entry: Entry) -> tuple[Tier, ...]:
        """Name the tiers in which a model can be asked: standard, and flex where its provider knows and prices it."""
        has_flex = self._settings.providers[entry.provider_id].has_flex and "flex" in entry.prices
        return ("standard", "flex") if has_flex and not entry.free else ("standard",)

    def cheapest_tier(self, model_ref: str) -> Tier:
        """Choose the tier in which a model costs least. Raises: ModelNotFoundError."""
        entry = self.resolve(model_ref)
        if "flex" not in self.tiers(entry):
            return "standard"
        worst = {tier: price.worst_nusd(_MTOK, _MTOK) for tier, price in entry.prices.items()}
        return "flex" if "standard" not in worst or worst["flex"] < worst["standard"] else "standard"

    def refs(self) -> list[str]:
        """Name every known model: configured, listed by its provider, or priced; sorted."""
        known = {*self._settings.models}
        for provider_id, provider in self._settings.providers.items():
            listed = self._listed.get(provider_id)
            if listed is None:
                priced = (f"{provider_id}:{model_id}" for model_id in self._prices.model_ids(provider_id))
                known.update(ref for ref in priced if self._prices.lookup(ref))
            else:
                known.update(f"{provider_id}:{model_id}" for model_id in listed)
            if provider.kind == "echo":
                known.add(f"{provider_id}:echo")
        return sorted(ref for ref in known if ref.partition(":")[0] in self._settings.providers)

    def _find(self, name: str, provider: str | None) -> tuple[str, str]:
        if not name:
            raise ModelNotFoundError(name, reason="no model is named.")
        if (model := name.removesuffix("@flex")) != name:
            raise ModelNotFoundError(name, reason=f"{name} is a lane: name its model, {model}, with --tier flex.")
        if provider is not None and provider not in self._settings.providers:
            raise self._no_provider(f"{provider}:{name}", provider)
        left, colon, rest = name.partition(":")
        if colon and left in self._settings.providers:
            provider, name = left, rest
        if provider is None:
            return self._whose(name, left if colon else ""), name
        if not self._is_known(provider, name):
            raise self._not_found(f"{provider}:{name}")
        return provider, name

    def _whose(self, name: str, left: str) -> str:
        """Find the one provider that has a bare name: stated somewhere, else taken on trust."""
        providers = self._settings.providers
        owners = [provider_id for provider_id in providers if self._is_stated(provider_id, name)]
        if not owners and name in providers:
            raise ModelNotFoundError(
                name, reason=f"{name} is a provider: write {name}:MODEL (`farebox models {name}`)."
            )
        if not owners and not left:
            owners = [provider_id for provider_id in providers if self._is_known(provider_id, name)]
        if len(owners) == 1:
            return owners[0]
        if owners:
            refs = " or ".join(f"{owner}:{name}" for owner in owners)
            raise ModelNotFoundError(name, reason=f"{name} is ambiguous: write {refs}, or choose with --provider.")
        if left:
            raise self._no_provider(f"{left}:{name.partition(':')[2]}", left)
        raise self._nobodys(name)

    def _is_stated(self, provider_id: str, model_id: str) -> bool:
        """Tell whether farebox.toml, the provider or the price table names this model."""
        ref = f"{provider_id}:{model_id}"
        if self._settings.providers[provider_id].kind == "echo":
            return model_id == "echo" or ref in self._settings.models
        if ref in self._settings.models or model_id in self._listed.get(provider_id, {}):
            return True
        return not self._settings.providers[provider_id].free and self._prices.lookup(ref) is not None

    def _is_known(self, provider_id: str, model_id: str) -> bool:
        """Tell whether a model may be asked for.

        A server of one's own (free, or at an address of its own) is trusted to have it until it has listed its models.
        """
        if not model_id:
            return False
        provider = self._settings.providers[provider_id]
        trusted = provider.free or provider.base_url is not None or provider.kind not in (*KEY_VARIABLES, "echo")
        return (trusted and provider_id not in self._listed) or self._is_stated(provider_id, model_id)

    def _entry(self, provider_id: str, model_id: str, tier: str) -> Entry:
        ref = f"{provider_id}:{model_id}"
        given = self._settings.models.get(ref, ModelSettings())
        return Entry(
            model_ref=ref,
            provider_id=provider_id,
            model_id=model_id,
            facts=self._facts(ref, provider_id, model_id, given),
            price=self._prices.lookup(ref, tier),
            free=given.free or self._settings.providers[provider_id].free,
            rpm=given.rpm,
            tpm=given.tpm,
            max_concurrency=given.max_concurrency,
            prices={name: price for name in PRICED_TIERS if (price := self._prices.lookup(ref, name))},
        )

    def _facts(self, ref: str, provider_id: str, model_id: str, given: ModelSettings) -> Facts:
        """Gather a model's limits. A default cap leaves at least half of a small context window to the prompt.

        A guess at the context window serves for the default cap, and where no money is at stake; it bounds none.
        """
        listed = self._listed.get(provider_id, {}).get(model_id)
        window = given.context_window or (listed.context_window if listed else 0)
        if not window and self._settings.providers[provider_id].kind != "echo":  # importing the table takes a while
            window = self._prices.context_window(ref) or 0
        known, window = window, window or UNKNOWN_CONTEXT_WINDOW
        most = given.max_output_tokens or (listed.max_output_tokens if listed else 0)
        most = most or _built_in_max_output(model_id) or window
        cap = given.default_max_tokens or min(DEFAULT_MAX_TOKENS, max(1, window // 2))
        return Facts(
            model_id=model_id,
            context_window=known or (0 if self._has_price(ref) else UNKNOWN_CONTEXT_WINDOW),
            max_output_tokens=most,
            default_max_tokens=min(cap, most),
            image_tokens=given.image_tokens or overlay().image_tokens(model_id),
        )

    def _has_price(self, ref: str) -> bool:
        """Tell whether calls of a model cost something that is known, in whatever tier."""
        return any(self._prices.lookup(ref, tier) not in {None, FREE} for tier in PRICED_TIERS)

    def _not_found(self, ref: str) -> ModelNotFoundError:
        return ModelNotFoundError(ref, self._nearest(ref))

    def _nobodys(self, name: str) -> ModelNotFoundError:
        """Say of a bare name whose key is missing, else that no provider here has it."""
        providers = self._settings.providers
        vendors = [vendor for vendor in self._prices.vendors_of(name) if vendor not in providers]
        if vendors:
            keys = " or ".join(KEY_VARIABLES[vendor] for vendor in vendors)
            reason = f"model not found: {name} is a model of {' and '.join(vendors)}, which has no key here: set {keys}"
            return ModelNotFoundError(name, reason=f"{reason}, or write provider:model.")
        reason = f"model not found: {name}: no provider configured here has it (there are: {', '.join(providers)})"
        return ModelNotFoundError(
            name, self._nearest(name), reason=f"{reason}; write provider:model, or see `farebox models`."
        )

    def _nearest(self, name: str) -> list[str]:
        """Find the known refs most like a ref or a bare name."""
        refs = self.refs()
        if ":" in name and (same := [ref for ref in refs if ref.startswith(name.partition(":")[0] + ":")]):
            refs = same
        words = {ref if ":" in name else ref.partition(":")[2]: ref for ref in refs}
        return [words[close] for close in difflib.get_close_matches(name, words, n=3, cutoff=0.6)]

    def _no_provider(self, ref: str, provider_id: str) -> ModelNotFoundError:
        known = ", ".join(self._settings.providers)
        variable = KEY_VARIABLES.get(provider_id)
        add = f"set {variable}, or add" if variable else "add"
        reason = (
            f"{ref}: no provider {provider_id} is configured (there are: {known}). "
            f"To have it, {add} [providers.{provider_id}] to farebox.toml."
        )
        close = difflib.get_close_matches(provider_id, self._settings.providers, n=1)
        return ModelNotFoundError(ref, [f"{close[0]}:{ref.partition(':')[2]}"] if close else [], reason=reason)


def _built_in_max_output(model_id: str) -> int | None:
    name = model_id.rpartition("/")[2].lower()
    return next((tokens for pattern, tokens in _MAX_OUTPUT if pattern.match(name)), None)
