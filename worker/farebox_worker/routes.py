"""Which adapter serves which lane in this process: adapters are made when the first lane needs them.

A lane without a route is left to others, with the reason kept for people. A provider that refuses this process's
credentials is stopped here; other workers go on.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from farebox.errors import FareboxError
from farebox.keys import check_lane, parts_of_lane
from farebox_worker.events import event
from farebox_worker.prices.catalogue import Catalogue, Entry
from farebox_worker.prices.table import PriceTable
from farebox_worker.providers.base import Adapter

log = logging.getLogger(__name__)

PRICES_TTL_S = 3600.0


class Patience:
    """Counts how often in a row a lane's provider had no room, so that each pause can be longer than the one before.

    And how often it refused the credentials: one that has answered may do so by mistake.
    """

    def __init__(self) -> None:
        self._rounds = 0
        self._denials: int | None = None  # None: it never answered
        self._counted_s = -math.inf

    def refused(self, sent_s: float) -> int:
        """Count a refusal of a call that was sent at `sent_s` (monotonic); calls sent together count once."""
        if sent_s > self._counted_s:
            self._rounds += 1
            self._counted_s = time.monotonic()
        return self._rounds

    def answered(self) -> None:
        """Begin anew: there was room."""
        self._rounds = self._denials = 0

    def denied(self) -> int | None:
        """Count a refusal of credentials that were good, in a row; None when they never were."""
        if self._denials is not None:
            self._denials += 1
        return self._denials


@dataclass(frozen=True, slots=True)
class Route:
    """A lane that this process serves."""

    lane: str
    entry: Entry
    provider: Adapter
    patience: Patience = field(default_factory=Patience)


class Routes:
    """The lanes this process serves, and why it does not serve the others.

    Args:
        catalogue: what models are known.
        prices: what they cost.
        make: makes the adapter of a provider. Raises: ConfigError.
    """

    def __init__(self, catalogue: Catalogue, prices: PriceTable, make: Callable[[str], Adapter]) -> None:
        self._catalogue = catalogue
        self._prices = prices
        self._make = make
        self._providers: dict[str, Adapter] = {}
        self._routes: dict[str, Route] = {}
        self.unserved: dict[str, str] = {}
        self.stopped: dict[str, str] = {}

    def find(self, lane: str) -> Route | None:
        """The route of a lane, or None with the reason in `unserved`."""
        route = self._routes.get(lane)
        if route is None and lane not in self.unserved:
            try:
                route = self.lay(lane)
            except FareboxError as error:
                self.unserved[lane] = str(error)
                extra = event("lane_unserved", lane=lane, why=str(error))
                log.warning("lane %s is not served here: %s", lane, error, extra=extra)
        return route

    def lay(self, lane: str) -> Route:
        """The route of a lane. Raises: FareboxError saying why this process cannot serve it."""
        if lane in self._routes:
            return self._routes[lane]
        check_lane(lane)
        model_ref, tier = parts_of_lane(lane)
        entry = self._catalogue.resolve(model_ref, tier=tier)
        if entry.provider_id in self.stopped:
            raise FareboxError(self.stopped[entry.provider_id])
        route = self._routes[lane] = Route(lane, entry, self.adapter(entry.provider_id))
        return route

    def stop(self, provider_id: str, reason: str) -> bool:
        """Serve a provider no longer; True the first time."""
        if provider_id in self.stopped:
            return False
        self.stopped[provider_id] = reason
        for lane in [lane for lane, route in self._routes.items() if route.entry.provider_id == provider_id]:
            del self._routes[lane]
            self.unserved[lane] = reason
        return True

    def refresh_prices(self) -> None:
        """Price the lanes anew once an hour: vendors change their prices while workers run."""
        if self._prices.refresh_if_older_than(PRICES_TTL_S):
            self._routes.clear()

    def adapter(self, provider_id: str) -> Adapter:
        """A provider's adapter, made when it is first asked for. Raises: ConfigError."""
        if provider_id not in self._providers:
            self._providers[provider_id] = self._make(provider_id)
        return self._providers[provider_id]

    async def aclose(self) -> None:
        """Close every adapter."""
        for provider in self._providers.values():
            await provider.aclose()
        self._providers.clear()
