"""A template is filled with the fields of a row, and understands nothing else."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from farebox.errors import InputError
from farebox_worker.files.template import Template


def fill(text, /, **fields):
    return Template(text).fill({name: msgspec.Raw(msgspec.json.encode(value)) for name, value in fields.items()})


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("Classify: {text}", "Classify: a {b} c"),
        ("{text}{text}", "a {b} ca {b} c"),
        ('{{"label": "{text}"}}', '{"label": "a {b} c"}'),
        ("{{{text}}}", "{a {b} c}"),
        ("{{text}}", "{text}"),
        ("{ text }", "a {b} c"),
        ("no place", "no place"),
        ("", ""),
    ],
)
def test_fields_are_put_in_once_and_doubled_braces_are_braces(text, filled):
    assert fill(text, text="a {b} c") == filled


@pytest.mark.parametrize("value", [7, 1.5, True, ["a", 1], {"a": "b"}])
def test_what_is_no_text_goes_in_as_json(value):
    assert fill("{it}", it=value) == msgspec.json.encode(value).decode()


@pytest.mark.parametrize(
    "name", ["text.__class__", "text[0]", "text!r", "text:>10", "0", "text.upper()", "__class__", "Text"]
)
def test_nothing_but_a_fields_own_name_leads_anywhere(name):
    with pytest.raises(InputError, match="no field"):
        fill(f"{{{name}}}", text="secret")


def test_a_field_that_is_not_there_or_null_is_named_with_those_that_are():
    with pytest.raises(InputError, match="no field 'txet': there are text, id"):
        fill("{txet}", text="a", id=1)
    with pytest.raises(InputError, match="the field 'text' is null"):
        fill("{text}", text=None)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a {text", r"single '\{' at character 3"),
        ("a } b", r"single '\}' at character 3"),
        ("{a{b}", r"single '\{' at character 1"),
        ("{}", "empty {} at character 1"),
        ("{ }", "empty {}"),
    ],
)
def test_braces_that_do_not_match_are_told_by_their_place(text, says):
    with pytest.raises(InputError, match=says):
        Template(text)


@given(st.text())
def test_whatever_stands_in_a_field_comes_through_whole(text):
    assert fill("<{x}>", x=text) == f"<{text}>"


@given(st.text())
def test_any_text_with_its_braces_doubled_is_itself(text):
    assert fill(text.replace("{", "{{").replace("}", "}}")) == text
