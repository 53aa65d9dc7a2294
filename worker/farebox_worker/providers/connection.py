"""How the SDK clients send a plain call: what they would work out anew for each is worked out once.

Our calls to one endpoint differ in their bodies alone, but the SDKs copy options, merge headers, parse the URL and walk
through retries, redirects, auth flows and hooks for every one. `Templates` lets the SDK build a request once per path
and headers; `HttpClient` posts bodies by it, over the connections of the SDK's transport. Nothing here retries or
judges.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, cast

import aiohttp
import httpx2
import openai
from aiohttp.abc import AbstractStreamWriter
from multidict import CIMultiDict
from yarl import URL

from farebox_worker.clock import clock
from farebox_worker.providers.base import Prepared

CONNECT_S = 10.0
FOREVER = httpx2.Timeout(None, connect=CONNECT_S)  # whoever calls sets the time of the whole
MOST_TEMPLATES = 64
MOST_BYTES = 256_000_000  # of an answer, decompressed: three times the largest that anybody can ask for, 2,048 vectors
_FOREVER = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S)


class TooLateError(Exception):
    """The time to send ended while the connection was made: not a byte of the body has left."""


class TooLargeError(Exception):
    """An answer does not end where any answer ends; its connection is closed."""

    def __init__(self) -> None:
        super().__init__(f"more than {MOST_BYTES // 1_000_000} MB; the rest was not read")


@dataclass(slots=True)  # not frozen: one is made for each call, at a third of the cost
class Answer:
    """What came back, whatever its status; `content` is read whole and decompressed."""

    status_code: int
    raw_headers: Sequence[tuple[bytes, bytes]]
    content: bytes

    @property
    def is_success(self) -> bool:
        """Whether the status says so."""
        return 200 <= self.status_code < 300

    @property
    def headers(self) -> httpx2.Headers:
        """The headers, to be asked by name."""
        return httpx2.Headers(list(self.raw_headers))


@dataclass(frozen=True, slots=True)
class Template:
    """What all calls to one path with the same headers have in common.

    The transport counts the bytes of a body, and names the compressions that it can undo.
    """

    url: URL
    headers: CIMultiDict[str]
    session: aiohttp.ClientSession
    proxy: Mapping[str, Any]


class Templates:
    """Mixed into an SDK client: a plain call is the request that the SDK built for its like, with another body.

    Attributes:
        options_type: what the SDK builds a request from.
        options: what a call's options say beside URL and headers.
    """

    options_type: ClassVar[Any]
    options: ClassVar[Mapping[str, object]] = {}

    async def call(self, path: str, prepared: Prepared) -> Answer:
        """Post a body once, and return what comes back.

        Raises: the SDK's errors when it cannot build the request, aiohttp's when the call breaks. One that came too
            late to be sent has TooLateError among its causes.
        """
        templates: dict[Any, Template] = self.__dict__.setdefault("_templates", {})
        key = (path, *prepared.headers.items())
        template = templates.get(key)
        http = cast("HttpClient", self._client)  # type: ignore[attr-defined]  # the SDK's own
        if template is None:
            template = http.template_of(await self._like(path, prepared.headers))
            if len(templates) < MOST_TEMPLATES:
                templates[key] = template
        return await http.carry(template, prepared)

    async def _like(self, path: str, headers: Mapping[str, str]) -> httpx2.Request:
        """Let the SDK build a request, with its credentials."""
        options = self.options_type.construct(
            method="post", url=path, content=b"{}", headers=headers, timeout=FOREVER, max_retries=0, **self.options
        )
        request = self._build_request(await self._prepare_options(options))  # type: ignore[attr-defined]  # the SDK's own
        return cast("httpx2.Request", request)


class _Transport(Protocol):
    """The SDKs' transport, which holds one aiohttp session and its connections."""

    client: object
    proxy: httpx2.Proxy | None

    def get_client(self) -> aiohttp.ClientSession:
        """Make the session."""


class HttpClient(openai.DefaultAioHttpClient):
    """The SDKs' HTTP client on aiohttp, with a shorter way for plain calls.

    It passes over httpx2's redirects, auth flow, hooks and cookie jar: we use none of them.
    """

    def template_of(self, request: httpx2.Request) -> Template:
        """Make the template of a request: its connections are those by which this client would send it."""
        transport = cast("_Transport", self._transport_for_url(request.url))
        if not isinstance(transport.client, aiohttp.ClientSession):
            transport.client = transport.get_client()
        headers = CIMultiDict(request.headers.items())
        for name in ("content-length", "accept-encoding"):
            headers.pop(name, None)
        return Template(URL(str(request.url)), headers, transport.client, _proxied(transport.proxy))

    async def carry(self, template: Template, prepared: Prepared) -> Answer:
        """Post a body, and read the answer whole. Raises: TooLargeError.

        Cookies are not kept: those of a load balancer would bind all calls to one of its servers, and no other's end.
        """
        async with template.session.post(
            template.url,
            data=_Body(prepared),
            headers=template.headers,
            timeout=_FOREVER,
            allow_redirects=False,
            **template.proxy,
        ) as response:
            if "set-cookie" in response.headers:
                template.session.cookie_jar.clear()
            return Answer(response.status, response.raw_headers, await _whole(response.content))


def http_client(*, is_vendor: bool) -> HttpClient:
    """Make a client without bounds of its own; whoever is not a vendor closes idle connections soon."""
    # A connection must be given up before the server does: uvicorn, under most servers of one's own, waits 5 s.
    limits = httpx2.Limits(max_connections=10_000, keepalive_expiry=60.0 if is_vendor else 4.0)
    return HttpClient(limits=limits, follow_redirects=False)


async def _whole(content: aiohttp.StreamReader) -> bytes:
    """Read all that comes, decompressed. Raises: TooLargeError."""
    blocks, size = [], 0
    while block := await content.readany():
        blocks.append(block)
        size += len(block)
        if size > MOST_BYTES:
            raise TooLargeError
    return b"".join(blocks)


def _proxied(proxy: httpx2.Proxy | None) -> dict[str, Any]:
    if proxy is None:
        return {}
    auth = aiohttp.BasicAuth(*proxy.auth) if proxy.auth else None
    return {"proxy": str(proxy.url), "proxy_auth": auth, "proxy_headers": proxy.headers}


class _Body(aiohttp.BytesPayload):
    """A body that is written while there is time, and else not at all."""

    def __init__(self, prepared: Prepared) -> None:
        super().__init__(prepared.body, content_type="application/json")
        self._prepared = prepared

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        """Write it. Raises: TooLateError."""
        if clock() >= self._prepared.deadline:
            raise TooLateError
        await super().write_with_length(writer, content_length)
