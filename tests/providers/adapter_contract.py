"""What every adapter promises. A test class for an adapter subclasses `AdapterContract`, or `HttpAdapterContract` when
it speaks over HTTP, and gives the fixtures they name; it overrides no test of theirs. For each further API that an
adapter speaks a class of its own subclasses `FateContract`, and names the API and a body.
"""

import asyncio
import gzip
import json
import logging

import pytest
from aiohttp import web

from farebox.errors import (
    InputError,
    ProviderAccountError,
    ProviderAuthError,
    ProviderConnectionError,
    ProviderError,
    ProviderOverloadedError,
    ProviderRateLimitError,
    ProviderRequestError,
    ProviderTimeoutError,
)
from farebox.records import Job
from farebox_worker.providers import connection
from farebox_worker.providers.base import Facts, ModelProvider, PromptMessage

KEY = "sk-proj-0123456789abcdefWXYZ"
FACTS = Facts(model_id="m-1", context_window=100_000, max_output_tokens=1_000, default_max_tokens=500)


def chat(content="Hello", /, **fields):
    return {"messages": [{"role": "user", "content": content}], **fields}


def job(body, /, api="chat", **fields):
    raw = body if isinstance(body, bytes) else json.dumps(body, ensure_ascii=False).encode()
    return Job(1, "c", "p:m-1", api, raw, **fields)


class Script:
    """A server that answers every request as it is told to, and remembers what it was asked."""

    def __init__(self):
        self.status, self.headers, self.body, self.act = 200, {}, b"{}", "answer"
        self.requests = []
        self.url = ""
        self._runner = None

    def says(self, status, body, **headers):
        self.status, self.headers, self.act = status, {k.replace("_", "-"): v for k, v in headers.items()}, "answer"
        self.body = body if isinstance(body, bytes) else json.dumps(body).encode()

    async def start(self):
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def stop(self):
        await self._runner.cleanup()

    async def _handle(self, request):
        body = await request.read()
        self.requests.append((request.method, request.path, request.headers.copy(), body))
        if self.act == "hang":
            await asyncio.sleep(30)
        if self.act == "close":
            request.transport.abort()
        if self.act == "hang up":
            request.transport.close()
        headers = {"content-type": "application/json", **self.headers}
        return web.Response(status=self.status, body=self.body, headers=headers)


@pytest.fixture
async def script():
    server = Script()
    await server.start()
    yield server
    await server.stop()


class AdapterContract:
    """Needs the fixture `adapter`."""

    async def test_it_is_a_model_provider(self, adapter):
        assert isinstance(adapter, ModelProvider)

    async def test_the_model_is_the_one_of_the_lane_whatever_the_body_says(self, adapter):
        prepared = adapter.prepare(job(chat(model="p:other")), FACTS)
        assert json.loads(prepared.body)["model"] == "m-1"

    @pytest.mark.parametrize(
        ("body", "of_job", "bound", "by_default"),
        [
            ({}, None, 500, True),
            ({}, 70, 70, False),
            ({"max_tokens": 60}, 70, 60, False),
            ({"max_completion_tokens": 50}, None, 50, False),
            ({"max_completion_tokens": 50, "max_tokens": 40}, None, 40, False),
            ({"max_tokens": 9_999}, None, 1_000, False),
            ({"max_tokens": None}, 9_999, 1_000, False),
        ],
    )
    async def test_every_request_carries_a_cap_and_the_bound_is_that_cap(
        self, adapter, body, of_job, bound, by_default
    ):
        prepared = adapter.prepare(job(chat(**body), max_tokens=of_job), FACTS)
        sent = json.loads(prepared.body)
        caps = [sent[name] for name in ("max_tokens", "max_completion_tokens") if name in sent]
        assert caps == [bound]
        assert (prepared.output_bound, prepared.capped_by_default) == (bound, by_default)

    async def test_the_default_cap_stands_when_the_models_maximum_is_unknown(self, adapter):
        prepared = adapter.prepare(job(chat()), Facts("m-1", 0, 0, 500))
        assert prepared.output_bound == 500

    @pytest.mark.parametrize("text", ["Hello", "é€😀 日本語", 'quote " and \\ and \n', "\\ufdfa", "\ufdfa" * 50])
    @pytest.mark.parametrize("ascii_only", [True, False])
    async def test_the_input_bound_covers_every_byte_of_the_text(self, adapter, text, ascii_only):
        raw = json.dumps(chat(text), ensure_ascii=ascii_only).encode()
        prepared = adapter.prepare(job(raw), FACTS)
        assert prepared.input_bound >= len(prepared.body) >= len(text.encode())
        assert json.loads(prepared.body)["messages"][0]["content"] == text

    @pytest.mark.parametrize(
        "body", [chat(stream=True), chat(max_tokens=-1), chat(max_tokens="many"), {"messages": 1}, {}, b"[1]", b"{"]
    )
    async def test_a_body_that_is_wrong_is_refused_before_it_is_sent(self, adapter, body):
        with pytest.raises(InputError):
            adapter.prepare(job(body), FACTS)

    async def test_preparing_leaves_the_job_alone_and_says_the_same_twice(self, adapter):
        one = job(chat("Hi", temperature=0.5))
        assert adapter.prepare(one, FACTS) == adapter.prepare(one, FACTS)

    async def test_it_can_be_closed_unused(self, adapter):
        await adapter.aclose()


class FateContract:
    """What becomes of calls over HTTP. Needs `adapter` (on `script.url`, key KEY), `unreachable` (on a closed port)."""

    api = "chat"
    body = chat()
    own_error = {"error": {"type": "some_error", "message": "so it is"}}  # noqa: RUF012 - read only

    @pytest.fixture
    def ask(self, adapter):
        async def ask(timeout_s=5.0, **fields):
            return await adapter.post(adapter.prepare(job(self.body | fields, self.api), FACTS), timeout_s=timeout_s)

        return ask

    @pytest.mark.parametrize(
        ("status", "expected"),
        [
            (400, ProviderRequestError),
            (401, ProviderAuthError),
            (402, ProviderAccountError),
            (403, ProviderAuthError),
            (404, ProviderRequestError),
            (408, ProviderTimeoutError),
            (409, ProviderOverloadedError),
            (413, ProviderRequestError),
            (422, ProviderRequestError),
            (429, ProviderRateLimitError),
            (499, ProviderTimeoutError),
            (500, ProviderOverloadedError),
            (502, ProviderOverloadedError),
            (503, ProviderOverloadedError),
            (504, ProviderTimeoutError),
            (529, ProviderOverloadedError),
        ],
    )
    @pytest.mark.parametrize("own", [True, False])
    async def test_every_status_has_its_error_and_tells_whose_words_it_brought(
        self, ask, script, status, expected, own
    ):
        script.says(status, self.own_error if own else b"<html>Bad</html>", x_request_id="r-1", request_id="r-1")
        with pytest.raises(ProviderError) as caught:
            await ask()
        error = caught.value
        assert type(error) is expected
        assert (error.status_code, error.request_id) == (status, "r-1")
        assert error.own_body == (own or status == 429)  # a 429 let nothing in, whoever said it
        assert error.sent
        if own:
            assert json.loads(error.body) == self.own_error
            assert error.code == "some_error"
            assert "so it is" in str(error)
        else:
            assert error.body == b""
        assert len(script.requests) == 1  # retries are the bus's

    async def test_an_id_of_a_request_is_cut_and_never_the_key(self, ask, script):
        for said, kept in ((f"req-{KEY}", "[key]"), ("r" * 5000, "r" * 100)):
            script.says(400, self.own_error, x_request_id=said, request_id=said)
            with pytest.raises(ProviderError) as caught:
                await ask()
            assert caught.value.request_id == kept

    @pytest.mark.parametrize(
        ("headers", "seconds"),
        [
            ({"retry_after": "7"}, 7.0),
            ({"retry_after": "0.5"}, 0.5),
            ({"retry_after_ms": "250", "retry_after": "9"}, 0.25),
            ({"retry_after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
            ({"retry_after": "Wed, 21 Oct 2015 07:28:00 GMT", "date": "Wed, 21 Oct 2015 07:27:50 GMT"}, 10.0),
            ({"retry_after": "Wed, 21 Oct 2015 07:28:00 GMT", "date": "today"}, 0.0),
            ({"retry_after": "soon"}, None),
            ({"retry_after": "nan"}, None),
            ({}, None),
        ],
    )
    async def test_a_rate_limit_says_how_long_to_wait(self, ask, script, headers, seconds):
        script.says(429, self.own_error, **headers)
        with pytest.raises(ProviderRateLimitError) as caught:
            await ask()
        assert caught.value.retry_after == seconds

    async def test_a_redirect_is_not_followed_with_the_prompt(self, ask, script):
        script.says(307, b"", location="/elsewhere")
        with pytest.raises(ProviderRequestError):
            await ask()
        assert len(script.requests) == 1

    @pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"{}", b'{"error": {"message": "no"}}', b"\xff"])
    async def test_a_200_that_is_no_answer_proves_nothing(self, ask, script, body):
        script.says(200, body)
        with pytest.raises(ProviderError) as caught:
            await ask()
        assert type(caught.value) is ProviderError
        assert (caught.value.own_body, caught.value.sent, caught.value.status_code) == (False, True, 200)

    @pytest.mark.parametrize("encoding", ["identity", "gzip"])
    async def test_an_answer_without_end_is_not_read_to_its_end(self, ask, script, monkeypatch, encoding):
        monkeypatch.setattr(connection, "MOST_BYTES", 1_000_000)
        body = b" " * 1_500_000
        script.says(200, gzip.compress(body) if encoding == "gzip" else body, content_encoding=encoding)
        with pytest.raises(ProviderError) as caught:
            await ask()
        assert (caught.value.code, caught.value.sent, caught.value.own_body) == ("answer_too_large", True, False)
        script.says(200, b"{}")
        with pytest.raises(ProviderError, match="something else"):  # another connection goes on
            await ask()

    @pytest.mark.parametrize("status", [200, 400, 500])
    async def test_json_that_is_nested_without_end_is_no_answer(self, ask, script, status):
        script.says(status, b'{"error":' + b"[" * 100_000 + b"]" * 100_000 + b"}")
        with pytest.raises(ProviderError) as caught:
            await ask()
        assert not caught.value.own_body

    async def test_an_error_of_megabytes_is_cut_before_it_is_looked_at(self, ask, script):
        # a word of 64 KB took 26 s to search for masked keys, in which nothing else ran
        script.says(400, {"error": {"message": "a" * 2_000_000, "code": "b" * 2_000_000}})
        with pytest.raises(ProviderRequestError) as caught:
            await ask()
        assert len(str(caught.value)) < 3_000
        assert len(caught.value.code) <= 100

    async def test_what_is_masked_leaves_an_error_json(self, ask, script):
        said = {"error": {"message": "line\n*** bold ***\t\u2022*** sk-***WXYZ", "code": "c"}}
        script.says(400, said)
        with pytest.raises(ProviderRequestError) as caught:
            await ask()
        assert json.loads(caught.value.body)["error"]["code"] == "c"
        assert b"WXYZ" not in caught.value.body

    async def test_half_a_character_or_nan_in_an_error_leave_it_the_providers_words(self, ask, script):
        script.says(400, b'{"error": {"message": "too long: \\ud83d", "limit": NaN}}')
        with pytest.raises(ProviderRequestError, match="too long") as caught:
            await ask()
        assert caught.value.own_body

    async def test_silence_ends_in_a_timeout(self, ask, script):
        script.act = "hang"
        with pytest.raises(ProviderTimeoutError) as caught:
            await ask(timeout_s=0.1)
        assert caught.value.sent

    @pytest.mark.parametrize("act", ["close", "hang up"])
    async def test_a_connection_lost_after_sending_may_have_been_billed(self, ask, script, act):
        script.act = act
        with pytest.raises(ProviderConnectionError) as caught:
            await ask()
        assert caught.value.sent

    async def test_a_refused_connection_was_never_sent(self, unreachable):
        with pytest.raises(ProviderConnectionError) as caught:
            await unreachable.post(unreachable.prepare(job(self.body, self.api), FACTS), timeout_s=5)
        assert not caught.value.sent

    @pytest.mark.parametrize("act", ["close", "hang up"])
    async def test_anothers_refused_connection_proves_nothing_for_this_call(self, ask, script, act):
        script.act = act
        try:
            raise ConnectionRefusedError  # noqa: TRY301 - the point is what is being handled below
        except ConnectionRefusedError:
            with pytest.raises(ProviderConnectionError) as caught:
                await ask()
        assert caught.value.sent

    @pytest.mark.parametrize(
        "said",
        [
            f"Incorrect API key provided: {KEY}.",
            "Incorrect API key provided: sk-proj-********WXYZ.",
            "bad key sk-proj-0123...",
            "your key ending in WXYZ is revoked",
        ],
    )
    async def test_the_key_is_in_no_error_and_no_log(self, ask, adapter, script, caplog, said):
        caplog.set_level(logging.DEBUG)
        script.says(401, {"error": {"type": "auth", "message": said}})
        with pytest.raises(ProviderAuthError) as caught:
            await ask()
        shown = f"{caught.value!r} {caught.value} {caught.value.body} {vars(caught.value)} {adapter!r} {vars(adapter)}"
        assert "WXYZ" not in shown
        assert "0123" not in shown
        assert KEY not in caplog.text
        assert any(KEY in value for value in script.requests[0][2].values())


class HttpAdapterContract(AdapterContract, FateContract):
    """Needs `adapter` and `unreachable`, and `answer` (the JSON of one)."""

    async def test_an_answer_comes_back_with_its_usage(self, ask, script, answer):
        script.says(200, answer, x_ratelimit_remaining_tokens="7", date="today")
        reply = await ask()
        assert (reply.status_code, reply.finish, reply.original) == (200, "answered", json.dumps(answer).encode())
        body = json.loads(reply.body)
        assert body["object"] == "chat.completion"
        assert body["choices"][0]["message"]["content"] == "Hi there"
        assert (reply.usage.input_tokens, reply.usage.output_tokens) == (10, 5)
        assert reply.headers == {"x-ratelimit-remaining-tokens": "7"}

    @pytest.mark.parametrize("api", ["chat", "messages"])
    @pytest.mark.parametrize(
        ("plain", "odd"),
        [
            (b"{", b"\xef\xbb\xbf{"),
            (b"Hi there", b"Hi \\ud83d"),
            (b"Hi there", b"Hi \xff\xfe"),
            (b"Hi there", b"Hi \n there"),
            (b"{", b'{"logprob": NaN, "least": -Infinity, '),
        ],
        ids=["byte order mark", "half a character", "broken UTF-8", "raw newline", "NaN"],
    )
    async def test_an_answer_that_is_nearly_json_is_read_for_it_is_paid(self, adapter, script, answer, api, plain, odd):
        script.says(200, json.dumps(answer).encode().replace(plain, odd, 1))
        prepared = adapter.prepare(job(chat(max_tokens=9), api), FACTS)
        reply = await adapter.post(prepared, timeout_s=5)
        assert (reply.finish, reply.usage.total_tokens) == ("answered", 15)
        assert "Hi" in json.dumps(json.loads(reply.body.decode()))
        assert json.loads(reply.original.decode())["usage"]

    @pytest.mark.parametrize("api", ["chat", "messages"])
    @pytest.mark.parametrize("usage", ["none", [1], 7, None, "floats"])
    async def test_an_answer_is_put_into_the_format_asked_for_whatever_its_usage(
        self, adapter, script, answer, api, usage
    ):
        told = {name: float(count) for name, count in answer["usage"].items()} if usage == "floats" else usage
        script.says(200, answer | {"usage": told, "id": None})
        reply = await adapter.post(adapter.prepare(job(chat(max_tokens=9), api), FACTS), timeout_s=5)
        body = json.loads(reply.body)
        said = body["choices"][0]["message"]["content"] if api == "chat" else body["content"][0]["text"]
        assert (said, reply.finish) == ("Hi there", "answered")
        assert (reply.usage.total_tokens if reply.usage else None) == (15 if usage == "floats" else None)

    async def test_health_is_a_yes_or_a_no_and_never_an_error(self, adapter, unreachable, script):
        script.says(200, {"data": []})
        assert await adapter.health_check() is True
        script.says(500, b"oops")
        assert await adapter.health_check() is False
        assert await unreachable.health_check() is False

    async def test_discovery_that_fails_is_a_provider_error(self, adapter, unreachable, script):
        script.says(401, self.own_error)
        with pytest.raises(ProviderAuthError):
            await adapter.list_models()
        script.says(200, b"<html>")
        with pytest.raises(ProviderError):
            await adapter.list_models()
        with pytest.raises(ProviderConnectionError):
            await unreachable.list_models()

    async def test_send_gives_a_whole_response(self, adapter, script, answer):
        script.says(200, answer)
        response = await adapter.send([PromptMessage("user", "Hello")], "m-1", max_tokens=9, stop_sequences=["x"])
        assert (response.content, response.finish_reason) == ("Hi there", "answered")
        assert response.model_info.model_ref == f"{adapter.provider_id}:m-1"
        assert response.usage.total_tokens == 15
        assert response.raw_response == answer

    async def test_a_stream_that_is_refused_is_a_provider_error(self, adapter, script):
        script.says(429, self.own_error)
        with pytest.raises(ProviderRateLimitError):
            [chunk async for chunk in adapter.stream([PromptMessage("user", "Hello")], "m-1")]
