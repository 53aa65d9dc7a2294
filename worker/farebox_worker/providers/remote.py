"""What the adapters of remote endpoints share: how one attempt is posted, what its answer becomes, how it may fail.

The SDK gives credentials, connections and error classes; bodies go through as bytes. Nothing here retries.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar
from urllib.parse import urlsplit

import httpx2
import msgspec

from farebox.errors import ProviderError
from farebox.records import Api
from farebox_worker.providers import body as bodies
from farebox_worker.providers import fate
from farebox_worker.providers.base import Prepared, Reply, Said
from farebox_worker.providers.connection import Answer
from farebox_worker.providers.conversation import DISCOVERY_TIMEOUT_S, Conversational

_T = TypeVar("_T")


class Remote(Conversational):
    """One endpoint with one key. Subclasses make the client and the requests, and read what comes back.

    Attributes:
        paths: where the requests of each API go.
        request_id_header: where the endpoint names a call.
        status_error: what the SDK raises for an answer that is no success; it has a `response`.
        account_words: what a plain 400 says when it is about the account and not about the request.
    """

    paths: ClassVar[Mapping[Api, str]]
    request_id_header: ClassVar[str]
    status_error: ClassVar[type[Exception]]
    account_words: ClassVar[re.Pattern[str] | None] = None
    _client: Any  # the SDK's, with Templates

    def __init__(self, provider_id: str, *, api_key: str, base_url: str, is_free: bool) -> None:
        self._host = urlsplit(base_url).hostname or ""
        is_here = self._host in {"localhost", "::1"} or self._host.startswith("127.")
        super().__init__(provider_id, is_local=is_free or is_here)
        self._scrub = fate.Scrubber(api_key)

    async def post(self, prepared: Prepared, *, timeout_s: float) -> Reply:
        """Send one attempt, at most `timeout_s` seconds long. Raises: ProviderError with what is known of its fate."""
        try:
            async with asyncio.timeout(timeout_s):
                response = await self._client.call(self.paths[prepared.api], prepared)
        except Exception as error:  # noqa: BLE001 - whatever broke, the call may have been billed
            raise self._failure(error, timeout_s) from None
        if not response.is_success:
            raise self._rejected(response)
        return self._reply(response, prepared)

    async def aclose(self) -> None:
        """Close its connections."""
        await self._client.close()

    def _said(self, content: bytes, prepared: Prepared) -> Said | None:
        """Read an answer, or what was billed for none; None when it is neither."""
        raise NotImplementedError

    def _reply(self, response: Answer, prepared: Prepared) -> Reply:
        said, content = bodies.understood(response.content, lambda answer: self._said(answer, prepared))
        if said is None:
            raise fate.not_an_answer(self.provider_id, response, scrub=self._scrub)
        if said.failure:
            billed = said.usage is not None
            raise fate.failed_within(self.provider_id, response, said.failure, billed=billed, scrub=self._scrub)
        headers = fate.kept_headers(response.raw_headers)
        return Reply(
            status_code=response.status_code,
            request_id=self._scrub.identifier(headers.get(self.request_id_header, "")),
            body=said.body,
            original=content,
            usage=said.usage,
            finish=said.finish,
            served_tier=said.served_tier,
            headers=headers,
        )

    async def _list(self, path: str, listing: msgspec.json.Decoder[_T]) -> _T:
        """Ask for a list of models. Raises: ProviderError."""
        try:
            async with asyncio.timeout(DISCOVERY_TIMEOUT_S):
                response = await self._client.get(path, cast_to=httpx2.Response)
            return listing.decode(response.content)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise fate.not_an_answer(self.provider_id, response, scrub=self._scrub) from None
        except Exception as error:  # noqa: BLE001 - discovery may fail in any way a call may
            raise self._failure(error, DISCOVERY_TIMEOUT_S) from None

    def _failure(self, error: Exception, timeout_s: float) -> ProviderError:
        """Map what the SDK or its transport raised."""
        if isinstance(error, self.status_error):
            return self._rejected(error.response)  # type: ignore[attr-defined]  # see status_error
        return fate.lost(self.provider_id, error, timeout_s=timeout_s, scrub=self._scrub)

    def _rejected(self, response: Answer | httpx2.Response) -> ProviderError:
        return fate.rejected(self.provider_id, response, scrub=self._scrub, account_words=self.account_words)
