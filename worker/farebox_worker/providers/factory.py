"""Makes an adapter from its settings, loading a vendor's SDK only when one of its adapters is asked for.

Kinds are `openai`, `anthropic`, `echo`, or the name of an entry point in the group `farebox.providers`: a callable
that takes (provider_id, settings) and returns an Adapter. Keys are read from the environment, here and nowhere
else.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterable
from importlib.metadata import entry_points
from typing import Protocol, cast

from farebox.errors import ConfigError
from farebox_worker.providers.base import Adapter

ENTRY_POINTS = "farebox.providers"
NO_KEY = "none"  # local servers want a header, but read no key in it


class ProviderSettings(Protocol):
    """One `[providers.<id>]` section of the configuration."""

    @property
    def kind(self) -> str:
        """`openai`, `anthropic`, `echo`, or an entry point's name."""
        ...

    @property
    def base_url(self) -> str | None:
        """Where the server is; None means the vendor's own."""
        ...

    @property
    def api_key_env(self) -> str | None:
        """Name of the environment variable that holds the key."""
        ...

    @property
    def cap_field(self) -> str | None:
        """`max_completion_tokens` or `max_tokens`; None means the adapter's default."""
        ...

    @property
    def free(self) -> bool:
        """Whether its calls cost nothing."""
        ...

    @property
    def has_flex(self) -> bool:
        """Whether its server knows the service tier flex."""
        ...


def preload(kinds: Iterable[str]) -> None:
    """Import the SDKs of these kinds: processes that are forked from this one share them."""
    for kind in {"openai", "anthropic"}.intersection(kinds):
        importlib.import_module(f"farebox_worker.providers.{kind}")


def make_provider(provider_id: str, settings: ProviderSettings, *, needs_key: bool = True) -> Adapter:
    """Make the adapter that `[providers.<provider_id>]` describes. Without `needs_key` it may be unable to send.

    Raises: ConfigError when the kind is unknown, or its key's variable is not set.
    """
    if settings.kind == "echo":
        from farebox_worker.providers.echo import EchoProvider  # noqa: PLC0415 - loaded when asked for

        return EchoProvider(provider_id)
    if settings.kind == "openai":
        from farebox_worker.providers.openai import OpenAIProvider  # noqa: PLC0415 - loads the SDK

        return OpenAIProvider(
            provider_id,
            api_key=_api_key(provider_id, settings, "OPENAI_API_KEY", needs_key=needs_key),
            base_url=settings.base_url,
            cap_field=settings.cap_field,
            is_free=settings.free,
            has_flex=settings.has_flex,
        )
    if settings.kind == "anthropic":
        from farebox_worker.providers.anthropic import AnthropicProvider  # noqa: PLC0415 - loads the SDK

        return AnthropicProvider(
            provider_id,
            api_key=_api_key(provider_id, settings, "ANTHROPIC_API_KEY", needs_key=needs_key),
            base_url=settings.base_url,
            is_free=settings.free,
        )
    return _from_entry_point(provider_id, settings)


def _api_key(provider_id: str, settings: ProviderSettings, vendor_variable: str, *, needs_key: bool) -> str:
    """Read the key. A server of one's own may need none; the vendor always does."""
    variable = settings.api_key_env or (None if settings.base_url else vendor_variable)
    if variable is None:
        return NO_KEY
    key = os.environ.get(variable, "").strip()
    if not key and not needs_key:
        return NO_KEY
    if not key:
        raise ConfigError(
            f"providers.{provider_id}: the environment variable {variable} is not set; it holds the API key"
        )
    return key


def _from_entry_point(provider_id: str, settings: ProviderSettings) -> Adapter:
    for found in entry_points(group=ENTRY_POINTS, name=settings.kind):
        return cast("Adapter", found.load()(provider_id, settings))
    others = ", ".join(sorted(found.name for found in entry_points(group=ENTRY_POINTS))) or "none installed"
    raise ConfigError(
        f"providers.{provider_id}.kind: unknown kind {settings.kind!r}; known are openai, anthropic, echo, "
        f"and entry points of the group {ENTRY_POINTS} ({others})"
    )
