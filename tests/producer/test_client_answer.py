"""What is read out of an answer, and what is asked so that it can be read as a type."""

import dataclasses
import json
from typing import TypedDict

import msgspec
import pytest
from tests.producer.stand_in import chat

import farebox
from farebox.answer import answer_of
from farebox.records import Result
from farebox.request import Request, job_of, request_of
from farebox.schema import asked_as

MODEL = "openai:gpt-5-mini"


class Point(msgspec.Struct):
    x: int
    y: int = 0


class Tree(msgspec.Struct):
    name: str
    kids: list["Tree"] = []


class Line(msgspec.Struct):
    ends: list[Point]
    name: str | None = None


@dataclasses.dataclass
class Pair:
    x: int
    y: int


class Named(TypedDict):
    x: int
    y: int


def answer(body, **fields):
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    given = {"finish": "answered", "status_code": 200, "body": body, "attempts": 1, "cost_nusd": 3}
    return answer_of("b", Result(1, "a", MODEL, "succeeded", **given | fields))


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"choices": [{"message": {"content": "one"}}, {"message": {"content": "two"}}]}, "one"),
        ({"choices": [{"message": {"content": [{"type": "text", "text": "o"}, {"type": "text", "text": "ne"}]}}]},
         "one"),
        ({"choices": [{"message": {"content": None, "tool_calls": []}}]}, ""),
        ({"content": [{"type": "thinking", "text": "hm"}, {"type": "text", "text": "one"}]}, "one"),
        ({"output": [{"type": "reasoning"}, {"type": "message", "content": [{"type": "output_text", "text": "one"}]}]},
         "one"),
        ({"something": "else"}, ""),
        (b"not JSON", ""),
    ],
)  # fmt: skip
def test_the_text_is_found_in_every_wire(body, text):
    assert answer(body).text == text


@pytest.mark.parametrize(
    "body",
    [
        {"choices": [{"message": {"tool_calls": [
            {"id": "1", "type": "function", "function": {"name": "look", "arguments": '{"at":1}'}}]}}]},
        {"content": [{"type": "text", "text": "I look"},
                     {"type": "tool_use", "id": "1", "name": "look", "input": {"at": 1}}]},
        {"output": [{"type": "function_call", "id": "x", "call_id": "1", "name": "look", "arguments": '{"at":1}'}]},
    ],
    ids=["chat", "messages", "responses"],
)  # fmt: skip
def test_tool_calls_are_found_in_every_wire(body):
    (call,) = answer(body).tool_calls
    assert (call.id, call.name, json.loads(call.arguments)) == ("1", "look", {"at": 1})


def test_raw_is_what_the_provider_sent():
    assert answer(b'{"x": 1.10}').raw == b'{"x": 1.10}'
    assert answer(b'{"x": 1.5}').json() == {"x": 1.5}
    with pytest.raises(farebox.ReplyInvalidError):
        answer(b"<html>").json()


@pytest.mark.parametrize("text", ['{"x":1,"y":2}', '```json\n{"x":1,"y":2}\n```', ' ```\n{"x":1,"y":2}```\n'])
@pytest.mark.parametrize(("kind", "read"), [(Point, Point(1, 2)), (Pair, Pair(1, 2)), (Named, {"x": 1, "y": 2})])
def test_an_answer_is_read_as_a_type(kind, read, text):
    assert answer(chat(text)).parse(kind) == read


def test_an_answer_that_does_not_fit_keeps_the_text_and_the_cost():
    with pytest.raises(farebox.ReplyInvalidError, match="Expected `int`") as caught:
        answer(chat('{"x":"one"}'), cost_nusd=7_000_000).parse(Point)
    assert (caught.value.text, caught.value.cost_usd, caught.value.job_id) == ('{"x":"one"}', 0.007, "a")
    assert caught.value.raw == chat('{"x":"one"}')
    with pytest.raises(farebox.ReplyInvalidError, match="max_tokens"):
        answer(chat('{"x":'), finish="truncated").parse(Point)


@pytest.mark.parametrize(
    ("body", "vectors"),
    [
        ({"data": [{"index": 0, "embedding": [0.5, -1]}, {"index": 1, "embedding": [0, 2]}]}, [[0.5, -1], [0, 2]]),
        ({"data": [{"index": 0, "embedding": "AAAAPwAAgL8="}]}, [[0.5, -1]]),
        ({"data": [{"index": 0, "embedding": "AAAA"}]}, []),
        ({"data": [{"index": 0, "embedding": "é"}]}, []),
        ({"choices": []}, []),
        (b"not JSON", []),
    ],
)
def test_vectors_are_read_as_numbers_however_they_were_sent(body, vectors):
    assert answer(body).embeddings == vectors


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        ({"api": "responses", "prompt": "Hi"}, {"input": "Hi"}),
        ({"api": "responses", "body": {"input": "Hi", "n": 1}}, {"input": "Hi", "n": 1}),
        ({"api": "responses", "messages": [{"role": "user", "content": "Hi"}]},
         {"input": [{"role": "user", "content": "Hi"}]}),
        ({"api": "embeddings", "prompt": "Hi"}, {"input": "Hi"}),
        ({"api": "embeddings", "body": {"input": [[1, 2], [3]]}}, {"input": [[1, 2], [3]]}),
    ],
)  # fmt: skip
def test_what_is_asked_bears_the_name_that_its_api_has_for_it(given, asked):
    assert json.loads(job_of(Request(model=MODEL, **given), "a").body) == asked


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"body": {"input": "Hi"}}, 'api="responses"'),
        ({"api": "embeddings", "messages": [{}]}, "embeddings take no messages"),
        ({"api": "embeddings"}, "give input"),
        ({"api": "embeddings", "body": {"input": ""}}, "input must be"),
        ({"api": "responses", "body": {"input": 7}}, "input must be"),
        ({"api": "responses", "prompt": "Hi", "body": {"input": "Ho"}}, "one of them"),
        ({"api": "responses", "prompt": "Hi", "body": {"max_output_tokens": 0}}, "max_output_tokens"),
        ({"api": "embeddings", "prompt": "Hi", "response_schema": Point}, "no schema"),
    ],
)
def test_what_an_api_has_no_words_for_is_refused(given, said):
    with pytest.raises(farebox.InputError, match=said):
        job_of(Request(model=MODEL, **given), "a")


def test_a_response_is_asked_for_a_type_beside_what_its_text_says_else():
    request = Request(
        model=MODEL, prompt="Hi", api="responses", response_schema=Point, body={"text": {"verbosity": "low"}}
    )
    text = json.loads(job_of(request, "a").body)["text"]
    assert text["verbosity"] == "low"
    assert (text["format"]["type"], text["format"]["name"], text["format"]["strict"]) == ("json_schema", "Point", True)
    assert text["format"]["schema"]["required"] == ["x", "y"]


def test_a_job_that_failed_is_no_invalid_reply():
    failed = answer_of("b", Result(1, "a", MODEL, "failed", error_code="x", error_message="y"))
    with pytest.raises(farebox.JobFailedError):
        failed.parse(Point)


def test_a_pydantic_model_is_a_type_too():
    pydantic = pytest.importorskip("pydantic")

    class Spot(pydantic.BaseModel):
        x: int
        y: int = 0

    assert answer(chat('{"x":1}')).parse(Spot) == Spot(x=1)
    with pytest.raises(farebox.ReplyInvalidError, match="x"):
        answer(chat('{"x":"one"}')).parse(Spot)
    asked = asked_as(Spot, "chat")["response_format"]["json_schema"]
    assert asked["schema"]["required"] == ["x", "y"]
    assert Spot.model_json_schema()["required"] == ["x"], "the model's own schema is left alone"


@pytest.mark.parametrize("kind", [Point, Pair, Named])
def test_a_type_is_asked_for_as_strict_modes_want_it(kind):
    asked = asked_as(kind, "chat")["response_format"]
    assert (asked["type"], asked["json_schema"]["strict"]) == ("json_schema", True)
    schema = asked["json_schema"]["schema"]
    assert (schema["type"], schema["required"], schema["additionalProperties"]) == ("object", ["x", "y"], False)
    assert schema["properties"]["y"] == {"type": "integer"}
    assert "$defs" not in schema


def test_types_within_types_are_closed_too():
    schema = asked_as(Line, "messages")["output_config"]["format"]["schema"]
    assert schema["required"] == ["ends", "name"]
    assert schema["$defs"]["Point"]["additionalProperties"] is False
    assert schema["properties"]["ends"]["items"] == {"$ref": "#/$defs/Point"}


def test_a_type_that_refers_to_itself_keeps_its_definition():
    schema = asked_as(Tree, "chat")["response_format"]["json_schema"]["schema"]
    assert schema["type"] == "object"
    assert "Tree" in schema["$defs"]


def test_an_open_dictionary_is_asked_for_without_strictness():
    kind = msgspec.defstruct("Bag", [("things", dict[str, int])])
    assert asked_as(kind, "chat")["response_format"]["json_schema"]["strict"] is False


def test_an_sdk_s_own_message_may_stand_in_a_conversation():
    class Said:
        def model_dump(self, **_):
            return {"role": "assistant", "content": "Hi"}

    job = job_of(Request(model=MODEL, messages=[{"role": "user", "content": "Hi"}, Said()]), "a")
    assert json.loads(job.body)["messages"][1] == {"role": "assistant", "content": "Hi"}


DEFAULTS = Request(model=MODEL, max_tokens=9, tags=("all",))


@pytest.mark.parametrize(
    ("item", "name", "api", "body"),
    [
        ({"prompt": "Hi"}, "line-3", "chat", {"messages": [{"role": "user", "content": "Hi"}]}),
        ({"custom_id": "c", "messages": [{"role": "user", "content": "Hi"}], "n": 2}, "c", "chat",
         {"messages": [{"role": "user", "content": "Hi"}], "n": 2}),
        ({"custom_id": "c", "method": "POST", "url": "/v1/messages", "body": {"messages": [{}], "max_tokens": 4}}, "c",
         "messages", {"messages": [{}], "max_tokens": 4}),
        ({"custom_id": "c", "params": {"messages": [{}], "max_tokens": 4}}, "c", "messages",
         {"messages": [{}], "max_tokens": 4}),
        ({"url": "https://api.openai.com/v1/responses", "body": {"input": "Hi", "store": False}}, "line-3",
         "responses", {"input": "Hi", "store": False}),
        ({"url": "/v1/responses", "body": {"prompt": {"id": "p"}}}, "line-3", "responses", {"prompt": {"id": "p"}}),
        ({"url": "/v1/embeddings", "body": {"input": ["Hi", "Ho"]}}, "line-3", "embeddings", {"input": ["Hi", "Ho"]}),
    ],
)  # fmt: skip
def test_a_dict_is_a_line_of_a_file(item, name, api, body):
    request, job_id = request_of(item, DEFAULTS, 3)
    job = job_of(request, job_id)
    assert (job.custom_id, job.api, json.loads(job.body)) == (name, api, body)
    assert (job.model_ref, job.max_tokens, job.tags) == (MODEL, 9, ("all",))


def test_a_dict_s_own_model_and_tags_are_kept():
    request, _ = request_of({"model": "p:m", "prompt": "Hi", "farebox": {"tags": ["own"]}}, DEFAULTS, 1)
    assert (request.model, request.tags) == ("p:m", ["all", "own"])


@pytest.mark.parametrize(
    ("item", "said"),
    [
        ("text", "dict"),
        ({"custom_id": 5, "prompt": "Hi"}, "texts"),
        ({"url": "/v1/moderations", "body": {}}, "unknown url '/v1/moderations': supported are"),
        ({"body": {}}, "unknown url"),
        ({"params": {"messages": [{}]}, "url": "/v1/messages"}, "'url' stands beside the params"),
        ({"url": "/v1/messages"}, "no body"),
        ({"url": "/v1/messages", "body": {"messages": [{}]}, "prompt": "Hi"}, "stands beside"),
        ({"prompt": "Hi", "farebox": {"tags": "x"}}, "tags"),
    ],
    ids=str,
)
def test_a_dict_that_is_no_line_is_refused(item, said):
    with pytest.raises(farebox.InputError, match=said):
        request_of(item, DEFAULTS, 1)


def test_a_request_is_taken_as_it_is():
    request = Request(model="p:m", prompt="Hi", job_id="own")
    assert request_of(request, DEFAULTS, 1) == (request, "own")
