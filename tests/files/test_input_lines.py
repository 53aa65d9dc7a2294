"""What `farebox run` and `submit` take as a line, and what they say about a line they refuse."""

import io
import json
import tracemalloc
from itertools import islice
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farebox.errors import ConfigError, InputError, ModelNotFoundError
from farebox_worker.files import bad_line_report, read_jobs, summarize
from farebox_worker.files.members import MAX_LINE_BYTES
from farebox_worker.files.table import NameTable

KNOWN = {"echo:echo", "openai:gpt-5-mini"}
MESSAGES = '[{"role":"user","content":"hi"}]'


def resolve(name, provider):
    ref = f"{provider}:{name}" if provider else name
    if ref not in KNOWN:
        raise ModelNotFoundError(ref, ["echo:echo"])
    return SimpleNamespace(model_ref=ref)


def read(content, **options):
    raw = content if isinstance(content, bytes) else content.encode()
    options.setdefault("resolve", resolve)
    return list(read_jobs("in.jsonl", opener=lambda: io.BytesIO(raw), **options))


def only(content, **options):
    (line,) = read(content, **options)
    return line


def good(content, **options):
    line = only(content, **options)
    assert line.error is None
    return line.job


def bad(content, **options):
    line = only(content, **options)
    assert line.job is None
    return line.error


def batch(body=f'{{"model":"echo:echo","messages":{MESSAGES}}}', url="/v1/chat/completions", **members):
    extra = "".join(f',"{name}":{value}' for name, value in members.items())
    return f'{{"custom_id":"a","method":"POST","url":"{url}","body":{body}{extra}}}'


def short(members):
    return f'{{"custom_id":"a","model":"echo:echo","messages":{MESSAGES},{members}}}'


@pytest.mark.parametrize(
    ("url", "api"),
    [
        ("/v1/chat/completions", "chat"),
        ("/v1/messages", "messages"),
        ("/chat/completions", "chat"),
        ("https://api.openai.com/v1/chat/completions", "chat"),
        ("https://my.host:8080/openai/v1/chat/completions/", "chat"),
        ("https://api.anthropic.com/v1/messages", "messages"),
    ],
)
def test_a_batch_line_keeps_its_body_and_its_url_says_the_api(url, api):
    job = good(batch(url=url))
    assert (job.custom_id, job.model_ref, job.api) == ("a", "echo:echo", api)
    assert job.body == f'{{"messages":{MESSAGES}}}'.encode()


@pytest.mark.parametrize("url", ["/v1/responses", "/v1/embeddings", "https://api.openai.com/v1/embeddings"])
@pytest.mark.parametrize("given", ['"hi"', '["hi"]', "[1,2]", "[[1],[2]]", '[{"role":"user","content":"hi"}]'])
def test_a_batch_line_of_openais_newer_apis_keeps_its_input(url, given):
    job = good(batch(f'{{"model":"echo:echo","input":{given}}}', url=url))
    assert (job.api, job.body) == (url.rpartition("/")[2], f'{{"input":{given}}}'.encode())


@pytest.mark.parametrize("stored", ["prompt", "conversation", "previous_response_id"])
def test_a_response_may_do_without_input_when_something_stored_is_named(stored):
    body = f'{{"model":"echo:echo","{stored}":"x"}}'
    assert good(batch(body, url="/v1/responses")).api == "responses"
    assert "no input" in bad(batch(body, url="/v1/embeddings"))


def test_a_line_of_anthropics_batch_api_is_a_messages_job():
    job = good(f'{{"custom_id":"a","params":{{"model":"echo:echo","max_tokens":9,"messages":{MESSAGES}}}}}')
    assert (job.custom_id, job.model_ref, job.api) == ("a", "echo:echo", "messages")
    assert job.body == f'{{"max_tokens":9,"messages":{MESSAGES}}}'.encode()


def test_a_batch_line_written_with_escaped_slashes_is_the_same_line():
    assert good(batch(url=r"\/v1\/messages")).api == "messages"


def test_a_short_line_puts_all_but_names_into_the_body():
    job = good(short('"temperature":0.30,"max_tokens":5'))
    assert job.body == f'{{"messages":{MESSAGES},"temperature":0.30,"max_tokens":5}}'.encode()
    assert job.api == "chat"


def test_a_prompt_becomes_one_user_message_in_its_place():
    job = good('{"top_p":1,"prompt":"say \\u00e9 \\"é\\"","model":"echo:echo","n":2}')
    assert job.body == '{"top_p":1,"messages":[{"role":"user","content":"say \\u00e9 \\"é\\""}],"n":2}'.encode()


def test_values_in_a_body_stay_as_they_were_written():
    body = '"z":1e400,"a":123456789012345678901234567890,"m":-0.0,"x":{"b":1E2,"a":[1.10, 2]}'
    assert good(short(body)).body == f'{{"messages":{MESSAGES},{body}}}'.encode()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
NAMED = {
    "custom_id",
    "model",
    "messages",
    "prompt",
    "farebox",
    "body",
    "params",
    "url",
    "method",
    "stream",
    "service_tier",
} | {"n"}


@given(
    st.dictionaries(st.text().filter(lambda name: name not in NAMED and "max_" not in name), json_values), st.booleans()
)
def test_any_body_reaches_the_job_with_its_members_in_order(extra, ascii_only):
    body = {"messages": [{"role": "user", "content": "hi"}], **extra}
    text = json.dumps({"model": "echo:echo", **body}, ensure_ascii=ascii_only)
    assert json.dumps(json.loads(good(text).body)) == json.dumps(body)


def test_of_two_members_of_one_name_only_the_one_that_was_judged_is_sent():
    assert good(short('"max_tokens":0,"max_tokens":7')).body.count(b"max_tokens") == 1


def test_a_missing_custom_id_is_the_line_number_and_blank_lines_count():
    prompt = '{"prompt":"x","model":"echo:echo"}'
    lines = read(f"\n{prompt}\r\n   \n{prompt}")
    assert [(line.number, line.custom_id, line.job.custom_id) for line in lines] == [
        (2, "line-2", "line-2"),
        (4, "line-4", "line-4"),
    ]


def test_a_byte_order_mark_is_passed_over():
    assert good(b"\xef\xbb\xbf" + batch().encode()).custom_id == "a"
    assert read(b"\xef\xbb\xbf") == []


def test_lines_are_split_at_newlines_only():
    separators = "\u2028\u2029\x85"
    job = good(json.dumps({"prompt": f"a{separators}b", "model": "echo:echo"}, ensure_ascii=False) + "\n")
    assert json.loads(job.body)["messages"][0]["content"] == f"a{separators}b"


def test_the_flags_shape_every_job():
    job = good(
        '{"prompt":"x","model":"gpt-5-mini","farebox":{"tags":["night","own"]}}',
        provider="openai",
        max_tokens=9,
        tier="flex",
        tags=("team", "night"),
        drop_params=("seed",),
    )
    assert job.model_ref == "openai:gpt-5-mini"
    assert (job.max_tokens, job.tier, job.tags, job.drop_params) == (9, "flex", ("team", "night", "own"), ("seed",))
    assert b"farebox" not in job.body


def test_the_model_flag_overrides_and_stands_in():
    lines = read('{"prompt":"x","model":"nobody:no"}\n{"prompt":"x"}\n{"prompt":"x","model":7}', models=["echo:echo"])
    assert [line.job.model_ref for line in lines] == ["echo:echo"] * 3
    assert all(b"model" not in line.job.body for line in lines)


@pytest.mark.parametrize(
    ("value", "flag", "tier"),
    [
        ('"flex"', "standard", "flex"),
        ('"default"', "flex", "standard"),
        ('"auto"', "flex", "flex"),
        ("null", "flex", "flex"),
    ],
)
def test_the_service_tier_of_a_body_chooses_its_tier(value, flag, tier):
    job = good(short(f'"service_tier":{value}'), tier=flag)
    assert job.tier == tier
    assert b"service_tier" in job.body


def test_null_counts_as_not_said():
    assert good(short('"max_tokens":null,"n":null,"stream":null'))
    assert good(short('"stream":false'))


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b"\xff\xfe{}", "not UTF-8 (byte 1)"),
        (b'{"prompt":"a\xff","model":"echo:echo"}', "not UTF-8 (byte 13)"),
        ("{prompt}", "not JSON"),
        ('{"prompt":"x"', "ends too early"),
        (r'{"prompt":"\ud83d","model":"echo:echo"}', "half a character"),
        (r'{"prompt":"x \udc00 y","model":"echo:echo"}', "half a character"),
        (r'{"messages":[{"role":"user","content":"\ud83d and on"}]}', "half a character"),
        ('{"prompt":NaN}', "not JSON"),
        ('{"prompt":"x"} {}', "not JSON"),
        ('["prompt"]', "not a JSON object"),
        ('"prompt"', "not a JSON object"),
        ('{"prompt":' + "[" * 200_000 + "]" * 200_000 + "}", "nested too deeply"),
        ('{"custom_id":7,"prompt":"x"}', "custom_id must be a text"),
        ('{"custom_id":null,"prompt":"x"}', "custom_id must be a text"),
        ('{"custom_id":"","prompt":"x"}', "1 to 512"),
        (json.dumps({"custom_id": "c" * 513, "prompt": "x"}), "has 513 characters"),
        (batch(url="/v1/completions"), "unknown url '/v1/completions': supported are /v1/chat/completions"),
        (batch(url="/v1/images/generations"), "unknown url"),
        (batch(url="/v1/threads/t/messages"), "unknown url"),
        (batch(url="/v1/embeddings"), "no input"),
        (batch(url="/v1/responses"), "no input"),
        ('{"model":"echo:echo","input":"x"}', 'a line with "input" needs a "body" and the "url"'),
        ('{"url":"/v1/embeddings","body":{"model":"echo:echo","input":[]}}', "input must be"),
        ('{"url":"/v1/responses","body":{"model":"echo:echo","input":7}}', "input must be"),
        ('{"custom_id":"a","params":{"model":"echo:echo"},"prompt":"x"}', "'prompt' stands beside the params"),
        ('{"custom_id":"a","params":7}', 'no params: "params" must hold'),
        ('{"method":"POST","body":{}}', "no url"),
        ('{"url":"/v1/messages"}', "no body"),
        (batch(body="[]"), "no body"),
        (batch().replace("POST", "GET"), "unknown method 'GET'"),
        (batch(model='"echo:echo"'), "'model' stands beside the body"),
        (batch(body='{"farebox":{}}'), '"farebox" stands inside the body'),
        ('{"prompt":"x"}', "no model"),
        ('{"prompt":"x","model":7}', "model must be a text"),
        ('{"prompt":"x","model":"echo:ecko"}', "Did you mean echo:echo?"),
        ('{"model":"echo:echo"}', "no messages"),
        ('{"model":"echo:echo","messages":[ ]}', "messages must be a list"),
        ('{"model":"echo:echo","messages":"hi"}', "messages must be a list"),
        ('{"model":"echo:echo","messages":["hi"]}', "messages must be a list"),
        ('{"model":"echo:echo","prompt":["hi"]}', "prompt must be a text"),
        ('{"model":"echo:echo","prompt":" "}', "the prompt is empty"),
        (short('"prompt":"x"'), "both prompt and messages"),
        (short('"stream":true'), "stream is not false"),
        (short('"stream":1'), "stream is not false"),
        (short('"max_tokens":0'), "max_tokens must be a whole number of at least 1, not 0"),
        (short('"max_tokens":-5'), "max_tokens must be"),
        (short('"max_tokens":"9"'), "max_tokens must be"),
        (short('"max_tokens":1.5'), "max_tokens must be"),
        (short('"max_tokens":true'), "max_tokens must be"),
        (short('"max_completion_tokens":1e3'), "max_completion_tokens must be"),
        (short('"n":0'), "n must be"),
        (short('"farebox":{"budget":1}'), "budget"),
        (short('"farebox":{"tags":"one"}'), '"farebox" takes'),
        (short('"farebox":{"tags":[""]}'), "tag ''"),
        (short('"farebox":{"tags":["a,b"]}'), "no commas"),
        (short('"farebox":null'), '"farebox" takes'),
    ],
)
def test_a_bad_line_says_what_is_wrong(line, says):
    assert says in bad(line)


def test_a_duplicate_custom_id_names_the_line_that_has_it():
    lines = read(f"{batch()}\n\n{batch()}\n")
    assert lines[0].job
    assert (lines[1].number, lines[1].custom_id, lines[1].job) == (3, "a", None)
    assert "'a' stands on line 1 already" in lines[1].error


def test_a_line_number_used_as_an_id_collides_too():
    lines = read('{"custom_id":"line-2","prompt":"x","model":"echo:echo"}\n{"prompt":"x","model":"echo:echo"}')
    assert "'line-2' stands on line 1 already" in lines[1].error


def test_a_bad_line_keeps_its_id_so_that_repairing_it_later_gives_it_back():
    lines = read(f"{short(chr(34) + 'n' + chr(34) + ':0')}\n{batch()}")
    assert [bool(line.error) for line in lines] == [True, True]
    assert "line 1" in lines[1].error


def test_what_check_refuses_is_a_bad_line_and_other_errors_are_not_hidden():
    def no_price(job):
        raise InputError(f"no price for {job.model_ref}")

    def no_key(job):
        raise ConfigError(f"no key for {job.model_ref}")

    assert bad(batch(), check=no_price) == "no price for echo:echo"
    with pytest.raises(ConfigError):
        read(batch(), check=no_key)
    with pytest.raises(ZeroDivisionError):
        read(batch(), check=lambda job: 1 / 0)


def test_a_wrong_model_is_looked_up_once():
    asked = []

    def never(name, provider):
        asked.append((name, provider))
        raise InputError("which provider?")

    lines = read('{"prompt":"x","model":"m"}\n' * 50, resolve=never, provider="p")
    assert {line.error for line in lines} == {"which provider?"}
    assert asked == [("m", "p")]


def padded(size):
    empty = '{"prompt":"","model":"echo:echo"}'
    return empty.replace('""', f'"{"x" * (size - len(empty))}"').encode()


@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"", b"\n"])
def test_a_line_of_8_mb_is_good_and_one_byte_more_is_bad(bom, end):
    most = MAX_LINE_BYTES - len(bom)
    assert only(bom + padded(most) + end).job
    lines = read(bom + padded(MAX_LINE_BYTES + 1) + b"\n" + batch().encode() + end)
    assert ["larger than 8 MB" in (line.error or "") for line in lines] == [True, False]
    assert [line.number for line in lines] == [1, 2]
    assert lines[1].job.custom_id == "a"


def test_a_huge_line_and_many_lines_are_read_in_constant_memory(tmp_path):
    path = tmp_path / "in.jsonl"
    with path.open("wb") as file:
        for _ in range(60):
            file.write(b"x" * 1_000_000)
        file.write(b"\n")
        for number in range(20_000):
            file.write(b'{"custom_id":"%d","prompt":"%s","model":"echo:echo"}\n' % (number, b"y" * 900))
    tracemalloc.start()
    try:
        summary = summarize(read_jobs(path, resolve=resolve))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (summary.total, summary.good) == (20_001, 20_000)
    assert peak < 3 * MAX_LINE_BYTES  # the 8 MB looked at, and a copy of it; not 60 MB


def test_lines_come_before_the_file_is_read_to_its_end():
    class Endless(io.RawIOBase):
        def readable(self):
            return True

        def readinto(self, buffer):
            text = b'{"prompt":"x","model":"echo:echo"}\n'
            buffer[: len(text)] = text
            return len(text)

    lines = read_jobs("-", resolve=resolve, opener=lambda: io.BufferedReader(Endless()))
    assert [line.number for line in islice(lines, 3)] == [1, 2, 3]
    lines.close()


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir()])
def test_a_file_that_cannot_be_read_is_an_input_error_that_names_it(tmp_path, make):
    path = tmp_path / "in.jsonl"
    make(path)
    with pytest.raises(InputError, match=r"in\.jsonl"):
        next(read_jobs(path, resolve=resolve))


def test_a_summary_counts_by_model_and_keeps_the_first_bad_lines():
    content = '{"prompt":"x","model":"echo:echo"}\n' * 3 + '{"prompt":"x","model":"openai:gpt-5-mini"}\n' + "no\n" * 30
    summary = summarize(read(content))
    assert (summary.total, summary.good, summary.bad) == (34, 4, 30)
    assert [line.number for line in summary.first_bad] == list(range(5, 25))
    assert summary.models == {"echo:echo": 3, "openai:gpt-5-mini": 1}


def test_the_report_names_file_line_and_reason_and_counts_the_rest():
    report = bad_line_report("in.jsonl", summarize(read("no\n" * 30)), shown=2).splitlines()
    assert report[0] == "in.jsonl: 30 of 30 lines are bad"
    assert report[1].startswith("in.jsonl:1: not JSON")
    assert report[2].startswith("in.jsonl:2: not JSON")
    assert report[3:] == ["and 28 more"]
    assert bad_line_report("in.jsonl", summarize(read(batch()))) == ""


def test_a_line_that_several_models_are_asked_is_one_line_of_the_report():
    summary = summarize(read('{"prompt":"x"}\n{"prompt":"y"}\nno\n', models=["echo:echo", "nobody:no", "no:body"]))
    assert (summary.lines, summary.bad_lines, summary.good) == (3, 3, 2)
    assert bad_line_report("in.jsonl", summary).startswith("in.jsonl: 3 of 3 lines are bad\nin.jsonl:1: ")


def test_many_lines_with_one_fault_are_one_line_of_the_report():
    report = bad_line_report("in.jsonl", summarize(read("no\n" * 300))).splitlines()
    assert report[1].endswith("(and 299 more like it, to line 300)")
    assert len(report) == 2
    mixed = bad_line_report("in.jsonl", summarize(read("no\n" * 30 + "{}\n" * 5 + "no\n"))).splitlines()
    assert mixed[1].endswith("(and 29 more like it, to line 30)")
    assert mixed[2:] == ["and 6 more"]


@given(st.lists(st.text(max_size=3)))
def test_the_name_table_behaves_like_a_dict_whose_first_entry_stays(names):
    table, expected = NameTable(), {}
    for number, name in enumerate(names, start=1):
        assert table.add(name, number) == expected.get(name, 0)
        expected.setdefault(name, number)
    assert {name: table.get(name) for name in expected} == expected
    assert table.get("never added") == 0


def test_the_name_table_grows_and_forgets_nobody():
    table = NameTable()
    assert not any(table.add(f"n{number}", number + 1) for number in range(20_000))
    assert all(table.get(f"n{number}") == number + 1 for number in range(20_000))
    assert len(table) == 20_000
