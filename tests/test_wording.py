"""What --system, --schema, --template and several -m make of a line."""

import io
import json
from types import SimpleNamespace

import pytest

from farebox.errors import InputError
from farebox_worker.files import read_jobs
from farebox_worker.files.template import Template
from farebox_worker.files.wording import Wording, read_schema, text_or_file

SCHEMA = {"type": "object", "properties": {"label": {"type": "string"}}}


def read(*lines, models=("a:a",), **wording):
    raw = "".join(json.dumps(line) + "\n" for line in lines).encode()
    return list(
        read_jobs(
            "in.jsonl", resolve=lambda name, _: SimpleNamespace(model_ref=name), models=models,
            wording=Wording(**wording), opener=lambda: io.BytesIO(raw),
        )
    )  # fmt: skip


def body(line, **wording):
    (found,) = read(line, **wording)
    assert found.error is None
    return json.loads(found.job.body)


def messages_line(**members):
    return {"custom_id": "a", "method": "POST", "url": "/v1/messages",
            "body": {"messages": [{"role": "user", "content": "x"}], "max_tokens": 5, **members}}  # fmt: skip


def test_a_system_message_goes_before_lines_that_have_none():
    asked = body({"prompt": "x"}, system='Be "brief"')
    assert asked["messages"] == [{"role": "system", "content": 'Be "brief"'}, {"role": "user", "content": "x"}]
    assert body(messages_line(), system="S")["system"] == "S"


@pytest.mark.parametrize("role", ["system", "developer"])
def test_a_line_keeps_its_own_system_message(role):
    own = [{"role": role, "content": "mine"}, {"role": "user", "content": "x"}]
    assert body({"messages": own}, system="S")["messages"] == own
    assert body(messages_line(system="mine"), system="S")["system"] == "mine"


@pytest.mark.parametrize(("url", "name"), [("/v1/responses", "text"), ("/v1/messages", "output_config")])
def test_a_schema_joins_what_a_line_says_of_its_answer_but_for_its_own_format(url, name):
    asked = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 5} if name != "text" else {"input": "x"}

    def of(said):
        line = {"custom_id": "a", "method": "POST", "url": url, "body": asked | {name: said}}
        return body(line, schema=SCHEMA)[name]

    joined = of({"verbosity": "low"})
    assert (joined["verbosity"], joined["format"]["type"]) == ("low", "json_schema")
    for own in ({"verbosity": "low", "format": {"type": "text"}}, {"format": None}):
        assert of(own) == own


def test_a_schema_is_asked_for_in_the_words_of_each_api():
    closed = SCHEMA | {"required": ["label"], "additionalProperties": False}
    chat = body({"prompt": "x"}, schema=SCHEMA, schema_name="my label")
    assert chat["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "my_label", "schema": closed, "strict": True},
    }
    assert body(messages_line(), schema=SCHEMA)["output_config"]["format"]["schema"] == closed
    own = {"type": "json_object"}
    assert body({"prompt": "x", "response_format": own}, schema=SCHEMA)["response_format"] == own


def test_rows_of_json_fill_the_template_and_lines_that_ask_by_themselves_do_not():
    row, plain = read(
        {"q": "how", "n": 2, "model": "data"}, {"prompt": "as it is"}, template=Template("{q} {n} {model}")
    )
    assert json.loads(row.job.body) == {"messages": [{"role": "user", "content": "how 2 data"}]}
    assert json.loads(plain.job.body)["messages"][0]["content"] == "as it is"
    (bad,) = read({"other": 1}, template=Template("{q}"))
    assert bad.error == "no field 'q': there is other"


def test_each_line_is_asked_of_each_model_under_a_name_of_its_own():
    lines = read({"custom_id": "x", "prompt": "1"}, {"prompt": "2"}, {"prompt": ""}, models=("a:a", "b:b"))
    assert [(line.number, line.custom_id, line.job and line.job.model_ref) for line in lines] == [
        (1, "x@a:a", "a:a"), (1, "x@b:b", "b:b"), (2, "line-2@a:a", "a:a"), (2, "line-2@b:b", "b:b"),
        (3, "line-3", None),
    ]  # fmt: skip
    assert lines[0].job.body == lines[1].job.body


def test_a_model_named_twice_is_refused():
    with pytest.raises(InputError, match="names a:a twice"):
        read({"prompt": "1"}, models=("a:a", "a:a"))


def test_a_text_may_stand_in_a_file(tmp_path):
    (tmp_path / "t").write_text("\ufeffhello\n")
    assert text_or_file(f"@{tmp_path}/t", "--system") == "hello"
    assert text_or_file("a@b", "--system") == "a@b"
    with pytest.raises(InputError, match="--system @/no: cannot read it"):
        text_or_file("@/no", "--system")


@pytest.mark.parametrize("content", ["", "[]", '{"type": "array"}', "{"])
def test_a_schema_that_is_none_is_refused(tmp_path, content):
    (tmp_path / "s.json").write_text(content)
    with pytest.raises(InputError, match="--schema"):
        read_schema(tmp_path / "s.json")
