"""The APIs whose requests a job may hold, and the urls by which the lines of batch files name them.

The host of a url says nothing: the model decides where a job is sent.
"""

from __future__ import annotations

import re

from farebox.errors import InputError
from farebox.records import Api

URLS: dict[Api, str] = {
    "chat": "/v1/chat/completions",
    "messages": "/v1/messages",
    "responses": "/v1/responses",
    "embeddings": "/v1/embeddings",
}
SUPPORTED = f"{', '.join([*URLS.values()][:-1])} and {URLS['embeddings']}"
_APIS: dict[str, Api] = {url.removeprefix("/v1/"): api for api, url in URLS.items()}
_URL = re.compile(r"(?:https?://[^\s?#]+?)?(?:/v\d+)?/(chat/completions|messages|responses|embeddings)/?")


def api_of(url: str) -> Api:
    """Tell which API a url names: relative, with or without `/v1`, or absolute. Raises: InputError."""
    found = _URL.fullmatch(url)
    if found is None:
        raise InputError(f"unknown url {url!r}: supported are {SUPPORTED}")
    return _APIS[found[1]]
