"""Takes a chat-completions job to a messages API: the request there, the answer back. Pure functions over JSON."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from farebox.errors import InputError
from farebox_worker.providers.translate import Json, Unsayable, read_object, simplest


def chat_to_messages(body: bytes, *, provider_id: str, drop: Sequence[str] = ()) -> bytes:
    """Say a chat-completions request in the messages format; `max_tokens` is there only if the request has a cap.

    System and developer messages become `system`, wherever they stand. Raises: UntranslatableError, InputError.
    """
    chat = read_object(body)
    unsayable = Unsayable(provider_id, drop)
    try:
        request = _ChatReader(chat, unsayable).read()
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(f"the body is not a chat completion request: {type(error).__name__}: {error}") from None
    unsayable.check()
    return msgspec.json.encode(request)


def message_to_chat(body: bytes, *, created: int) -> bytes:
    """Say a message as a chat completion; `created` is in Unix seconds, which a message does not tell.

    A refusal becomes `message.refusal` beside what was said before it, with finish_reason `stop`, as OpenAI has it.
    Thinking has no place in a chat completion. Raises: msgspec.DecodeError when it is not a message.
    """
    answer = _message.decode(body)
    message: Json = {"role": "assistant", "content": None, "refusal": None}
    texts = [block.text for block in answer.content if block.type == "text"]
    if texts:
        message["content"] = "".join(texts)
    if answer.stop_reason == "refusal":
        message["refusal"] = _why_refused(answer.stop_details)
    if calls := [_tool_call(block) for block in answer.content if block.type == "tool_use"]:
        message["tool_calls"] = calls
    finish = _FINISH_REASON.get(answer.stop_reason, "stop")
    return msgspec.json.encode(
        {
            "id": answer.id or "",
            "object": "chat.completion",
            "created": created,
            "model": answer.model or "",
            "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": finish}],
            "usage": _chat_usage(answer.usage),
        }
    )


# The request

# Parameters that have no equivalent, with the values at which they say nothing.
_CHAT_NEUTRAL: dict[str, tuple[object, ...]] = {
    "n": (1,),
    "stream": (False,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "store": (False,),
    "metadata": ({},),
    "modalities": (["text"],),
    "service_tier": ("auto", "default", "flex"),  # the job's tier decides, not the body
    "functions": ([],),
}
_IMAGE_DETAIL_NEUTRAL = (None, "auto")


class _ChatReader:
    """Reads one chat request."""

    def __init__(self, chat: Json, unsayable: Unsayable) -> None:
        self._chat = chat
        self._unsayable = unsayable
        self._request: Json = {}

    def read(self) -> Json:
        for name, value in self._chat.items():
            if value is None:
                continue
            if say := self._SAYERS.get(name):
                say(self, value)
            elif value not in _CHAT_NEUTRAL.get(name, ()):
                self._unsayable.add(name)
        self._say_tool_choice()
        return self._request

    def _ignore(self, value: Any) -> None:
        """Leave to the adapter, or to another parameter's turn."""

    def _say_messages(self, messages: list[Json]) -> None:
        system: list[Json] = []
        turns: list[Json] = []
        for message in messages:
            role = message["role"]
            if message.get("name") is not None:
                self._unsayable.add("messages[].name")
            if role in {"system", "developer"}:
                system += self._blocks(message.get("content"))
            elif role == "tool":
                _append(turns, "user", [self._tool_result(message)])
            elif role == "assistant":
                _append(turns, "assistant", self._assistant_blocks(message))
            elif role == "user":
                _append(turns, "user", self._blocks(message.get("content")))
            else:
                self._unsayable.add(f"messages[].role={role}")
        if system:
            self._request["system"] = simplest(system)
        self._request["messages"] = [{"role": turn["role"], "content": simplest(turn["content"])} for turn in turns]

    def _blocks(self, content: str | list[Json] | None) -> list[Json]:
        if content is None:
            return []
        if isinstance(content, str):
            return [{"type": "text", "text": content}]
        found = (self._block(part) for part in content)
        return [block for block in found if block]

    def _block(self, part: Json) -> Json | None:
        kind = part["type"]
        if part.get("prompt_cache_breakpoint") is not None:
            self._unsayable.add("prompt_cache_breakpoint")
        if kind == "text":
            return {"type": "text", "text": part["text"]}
        if kind == "refusal":
            return {"type": "text", "text": part["refusal"]}
        if kind == "image_url":
            if part["image_url"].get("detail") not in _IMAGE_DETAIL_NEUTRAL:
                self._unsayable.add("image_url.detail")
            return {"type": "image", "source": _image_source(part["image_url"]["url"])}
        self._unsayable.add(f"messages[].content[].{kind}")
        return None

    def _assistant_blocks(self, message: Json) -> list[Json]:
        blocks = [block for block in self._blocks(message.get("content")) if block.get("text") != ""]
        if message.get("refusal"):
            blocks.append({"type": "text", "text": message["refusal"]})
        for gone in ("function_call", "audio"):
            if message.get(gone) is not None:
                self._unsayable.add(f"messages[].{gone}")
        for call in message.get("tool_calls") or ():
            if call.get("type", "function") != "function":
                self._unsayable.add(f"messages[].tool_calls[].{call['type']}")
                continue
            function = call["function"]
            blocks.append(
                {
                    "type": "tool_use",
                    "id": call["id"],
                    "name": function["name"],
                    "input": _arguments(function["name"], function.get("arguments")),
                }
            )
        return blocks

    def _tool_result(self, message: Json) -> Json:
        content = simplest(self._blocks(message.get("content")))
        return {"type": "tool_result", "tool_use_id": message["tool_call_id"], "content": content}

    def _say_cap(self, cap: int) -> None:
        self._request["max_tokens"] = min(cap, self._request.get("max_tokens", cap))

    def _say_temperature(self, temperature: float) -> None:
        if temperature > 1:  # OpenAI's scale ends at 2, Anthropic's at 1
            self._unsayable.add("temperature")
        else:
            self._request["temperature"] = temperature

    def _say_top_p(self, top_p: float) -> None:
        self._request["top_p"] = top_p

    def _say_stop(self, stop: str | list[str]) -> None:
        if sequences := [stop] if isinstance(stop, str) else stop:
            self._request["stop_sequences"] = sequences

    def _say_user(self, user: str) -> None:
        self._request["metadata"] = {"user_id": user}

    def _say_tools(self, tools: list[Json]) -> None:
        said = []
        for tool in tools:
            if tool["type"] != "function":
                self._unsayable.add(f"tools[].{tool['type']}")
                continue
            function = tool["function"]
            schema = function.get("parameters") or {"type": "object", "properties": {}}
            entry = {"name": function["name"], "description": function.get("description"), "input_schema": schema}
            entry["strict"] = True if function.get("strict") else None
            said.append({name: value for name, value in entry.items() if value is not None})
        if said:
            self._request["tools"] = said

    def _say_tool_choice(self) -> None:
        choice = self._chat.get("tool_choice")
        said: Json | None = None
        if isinstance(choice, str):
            said = {"type": {"auto": "auto", "required": "any", "none": "none"}[choice]}
        elif choice is not None and choice["type"] == "function":
            said = {"type": "tool", "name": choice["function"]["name"]}
        elif choice is not None:
            self._unsayable.add("tool_choice")
        if self._chat.get("parallel_tool_calls") is False and self._request.get("tools"):
            said = said or {"type": "auto"}
            if said["type"] != "none":
                said["disable_parallel_tool_use"] = True
        if said and (self._request.get("tools") or said["type"] in {"any", "tool"}):
            self._request["tool_choice"] = said

    def _say_response_format(self, response_format: Json) -> None:
        kind = response_format["type"]
        if kind == "json_schema":
            schema = response_format["json_schema"]["schema"]
            self._request["output_config"] = {"format": {"type": "json_schema", "schema": schema}}
        elif kind != "text":
            self._unsayable.add("response_format")

    _SAYERS: dict[str, Callable[[Any, Any], None]] = {  # noqa: RUF012 - a constant table of methods
        "model": _ignore,
        "messages": _say_messages,
        "max_tokens": _say_cap,
        "max_completion_tokens": _say_cap,
        "temperature": _say_temperature,
        "top_p": _say_top_p,
        "stop": _say_stop,
        "user": _say_user,
        "tools": _say_tools,
        "tool_choice": _ignore,
        "parallel_tool_calls": _ignore,
        "response_format": _say_response_format,
    }


def _append(turns: list[Json], role: str, blocks: list[Json]) -> None:
    """Add blocks to the last turn when it is this role's: Anthropic's turns alternate, and none is empty."""
    if not blocks:
        return
    if turns and turns[-1]["role"] == role:
        turns[-1]["content"] += blocks
    else:
        turns.append({"role": role, "content": list(blocks)})


def _image_source(url: str) -> Json:
    if not url.startswith("data:"):
        return {"type": "url", "url": url}
    header, _, data = url[len("data:") :].partition(",")
    media_type, _, encoding = header.partition(";")
    if encoding != "base64":
        raise ValueError("an image's data: url must be base64")
    return {"type": "base64", "media_type": media_type, "data": data}


def _arguments(name: str, arguments: str | None) -> Json:
    """Read a tool call's arguments. Raises: ValueError when they are not a JSON object."""
    try:
        return msgspec.json.decode(arguments or "{}", type=Json)
    except msgspec.DecodeError as error:
        raise ValueError(f"the arguments of tool call {name} are not a JSON object: {error}") from None


# The answer

_FINISH_REASON: dict[str | None, str] = {
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "pause_turn": "length",
    "tool_use": "tool_calls",
}


class _Block(msgspec.Struct):
    type: str
    text: str = ""
    id: str = ""
    name: str = ""
    input: msgspec.Raw = msgspec.Raw(b"{}")


class _Thought(msgspec.Struct):
    thinking_tokens: int | None = None


class _Usage(msgspec.Struct):
    input_tokens: int
    output_tokens: int
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    output_tokens_details: _Thought | None = None


class _Message(msgspec.Struct):
    content: list[_Block]
    id: str | None = None
    model: str | None = None
    stop_reason: str | None = None
    stop_details: Json | None = None
    usage: msgspec.Raw = msgspec.Raw()


_message = msgspec.json.Decoder(_Message)
_usage = msgspec.json.Decoder(_Usage | None, strict=False)  # some servers count in floats, 10.0


def _tool_call(block: _Block) -> Json:
    function = {"name": block.name, "arguments": bytes(block.input).decode()}
    return {"id": block.id, "type": "function", "function": function}


def _why_refused(details: Json | None) -> str:
    category = (details or {}).get("category")
    return f"The model refused ({category})." if category else "The model refused."


def _chat_usage(raw: msgspec.Raw) -> Json | None:
    try:
        usage = _usage.decode(raw)
    except msgspec.DecodeError:  # an answer whose usage nobody can read is still an answer
        return None
    if usage is None:
        return None
    read, written = usage.cache_read_input_tokens or 0, usage.cache_creation_input_tokens or 0
    prompt = usage.input_tokens + read + written
    thought = usage.output_tokens_details.thinking_tokens if usage.output_tokens_details else None
    return {
        "prompt_tokens": prompt,
        "completion_tokens": usage.output_tokens,
        "total_tokens": prompt + usage.output_tokens,
        "prompt_tokens_details": {"cached_tokens": read, "cache_write_tokens": written},
        "completion_tokens_details": {"reasoning_tokens": thought or 0},
    }
