"""Whether a process can work, in words: the server answers, the ledger was met, a provider has a key."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping

from farebox.scripts import Tongue
from farebox_worker.outage import Outage
from farebox_worker.routes import Routes
from farebox_worker.settings import ProviderSettings

SILENCE_S = 5.0  # the pulse speaks to the server once a second


class Health:
    """The health of one process.

    Args:
        tongue: what was last heard of the ledger.
        outage: what is known of the server's absence.
        routes: which providers refused this process's key.
        providers: those that are configured, and the variables of their keys.
    """

    def __init__(
        self, tongue: Tongue, outage: Outage, routes: Routes, providers: Mapping[str, ProviderSettings]
    ) -> None:
        self.outage = outage
        self._tongue = tongue
        self._routes = routes
        real = {name: provider for name, provider in providers.items() if provider.kind != "echo"}
        self._providers = real or dict(providers)  # echo always exists, and hides no missing key

    @property
    def hears_redis(self) -> bool:
        """Whether the server has answered a verb in the last 5 s, and since its absence was last noticed."""
        heard_s = self._tongue.heard_s
        return heard_s > time.monotonic() - SILENCE_S and not (self.outage.is_on and heard_s <= self.outage.began_s)

    def why_unready(self) -> str:
        """Why this process cannot work, or ""."""
        if not self._tongue.heard_s:
            return "starting: the ledger has not answered yet"
        if not self.hears_redis:
            return f"Redis has not answered for {time.monotonic() - self._tongue.heard_s:.0f} s"
        unusable = self.unusable_providers()
        if len(unusable) == len(self._providers):
            return "no provider has a usable key: " + "; ".join(f"{name}: {why}" for name, why in unusable.items())
        return ""

    def unusable_providers(self) -> dict[str, str]:
        """The providers that this process cannot use, and why."""
        found = {}
        for provider_id, provider in self._providers.items():
            variable = provider.api_key_env
            if provider_id in self._routes.stopped:
                found[provider_id] = self._routes.stopped[provider_id]
            elif variable and not os.environ.get(variable, "").strip():
                found[provider_id] = f"the environment variable {variable} is not set"
        return found
