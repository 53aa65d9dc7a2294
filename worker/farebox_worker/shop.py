"""What a process needs to serve lanes: the catalogue, the prices and the adapters, from one set of settings."""

from __future__ import annotations

import logging
from types import TracebackType
from typing import Self

from farebox.errors import FareboxError
from farebox_worker.events import event
from farebox_worker.prices.catalogue import Catalogue
from farebox_worker.prices.table import PriceTable
from farebox_worker.providers.factory import make_provider
from farebox_worker.routes import Routes
from farebox_worker.settings import Settings

log = logging.getLogger(__name__)

DISCOVERY_S = 5.0


class Shop:
    """The catalogue, prices and routes of one process; closes its adapters at the end.

    Without `sends`, nothing will be asked of a model: the vendors' keys may be missing.
    """

    def __init__(self, settings: Settings, *, sends: bool = True) -> None:
        self._settings = settings
        self.prices = PriceTable(settings)
        self.catalogue = Catalogue(settings, self.prices)
        self.routes = Routes(
            self.catalogue,
            self.prices,
            lambda name: make_provider(name, settings.providers[name], needs_key=sends),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.routes.aclose()

    def _knows(self, model: str) -> bool:
        try:
            self.catalogue.resolve(model)
        except FareboxError:
            return False
        return True

    async def discover(self, *models: str, everyone: bool = False) -> dict[str, str]:
        """Ask the compatible servers for their models, unless all of `models` are known without; say why some failed.

        `everyone` asks the vendors too.

        A server that is down stops nothing whose models are configured.
        """
        if models and all(map(self._knows, models)):
            return {}
        adapters = []
        for provider_id, provider in self._settings.providers.items():
            if provider.base_url is None and not (everyone and provider.kind != "echo"):
                continue
            try:
                adapters.append(self.routes.adapter(provider_id))
            except FareboxError as error:
                log.warning("%s", error, extra=event("provider_unlisted", provider=provider_id, why=str(error)))
        failed = await self.catalogue.discover(adapters, timeout_s=DISCOVERY_S) if adapters else {}
        for provider_id, reason in failed.items():
            extra = event("provider_unlisted", provider=provider_id, why=reason)
            log.warning("provider %s does not say which models it has: %s", provider_id, reason, extra=extra)
        return failed
