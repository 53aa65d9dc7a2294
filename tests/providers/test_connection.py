"""Plain calls go a shorter way; what arrives at the provider is what the SDK itself would have sent."""

import asyncio
import math

import anthropic
import httpx2
import openai
import pytest
from anthropic._models import FinalRequestOptions as AnthropicOptions
from openai._models import FinalRequestOptions as OpenAIOptions

from farebox_worker.providers import anthropic as anthropic_adapter
from farebox_worker.providers import fate
from farebox_worker.providers import openai as openai_adapter
from farebox_worker.providers.base import Prepared
from farebox_worker.providers.connection import FOREVER, MOST_TEMPLATES, Answer, HttpClient, TooLateError

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

    async def carry(self, template, prepared):
        self.requests.append((template, prepared.body))
        return Answer(200, (), b"{}")


def plain(body=b"{}", **headers):
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Prepared(body, 1, 1, capped_by_default=False, api="chat", headers=named)


def client_of(client_type, **more):
    return client_type(api_key=KEY, base_url="http://127.0.0.1:9/v1", max_retries=0, timeout=FOREVER, **more)


def built(client_type, options_type, content, **options):
    made = options_type.construct(method="post", url="/x", json_data=None, content=content, files=None, **options)
    return client_of(client_type)._build_request(made)


def headers_of(request):
    by_transport = {"content-length", "accept-encoding"}
    return {name: value for name, value in request.headers.items() if name not in by_transport}


@pytest.mark.parametrize(("sdk", "ours", "options_type"), CLIENTS)
async def test_a_plain_call_is_the_request_the_sdk_would_build(sdk, ours, options_type):
    async with Carried() as carried:
        client = client_of(ours, http_client=carried)
        for body in (b'{"a":1}', b'{"a":2}'):
            theirs = built(sdk, options_type, body, headers={"x-own": "1"}, timeout=FOREVER)
            await client.call("/x", plain(body, x_own="1"))
            mine, content = carried.requests[-1]
            assert ("POST", str(mine.url), content) == (theirs.method, str(theirs.url), theirs.content)
            assert dict(mine.headers) == headers_of(theirs)
            assert KEY in mine.headers["authorization"]


@pytest.mark.parametrize(("sdk", "ours", "options_type"), CLIENTS)
async def test_other_headers_or_another_path_make_another_template(sdk, ours, options_type):
    del sdk, options_type
    async with Carried() as carried:
        client = client_of(ours, http_client=carried)
        for path, name in [("/x", "a"), ("/x", "b"), ("/y", "a"), ("/x", "a")]:
            await client.call(path, plain(x_own=name))
        sent = [(template.url.path, template.headers["x-own"]) for template, _ in carried.requests]
        assert sent == [("/v1/x", "a"), ("/v1/x", "b"), ("/v1/y", "a"), ("/v1/x", "a")]


@pytest.mark.parametrize(("sdk", "ours", "options_type"), CLIENTS)
async def test_many_different_headers_cost_no_memory(sdk, ours, options_type):
    del sdk, options_type
    async with Carried() as carried:
        client = client_of(ours, http_client=carried)
        for number in range(MOST_TEMPLATES + 5):
            await client.call("/x", plain(x_own=str(number)))
        assert len(client._templates) == MOST_TEMPLATES
        assert carried.requests[-1][0].headers["x-own"] == str(MOST_TEMPLATES + 4)


@pytest.mark.parametrize(("sdk", "ours", "options_type"), CLIENTS)
async def test_what_waits_for_a_connection_beyond_its_deadline_is_not_sent(sdk, ours, options_type):
    del sdk, options_type
    heard, came, answer_it = [], asyncio.Event(), asyncio.Event()

    async def serve(reader, writer):
        while line := await reader.readline():
            heard.append(line)
            came.set()
            await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(2)
            await answer_it.wait()
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        one_at_a_time = HttpClient(limits=httpx2.Limits(max_connections=1))
        async with ours(api_key=KEY, base_url=url, max_retries=0, http_client=one_at_a_time) as client:
            first, second = plain(), plain()
            calls = [asyncio.create_task(client.call("/x", prepared)) for prepared in (first, second)]
            await came.wait()
            second.deadline = 0.0  # its lease was lost meanwhile
            answer_it.set()
            answered, late = await asyncio.gather(*calls, return_exceptions=True)
            assert answered.content == b"{}"
            assert isinstance(late.__cause__, TooLateError)
            assert not fate.lost("p", late, timeout_s=1, scrub=fate.Scrubber(KEY)).sent
            second.deadline = math.inf
            assert (await client.call("/x", second)).is_success
    assert len(heard) == 2
