"""How the SDK clients send a plain call: what they would work out anew for each is worked out once.

Our calls to one endpoint differ in their bodies alone, but the SDKs parse the URL, merge the headers and walk through
redirects, auth flows and hooks for every one. `Templates` keeps the first request the SDK built; `HttpClient` hands
its likes straight to the SDK's transport. Anything else goes the SDK's own way. Nothing here retries or judges.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx2
import openai

FOREVER = httpx2.Timeout(None, connect=10.0)  # whoever calls sets the time of the whole
MOST_TEMPLATES = 64
_PLAIN = ""  # as idempotency key, which is then sent nowhere; without one the SDKs make one up for each call


def plain(headers: Mapping[str, str], **more: Any) -> Any:
    """Write the options of a plain call. Everything is stated: what is not, the SDKs copy deeply from defaults."""
    return {"headers": headers, "params": {}, "max_retries": 0, "timeout": FOREVER, "idempotency_key": _PLAIN, **more}


class Templates:
    """Mixed into an SDK client: a plain call's request is the first one to its URL with another body."""

    def _build_request(self, options: Any, *, retries_taken: int = 0) -> httpx2.Request:
        """Build a request as the SDK would, whose name and signature this is."""
        if options.idempotency_key != _PLAIN:
            return super()._build_request(options, retries_taken=retries_taken)  # type: ignore[misc,no-any-return]
        templates: dict[Any, httpx2.Request] = self.__dict__.setdefault("_templates", {})
        key = (options.method, options.url, *options.headers.items())
        template = templates.get(key)
        if template is None:
            template = super()._build_request(options, retries_taken=retries_taken)  # type: ignore[misc]
            template.headers.pop("content-length", None)  # the transport counts the bytes
            if len(templates) < MOST_TEMPLATES:
                templates[key] = template
        return _Plain(template, options.content)


class _Plain(httpx2.Request):
    """A template with a body of its own; URL, headers and extensions are shared, nobody changes them."""

    def __init__(self, template: httpx2.Request, content: bytes) -> None:
        self.method, self.url = template.method, template.url
        self.headers, self.extensions = template.headers, template.extensions
        self.stream = httpx2.ByteStream(content)
        self.read()


class HttpClient(openai.DefaultAioHttpClient):
    """The SDKs' HTTP client on aiohttp. A plain call goes straight to its transport.

    httpx2's redirects, auth flow, hooks and cookie jar are passed over: we use none of them, and aiohttp keeps cookies.
    """

    async def send(self, request: httpx2.Request, *, stream: bool = False, **options: Any) -> httpx2.Response:
        """Send a request; the answer to a plain one is read whole."""
        if stream or not isinstance(request, _Plain):
            return await super().send(request, stream=stream, **options)
        response = await self._transport_for_url(request.url).handle_async_request(request)
        try:
            await response.aread()
        except BaseException:  # a cut-off call must not keep its connection
            await response.aclose()
            raise
        return response
