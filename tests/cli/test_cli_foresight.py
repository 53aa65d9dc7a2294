"""`run` says where it is heading: the canary, the warning, what never fits, and what a tier saves."""

import pytest
from tests.cli_support import assert_exactly_once, desk, prompt, simulate

__all__ = ["desk", "simulate"]

MODEL = "sim:sim-1"
FLEX_CONFIG = (
    '[providers.sim]\nkind = "openai"\nbase_url = "{url}/v1"\nflex = true\n[models."sim:sim-1"]\n'
    "input_usd_per_mtok = 1.0\noutput_usd_per_mtok = 2.0\n"
    "flex_input_usd_per_mtok = 0.5\nflex_output_usd_per_mtok = 1.0\n"
)


def words(*more, source="in.jsonl", budget=1):
    return ["run", source, "-m", MODEL, "-o", "out.jsonl", "--json", "--budget", budget, *more]


def with_flex(desk, simulated):
    (desk.home / "farebox.toml").write_text(FLEX_CONFIG.format(url=simulated.url))


# --- the canary ---------------------------------------------------------------------------------------------------


def test_a_canary_asks_the_next_n_and_says_what_the_rest_would_cost(desk, simulate):
    simulated = simulate("--output-tokens", 20)
    desk.prompts(30)
    first = desk.run(*words("--first", 5))
    assert (first.code, first.json["total"], first.json["lines"], first.json["later"]) == (0, 5, 30, 25)
    assert "5 of 30 answered; the 25 others would cost about $" in first.stderr
    assert "run the same command without --first" in first.stderr
    again = desk.run(*words("--first", 5))
    assert (again.code, again.json["total"], again.json["later"]) == (0, 10, 20)
    assert_exactly_once(desk.out(), [f"p{n}" for n in range(10)])
    later = again.json["later_cost"]
    assert (later["jobs"], later["low_nusd"]) == (20, later["expected_nusd"])
    spent = again.json["spent_nusd"]
    whole = desk.run(*words())
    assert (whole.code, whole.json["total"], whole.json["later"]) == (0, 30, 0)
    assert whole.json["spent_nusd"] - spent == pytest.approx(later["expected_nusd"], rel=0.1)
    assert whole.json["spent_nusd"] - spent <= later["worst_nusd"]
    assert simulated.bill()["calls"] == 30
    assert_exactly_once(desk.out(), [f"p{n}" for n in range(30)])


def test_a_canary_longer_than_what_is_left_is_the_whole(desk, simulate):
    simulate()
    desk.prompts(4)
    ended = desk.run(*words("--first", 50))
    assert (ended.code, ended.json["total"], ended.json["later"]) == (0, 4, 0)
    assert "without --first" not in ended.stderr


def test_a_canary_passes_over_what_was_answered_out_of_order(desk, simulate):
    """Answered lines behind the last one that is asked count as answered, and nothing is asked twice."""
    simulated = simulate()
    desk.prompts(20)
    desk.write("tail.jsonl", [prompt(n) for n in range(10, 20)])
    assert desk.run(*words(source="tail.jsonl")).code == 0
    ended = desk.run(*words("--first", 3))
    assert (ended.code, ended.json["total"], ended.json["later"], ended.json["left"]) == (0, 13, 7, 0)
    assert "13 of 20 answered; the 7 others" in ended.stderr
    assert desk.run(*words()).json["total"] == 20
    assert simulated.bill()["calls"] == 20


def test_lines_added_after_a_canary_are_asked_too(desk, simulate):
    simulated = simulate()
    desk.prompts(6)
    assert desk.run(*words("--first", 2)).code == 0
    desk.prompts(9)
    assert desk.run(*words()).json["total"] == 9
    assert simulated.bill()["calls"] == 9


def test_a_bad_line_behind_the_canary_is_refused_before_anything_is_sent(desk, simulate):
    simulated = simulate()
    desk.write("in.jsonl", [prompt(0), prompt(1), "{bad"])
    refused = desk.run(*words("--first", 1))
    assert refused.code == 2
    assert "in.jsonl:3:" in refused.stderr
    assert simulated.bill()["calls"] == 0


# --- where it is heading ------------------------------------------------------------------------------------------


def test_it_warns_when_the_expected_cost_passes_the_budget_and_foresees_the_rest_when_parked(desk, simulate):
    simulate("--output-tokens", 40)
    desk.prompts(40, max_tokens=100)
    ended = desk.run(*words(budget=0.001))
    assert ended.code == 4
    assert "are expected to cost about $" in ended.stderr
    assert "the budget ends after about" in ended.stderr
    assert "all of them would cost about $" in ended.stderr
    left = ended.json["left_cost"]
    assert left["jobs"] == ended.json["left"] > 0
    assert 0 < left["expected_nusd"] <= left["worst_nusd"]
    enough = desk.run(*words(budget=1))
    assert enough.code == 0
    assert "expected to cost" not in enough.stderr
    assert enough.json["left_cost"]["jobs"] == 0


def test_the_warning_counts_what_the_earlier_run_spent(desk, simulate):
    simulate("--output-tokens", 40)
    desk.prompts(40, max_tokens=100)
    first = desk.run(*words("--first", 10))
    assert first.code == 0
    spent = 40 * 40 * 2000  # about: 40 lines, 40 tokens of output each
    ended = desk.run(*words(budget=spent / 2 / 1e9))
    assert ended.code == 4
    about = ended.stderr.partition("these 30 lines are expected to cost about ")[2].partition(",")[0]
    assert first.stderr.count(f"the 30 others would cost about {about},") == 1, (first.stderr, ended.stderr)


# --- what never fits ----------------------------------------------------------------------------------------------


def test_lines_that_never_fit_are_refused_together_with_the_cap_that_would_fit(desk, simulate):
    simulated = simulate()
    lines = [{"custom_id": f"p{n}", "prompt": f"Say {n}."} for n in range(300)]
    desk.write("in.jsonl", lines)
    refused = desk.run(*words(budget=0.01))
    assert refused.code == 2
    assert refused.stderr.count("never fits") == 1
    assert "300 lines (1-300) can never fit: a budget of at least $" in refused.stderr
    cap = int(refused.stderr.partition("--max-tokens ")[2].partition(")")[0])
    assert desk.run(*words("--max-tokens", cap + 5, budget=0.01)).code == 2
    assert simulated.bill()["calls"] == 0
    fits = desk.run(*words("--max-tokens", cap, "--first", 1, budget=0.01))
    assert fits.code == 0, fits


def test_lines_that_never_fit_into_the_global_limit_name_that(desk):
    desk.write("own.jsonl", [prompt(0, max_tokens=90_000)])
    desk.run("budget", "set", "0.001")
    own = desk.run("run", "own.jsonl", "-m", "echo:echo", "--budget", "5")
    assert own.code == 2
    assert "never fits into the global limit of $0.001: alone it can cost more" in own.stderr
    assert "a global limit of at least $" in own.stderr


def test_caps_of_their_own_and_inputs_that_are_too_dear_are_told_apart(desk):
    desk.write("own.jsonl", [prompt(0, max_tokens=90_000)])
    own = desk.run("run", "own.jsonl", "-m", "echo:echo", "--budget", "0.01")
    assert own.code == 2
    assert "1 line (1) can never fit" in own.stderr
    assert "max_tokens in the lines, which have their own" in own.stderr
    desk.write("long.jsonl", [{"prompt": "word " * 10_000, "max_tokens": 1}])
    long = desk.run("run", "long.jsonl", "-m", "echo:echo", "--budget", "0.01")
    assert long.code == 2
    assert "a smaller --max-tokens would not" in long.stderr


def test_lines_that_never_fit_are_skipped_as_other_bad_lines_are(desk, simulate):
    simulated = simulate()
    desk.write("in.jsonl", [prompt(0), prompt(1, max_tokens=90_000), prompt(2)])
    ended = desk.run(*words("--skip-invalid", budget=0.01))
    assert ended.code == 0
    assert_exactly_once(desk.out(), ["p0", "p2"])
    assert simulated.bill()["calls"] == 2


# --- tiers --------------------------------------------------------------------------------------------------------


def test_flex_is_booked_as_served_and_the_saving_is_told(desk, simulate):
    simulated = simulate("--share-flex-default", 0.4)
    with_flex(desk, simulated)
    desk.prompts(30)
    ended = desk.run(*words("--tier", "flex"))
    bill = simulated.bill()
    assert ended.code == 0
    assert ended.json["spent_nusd"] == bill["cost_nusd"]
    served = {"flex": bill["by_tier"]["flex"]["calls"], "standard": bill["by_tier"]["default"]["calls"]}
    assert ended.json["served"] == served
    assert min(served.values()) > 0
    assert ended.json["saved_nusd"] == bill["by_tier"]["flex"]["cost_nusd"], "half price: saved what was paid"
    assert "Tier flex saved $" in ended.stderr
    for line in desk.out():
        own = line["farebox"]
        assert own["tier"] == "flex"
        assert own.get("saved_nusd", 0) == (own["cost_nusd"] if own["served_tier"] == "flex" else 0)


def test_flex_without_room_waits_and_fails_nothing(desk, simulate):
    simulated = simulate("--share-flex-full", 0.3)
    with_flex(desk, simulated)
    desk.prompts(12)
    ended = desk.run(*words("--tier", "flex"), timeout_s=90)
    assert ended.code == 0, ended
    assert simulated.bill()["faults"]["flex_full"] > 0
    assert ended.json["spent_nusd"] == simulated.bill()["cost_nusd"]
    assert [line["farebox"]["attempts"] for line in desk.out()] == [1] * 12


def test_the_cheapest_tier_is_chosen_line_by_line(desk, simulate):
    simulated = simulate("--models", "*")
    with_flex(desk, simulated)
    with (desk.home / "farebox.toml").open("a") as file:
        file.write('[models."sim:dear"]\ninput_usd_per_mtok = 1.0\noutput_usd_per_mtok = 2.0\n')
    desk.write("in.jsonl", [prompt(n) | {"model": "sim:sim-1" if n % 2 else "sim:dear"} for n in range(10)])
    ended = desk.run("run", "in.jsonl", "-o", "out.jsonl", "--budget", 1, "--tier", "cheapest", "--json")
    assert ended.code == 0, ended
    tiers = {line["custom_id"]: line["farebox"]["tier"] for line in desk.out()}
    assert tiers == {f"p{n}": "flex" if n % 2 else "standard" for n in range(10)}
    assert ended.json["spent_nusd"] == simulated.bill()["cost_nusd"]


def test_flex_where_there_is_none_says_what_to_do(desk, simulate):
    simulated = simulate()
    desk.prompts(2)
    refused = desk.run(*words("--tier", "flex"))
    assert refused.code == 2
    assert "tier flex" in refused.stderr
    assert simulated.bill()["calls"] == 0
    assert desk.run(*words("--tier", "cheapest")).code == 0


def test_submit_takes_the_cheapest_tier_too_and_refuses_to_guess(desk, simulate):
    simulated = simulate()
    with_flex(desk, simulated)
    assert desk.run("budget", "set", 1).code == 0
    desk.prompts(3)
    done = desk.run("submit", "in.jsonl", "-m", MODEL, "--tier", "cheapest", "--batch", "b1")
    assert done.code == 0, done
    assert desk.run("worker", "--burst", "--quiet").code == 0
    assert desk.run("results", "b1", "-o", "out.jsonl").code == 0
    assert {line["farebox"]["tier"] for line in desk.out()} == {"flex"}
    refused = desk.run("submit", "in.jsonl", "-m", "elsewhere:m", "--tier", "cheapest")
    assert refused.code == 2
    assert "--tier standard or flex" in refused.stderr


# --- before there is a key ----------------------------------------------------------------------------------------


def test_an_estimate_needs_no_key_and_says_which_one_a_run_will(desk):
    desk.prompts(5)
    told = desk.run("estimate", "in.jsonl", "-m", "openai:gpt-5-mini", "--json", OPENAI_API_KEY="")
    assert {row["tier"] for row in told.json["by_tier"]} == {"standard", "flex"}
    said = desk.run("estimate", "in.jsonl", "-m", "openai:gpt-5-mini", OPENAI_API_KEY="")
    assert "`farebox run` will need OPENAI_API_KEY" in said.stderr
    ended = desk.run("run", "in.jsonl", "-m", "openai:gpt-5-mini", "--budget", 1, OPENAI_API_KEY="")
    assert (ended.code, "OPENAI_API_KEY" in ended.stderr) == (2, True)


def test_an_estimate_of_what_is_answered_already_under_a_smaller_budget(desk, simulate):
    simulate("--output-tokens", 20)
    desk.prompts(5)
    assert desk.run("run", "in.jsonl", "-m", MODEL, "--budget", 1).code == 0
    told = desk.run("estimate", "in.jsonl", "-m", MODEL, "--budget", "0.0002")
    assert (told.code, "None is left" in told.stderr) == (0, True)


def test_a_line_that_has_its_answer_needs_no_room_in_a_smaller_budget(desk, simulate):
    simulate("--output-tokens", 20)
    desk.write("in.jsonl", [prompt(0, max_tokens=500), *(prompt(n) for n in range(1, 5))])
    assert desk.run(*words("--first", 1)).code == 0
    ended = desk.run(*words(budget="0.0009"))
    assert (ended.code, ended.json["succeeded"]) == (0, 5), ended


def test_models_show_flex_prices_where_a_model_can_be_asked_for_in_it(desk, simulate):
    with_flex(desk, simulate())
    shown = {one["model_ref"]: one for one in desk.run("models", "--json").json["models"]}
    assert (shown[MODEL]["flex_input_usd_per_mtok"], shown[MODEL]["flex_output_usd_per_mtok"]) == (0.5, 1.0)
    assert shown["echo:echo"]["flex_input_usd_per_mtok"] is None
    assert "0.5 / 1" in desk.run("models", "sim").stdout
