"""Answers are judged by the schema they were asked in: what fits, what does not, and what is not judged."""

import json

import pytest

from farebox.errors import InputError
from farebox.records import Result
from farebox_worker.files.fit import Fit

SCHEMA = {
    "type": "object",
    "properties": {"label": {"enum": ["yes", "no"]}, "sure": {"$ref": "#/$defs/share"}},
    "required": ["label"],
    "$defs": {"share": {"type": "number", "maximum": 1}},
}


def answer(text, finish="answered", outcome="succeeded"):
    body = json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]}).encode()
    return Result(1, "a", "p:m", outcome, finish=finish, status_code=200, body=body)


def flaw(text, **fields):
    return Fit(SCHEMA).flaw(answer(text, **fields))


@pytest.mark.parametrize(
    "text", ['{"label": "yes"}', '```json\n{"label": "no", "sure": 0.5}\n```', ' {"label":"yes"}\n']
)
def test_an_answer_of_the_form_that_was_asked_for_fits(text):
    assert flaw(text) == ""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"label": "perhaps"}', 'label: "perhaps" is not one of "yes" or "no"'),
        ("{}", '"label" is a required property'),
        ('{"label": "yes", "sure": 2}', "sure: 2 is greater than the maximum of 1"),
        ("Yes, surely.", "no JSON: "),
        ("", "no JSON: "),
        ("[" * 100_000, "no JSON: "),
        ('{"label": "yes"} {"label": "no"}', "no JSON: "),
    ],
)
def test_a_flaw_is_said_in_one_short_line_with_its_place(text, said):
    assert flaw(text).startswith(said)
    assert "\n" not in flaw(text)
    assert len(flaw(text)) < 400


def test_a_long_or_odd_value_does_not_fill_the_line():
    assert len(flaw(json.dumps({"label": "x\n" * 10_000}))) < 400
    assert flaw('{"label": ' + "9" * 400 + "}").startswith("label: ")
    assert flaw('{"label": "\\ud800"}')


def test_an_answer_that_was_cut_off_says_so():
    assert flaw('{"label": "ye', finish="truncated") == "no JSON: cut off at its output cap"


def test_failures_and_calls_of_tools_are_no_answers_to_be_judged():
    assert flaw("", outcome="failed", finish="") == ""
    assert flaw("", finish="tool_call") == ""


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"type": "object", "properties": {"a": {"type": "strin"}}}, "properties/a/type: "),
        ({"type": "object", "$ref": "https://example.com/schema.json"}, "example.com"),
    ],
)
def test_what_is_no_schema_or_stands_elsewhere_is_refused_and_nothing_is_fetched(schema, said):
    with pytest.raises(InputError, match="it is no JSON schema") as refused:
        Fit(schema)
    assert said in str(refused.value)
