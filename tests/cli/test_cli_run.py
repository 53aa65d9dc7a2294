"""`farebox run` as a user meets it: every line answered once, paid to the nano-dollar, and said so."""

import json

import pytest
from tests.cli_support import EXAMPLES, IN_USD, KEY, OUT_USD, assert_exactly_once, prompt

FIELDS = {
    "batch_id", "total", "succeeded", "failed", "cancelled", "parked", "input_tokens", "output_tokens", "truncated",
    "wall_s", *(f"{name}_{unit}" for name in ("spent", "unconfirmed", "held", "limit") for unit in ("nusd", "usd")),
}  # fmt: skip


def ids_of(path):
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [line.get("custom_id", f"line-{number}") for number, line in enumerate(lines, 1)]


def test_the_example_file_is_answered_line_by_line(desk):
    ended = desk.run("run", EXAMPLES, "-m", "echo:echo", "--budget", 1, "-o", "out.jsonl", "--json")
    assert ended.code == 0
    assert ended.json.keys() >= FIELDS
    assert (ended.json["total"], ended.json["succeeded"], ended.json["failed"], ended.json["parked"]) == (
        200,
        200,
        0,
        0,
    )
    lines = desk.out()
    assert_exactly_once(lines, ids_of(EXAMPLES))
    assert all(line["response"]["status_code"] == 200 and line["error"] is None for line in lines)
    assert ended.json["spent_nusd"] == sum(line["farebox"]["cost_nusd"] for line in lines)
    assert ended.json["output_tokens"] == sum(line["farebox"]["usage"]["output_tokens"] for line in lines)
    assert ended.json["truncated"] == sum(line["farebox"]["finish"] == "truncated" for line in lines)
    assert ended.json["limit_nusd"] == 10**9
    assert ended.json["held_nusd"] == ended.json["unconfirmed_nusd"] == 0


def test_without_json_stdout_stays_empty_and_people_read_the_summary(desk):
    desk.prompts(5)
    ended = desk.run("run", "in.jsonl", "-m", "echo:echo", "--budget", 1)
    assert (ended.code, ended.stdout) == (0, "")
    assert "5 of 5" in ended.stderr
    assert "of $1.00" in ended.stderr
    assert "echo:echo" in ended.stderr
    assert len(desk.out("in.jsonl.out.jsonl")) == 5, "OUT is IN.out.jsonl by default"


def test_quiet_is_quiet(desk):
    desk.prompts(5)
    ended = desk.run("run", "in.jsonl", "-m", "echo:echo", "--budget", 1, "--quiet")
    assert (ended.code, ended.stdout, ended.stderr) == (0, "", "")


@pytest.mark.parametrize("model", ["sim:sim-1", "claude:sim-1"])
def test_what_is_spent_is_the_providers_bill_to_the_nano_dollar(desk, simulate, model):
    simulated = simulate()
    ended = desk.run("run", EXAMPLES, "-m", model, "--budget", 5, "-o", "out.jsonl", "--json", "--drop-params",
                     "response_format,seed,logit_bias,presence_penalty,frequency_penalty")  # fmt: skip
    bill = simulated.bill()
    assert ended.code == 0, ended
    assert bill["calls"] == 200
    assert ended.json["spent_nusd"] == bill["cost_nusd"] > 0
    assert (ended.json["input_tokens"], ended.json["output_tokens"]) == (bill["input_tokens"], bill["output_tokens"])
    assert_exactly_once(desk.out(), ids_of(EXAMPLES))
    assert desk.run("cost", "--json").json["spent_nusd"] == bill["cost_nusd"]


def test_at_the_limit_it_parks_and_a_larger_budget_goes_on_without_asking_twice(desk, simulate):
    simulated = simulate()
    desk.prompts(40)
    run = ["run", "in.jsonl", "-m", "sim:sim-1", "-o", "out.jsonl", "--json"]
    parked = desk.run(*run, "--budget", 0.0015)
    assert parked.code == 4
    assert "larger --budget" in parked.stderr
    assert "needs $0.0004" in parked.stderr, "what would let the next one through"
    assert parked.json["parked"] == 40 - parked.json["succeeded"] > 0
    assert parked.json["spent_nusd"] == simulated.bill()["cost_nusd"] <= 1_500_000
    assert len(desk.out()) == parked.json["succeeded"]

    again = desk.run(*run, "--budget", 0.0015)
    assert again.code == 4, "the same budget is no more than it was"
    done = desk.run(*run, "--budget", 1)
    assert (done.code, done.json["succeeded"]) == (0, 40)
    assert simulated.bill()["calls"] == 40
    assert done.json["spent_nusd"] == simulated.bill()["cost_nusd"]
    assert_exactly_once(desk.out(), [f"p{n}" for n in range(40)])


def test_first_n_then_all(desk, simulate):
    simulated = simulate()
    desk.prompts(12)
    run = ["run", "in.jsonl", "-m", "sim:sim-1", "-o", "out.jsonl", "--json", "--budget", 1]
    first = desk.run(*run, "--first", 5)
    assert (first.code, first.json["total"]) == (0, 5)
    assert_exactly_once(desk.out(), [f"p{n}" for n in range(5)])
    assert desk.run(*run).json["total"] == 12
    assert_exactly_once(desk.out(), [f"p{n}" for n in range(12)])
    assert simulated.bill()["calls"] == 12


def test_a_dry_run_sends_nothing_and_leaves_nothing(desk, simulate):
    simulated = simulate()
    desk.prompts(10)
    before = desk.files()
    ended = desk.run("run", "in.jsonl", "-m", "sim:sim-1", "--dry-run", "--json")
    assert ended.code == 0
    assert ended.json["jobs"] == 10
    assert ended.json["worst_nusd"] > 0
    assert "nothing was sent" in ended.stderr
    assert simulated.bill()["calls"] == 0
    assert desk.files() == before


def test_bad_lines_are_refused_or_left_out(desk):
    desk.write("in.jsonl", [prompt(0), "{not json", prompt(1), prompt(1)])
    run = ["run", "in.jsonl", "-m", "echo:echo", "-o", "out.jsonl", "--budget", 1]
    refused = desk.run(*run)
    assert refused.code == 2
    assert "in.jsonl:2:" in refused.stderr
    assert "in.jsonl:4:" in refused.stderr
    assert "--skip-invalid" in refused.stderr
    assert not (desk.home / "out.jsonl").exists() or not desk.out()
    ended = desk.run(*run, "--skip-invalid", "--json")
    assert (ended.code, ended.json["total"], ended.json["skipped"]) == (0, 2, 2)
    assert_exactly_once(desk.out(), ["p0", "p1"])


def test_max_failures_stops_early(desk, simulate):
    simulated = simulate("--latency-ms", 5)
    desk.prompts(300)
    ended = desk.run("run", "in.jsonl", "-m", "sim:gone", "-o", "out.jsonl", "--json", "--no-budget",
                     "--max-failures", 4, "--concurrency", 2)  # fmt: skip
    assert ended.code == 1
    assert "--max-failures" in ended.stderr
    assert 4 <= ended.json["failed"] < 40
    assert simulated.bill()["calls"] < 40


def test_failed_jobs_are_lines_too_and_the_exit_code_says_so(desk, simulate):
    simulate("--model", "sim-1", "--model", "sim-2")
    desk.write("in.jsonl", [prompt(0), prompt(1) | {"model": "sim:sim-1"}, prompt(2) | {"model": "sim:retired"}])
    text = (desk.home / "farebox.toml").read_text()
    (desk.home / "farebox.toml").write_text(
        f'{text}[models."sim:retired"]\ninput_usd_per_mtok = {IN_USD}\noutput_usd_per_mtok = {OUT_USD}\n'
    )
    (desk.home / "in.jsonl").write_text(
        "".join(json.dumps({"model": "sim:sim-1"} | json.loads(line)) + "\n"
                for line in (desk.home / "in.jsonl").read_text().splitlines())
    )  # fmt: skip
    ended = desk.run("run", "in.jsonl", "-o", "out.jsonl", "--json", "--budget", 1)
    assert ended.code == 3, ended
    assert (ended.json["succeeded"], ended.json["failed"]) == (2, 1)
    lines = {line["custom_id"]: line for line in desk.out()}
    assert lines["p2"]["error"]["message"]
    assert lines["p2"]["response"]["status_code"] == 404
    assert lines["p2"]["farebox"]["cost_nusd"] == 0
    assert lines["p0"]["error"] is None
    assert "1 failed" in ended.stderr
    assert desk.run("run", "in.jsonl", "-o", "out.jsonl", "--json", "--budget", 1).code == 3, "still so when repeated"


def test_the_line_names_its_model_and_m_overrides(desk, simulate):
    simulated = simulate("--model", "sim-1", "--model", "sim-2")
    desk.write("in.jsonl", [prompt(0) | {"model": "sim-2"}, prompt(1) | {"model": "claude:sim-1"}])
    run = ["run", "in.jsonl", "--json", "--no-budget", "-o"]
    bare = desk.run(*run, "a.jsonl")
    assert bare.code == 2
    assert "ambiguous" in bare.stderr
    chosen = desk.run(*run, "a.jsonl", "--provider", "sim")
    assert chosen.code == 0
    assert set(chosen.json["by_model"]) == {"sim:sim-2", "claude:sim-1"}
    overridden = desk.run(*run, "b.jsonl", "-m", "sim:sim-1")
    assert set(overridden.json["by_model"]) == {"sim:sim-1"}
    assert simulated.bill()["calls"] == 4


def test_paid_models_without_a_budget_are_refused_with_the_estimate(desk, simulate):
    simulated = simulate()
    desk.prompts(10)
    refused = desk.run("run", "in.jsonl", "-m", "sim:sim-1")
    assert refused.code == 2
    assert "--no-budget" in refused.stderr
    assert "10 jobs can cost up to $0.00" in refused.stderr
    assert simulated.bill()["calls"] == 0
    ended = desk.run("run", "in.jsonl", "-m", "sim:sim-1", "--no-budget", "--json")
    assert ended.code == 0
    assert (ended.json["limit_nusd"], ended.json["limit_usd"]) == (None, None)
    assert ended.json["spent_nusd"] == simulated.bill()["cost_nusd"]


def test_a_model_without_a_price_is_refused_under_a_budget_and_counted_as_unpriced_without(desk, simulate):
    simulated = simulate(prices=False)
    desk.prompts(3)
    refused = desk.run("run", "in.jsonl", "-m", "sim:sim-1", "--budget", 1)
    assert refused.code == 2
    assert "no price is known for sim:sim-1" in refused.stderr
    assert simulated.bill()["calls"] == 0
    ended = desk.run("run", "in.jsonl", "-m", "sim:sim-1", "--no-budget", "--json")
    assert ended.code == 0
    assert desk.run("cost", "--json").json["unpriced_calls"] == 3


def test_a_budget_in_the_file_holds_over_all_runs(desk, simulate):
    simulated = simulate(extra="[budget]\nlimit_usd = 0.003\n")
    desk.prompts(20, "a.jsonl")
    desk.prompts(20, "b.jsonl", first=100)
    codes = [desk.run("run", name, "-m", "sim:sim-1").code for name in ("a.jsonl", "b.jsonl")]
    assert codes == [0, 4]
    assert simulated.bill()["cost_nusd"] <= 3_000_000
    assert "global" in desk.run("run", "b.jsonl", "-m", "sim:sim-1").stderr
    for command in (["set", 5], ["off"]):
        refused = desk.run("budget", *command)
        assert (refused.code, "limit_usd says $0.003, and on the embedded" in refused.stderr) == (2, True)
    assert desk.run("budget", "set", 5, "--per", "day").code == 0


def test_two_processes_share_one_budget_and_ask_nothing_twice(desk, simulate):
    simulated = simulate("--latency-ms", 250)  # time enough for the second process to start
    desk.prompts(200)
    ended = desk.run("run", "in.jsonl", "-m", "sim:sim-1", "-o", "out.jsonl", "--budget", 1, "--processes", 2,
                     "--concurrency", 4, "--json")  # fmt: skip
    assert (ended.code, ended.json["succeeded"]) == (0, 200)
    assert simulated.bill()["calls"] == 200
    assert simulated.bill()["peak_in_flight"] > 4, "the second process worked too"
    assert ended.json["spent_nusd"] == simulated.bill()["cost_nusd"]
    assert_exactly_once(desk.out(), [f"p{n}" for n in range(200)])


def test_a_limit_met_by_two_processes_is_not_passed(desk, simulate):
    simulated = simulate("--latency-ms", 50, "--output-tokens", 50)
    desk.prompts(150)
    ended = desk.run("run", "in.jsonl", "-m", "sim:sim-1", "--budget", 0.004, "--processes", 2, "--json")
    assert ended.code == 4
    assert simulated.bill()["cost_nusd"] <= 4_000_000


def test_answers_that_were_cut_refused_or_lost_on_the_way(desk, simulate):
    simulated = simulate("--share-500", 0.1, "--share-dropped", 0.02, "--share-refused", 0.1, "--share-filtered", 0.1)
    desk.prompts(60)
    ended = desk.run("run", "in.jsonl", "-m", "sim:sim-1", "-o", "out.jsonl", "--budget", 1, "--json")
    assert ended.code in (0, 3)
    assert_exactly_once(desk.out(), [f"p{n}" for n in range(60)])
    assert ended.json["finishes"]["refused"] > 0
    assert ended.json["finishes"]["filtered"] > 0
    assert ended.json["held_nusd"] == 0
    assert ended.json["spent_nusd"] + ended.json["unconfirmed_nusd"] >= simulated.bill()["cost_nusd"]


def test_the_key_never_leaves_the_environment(desk, simulate):
    simulate("--api-key", KEY)
    desk.prompts(3)
    ended = desk.run("run", "in.jsonl", "-m", "sim:sim-1", "--budget", 1)
    assert ended.code == 0
    found = [path for path in desk.home.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]
    assert found == []


def test_rejected_lines_are_left_out_and_the_rest_is_whole(desk, simulate):
    simulated = simulate()
    good = [json.loads(prompt(n)) if isinstance(prompt(n), str) else prompt(n) for n in range(9)]
    unbounded = {"custom_id": "bad", "messages": [{"role": "user", "content": "x"}], "stream": True}
    dear = {"custom_id": "dear", "prompt": "x" * 50, "max_tokens": 4096, "n": 100}
    desk.write("in.jsonl", [*good[:5], unbounded, dear, *good[5:]])
    ended = desk.run(
        "run", "in.jsonl", "-m", "sim:sim-1", "-o", "out.jsonl", "--budget", 0.1, "--skip-invalid", "--json"
    )
    assert ended.code == 0, ended
    assert (ended.json["total"], ended.json["left"], ended.json["skipped"]) == (9, 0, 2)
    assert_exactly_once(desk.out(), [line["custom_id"] for line in good])
    assert simulated.bill()["calls"] == 9


def test_no_budget_lifts_the_budget_of_the_earlier_run(desk, simulate):
    simulate()
    desk.prompts(20)
    run = ["run", "in.jsonl", "-m", "sim:sim-1", "-o", "out.jsonl", "--json"]
    assert desk.run(*run, "--budget", 0.0015).code == 4
    assert desk.run(*run).code == 4, "the budget of the earlier run still holds"
    lifted = desk.run(*run, "--no-budget")
    assert (lifted.code, lifted.json["limit_nusd"]) == (0, None)
