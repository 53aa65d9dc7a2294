"""The HTTP server: takes a request through door, gate, fate and bill to its answer."""

import asyncio
import math
import os
from dataclasses import dataclass
from itertools import count
from typing import Any, Self

import msgspec
from aiohttp import web
from multidict import CIMultiDict

from farebox_worker.simulate.answers import Ask, Choice, compose
from farebox_worker.simulate.anthropic_wire import AnthropicWire
from farebox_worker.simulate.bill import Bill
from farebox_worker.simulate.embeddings_wire import EmbeddingsWire
from farebox_worker.simulate.faults import NOT_BILLED, SPOKEN, Fates, Luck
from farebox_worker.simulate.limits import Gate, Refused
from farebox_worker.simulate.openai_wire import OpenAIWire
from farebox_worker.simulate.options import Options
from farebox_worker.simulate.responses_wire import ResponsesWire
from farebox_worker.simulate.wire import Wire, bearer, masked

_OPENAI, _ANTHROPIC, _RESPONSES, _EMBEDDINGS = OpenAIWire(), AnthropicWire(), ResponsesWire(), EmbeddingsWire()
_COMPLETIONS: dict[str, Wire] = {
    "/v1/chat/completions": _OPENAI,
    "/chat/completions": _OPENAI,
    "/v1/messages": _ANTHROPIC,
    "/v1/responses": _RESPONSES,
    "/responses": _RESPONSES,
    "/v1/embeddings": _EMBEDDINGS,
    "/embeddings": _EMBEDDINGS,
}
_LARGEST_BODY = 64 * 1024 * 1024
_HANG_S = 3600.0
_KEEPALIVE_S = 75.0


@dataclass(slots=True)
class _Call:
    """One request on its way, and what its answer needs."""

    wire: Wire
    request: web.BaseRequest
    id: str


class _Server(web.Server):
    """aiohttp's bare server with room for long prompts."""

    def _make_request(self, message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> web.BaseRequest:
        return web.BaseRequest(message, payload, protocol, writer, task, self._loop, client_max_size=_LARGEST_BODY)


class Simulator:
    """A simulated vendor: `async with Simulator(Options(...)) as simulator: simulator.url`.

    The bill stays readable after the server has stopped.

    Raises:
        ValueError: the journal of the options is not one.
    """

    def __init__(self, options: Options | None = None) -> None:
        self.options = options or Options()
        self.url = ""
        self._bill = Bill(self.options)
        self._gate = Gate(self.options)
        self._fates = Fates(self.options)
        self._seed = str(self.options.seed).encode()
        self._models = tuple(model for model in self.options.models if model != "*") or ("sim-1",)
        self._in_flight = 0
        self._run_id, self._numbers = os.urandom(6).hex(), count(1)
        self._server: _Server | None = None
        self._listener: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        """Listen.

        Raises:
            OSError: the port is taken.
        """
        loop = asyncio.get_running_loop()
        # A client that leaves ends its handler, so hung calls do not pile up.
        self._server = _Server(self._handle, handler_cancellation=True, keepalive_timeout=_KEEPALIVE_S, access_log=None)
        self._listener = await loop.create_server(self._server, self.options.host, self.options.port, backlog=4096)
        self.url = f"http://{self.options.host}:{self._listener.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Stop listening, cut what still hangs, close the journal."""
        if self._listener is not None and self._server is not None:
            self._listener.close()
            await self._server.shutdown(0.1)
        self._bill.close()

    def bill(self) -> dict[str, Any]:
        """Return what `GET /bill` returns."""
        return self._bill.report()

    def reset(self) -> None:
        """Forget the bill, its journal, the windows and which requests were seen."""
        self._bill.reset()
        self._gate.refill()
        self._fates.forget()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        wire = _COMPLETIONS.get(request.path) if request.method == "POST" else None
        counted = wire is not None
        if wire is None:
            wire = _ANTHROPIC if "anthropic-version" in request.headers else _OPENAI
        call = _Call(wire, request, f"req_{self._run_id}{next(self._numbers):010x}")
        try:
            return await self._counted(call) if counted else self._page(call)
        except Refused as refused:
            return self._refuse(call, refused)

    async def _counted(self, call: _Call) -> web.StreamResponse:
        self._in_flight += 1
        self._bill.arrive(self._in_flight)
        try:
            return await self._complete(call)
        except Refused as refused:
            self._bill.faults[refused.word] += 1
            raise
        finally:
            self._in_flight -= 1

    async def _complete(self, call: _Call) -> web.StreamResponse:
        key = self._enter(call)
        body = await _read(call.request)
        ask = call.wire.ask(body)
        self._know(ask.model)
        self._bill.accept(ask.model, key)
        self._admit(ask)
        luck = Luck(self._seed, body)
        fate = self._fates.deal(luck)
        if ask.service_tier == "flex" and fate not in NOT_BILLED:
            ask.service_tier = self._fates.serve_flex(luck)
            fate = "flex_full" if ask.service_tier == "flex_full" else fate
        if fate in NOT_BILLED:
            raise Refused(fate, retry_after_s=self.options.retry_after_s if fate == "429" else 0.0)
        if not ask.n and fate in SPOKEN:
            fate = "answered"
        choices = compose(ask, fate, luck, self.options.output_tokens)
        self._charge(ask, key, choices, fate)
        if delay_s := luck.delay_s(self.options.latency_ms, self.options.latency_jitter_ms):
            await asyncio.sleep(delay_s)
        return await self._deliver(call, ask, choices, fate)

    def _enter(self, call: _Call) -> str:
        """Check the key and return its name on the bill."""
        key = bearer(call.request.headers)
        if self.options.api_key is not None and key != self.options.api_key:
            raise Refused("unauthorized", masked(key))
        return masked(key)

    def _know(self, model: str) -> None:
        if model not in self._models and "*" not in self.options.models:
            raise Refused("unknown_model", model)

    def _admit(self, ask: Ask) -> None:
        """Pass the gate; like the vendors', tokens count by the cap, for nobody knows the answer's length yet."""
        cap = self.options.output_tokens[1] if ask.cap is None else ask.cap
        self._gate.admit(ask.input_tokens + cap * ask.n, self._in_flight, self._bill.total.cost_pusd)

    def _charge(self, ask: Ask, key: str, choices: list[Choice], fate: str) -> None:
        """Bill the call before a byte of it leaves."""
        tokens = (ask.input_tokens, sum([choice.tokens for choice in choices]))
        marker = ask.marker() if self._bill.journaled else ""
        if fate == "tool_call" and ask.tool is None:
            fate = "answered"
        try:
            self._bill.charge(ask.model, key, tokens, fate, marker=marker, tier=_tier_of(ask))
        except OSError as error:
            raise Refused("journal", str(error)) from error

    async def _deliver(self, call: _Call, ask: Ask, choices: list[Choice], fate: str) -> web.StreamResponse:
        if fate in ("hung", "dropped"):
            await _leave(call.request, _HANG_S if fate == "hung" else 0.0)
        headers = call.wire.headers(self._gate, call.id)
        token = call.id[4:].encode()
        if ask.stream:
            events = call.wire.events(ask, choices, token)
            return await _stream(call.request, headers, events[: len(events) // 2] if fate == "malformed" else events)
        body = call.wire.answer(ask, choices, token)
        return web.Response(body=body[: len(body) // 2] if fate == "malformed" else body, headers=headers)

    def _refuse(self, call: _Call, refused: Refused) -> web.Response:
        status, body = call.wire.error(refused, call.id)
        headers = call.wire.headers(self._gate, call.id)
        if refused.retry_after_s:
            headers["retry-after"] = str(math.ceil(refused.retry_after_s))
            if isinstance(call.wire, OpenAIWire):
                headers["retry-after-ms"] = str(math.ceil(refused.retry_after_s * 1000))
        return web.Response(status=status, body=body, headers=headers)

    def _page(self, call: _Call) -> web.Response:
        """Answer all that is not a completion."""
        route = f"{call.request.method} {call.request.path}"
        if route == "GET /healthz":
            return web.json_response({"status": "ok"})
        if route == "POST /reset":
            self.reset()
        if route in ("GET /bill", "POST /reset"):
            return web.Response(body=msgspec.json.encode(self.bill()), content_type="application/json")
        return web.Response(body=self._catalogue(call, route), headers=call.wire.headers(self._gate, call.id))

    def _catalogue(self, call: _Call, route: str) -> bytes:
        self._enter(call)
        if route in ("GET /v1/models", "GET /models"):
            return call.wire.models(self._models)
        if route.startswith("GET /v1/models/"):
            model = route.removeprefix("GET /v1/models/")
            self._know(model)
            return call.wire.model(model)
        raise Refused("unknown_path", route)


def _tier_of(ask: Ask) -> str:
    """Name the tier a call is billed by."""
    return "default" if ask.service_tier in {None, "auto"} else str(ask.service_tier)


async def _read(request: web.BaseRequest) -> bytes:
    try:
        return await request.read()
    except web.HTTPRequestEntityTooLarge as error:
        raise Refused("too_large", f"A request may have {_LARGEST_BODY} bytes.") from error


async def _leave(request: web.BaseRequest, after_s: float) -> None:
    """Close the connection without an answer; the loss of the connection then cancels this handler."""
    await asyncio.sleep(after_s)
    if request.transport is not None:
        request.transport.close()
    await asyncio.sleep(_HANG_S)


async def _stream(request: web.BaseRequest, headers: CIMultiDict[str], events: list[bytes]) -> web.StreamResponse:
    headers["content-type"] = "text/event-stream; charset=utf-8"
    headers["cache-control"] = "no-cache"
    response = web.StreamResponse(headers=headers)
    response.enable_chunked_encoding()
    await response.prepare(request)
    for event in events[:-1]:
        await response.write(event)
    await response.write(events[-1])
    await response.write_eof()
    return response
