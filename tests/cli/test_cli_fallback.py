"""`--fallback` and `--spread` as a user meets them; the simulators' bills say what was sent."""

import json
from collections import Counter

import pytest
from tests.cli_support import assert_exactly_once

SECOND = """
[providers.other]
kind = "openai"
base_url = "{url}/v1"
[models."other:m"]
input_usd_per_mtok = 1.0
output_usd_per_mtok = 4.0
"""


@pytest.fixture
def second(desk, simulate):
    """Adds a second simulator to the desk's configuration, after the first was started."""

    def start(*options):
        other = simulate("--model", "m", "--output-usd-per-mtok", 4, *options)
        path = desk.home / "farebox.toml"
        path.write_text(path.read_text() + SECOND.format(url=other.url))
        return other

    return start


def test_when_the_account_is_empty_the_fallback_answers_the_rest(desk, simulate, second):
    first = simulate("--account-empty-after-usd", 0.0005)
    other = second()
    desk.prompts(20)
    flags = ("in.jsonl", "-m", "sim:sim-1", "--fallback", "other:m", "--budget", 1)
    ended = desk.run("run", *flags, "-o", "out.jsonl", "--concurrency", 2, "--json")
    assert ended.code == 0, ended
    lines = desk.out()
    assert_exactly_once(lines, [f"p{n}" for n in range(20)])
    by = Counter((line["farebox"]["model_ref"], line["farebox"].get("fallback_from")) for line in lines)
    assert set(by) == {("sim:sim-1", None), ("other:m", "sim:sim-1")}
    billed = float(first.bill()["cost_usd"]) + float(other.bill()["cost_usd"])
    assert sum(line["farebox"]["cost_nusd"] for line in lines) / 1e9 == pytest.approx(billed)
    assert desk.run("run", *flags[:3], "--budget", 1, "-o", "out.jsonl").code == 0, "fallbacks are no part of a line"


def test_an_estimate_says_the_most_by_the_dearest_and_the_expected_by_the_first(desk, simulate, second):
    simulate()
    second()
    desk.prompts(5)
    alone = desk.run("estimate", "in.jsonl", "-m", "sim:sim-1", "--json").json["total"]
    both = desk.run("estimate", "in.jsonl", "-m", "sim:sim-1", "--fallback", "other:m", "--json").json["total"]
    assert both["worst_nusd"] > alone["worst_nusd"]
    assert both["expected_nusd"] == alone["expected_nusd"]


@pytest.mark.parametrize(
    ("flags", "own", "words"),
    [
        (("-m", "sim:sim-1", "--fallback", "nobody:m"), None, "in.jsonl:1: fallback nobody:m: no provider nobody"),
        (("-m", "sim:sim-1"), ["other:unknown", "other:unknown"], "named twice"),
        (("-m", "sim:sim-1"), ["sim:sim-1"], "named twice"),
        (("-m", "sim:sim-1"), "other:m", '"farebox" takes {"tags": ["…"], "fallbacks": ["…"]} only'),
        (("--spread", "sim:sim-1"), None, "name two or more"),
        (("--spread", "sim:sim-1,other:m", "-m", "sim:sim-1"), None, "leave -m and --fallback out"),
    ],
)
def test_a_wrong_fallback_is_told_before_anything_is_sent(desk, simulate, second, flags, own, words):
    first = simulate()
    second()
    line = {"prompt": "Hi", "max_tokens": 5} | ({"farebox": {"fallbacks": own}} if own else {})
    desk.write("in.jsonl", [json.dumps(line)])
    ended = desk.run("run", "in.jsonl", *flags, "--budget", 1)
    assert ended.code == 2
    assert words in ended.stderr
    assert first.bill()["calls"] == 0


def test_a_pause_is_waited_out_only_as_long_as_the_flag_says(desk, simulate, second):
    first = simulate("--share-429", 1, "--retry-after-s", 2)
    other = second()
    desk.prompts(8)
    flags = ("-m", "sim:sim-1", "--fallback", "other:m", "--fallback-after", 0.5, "--budget", 1)
    ended = desk.run("run", "in.jsonl", *flags, "-o", "out.jsonl")
    assert ended.code == 0, ended
    assert_exactly_once(desk.out(), [f"p{n}" for n in range(8)])
    assert (first.bill()["billed_calls"], other.bill()["billed_calls"]) == (0, 8)


def test_a_file_is_spread_over_equals_and_each_line_is_answered_once(desk, simulate, second):
    first = simulate("--latency-ms", 300)
    other = second()
    desk.prompts(60)
    flags = ("--spread", "sim:sim-1,other:m", "--concurrency", 4, "--budget", 1)
    ended = desk.run("run", "in.jsonl", *flags, "-o", "out.jsonl")
    assert ended.code == 0, ended
    assert_exactly_once(desk.out(), [f"p{n}" for n in range(60)])
    calls = first.bill()["calls"], other.bill()["calls"]
    assert sum(calls) == 60
    assert 0 < calls[0] < calls[1]
