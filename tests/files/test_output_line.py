"""What one output line looks like, whatever the provider sent."""

import json
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farebox.records import VERSION, Result
from farebox_worker.files import output_line
from farebox_worker.files.written import PREFIX, note_of

JOB = "farebox:0123456789abcdef01234567"


def result(outcome="succeeded", **fields):
    return Result(VERSION, "req-1", "openai:gpt-5-mini", outcome, **fields)


def parsed(outcome="succeeded", **fields):
    line = output_line(JOB, result(outcome, **fields))
    assert line.startswith(PREFIX)
    assert line.index(b"\n") == len(line) - 1
    return json.loads(line.decode(), parse_float=Decimal)


def test_an_answer_is_openais_line_with_farebox_beside_it():
    line = output_line(
        JOB,
        result(
            finish="answered",
            status_code=200,
            request_id="req_9",
            body=b'{"id": "c"}',
            attempts=2,
            cost_nusd=1_250_000,
            input_tokens=3,
            output_tokens=4,
            cache_read_tokens=5,
            cache_write_tokens=6,
            latency_ms=812,
            price_version="p7",
        ),
    )
    assert line == (
        b'{"id":"farebox-0123456789abcdef01234567","custom_id":"req-1",'
        b'"response":{"status_code":200,"request_id":"req_9","body":{"id": "c"}},"error":null,'
        b'"farebox":{"job":"farebox:0123456789abcdef01234567","model_ref":"openai:gpt-5-mini","tier":"standard",'
        b'"outcome":"succeeded","finish":"answered","attempts":2,"cost_usd":0.00125,"cost_nusd":1250000,'
        b'"usage":{"input_tokens":3,"output_tokens":4,"cache_read_tokens":5,"cache_write_tokens":6},'
        b'"latency_ms":812,"price_version":"p7"}}\n'
    )


def test_what_is_not_the_rule_is_named_only_when_it_is_so():
    own = parsed(unconfirmed_nusd=7, capped_by_default=True, note="odd")["farebox"]
    assert (own["unconfirmed_nusd"], own["capped_by_default"], own["note"]) == (7, True, "odd")
    assert not {"unconfirmed_nusd", "capped_by_default", "note"} & parsed()["farebox"].keys()


def test_a_refusal_by_the_provider_has_its_body_and_an_error():
    line = parsed(
        "failed",
        status_code=400,
        body=b'{"error":{"code":"bad"}}',
        error_code="bad_request",
        error_message="no such tool",
    )
    assert line["response"] == {"status_code": 400, "request_id": "", "body": {"error": {"code": "bad"}}}
    assert line["error"] == {"code": "bad_request", "message": "no such tool"}


@pytest.mark.parametrize(("outcome", "code"), [("cancelled", "cancelled"), ("failed", "poison")])
def test_a_job_that_was_never_executed_has_an_error_and_no_response(outcome, code):
    line = parsed(outcome, error_code=code, error_message="why")
    assert line["response"] is None
    assert line["error"] == {"code": code, "message": "why"}


def test_an_error_is_never_empty():
    assert parsed("cancelled")["error"] == {"code": "cancelled", "message": "the job was cancelled"}


def test_a_status_without_a_body_is_still_told():
    assert parsed("failed", status_code=502)["response"] == {"status_code": 502, "request_id": "", "body": None}


@pytest.mark.parametrize("body", [b'{"a" : 1e400,\r\n "b":[12345678901234567890123,\n 1.10, "\xe2\x80\xa8\\n"]}\n'])
def test_a_body_written_over_several_lines_becomes_one_and_keeps_its_numbers(body):
    line = output_line(JOB, result(status_code=200, body=body))
    assert b'"body":{"a":1e400,"b":[12345678901234567890123,1.10,"\xe2\x80\xa8\\n"]}' in line
    assert line.count(b"\n") == 1


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"<html>\n502 \x00</html>", "<html>\n502 \x00</html>"),
        (b'{"a":1', '{"a":1'),
        (b'{"a":"x\ny"}', '{"a":"x\ny"}'),
        (b'{"a":"\xff"}', '{"a":"\ufffd"}'),
        (b"[" * 100_000, "[" * 100_000),
        (b'{"a":NaN}', '{"a":NaN}'),
    ],
)
def test_a_body_that_is_not_json_becomes_a_text(body, text):
    assert parsed("failed", status_code=502, body=body)["response"]["body"] == text


@given(st.binary() | st.text().map(str.encode), st.text(), st.text())
def test_whatever_comes_a_line_is_one_line_of_json_that_the_output_file_knows(body, custom_id, message):
    made = Result(VERSION, custom_id, "p:m", "failed", status_code=500, body=body, error_message=message)
    line = output_line(JOB, made)
    assert line.count(b"\n") == 1
    assert json.loads(line.decode())["custom_id"] == custom_id
    note = note_of(line)
    assert note
    assert (note.job, note.outcome, note.cost_nusd) == (JOB, "failed", 0)


@given(st.integers(0, 2**53))
def test_the_cost_in_dollars_is_exact(nusd):
    line = output_line(JOB, result(cost_nusd=nusd))
    cost = json.loads(line, parse_float=Decimal)["farebox"]["cost_usd"]
    assert Decimal(cost) * 10**9 == nusd
    assert b'"cost_usd":%s,' % str(cost).encode() in line or nusd < 1000  # Decimal itself writes 1E-9


def test_the_cost_in_dollars_has_no_exponent_and_no_noise():
    costs = {nusd: output_line(JOB, result(cost_nusd=nusd)) for nusd in (0, 1, 300_000_000, 5_000_000_000)}
    assert b'"cost_usd":0,' in costs[0]
    assert b'"cost_usd":0.000000001,' in costs[1]
    assert b'"cost_usd":0.3,' in costs[300_000_000]
    assert b'"cost_usd":5,' in costs[5_000_000_000]
