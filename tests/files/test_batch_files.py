"""Files made for the vendors' batch APIs run unchanged, whichever urls they name, and cost what the provider bills."""

import json
from pathlib import Path

import pytest
from tests.cli_support import assert_exactly_once
from tests.conftest import server_binary

from farebox.said import said_embeddings, said_text

pytestmark = [pytest.mark.server, pytest.mark.skipif(server_binary() is None, reason="no server to test on")]
HELLO = [{"role": "user", "content": "Hello"}]
PAGE = Path(__file__).parents[2] / "docs/formats.md"


def line(number, url, **body):
    return {"custom_id": f"{url}-{number}", "method": "POST", "url": url, "body": {"model": "sim:sim-1", **body}}


def mixed(count):
    """Lines of every url, and of Anthropic's batch API."""
    for n in range(count):
        yield line(n, "/v1/chat/completions", messages=HELLO, seed=n)
        yield line(n, "/v1/responses", input=f"Hello {n}", max_output_tokens=100)
        yield line(n, "https://api.openai.com/v1/responses", input=HELLO, instructions=f"Be number {n}.")
        yield line(n, "/v1/embeddings", input=[f"Hello {n}", [n + 1]], dimensions=4)
        yield line(n, "/v1/messages", messages=HELLO, max_tokens=50 + n) | {"custom_id": f"m{n}"}
        params = {"model": "claude:sim-1", "max_tokens": 50 + n, "messages": HELLO}
        yield {"custom_id": f"params-{n}", "params": params}


def test_a_file_of_all_urls_runs_and_what_is_spent_is_the_bill(desk, simulate):
    simulated = simulate("--share-500", 0.1, "--share-refused", 0.1)
    lines = list(mixed(20))
    desk.write("in.jsonl", lines)
    ended = desk.run("run", "in.jsonl", "--budget", 5, "-o", "out.jsonl", "--json")
    bill = simulated.bill()
    assert ended.code == 0, ended
    assert ended.json["spent_nusd"] == bill["cost_nusd"] > 0
    assert bill["billed_calls"] == len(lines)
    out = desk.out()
    assert_exactly_once(out, [one["custom_id"] for one in lines])
    kinds = {one["custom_id"]: one["response"]["body"] for one in out}
    assert {body.get("object", body.get("type")) for body in kinds.values()} == {
        "chat.completion", "response", "list", "message",
    }  # fmt: skip
    for custom_id, body in kinds.items():
        raw = json.dumps(body).encode()
        if "embeddings" in custom_id:
            assert [len(vector) for vector in said_embeddings(raw)] == [4, 4]
        else:
            assert said_text(raw) or "refus" in raw.decode()


def test_flex_is_asked_line_by_line_where_an_api_has_it(desk, simulate):
    simulated = simulate()
    config = desk.home / "farebox.toml"
    rates = 'flex_input_usd_per_mtok = 0.5\nflex_output_usd_per_mtok = 1.0\n[models."claude:sim-1"]\n'
    text = config.read_text().replace("[providers.sim]\n", "[providers.sim]\nflex = true\n")
    config.write_text(text.replace('[models."claude:sim-1"]\n', rates))
    desk.write("in.jsonl", [line(1, "/v1/responses", input="Hello", service_tier="flex")])
    ended = desk.run("run", "in.jsonl", "--budget", 5, "-o", "out.jsonl", "--json")
    assert ended.code == 0, ended
    assert ended.json["spent_nusd"] == simulated.bill()["cost_nusd"] > 0
    assert list(simulated.bill()["by_tier"]) == ["flex"]
    desk.write("bad.jsonl", [line(1, "/v1/embeddings", input="Hello")])
    refused = desk.run("run", "bad.jsonl", "--budget", 5, "--tier", "flex")
    assert (refused.code, "embeddings have no tier flex" in refused.stderr) == (2, True)


def test_what_no_provider_can_say_is_refused_by_line_before_anything_is_sent(desk, simulate):
    simulated = simulate()
    claude = {"model": "claude:sim-1"}
    desk.write(
        "in.jsonl",
        [
            line(0, "/v1/chat/completions", messages=HELLO),
            line(1, "/v1/responses", input="Hello", **claude),
            line(2, "/v1/embeddings", input="Hello", **claude),
            line(3, "/v1/completions", prompt="Hello"),
            line(4, "/v1/images/generations", prompt="Hello"),
        ],
    )
    ended = desk.run("run", "in.jsonl", "--budget", 5)
    assert ended.code == 2
    for number, said in [(2, "claude has no /v1/responses"), (3, "claude has no /v1/embeddings"),
                         (4, "unknown url '/v1/completions'"), (5, "unknown url '/v1/images/gener")]:  # fmt: skip
        assert f"in.jsonl:{number}: {said}" in ended.stderr
    assert simulated.bill()["calls"] == 0


def test_a_budget_that_vectors_can_never_fit_is_told_by_their_input(desk, simulate):
    simulate()
    desk.write("in.jsonl", [line(1, "/v1/embeddings", input="Hello " * 2_000)])
    ended = desk.run("run", "in.jsonl", "--budget", 0.000001)
    assert ended.code == 2
    assert "their input alone can cost more" in ended.stderr


def test_the_page_shows_lines_that_run_on_echo(desk):
    text = PAGE.read_text("utf-8")
    shown = text[text.index("```json\n") + 8 :].partition("```")[0].strip().splitlines()
    assert len(shown) == 5
    desk.write("in.jsonl", shown)
    ended = desk.run("run", "in.jsonl", "-m", "echo:echo", "--budget", 1, "-o", "out.jsonl")
    assert ended.code == 0, ended
    assert_exactly_once(desk.out(), [json.loads(one)["custom_id"] for one in shown])
