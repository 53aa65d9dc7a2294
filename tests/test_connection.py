"""Plain calls go a shorter way; what arrives at the provider is what the SDK itself would have sent."""

import anthropic
import httpx2
import openai
import pytest
from anthropic._models import FinalRequestOptions as AnthropicOptions
from openai._models import FinalRequestOptions as OpenAIOptions

from farebox_worker.providers import anthropic as anthropic_adapter
from farebox_worker.providers import openai as openai_adapter
from farebox_worker.providers.connection import FOREVER, plain

KEY = "sk-test-0123456789"
CLIENTS = [
    pytest.param(openai.AsyncOpenAI, openai_adapter.AsyncOpenAI, OpenAIOptions, id="openai"),
    pytest.param(anthropic.AsyncAnthropic, anthropic_adapter.AsyncAnthropic, AnthropicOptions, id="anthropic"),
]


def built(client_type, options_type, content, **options):
    client = client_type(api_key=KEY, base_url="http://127.0.0.1:9/v1", max_retries=0, timeout=FOREVER)
    made = options_type.construct(method="post", url="/x", json_data=None, content=content, files=None, **options)
    return [client._build_request(made) for _ in range(2)][-1]


def headers_of(request):
    return {name: value for name, value in request.headers.items() if name != "content-length"}


@pytest.mark.parametrize(("sdk", "ours", "options_type"), CLIENTS)
def test_a_plain_call_is_the_request_the_sdk_would_build(sdk, ours, options_type):
    headers = {"x-own": "1"}
    theirs = built(sdk, options_type, b'{"a":1}', headers=headers, timeout=FOREVER)
    mine = built(ours, options_type, b'{"a":1}', **plain(headers))
    assert (mine.method, mine.url, mine.content) == (theirs.method, theirs.url, theirs.content)
    assert headers_of(mine) == headers_of(theirs)
    assert mine.extensions == theirs.extensions
    assert KEY in mine.headers["authorization"]


@pytest.mark.parametrize(("sdk", "ours", "options_type"), CLIENTS)
def test_other_headers_make_another_template(sdk, ours, options_type):
    client = ours(api_key=KEY, base_url="http://127.0.0.1:9/v1")
    options = [plain({"x-own": name}) for name in "ab"]
    made = [options_type.construct(method="post", url="/x", content=b"{}", **each) for each in options]
    first, second = (client._build_request(options) for options in made)
    assert (first.headers["x-own"], second.headers["x-own"]) == ("a", "b")


@pytest.mark.parametrize(("sdk", "ours", "options_type"), CLIENTS)
def test_whatever_is_no_plain_call_goes_the_sdks_way(sdk, ours, options_type):
    timeout = httpx2.Timeout(7.0)
    request = built(ours, options_type, b"{}", headers={}, timeout=timeout)
    assert type(request) is httpx2.Request
    assert request.extensions["timeout"] == timeout.as_dict()
