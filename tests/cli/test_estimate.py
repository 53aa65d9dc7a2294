"""What a file will cost is said before a cent is spent, and the guesses behind it are the promised ones."""

import pytest
from tests.cli_support import desk, prompt, simulate

from farebox.ledger import Limit, Scope
from farebox_worker.files.numbers import LineNumbers
from farebox_worker.files.tally import Note, NotedUsage, Tally
from farebox_worker.prices.rates import flat, price_of
from farebox_worker.run.forecast import Cost, Load, Prospect, Seen, foresee, foresee_all, look_ahead
from farebox_worker.run.picture import about

__all__ = ["desk", "simulate"]

PRICE = price_of(flat(1_000_000, 2_000_000), "s")  # 1,000 and 2,000 nano-dollars a token


def load(jobs=10, cap=100, size=40, price=PRICE):
    made = Load(price)
    for _ in range(jobs):
        made.add(size, size, cap, price.worst_nusd(size, cap) if price else 0)
    return made


def test_without_answers_low_is_a_tenth_of_the_cap_and_expected_half_of_it():
    assert foresee(load()) == Cost(10, 10 * (10_000 + 20_000), 10 * (10_000 + 100_000), 10 * (40_000 + 200_000))


def test_with_answers_their_mean_length_decides():
    cost = foresee(load(), Seen(answers=4, output_tokens=120))
    assert cost.low_nusd == cost.expected_nusd == 10 * (10_000 + 60_000)
    longer = foresee(load(), Seen(answers=1, output_tokens=5000))
    assert longer.expected_nusd == 10 * (10_000 + 200_000), "no answer is longer than its cap"


def test_with_requests_seen_their_tokens_per_byte_decide():
    cost = foresee(load(), Seen(1, 50, input_tokens=10, body_bytes=20))
    assert cost.expected_nusd == 10 * (20_000 + 100_000)


def test_what_nobody_prices_is_counted_and_never_zero_silently():
    assert foresee(load(price=None)) == Cost(10, unpriced=10)
    both = foresee_all({("p:m", "standard"): load(), ("p:x", "standard"): load(price=None)}, {})
    assert (both.jobs, both.unpriced) == (20, 10)


@pytest.mark.parametrize("cap", [1, 7, 100, 100_000])
@pytest.mark.parametrize("seen", [None, Seen(1, 0), Seen(3, 1000, 900, 10)])
def test_low_expected_and_worst_are_in_order(cap, seen):
    cost = foresee(load(3, cap), seen)
    assert 0 <= cost.low_nusd <= cost.expected_nusd <= cost.worst_nusd


def answered(tally, count, tokens_out=50):
    for number in range(count):
        tally.count(Note(f"j{number}", "succeeded", 1, model_ref="p:m", usage=NotedUsage(10, tokens_out)))


def test_a_run_foresees_what_is_left_from_its_own_answers():
    tally = Tally()
    prospect = Prospect(asked={("p:m", "standard"): load(10)}, rest={("p:m", "standard"): load(90)})
    guess = prospect.left(tally)
    assert (guess.jobs, guess.expected_nusd) == (10, foresee(load(10)).expected_nusd)
    answered(tally, 4, tokens_out=20)
    left = prospect.left(tally)
    assert (left.jobs, left.expected_nusd) == (6, 6 * (10_000 + 40_000))
    assert prospect.after(tally).expected_nusd == 90 * (10_000 + 40_000)
    answered(tally, 6, tokens_out=20)
    assert prospect.left(tally) == Cost()


def test_lines_answered_before_are_neither_asked_nor_forgotten():
    tally = Tally()
    answered(tally, 5, tokens_out=20)
    key = ("p:m", "standard")
    prospect = Prospect(asked={key: load(10)}, done={key: load(5, size=20)})
    assert prospect.left(tally).jobs == 10
    assert prospect.seen(tally)["p:m"] == Seen(5, 100, 50, 100)


def test_the_budget_ends_where_the_expected_cost_passes_what_is_left_of_it():
    left = Cost(100, 0, 1000, 2000)
    assert look_ahead(left, 7, Scope("b", 1500, spent_nusd=500)).ends_at is None
    ahead = look_ahead(left, 7, Scope("b", 1500, spent_nusd=500, unconfirmed_nusd=250))
    assert (ahead.total_nusd, ahead.ends_at) == (1750, 82)
    assert look_ahead(left, 7, Scope("b", None), Scope("global", 100)).ends_at == 17
    assert look_ahead(left, 7, Scope("b", 100, spent_nusd=200)).ends_at == 7, "a limit below what is spent"
    assert look_ahead(left, 7, Scope("b", None), Scope("global", None)).ends_at is None
    tight = look_ahead(left, 7, Scope("b", 900), Limit("tag:t", "day", 100, 0, 0, 0))
    assert (tight.limit, tight.ends_at, tight.fitting) == ("day:tag:t", 17, 10), "the tightest is named"


def test_nothing_left_to_pay_for_ends_under_no_limit():
    assert look_ahead(Cost(5), 7, Scope("b", 100, spent_nusd=200)).ends_at is None


@pytest.mark.parametrize(("nusd", "text"), [(0, "$0.00"), (123_456, "$0.00013"), (10_234_000_000, "$10.23")])
def test_estimates_are_told_in_few_digits(nusd, text):
    assert about(nusd) == text


def test_many_line_numbers_are_kept_as_runs():
    numbers = LineNumbers()
    for number in (3, *range(9, 1_000_000), 2_000_000):
        numbers.add(number)
    assert str(numbers) == "3, 9-999,999, 2,000,000"
    assert len(numbers) == 999_993
    assert [number in numbers for number in (2, 3, 8, 9, 999_999, 1_000_000, 2_000_000)] == [
        False, True, False, True, True, False, True,
    ]  # fmt: skip


# --- the command --------------------------------------------------------------------------------------------------

FLEXIBLE = (
    '\n[providers.flexy]\nkind = "openai"\nbase_url = "{url}/v1"\nflex = true\n[models."flexy:sim-1"]\n'
    "input_usd_per_mtok = 1.0\noutput_usd_per_mtok = 2.0\n"
    "flex_input_usd_per_mtok = 0.5\nflex_output_usd_per_mtok = 1.0\n"
)


def test_both_tiers_stand_side_by_side_and_nothing_is_sent_or_left(desk, simulate):
    simulated = simulate()
    with (desk.home / "farebox.toml").open("a") as file:
        file.write(FLEXIBLE.format(url=simulated.url))
    desk.prompts(10)
    before = desk.files()
    ended = desk.run("estimate", "in.jsonl", "-m", "flexy:sim-1", "--json")
    assert ended.code == 0
    flex, standard = ended.json["by_tier"]
    assert (flex["tier"], flex["asked"], standard["tier"], standard["asked"]) == ("flex", 0, "standard", 10)
    assert flex["worst_nusd"] * 2 == pytest.approx(standard["worst_nusd"], rel=0.01)
    assert ended.json["total"]["worst_nusd"] == standard["worst_nusd"]
    told = desk.run("estimate", "in.jsonl", "-m", "flexy:sim-1", "--budget", "0.0001")
    assert "--tier flex would save about" in told.stderr
    assert "flex" in told.stdout
    assert simulated.bill()["calls"] == 0
    assert desk.files() == before


def test_after_a_canary_it_knows_real_lengths(desk, simulate):
    simulate("--output-tokens", 7)
    desk.prompts(30, max_tokens=400)
    run = ["run", "in.jsonl", "-m", "sim:sim-1", "--budget", 1]
    guess = desk.run("estimate", "in.jsonl", "-m", "sim:sim-1", "--json").json
    assert guess["by_tier"][0]["seen"] == 0
    assert desk.run(*run, "--first", 5).code == 0
    known = desk.run("estimate", "in.jsonl", "-m", "sim:sim-1", "--json").json
    assert known["by_tier"][0]["seen"] == 5
    assert (known["answered"], known["left"]["jobs"]) == (5, 25)
    assert known["total"]["expected_nusd"] < guess["total"]["low_nusd"] * 2
    done = desk.run(*run, "--json").json
    assert done["spent_nusd"] == pytest.approx(known["total"]["expected_nusd"], rel=0.1)
    desk.prompts(10, "other.jsonl", first=100, max_tokens=400)
    assert desk.run("estimate", "other.jsonl", "-m", "sim:sim-1", "--json").json["by_tier"][0]["seen"] == 30


def test_bad_lines_are_refused_as_run_does_and_what_never_fits_is_counted(desk):
    desk.write("in.jsonl", [prompt(0), "{bad", prompt(1, max_tokens=100_000)])
    refused = desk.run("estimate", "in.jsonl", "-m", "echo:echo")
    assert refused.code == 2
    assert "in.jsonl:2: not JSON" in refused.stderr
    ended = desk.run("estimate", "in.jsonl", "-m", "echo:echo", "--skip-invalid", "--budget", "0.01", "--json")
    assert ended.code == 0
    assert (ended.json["lines"], ended.json["bad_lines"], ended.json["never_fit"]) == (2, 1, 1)
    assert ended.json["never_fit_need_nusd"] > 10_000_000


def test_a_model_without_a_price_is_told_and_not_refused(desk, simulate):
    simulate(prices=False)
    desk.prompts(3)
    ended = desk.run("estimate", "in.jsonl", "-m", "sim:sim-1", "--budget", 1)
    assert ended.code == 0
    assert "No price is known for sim:sim-1" in ended.stderr
    assert "unknown" in ended.stdout
