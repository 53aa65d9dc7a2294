"""The registry of providers and their models, and the till for calls made outside the bus.

It knows models by their `model_ref` and books what `record_usage` is told; limits and counters are the ledger's.
It never sends anything to a provider but the question for its models.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Protocol

from farebox.errors import CostLimitExceededError, ModelNotFoundError, ProviderError
from farebox.money import nusd_from_pusd, nusd_from_usd, pusd_per_token, usd_from_nusd
from farebox_worker.providers.base import ModelInfo, ModelProvider, TokenUsage


class Till(Protocol):
    """What the manager needs of the ledger. Money is in nano-dollars."""

    async def book(
        self, *, provider_id: str, model_ref: str, cost_nusd: int, input_tokens: int, output_tokens: int
    ) -> int:
        """Add a cost that has been incurred; return the new global total."""
        ...

    async def spent(self) -> int:
        """Tell the global total."""
        ...

    async def spent_by(self, kind: str) -> dict[str, int]:
        """Tell the total of each `provider` or `model`."""
        ...

    async def reset(self) -> None:
        """Set what is spent to zero."""
        ...


class ProviderManager:
    """Finds providers and models by name, and counts calls made outside the bus.

    `cost_hard_limit` is in USD, 0 means none; it is checked by `record_usage` only, against the ledger's total.
    """

    def __init__(self, ledger: Till, *, cost_hard_limit: float = 0.0) -> None:
        self._ledger = ledger
        self._cost_hard_limit = cost_hard_limit
        self._limit_nusd = nusd_from_usd(cost_hard_limit)
        self._providers: dict[str, ModelProvider] = {}
        self._models: dict[str, dict[str, ModelInfo]] = {}  # provider_id -> model_ref -> info

    async def register(self, provider: ModelProvider, *, models: Sequence[ModelInfo] = ()) -> None:
        """Take in a provider with the models it names, and the configured `models`, which win over what it says.

        A discovery that fails leaves nothing behind, unless `models` were given: then those are its models.
        Raises: ValueError when the id is taken; ProviderError when discovery fails and no models were given.
        """
        provider_id = provider.provider_id
        self._refuse_taken(provider_id)
        try:
            discovered = await provider.list_models()
        except ProviderError:
            if not models:
                raise
            discovered = []
        self._refuse_taken(provider_id)  # somebody may have been quicker while discovery ran
        self._providers[provider_id] = provider
        self._models[provider_id] = {info.model_ref: info for info in (*discovered, *models)}

    def unregister(self, provider_id: str) -> None:
        """Forget a provider and its models; its connections stay open. Raises: KeyError when it is not registered."""
        if provider_id not in self._providers:
            raise KeyError(f"provider {provider_id} is not registered")
        del self._providers[provider_id]
        del self._models[provider_id]

    def list_all_models(self) -> list[ModelInfo]:
        """List every model of every provider, in the order of registration."""
        return [info for models in self._models.values() for info in models.values()]

    def get_model_info(self, model_ref: str) -> ModelInfo:
        """Look a model up. Raises: ModelNotFoundError, which names the model and the nearest known refs."""
        return self._find(model_ref)[1]

    def get_provider(self, model_ref: str) -> tuple[ModelProvider, str]:
        """Find who serves a model, and the model's name there (all that follows the first colon).

        Raises: ModelNotFoundError, which names the model and the nearest known refs.
        """
        provider_id, _ = self._find(model_ref)
        return self._providers[provider_id], model_ref.partition(":")[2]

    async def record_usage(self, model_info: ModelInfo, usage: TokenUsage) -> float:
        """Book a call that was made outside the bus and return its cost in USD.

        Tokens read from or written to a cache are charged at the input rate; the cost is rounded up once.
        Raises: CostLimitExceededError, after the cost is booked, when the total has passed the hard limit.
        """
        cost_nusd = _cost_nusd(model_info, usage)
        total_nusd = await self._ledger.book(
            provider_id=model_info.provider_id,
            model_ref=model_info.model_ref,
            cost_nusd=cost_nusd,
            input_tokens=usage.total_tokens - usage.output_tokens,
            output_tokens=usage.output_tokens,
        )
        if 0 < self._limit_nusd < total_nusd:
            raise CostLimitExceededError(self._cost_hard_limit, usd_from_nusd(total_nusd))
        return usd_from_nusd(cost_nusd)

    async def total_cost(self) -> float:
        """Tell what has been spent in all, in USD."""
        return usd_from_nusd(await self._ledger.spent())

    async def cost_by_provider(self) -> dict[str, float]:
        """Tell what has been spent by provider, in USD; providers that cost nothing are left out."""
        spent = await self._ledger.spent_by("provider")
        return {provider_id: usd_from_nusd(nusd) for provider_id, nusd in spent.items() if nusd}

    async def reset_cost(self) -> None:
        """Set what is spent to zero; what is held or unconfirmed stays."""
        await self._ledger.reset()

    def _refuse_taken(self, provider_id: str) -> None:
        if provider_id in self._providers:
            raise ValueError(f"provider {provider_id} is already registered")

    def _find(self, model_ref: str) -> tuple[str, ModelInfo]:
        for provider_id, models in self._models.items():
            if model_ref in models:
                return provider_id, models[model_ref]
        known = [info.model_ref for info in self.list_all_models()]
        raise ModelNotFoundError(model_ref, difflib.get_close_matches(model_ref, known, n=3, cutoff=0.6))


def _cost_nusd(model_info: ModelInfo, usage: TokenUsage) -> int:
    counts = (usage.input_tokens, usage.output_tokens, usage.cache_read_tokens, usage.cache_write_tokens)
    if min(counts) < 0:
        raise ValueError(f"token counts cannot be negative: {usage}")
    inputs = usage.total_tokens - usage.output_tokens
    pusd = inputs * pusd_per_token(model_info.input_cost_per_mtok)
    pusd += usage.output_tokens * pusd_per_token(model_info.output_cost_per_mtok)
    return nusd_from_pusd(pusd)
