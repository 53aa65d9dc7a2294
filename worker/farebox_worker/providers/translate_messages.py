"""Takes a messages job to a chat-completions API: the request there, the answer back. Pure functions over JSON."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any

import msgspec

from farebox.errors import InputError
from farebox_worker.providers.translate import Json, Unsayable, read_object, simplest


def messages_to_chat(body: bytes, *, provider_id: str, drop: Sequence[str] = ()) -> bytes:
    """Say a messages request as chat completions. Raises: UntranslatableError, InputError."""
    request = read_object(body)
    unsayable = Unsayable(provider_id, drop)
    try:
        chat = _MessagesReader(request, unsayable).read()
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(f"the body is not a messages request: {type(error).__name__}: {error}") from None
    unsayable.check()
    return msgspec.json.encode(chat)


def chat_to_message(body: bytes) -> bytes:
    """Say a chat completion as a message; of several choices the first.

    Tool arguments that are not a JSON object stand under `_unparsed`, for an `input` must be one.
    Raises: msgspec.DecodeError when it is not a chat completion.
    """
    answer = _completion.decode(body)
    choice = answer.choices[0]
    said = choice.message
    content: list[Json] = [{"type": "text", "text": text} for text in (said.content, said.refusal) if text]
    content += [_tool_use(call) for call in said.tool_calls or ()]
    stop_reason = "refusal" if said.refusal else _STOP_REASON.get(choice.finish_reason, "end_turn")
    return msgspec.json.encode(
        {
            "id": answer.id or "",
            "type": "message",
            "role": "assistant",
            "model": answer.model or "",
            "content": content,
            "stop_reason": "tool_use" if said.tool_calls and stop_reason == "end_turn" else stop_reason,
            "stop_sequence": None,
            "usage": _message_usage(answer.usage),
        }
    )


# The request

_MESSAGES_NEUTRAL: dict[str, tuple[object, ...]] = {
    "stream": (False,),
    "service_tier": ("auto", "standard_only"),
    "speed": ("standard",),
    "thinking": ({"type": "disabled"},),
    "mcp_servers": ([],),
}


def _copied(name: str) -> Callable[[Any, Any], None]:
    """Say a parameter that both formats have under the same name."""

    def say(reader: _MessagesReader, value: Any) -> None:
        reader.chat[name] = value

    return say


class _MessagesReader:
    """Reads one messages request."""

    def __init__(self, request: Json, unsayable: Unsayable) -> None:
        self._request = request
        self._unsayable = unsayable
        self.chat: Json = {}

    def read(self) -> Json:
        self.chat["messages"] = []
        if system := self._request.get("system"):
            self.chat["messages"].append({"role": "system", "content": self._content(system)})
        for name, value in self._request.items():
            if value is None:
                continue
            if say := self._SAYERS.get(name):
                say(self, value)
            elif value not in _MESSAGES_NEUTRAL.get(name, ()):
                self._unsayable.add(name)
        return self.chat

    def _ignore(self, value: Any) -> None:
        """Leave to another parameter's turn."""

    def _say_messages(self, messages: list[Json]) -> None:
        for message in messages:
            if message["role"] == "assistant":
                self.chat["messages"].append(self._assistant(message["content"]))
            elif message["role"] == "system":
                self.chat["messages"].append({"role": "system", "content": self._content(message["content"])})
            else:
                self.chat["messages"] += self._user(message["content"])

    def _user(self, content: str | list[Json]) -> list[Json]:
        """Tool results become messages of their own, and come first: they answer the turn before."""
        if isinstance(content, str):
            return [{"role": "user", "content": content}]
        results = [self._tool_message(block) for block in content if block["type"] == "tool_result"]
        rest = [block for block in content if block["type"] != "tool_result"]
        return [*results, {"role": "user", "content": self._content(rest)}] if rest else results

    def _tool_message(self, block: Json) -> Json:
        self._note_cache_control(block)
        if block.get("is_error"):
            self._unsayable.add("tool_result.is_error")
        content = block.get("content") or ""
        if not isinstance(content, str) and any(part["type"] != "text" for part in content):
            self._unsayable.add("tool_result.content[] other than text")
        return {"role": "tool", "tool_call_id": block["tool_use_id"], "content": self._content(content)}

    def _assistant(self, content: str | list[Json]) -> Json:
        if isinstance(content, str):
            return {"role": "assistant", "content": content}
        calls = [_tool_call(block) for block in content if block["type"] == "tool_use"]
        texts = [block for block in content if block["type"] != "tool_use"]
        message: Json = {"role": "assistant", "content": self._content(texts) if texts else None}
        return message | {"tool_calls": calls} if calls else message

    def _content(self, content: str | list[Json]) -> str | list[Json]:
        if isinstance(content, str):
            return content
        parts = [part for part in (self._part(block) for block in content) if part]
        return simplest(parts) if parts else ""

    def _part(self, block: Json) -> Json | None:
        self._note_cache_control(block)
        if block["type"] == "text":
            if block.get("citations"):
                self._unsayable.add("messages[].content[].citations")
            return {"type": "text", "text": block["text"]}
        if block["type"] == "image" and block["source"]["type"] in {"base64", "url"}:
            return {"type": "image_url", "image_url": {"url": _image_url(block["source"])}}
        self._unsayable.add(f"messages[].content[].{block['type']}")
        return None

    def _note_cache_control(self, block: Json) -> None:
        if block.get("cache_control") is not None:
            self._unsayable.add("cache_control")

    def _say_stop(self, sequences: list[str]) -> None:
        if len(sequences) > 4:  # OpenAI takes four
            self._unsayable.add("stop_sequences")
        elif sequences:
            self.chat["stop"] = sequences

    def _say_metadata(self, metadata: Json) -> None:
        for name, value in metadata.items():
            if name == "user_id" and value is not None:
                self.chat["user"] = value
            elif value is not None:
                self._unsayable.add(f"metadata.{name}")

    def _say_tools(self, tools: list[Json]) -> None:
        said = []
        for tool in tools:
            self._note_cache_control(tool)
            if tool.get("type", "custom") not in {"custom", None}:
                self._unsayable.add(f"tools[].{tool['type']}")
                continue
            for name in tool.keys() - {"type", "name", "description", "input_schema", "strict", "cache_control"}:
                self._unsayable.add(f"tools[].{name}")
            function = {
                "name": tool["name"],
                "description": tool.get("description"),
                "parameters": tool["input_schema"],
            }
            function["strict"] = tool.get("strict")
            said.append({"type": "function", "function": {k: v for k, v in function.items() if v is not None}})
        if said:
            self.chat["tools"] = said

    def _say_tool_choice(self, choice: Json) -> None:
        kind = choice["type"]
        if kind == "tool":
            self.chat["tool_choice"] = {"type": "function", "function": {"name": choice["name"]}}
        else:
            self.chat["tool_choice"] = {"auto": "auto", "any": "required", "none": "none"}[kind]
        if choice.get("disable_parallel_tool_use"):
            self.chat["parallel_tool_calls"] = False

    def _say_output_config(self, config: Json) -> None:
        for name, value in config.items():
            if name == "format" and value is not None and value["type"] == "json_schema":
                schema = {"name": "answer", "schema": value["schema"], "strict": True}
                self.chat["response_format"] = {"type": "json_schema", "json_schema": schema}
            elif value is not None:
                self._unsayable.add(f"output_config.{name}")

    _SAYERS: dict[str, Callable[[Any, Any], None]] = {  # noqa: RUF012 - a constant table of methods
        "model": _ignore,
        "system": _ignore,
        "messages": _say_messages,
        "max_tokens": _copied("max_tokens"),
        "temperature": _copied("temperature"),
        "top_p": _copied("top_p"),
        "stop_sequences": _say_stop,
        "metadata": _say_metadata,
        "tools": _say_tools,
        "tool_choice": _say_tool_choice,
        "output_config": _say_output_config,
    }


def _tool_call(block: Json) -> Json:
    arguments = msgspec.json.encode(block["input"]).decode()
    return {"id": block["id"], "type": "function", "function": {"name": block["name"], "arguments": arguments}}


def _image_url(source: Json) -> str:
    if source["type"] == "url":
        url: str = source["url"]
        return url
    return f"data:{source['media_type']};base64,{source['data']}"


# The answer

_STOP_REASON: dict[str | None, str] = {"length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"}


class _Function(msgspec.Struct):
    name: str = ""
    arguments: str = ""


class _Call(msgspec.Struct):
    function: _Function
    id: str = ""


class _Said(msgspec.Struct):
    content: str | None = None
    refusal: str | None = None
    tool_calls: list[_Call] | None = None


class _Choice(msgspec.Struct):
    message: _Said
    finish_reason: str | None = None


class _Details(msgspec.Struct):
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int
    prompt_tokens_details: _Details | None = None


class _Completion(msgspec.Struct):
    choices: Annotated[list[_Choice], msgspec.Meta(min_length=1)]
    id: str | None = None
    model: str | None = None
    usage: msgspec.Raw = msgspec.Raw()


_completion = msgspec.json.Decoder(_Completion)
_usage = msgspec.json.Decoder(_Usage | None, strict=False)  # some servers count in floats, 10.0


def _tool_use(call: _Call) -> Json:
    try:
        arguments = msgspec.json.decode(call.function.arguments or "{}", type=Json)
    except msgspec.DecodeError:
        arguments = {"_unparsed": call.function.arguments}
    return {"type": "tool_use", "id": call.id, "name": call.function.name, "input": arguments}


def _message_usage(raw: msgspec.Raw) -> Json | None:
    try:
        usage = _usage.decode(raw)
    except msgspec.DecodeError:  # an answer whose usage nobody can read is still an answer
        return None
    if usage is None:
        return None
    details = usage.prompt_tokens_details or _Details()
    read, written = details.cached_tokens or 0, details.cache_write_tokens or 0
    return {
        "input_tokens": max(0, usage.prompt_tokens - read - written),
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": read,
        "output_tokens": usage.completion_tokens,
    }
