"""Adapters, and the registry that finds them. Importing this loads no vendor's SDK: `factory` does, when asked."""

from farebox_worker.providers.base import (
    ModelCapability,
    ModelInfo,
    ModelProvider,
    ModelResponse,
    PromptMessage,
    StreamChunk,
    TokenUsage,
)
from farebox_worker.providers.manager import ProviderManager

__all__ = [  # noqa: RUF022 - grouped: the registry, what it registers, what is said to it
    "ProviderManager",
    "ModelProvider",
    "ModelInfo",
    "ModelCapability",
    "PromptMessage",
    "ModelResponse",
    "StreamChunk",
    "TokenUsage",
]
