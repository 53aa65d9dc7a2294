"""How the SDK clients send a plain call: what they would work out anew for each is worked out once.

Our calls to one endpoint differ in their bodies alone, but the SDKs copy options, merge headers, parse the URL and walk
through retries, redirects, auth flows and hooks for every one. `Templates` lets the SDK build a request once per path
and headers; `HttpClient` carries its likes by the SDK's transport. Nothing here retries or judges.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, cast

import httpx2
import openai

FOREVER = httpx2.Timeout(None, connect=10.0)  # whoever calls sets the time of the whole
MOST_TEMPLATES = 64


class Templates:
    """Mixed into an SDK client: a plain call is the request that the SDK built for its like, with another body.

    Attributes:
        options_type: what the SDK builds a request from.
        options: what a call's options say beside URL and headers.
    """

    options_type: ClassVar[Any]
    options: ClassVar[Mapping[str, object]] = {}

    async def call(self, path: str, content: bytes, headers: Mapping[str, str]) -> httpx2.Response:
        """Post a body once, and return what comes back, whatever its status; read whole.

        Raises: the SDK's errors when it cannot build the request, its transport's when the call breaks.
        """
        templates: dict[Any, httpx2.Request] = self.__dict__.setdefault("_templates", {})
        key = (path, *headers.items())
        template = templates.get(key)
        if template is None:
            template = await self._template(path, headers)
            if len(templates) < MOST_TEMPLATES:
                templates[key] = template
        return await cast("HttpClient", self._client).carry(_Plain(template, content))  # type: ignore[attr-defined]

    async def _template(self, path: str, headers: Mapping[str, str]) -> httpx2.Request:
        """Let the SDK build a request, with its credentials."""
        options = self.options_type.construct(
            method="post", url=path, content=b"{}", headers=headers, timeout=FOREVER, max_retries=0, **self.options
        )
        request = self._build_request(await self._prepare_options(options))  # type: ignore[attr-defined]
        request.headers.pop("content-length", None)  # the transport counts the bytes
        return cast("httpx2.Request", request)


class _Plain(httpx2.Request):
    """A template with a body of its own; URL, headers and extensions are shared, nobody changes them."""

    def __init__(self, template: httpx2.Request, content: bytes) -> None:
        self.method, self.url = template.method, template.url
        self.headers, self.extensions = template.headers, template.extensions
        self.stream = httpx2.ByteStream(content)
        self.read()


class HttpClient(openai.DefaultAioHttpClient):
    """The SDKs' HTTP client on aiohttp, with a shorter way for plain calls.

    It passes over httpx2's redirects, auth flow, hooks and cookie jar: we use none of them, and aiohttp keeps cookies.
    """

    async def carry(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request by the transport, and read the answer whole."""
        response = await self._transport_for_url(request.url).handle_async_request(request)
        try:
            await response.aread()
        except BaseException:  # a cut-off call must not keep its connection
            await response.aclose()
            raise
        return response
