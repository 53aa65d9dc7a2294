"""Plain calls go a shorter way; what arrives at the provider is what the SDK itself would have sent."""

import anthropic
import httpx2
import openai
import pytest
from anthropic._models import FinalRequestOptions as AnthropicOptions
from openai._models import FinalRequestOptions as OpenAIOptions

from farebox_worker.providers import anthropic as anthropic_adapter
from farebox_worker.providers import openai as openai_adapter
from farebox_worker.providers.connection import FOREVER, MOST_TEMPLATES, HttpClient

KEY = "sk-test-0123456789"
CLIENTS = [
    pytest.param(openai.AsyncOpenAI, openai_adapter.AsyncOpenAI, OpenAIOptions, id="openai"),
    pytest.param(anthropic.AsyncAnthropic, anthropic_adapter.AsyncAnthropic, AnthropicOptions, id="anthropic"),
]


class Carried(HttpClient):
    """Keeps what is to be sent."""

    def __init__(self):
        super().__init__()
        self.requests = []

    async def carry(self, request):
        self.requests.append(request)
        return httpx2.Response(200, request=request)


def client_of(client_type, **more):
    return client_type(api_key=KEY, base_url="http://127.0.0.1:9/v1", max_retries=0, timeout=FOREVER, **more)


def built(client_type, options_type, content, **options):
    made = options_type.construct(method="post", url="/x", json_data=None, content=content, files=None, **options)
    return client_of(client_type)._build_request(made)


def headers_of(request):
    return {name: value for name, value in request.headers.items() if name != "content-length"}


@pytest.mark.parametrize(("sdk", "ours", "options_type"), CLIENTS)
async def test_a_plain_call_is_the_request_the_sdk_would_build(sdk, ours, options_type):
    async with Carried() as carried:
        client = client_of(ours, http_client=carried)
        for body in (b'{"a":1}', b'{"a":2}'):
            theirs = built(sdk, options_type, body, headers={"x-own": "1"}, timeout=FOREVER)
            await client.call("/x", body, {"x-own": "1"})
            mine = carried.requests[-1]
            assert (mine.method, mine.url, mine.content) == (theirs.method, theirs.url, theirs.content)
            assert headers_of(mine) == headers_of(theirs)
            assert "content-length" not in mine.headers
            assert mine.extensions == theirs.extensions
            assert KEY in mine.headers["authorization"]


@pytest.mark.parametrize(("sdk", "ours", "options_type"), CLIENTS)
async def test_other_headers_or_another_path_make_another_template(sdk, ours, options_type):
    del sdk, options_type
    async with Carried() as carried:
        client = client_of(ours, http_client=carried)
        for path, name in [("/x", "a"), ("/x", "b"), ("/y", "a"), ("/x", "a")]:
            await client.call(path, b"{}", {"x-own": name})
        sent = [(request.url.path, request.headers["x-own"]) for request in carried.requests]
        assert sent == [("/v1/x", "a"), ("/v1/x", "b"), ("/v1/y", "a"), ("/v1/x", "a")]


@pytest.mark.parametrize(("sdk", "ours", "options_type"), CLIENTS)
async def test_many_different_headers_cost_no_memory(sdk, ours, options_type):
    del sdk, options_type
    async with Carried() as carried:
        client = client_of(ours, http_client=carried)
        for number in range(MOST_TEMPLATES + 5):
            await client.call("/x", b"{}", {"x-own": str(number)})
        assert len(client._templates) == MOST_TEMPLATES
        assert carried.requests[-1].headers["x-own"] == str(MOST_TEMPLATES + 4)
