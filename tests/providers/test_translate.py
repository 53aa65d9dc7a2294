"""Requests and answers keep their meaning on the way to the other format, and nothing is dropped in silence."""

import json
import string

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from farebox.errors import InputError, UntranslatableError
from farebox_worker.providers.translate_chat import chat_to_messages, message_to_chat
from farebox_worker.providers.translate_messages import chat_to_message, messages_to_chat

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
CHAT_TOOL = {
    "type": "function",
    "function": {"name": "weather", "description": "d", "parameters": SCHEMA, "strict": True},
}
TOOL = {"name": "weather", "description": "d", "input_schema": SCHEMA, "strict": True}
PNG = "iVBORw0KGgo="
USER = {"role": "user", "content": "Hi"}


def text(words, **more):
    return {"type": "text", "text": words, **more}


def to_messages(drop=(), **chat):
    body = json.dumps({"messages": [USER], **chat}).encode()
    return json.loads(chat_to_messages(body, provider_id="anthropic", drop=drop))


def to_chat(drop=(), **request):
    body = json.dumps({"messages": [USER], **request}).encode()
    return json.loads(messages_to_chat(body, provider_id="openai", drop=drop))


def refused(translate, **fields):
    with pytest.raises(UntranslatableError) as caught:
        translate(**fields)
    return caught.value.parameters


# Chat completions to messages: the request


def test_system_and_developer_messages_become_the_system_prompt():
    one = to_messages(messages=[{"role": "system", "content": "a"}, USER])
    assert one == {"system": "a", "messages": [USER]}
    two = to_messages(
        messages=[{"role": "system", "content": "a"}, USER, {"role": "developer", "content": [text("b")]}]
    )
    assert two == {"system": [text("a"), text("b")], "messages": [USER]}


def test_turns_alternate():
    turns = [USER, {"role": "user", "content": "again"}, {"role": "assistant", "content": "Yes?"}, USER]
    assert to_messages(messages=turns)["messages"] == [
        {"role": "user", "content": [text("Hi"), text("again")]},
        {"role": "assistant", "content": "Yes?"},
        USER,
    ]


def call(name, arguments):
    return {"id": f"id-{name}", "type": "function", "function": {"name": name, "arguments": arguments}}


def test_tool_calls_and_their_results_are_merged_into_two_turns():
    turns = [
        USER,
        {"role": "assistant", "content": "", "tool_calls": [call("a", '{"x": 1}'), call("b", "")]},
        {"role": "tool", "tool_call_id": "id-a", "content": "one"},
        {"role": "tool", "tool_call_id": "id-b", "content": [text("t"), text("wo")]},
        {"role": "user", "content": "and?"},
    ]
    assert to_messages(messages=turns)["messages"][1:] == [
        {
            "role": "assistant",
            "content": [
                {"type": "tool_use", "id": "id-a", "name": "a", "input": {"x": 1}},
                {"type": "tool_use", "id": "id-b", "name": "b", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "id-a", "content": "one"},
                {"type": "tool_result", "tool_use_id": "id-b", "content": [text("t"), text("wo")]},
                text("and?"),
            ],
        },
    ]


@pytest.mark.parametrize("arguments", ["{", "[1]", "7"])
def test_tool_arguments_that_are_no_object_are_an_error_in_the_input(arguments):
    with pytest.raises(InputError, match="arguments"):
        to_messages(messages=[USER, {"role": "assistant", "tool_calls": [call("a", arguments)]}])


@pytest.mark.parametrize(
    ("url", "source"),
    [
        (f"data:image/png;base64,{PNG}", {"type": "base64", "media_type": "image/png", "data": PNG}),
        ("https://example.com/a.png", {"type": "url", "url": "https://example.com/a.png"}),
    ],
)
def test_images_go_both_ways(url, source):
    part = {"type": "image_url", "image_url": {"url": url}}
    there = to_messages(messages=[{"role": "user", "content": [text("see"), part]}])
    assert there["messages"][0]["content"] == [text("see"), {"type": "image", "source": source}]
    assert to_chat(**there)["messages"][0]["content"] == [text("see"), part]


@pytest.mark.parametrize(
    ("chat", "said"),
    [
        ({"max_tokens": 5}, {"max_tokens": 5}),
        ({"max_tokens": 5, "max_completion_tokens": 3}, {"max_tokens": 3}),
        ({"max_completion_tokens": 3, "max_tokens": 5}, {"max_tokens": 3}),
        ({"temperature": 0.5, "top_p": 0.9}, {"temperature": 0.5, "top_p": 0.9}),
        ({"stop": "x"}, {"stop_sequences": ["x"]}),
        ({"stop": ["x", "y"]}, {"stop_sequences": ["x", "y"]}),
        ({"user": "u"}, {"metadata": {"user_id": "u"}}),
        ({"tools": [CHAT_TOOL]}, {"tools": [TOOL]}),
        ({"tools": [CHAT_TOOL], "tool_choice": "auto"}, {"tools": [TOOL], "tool_choice": {"type": "auto"}}),
        ({"tools": [CHAT_TOOL], "tool_choice": "required"}, {"tools": [TOOL], "tool_choice": {"type": "any"}}),
        ({"tools": [CHAT_TOOL], "tool_choice": "none"}, {"tools": [TOOL], "tool_choice": {"type": "none"}}),
        (
            {"tools": [CHAT_TOOL], "tool_choice": {"type": "function", "function": {"name": "weather"}}},
            {"tools": [TOOL], "tool_choice": {"type": "tool", "name": "weather"}},
        ),
        (
            {"tools": [CHAT_TOOL], "parallel_tool_calls": False},
            {"tools": [TOOL], "tool_choice": {"type": "auto", "disable_parallel_tool_use": True}},
        ),
        ({"tools": [CHAT_TOOL], "parallel_tool_calls": True}, {"tools": [TOOL]}),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}},
            {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
        ),
        ({"response_format": {"type": "text"}}, {}),
    ],
)
def test_parameters_are_said_in_the_other_words(chat, said):
    assert to_messages(**chat) == {"messages": [USER], **said}


def test_a_tool_without_parameters_takes_an_empty_object():
    (tool,) = to_messages(tools=[{"type": "function", "function": {"name": "f"}}])["tools"]
    assert tool == {"name": "f", "input_schema": {"type": "object", "properties": {}}}


SILENT = {
    "n": 1,
    "stream": False,
    "logprobs": False,
    "seed": None,
    "logit_bias": {},
    "presence_penalty": 0,
    "frequency_penalty": 0.0,
    "service_tier": "auto",
    "store": False,
}


def test_what_says_nothing_is_left_out():
    assert to_messages(**SILENT) == {"messages": [USER]}


UNSAYABLE = {
    "n": 2,
    "logprobs": True,
    "top_logprobs": 3,
    "seed": 1,
    "logit_bias": {"50256": -100},
    "presence_penalty": 0.5,
    "frequency_penalty": 0.5,
    "response_format": {"type": "json_object"},
    "temperature": 1.5,
    "reasoning_effort": "low",
    "service_tier": "priority",
    "functions": [{"name": "f"}],
    "some_new_parameter": 1,
}


def test_all_that_cannot_be_said_is_named_at_once():
    assert refused(to_messages, **UNSAYABLE) == list(UNSAYABLE)


@pytest.mark.parametrize("name", UNSAYABLE)
def test_what_cannot_be_said_may_be_dropped_by_name_and_only_then(name):
    assert refused(to_messages, **{name: UNSAYABLE[name]}) == [name]
    assert to_messages(drop=[name], **{name: UNSAYABLE[name]}) == {"messages": [USER]}


@pytest.mark.parametrize(
    ("message", "name"),
    [
        ({"role": "user", "content": "x", "name": "bob"}, "messages[].name"),
        ({"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}, "messages[].content[].input_audio"),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "h", "detail": "low"}}]},
            "image_url.detail",
        ),
        ({"role": "function", "name": None, "content": "x"}, "messages[].role=function"),
        ({"role": "assistant", "content": "x", "audio": {"id": "a"}}, "messages[].audio"),
        ({"role": "assistant", "tool_calls": [{"type": "custom", "id": "1"}]}, "messages[].tool_calls[].custom"),
    ],
)
def test_what_a_message_cannot_say_is_named(message, name):
    assert refused(to_messages, messages=[USER, message]) == [name]


@pytest.mark.parametrize(
    "chat",
    [
        {"messages": "x"},
        {"messages": ["x"]},
        {"messages": [{}]},
        {"messages": [{"role": "user", "content": [{"text": "x"}]}]},
        {"messages": [{"role": "user", "content": 7}]},
        {"tools": [7]},
        {"tool_choice": "sometimes"},
        {"temperature": "hot"},
        {"stream": True},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png,x"}}]}]},
    ],
)
def test_a_body_that_is_no_request_is_an_error_in_the_input(chat):
    with pytest.raises(InputError):
        to_messages(**chat)


# Messages to chat completions: the request


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        ({"system": "a"}, {"messages": [{"role": "system", "content": "a"}, USER]}),
        ({"system": [text("a")]}, {"messages": [{"role": "system", "content": "a"}, USER]}),
        ({"max_tokens": 5, "temperature": 0.5, "top_p": 0.9}, {"max_tokens": 5, "temperature": 0.5, "top_p": 0.9}),
        ({"stop_sequences": ["x"]}, {"stop": ["x"]}),
        ({"metadata": {"user_id": "u"}}, {"user": "u"}),
        ({"tools": [TOOL]}, {"tools": [CHAT_TOOL]}),
        ({"tool_choice": {"type": "any"}}, {"tool_choice": "required"}),
        (
            {"tool_choice": {"type": "tool", "name": "f", "disable_parallel_tool_use": True}},
            {"tool_choice": {"type": "function", "function": {"name": "f"}}, "parallel_tool_calls": False},
        ),
        (
            {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True},
                }
            },
        ),
        ({"service_tier": "standard_only", "speed": "standard", "thinking": {"type": "disabled"}, "top_k": None}, {}),
    ],
)
def test_messages_parameters_are_said_in_the_other_words(request_, said):
    assert to_chat(**request_) == {"messages": [USER], **said}


def test_tool_use_and_results_become_calls_and_tool_messages():
    use = {"type": "tool_use", "id": "1", "name": "f", "input": {"x": 1}}
    result = {"type": "tool_result", "tool_use_id": "1", "content": [text("one")]}
    turns = [
        USER,
        {"role": "assistant", "content": [text("wait"), use]},
        {"role": "user", "content": [text("so"), result]},
    ]
    assert to_chat(messages=turns)["messages"][1:] == [
        {
            "role": "assistant",
            "content": "wait",
            "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"x":1}'}}],
        },
        {"role": "tool", "tool_call_id": "1", "content": "one"},
        {"role": "user", "content": "so"},
    ]


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"top_k": 5}, "top_k"),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "thinking"),
        ({"stop_sequences": list("abcde")}, "stop_sequences"),
        ({"output_config": {"effort": "low"}}, "output_config.effort"),
        ({"tools": [{"type": "web_search_20260101", "name": "w"}]}, "tools[].web_search_20260101"),
        (
            {"messages": [{"role": "user", "content": [text("x", cache_control={"type": "ephemeral"})]}]},
            "cache_control",
        ),
        ({"messages": [{"role": "user", "content": [{"type": "document"}]}]}, "messages[].content[].document"),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1", "is_error": True}]}
                ]
            },
            "tool_result.is_error",
        ),
        ({"some_new_parameter": 1}, "some_new_parameter"),
    ],
)
def test_what_messages_say_and_chat_cannot_is_named_and_droppable(fields, name):
    assert refused(to_chat, **fields) == [name]
    assert "messages" in to_chat(drop=[name], **fields)


# The answers

MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "m",
    "content": [text("Hi")],
    "stop_reason": "end_turn",
    "usage": {"input_tokens": 3, "output_tokens": 5, "cache_read_input_tokens": 4, "cache_creation_input_tokens": 2},
}


def as_chat(**fields):
    return json.loads(message_to_chat(json.dumps({**MESSAGE, **fields}).encode(), created=7))


def test_a_message_becomes_a_chat_completion():
    assert as_chat() == {
        "id": "msg_1",
        "object": "chat.completion",
        "created": 7,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hi", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 9,
            "completion_tokens": 5,
            "total_tokens": 14,
            "prompt_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 2},
            "completion_tokens_details": {"reasoning_tokens": 0},
        },
    }


@pytest.mark.parametrize(
    ("stop_reason", "finish_reason"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("tool_use", "tool_calls"),
        ("refusal", "stop"),
    ],
)
def test_stop_reasons_become_finish_reasons(stop_reason, finish_reason):
    assert as_chat(stop_reason=stop_reason)["choices"][0]["finish_reason"] == finish_reason


def test_a_refusal_is_said_as_openai_says_it():
    said = as_chat(stop_reason="refusal", content=[], stop_details={"type": "refusal", "category": "bio"})
    assert said["choices"][0]["message"] == {
        "role": "assistant",
        "content": None,
        "refusal": "The model refused (bio).",
    }


def test_tool_use_becomes_tool_calls_with_arguments_as_text():
    use = {"type": "tool_use", "id": "1", "name": "f", "input": {"x": 1}}
    (called,) = as_chat(content=[text("wait"), use])["choices"][0]["message"]["tool_calls"]
    assert called["function"]["name"] == "f"
    assert json.loads(called["function"]["arguments"]) == {"x": 1}


def as_message(message=None, finish="stop", usage=None):
    choice = {"index": 0, "message": message or {"role": "assistant", "content": "Hi"}, "finish_reason": finish}
    return json.loads(
        chat_to_message(json.dumps({"id": "c", "model": "m", "choices": [choice], "usage": usage}).encode())
    )


def test_a_chat_completion_becomes_a_message():
    usage = {"prompt_tokens": 9, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 4}}
    assert as_message(usage=usage) == {
        "id": "c",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [text("Hi")],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 5,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 4,
            "output_tokens": 5,
        },
    }


@pytest.mark.parametrize(
    ("message", "finish", "stop_reason"),
    [
        (None, "length", "max_tokens"),
        (None, "content_filter", "refusal"),
        ({"content": None, "refusal": "no"}, "stop", "refusal"),
        ({"content": None, "tool_calls": [call("f", "{}")]}, "tool_calls", "tool_use"),
        ({"content": None, "tool_calls": [call("f", "{}")]}, "stop", "tool_use"),
    ],
)
def test_finish_reasons_become_stop_reasons(message, finish, stop_reason):
    assert as_message(message, finish)["stop_reason"] == stop_reason


def test_tool_arguments_that_are_no_object_are_kept_as_they_are():
    (use,) = as_message({"content": None, "tool_calls": [call("f", "{oops")]}, "tool_calls")["content"]
    assert use["input"] == {"_unparsed": "{oops"}


@pytest.mark.parametrize("translate", [chat_to_message, lambda body: message_to_chat(body, created=0)])
def test_what_is_no_answer_is_not_translated(translate):
    with pytest.raises(msgspec.DecodeError):
        translate(b'{"error": {}}')


# There and back

names = st.text(string.ascii_lowercase, min_size=1, max_size=8)
words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)
objects = st.dictionaries(
    names, st.integers().filter(lambda n: abs(n) < 2**53) | words | st.booleans() | st.none(), max_size=3
)
tool_turns = st.lists(st.tuples(names, objects, words), max_size=3, unique_by=lambda turn: turn[0])


@st.composite
def conversations(draw):
    """A chat as both formats can say it: alternating turns, each call answered at once."""
    messages = [{"role": "system", "content": draw(words)}] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 3))):
        messages.append({"role": "user", "content": draw(words)})
        used = draw(tool_turns)
        answer = {"role": "assistant", "content": draw(words)}
        if used:
            answer["tool_calls"] = [call(name, msgspec.json.encode(given_).decode()) for name, given_, _ in used]
        messages.append(answer)
        messages += [{"role": "tool", "tool_call_id": f"id-{name}", "content": said} for name, _, said in used]
    return messages


@given(conversations())
def test_a_conversation_survives_the_way_there_and_back(messages):
    assert to_chat(**to_messages(messages=messages))["messages"] == messages


@given(
    st.lists(words, max_size=3),
    st.sampled_from(["end_turn", "max_tokens", "tool_use"]),
    objects,
    *[st.integers(0, 10**6)] * 4,
)
def test_an_answer_survives_the_way_there_and_back(texts, stop_reason, arguments, fresh, out, read, written):
    content = [text("".join(texts))] if texts else []
    if stop_reason == "tool_use":
        content.append({"type": "tool_use", "id": "1", "name": "f", "input": arguments})
    usage = {
        "input_tokens": fresh,
        "output_tokens": out,
        "cache_read_input_tokens": read,
        "cache_creation_input_tokens": written,
    }
    message = {**MESSAGE, "content": content, "stop_reason": stop_reason, "stop_sequence": None, "usage": usage}
    there = message_to_chat(json.dumps(message).encode(), created=0)
    assert json.loads(chat_to_message(there)) == message


@given(st.dictionaries(names, st.integers(1, 5), min_size=1, max_size=4))
def test_no_unknown_parameter_is_ever_dropped_in_silence(unknown):
    known = {"n", "stop", "user", "model", "tools", "store", "seed", "top_p", "metadata", "logprobs", "stream"}
    odd = {f"x_{name}": value for name, value in unknown.items() if name not in known}
    if odd:
        assert refused(to_messages, **odd) == list(odd)
        assert refused(to_chat, **odd) == list(odd)
