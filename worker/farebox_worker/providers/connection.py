"""How the SDK clients send: what they would work out anew for every call is worked out once.

A call of ours differs from the one before it in its body alone, but the SDKs parse the URL, merge the headers and
walk their redirect and auth flows for each. `Templates` keeps the request they built first; `HttpClient` sends it
straight to the transport. Whatever is not such a plain call goes the SDK's own way. Nothing here retries or
interprets an answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx2
import openai

CONNECT_TIMEOUT_S = 10.0
NO_TIMEOUT = httpx2.Timeout(None, connect=CONNECT_TIMEOUT_S)
MOST_TEMPLATES = 64
# What a plain call states. `idempotency_key`, empty, is sent nowhere; unset, the SDKs would make one up each time.
_PLAIN = frozenset(
    {"method", "url", "json_data", "content", "files", "headers", "idempotency_key", "params", "max_retries", "timeout"}
)


def plain(headers: Mapping[str, str]) -> Any:
    """The request options of a plain call. All defaults are stated: the SDKs copy deeply what is not."""
    return {"headers": headers, "idempotency_key": "", "params": {}, "max_retries": 0, "timeout": NO_TIMEOUT}


class Templates:
    """Mixed into an SDK client: builds a plain call's request from the first one to the same URL and headers."""

    def _build_request(self, options: Any, *, retries_taken: int = 0) -> httpx2.Request:
        content = options.content
        if options.model_fields_set != _PLAIN or type(content) is not bytes:
            return super()._build_request(options, retries_taken=retries_taken)  # type: ignore[misc,no-any-return]
        templates: dict[Any, httpx2.Request] = self.__dict__.setdefault("_templates", {})
        key = (options.method, options.url, *options.headers.items())
        template = templates.get(key)
        if template is None:
            template = super()._build_request(options, retries_taken=retries_taken)  # type: ignore[misc]
            template.headers.pop("content-length", None)  # the transport counts
            if len(templates) < MOST_TEMPLATES:
                templates[key] = template
        return _Request(template, content)


class _Request(httpx2.Request):
    """A template with another body; URL, headers and extensions are shared and stay as they are."""

    def __init__(self, template: httpx2.Request, content: bytes) -> None:
        self.method, self.url = template.method, template.url
        self.headers, self.extensions = template.headers, template.extensions
        self.stream = httpx2.ByteStream(content)
        self.read()


class HttpClient(openai.DefaultAioHttpClient):
    """The SDK's own HTTP client on aiohttp; a plain call goes straight to its transport.

    httpx2's redirects, auth flow, hooks and cookies are passed over: we use none of them, aiohttp keeps cookies.
    """

    async def send(self, request: httpx2.Request, *, stream: bool = False, **options: Any) -> httpx2.Response:
        """Send a request and read its answer whole, unless it is streamed."""
        if stream or not isinstance(request, _Request):
            return await super().send(request, stream=stream, **options)
        response = await self._transport_for_url(request.url).handle_async_request(request)
        await response.aread()
        return response
