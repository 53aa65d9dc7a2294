"""`budget --per`, `cost --by`, `cost --csv` and `audit`, as an owner of money uses them."""

import csv
import io

import pytest
from redis import Redis

from farebox_worker.server.embedded import EmbeddedServer


def lines(text):
    return list(csv.DictReader(io.StringIO(text)))


@pytest.fixture
def spent(desk, simulate):
    """Two runs on two simulated models; returns the provider's bill in nano-dollars."""
    simulated = simulate()
    desk.prompts(6)
    for model in ("sim:sim-1", "claude:sim-1"):
        ended = desk.run("run", "in.jsonl", "-m", model, "--budget", 1, "-o", f"{model[:3]}.jsonl")
        assert ended.code == 0, ended
    return simulated.bill()["cost_nusd"]


def test_what_was_spent_by_anything_adds_up_to_the_bill(desk, spent):
    for by in ("model", "provider", "batch", "day"):
        found = desk.run("cost", "--by", by, "--json").json["by"]
        assert sum(one["spent_nusd"] for one in found) == spent
        assert all(one[by] for one in found)
    both = lines(desk.run("cost", "--by", "day", "--by", "model", "--csv").stdout)
    assert {one["model"] for one in both} == {"sim:sim-1", "claude:sim-1"}
    assert sum(float(one["spent_usd"]) for one in both) == pytest.approx(spent / 1e9)
    assert sum(int(one["calls"]) for one in both) == 12
    assert "choose one" in desk.run("cost", "--csv", "--json").stderr
    assert desk.run("cost", "--by", "tag", "--by", "model").code == 2
    assert "after the word" in desk.run("cost", "--data-dir", "elsewhere", "reset").stderr


def test_every_booking_is_a_line_with_the_providers_request_id(desk, spent):
    settles = [one for one in lines(desk.run("cost", "--csv").stdout) if one["kind"] == "settle"]
    assert len(settles) == 12
    assert len({one["request_id"] for one in settles} - {""}) == 12
    assert sum(round(float(one["amount_usd"]) * 1e9) for one in settles) == spent


def test_the_books_agree_until_somebody_writes_to_a_counter(desk, spent):
    agreed = desk.run("audit")
    assert agreed.code == 0
    assert "books agree" in agreed.stdout
    with EmbeddedServer(desk.home / ".farebox") as server, Redis.from_url(server.url) as redis:
        redis.hincrby("farebox:scope:global", "spent", 1_000_000)
    ended = desk.run("audit")
    assert ended.code == 1
    assert "global" in ended.stdout
    told = desk.run("audit", "--json").json
    assert told["agrees"] is False
    assert [(one["scope"], one["counter"]) for one in told["differences"]] == [("global", "spent")]
    assert told["differences"][0]["counted"] - told["differences"][0]["booked"] == 1_000_000


def test_a_limit_per_day_parks_what_the_day_has_no_room_for(desk, simulate):
    simulated = simulate()
    desk.prompts(20)
    assert desk.run("budget", "set", "5").code == 0
    assert "per UTC day" in desk.run("budget", "set", "0.001", "--per", "day").stderr
    parked = desk.run("run", "in.jsonl", "-m", "sim:sim-1", "--max-tokens", 64, "--json")
    assert parked.code == 4, parked
    assert "day" in parked.stderr
    assert simulated.bill()["cost_nusd"] <= 1_000_000
    shown = {(one["scope"], one["per"]): one for one in desk.run("budget", "show", "--json").json["limits"]}
    assert shown["global", "day"]["limit_nusd"] == 1_000_000
    assert shown["global", None]["limit_nusd"] == 5_000_000_000
    lowered = desk.run("budget", "set", "0.000001", "--per", "day")
    assert "over it already" in lowered.stderr
    assert desk.run("budget", "off", "--per", "day").code == 0
    assert desk.run("run", "in.jsonl", "-m", "sim:sim-1", "--max-tokens", 64).code == 0
    assert desk.run("audit").code == 0


def test_what_would_do_nothing_or_harm_is_refused_in_words(desk):
    desk.prompts(2)
    ended = desk.run("run", "in.jsonl", "-m", "echo:echo", "-o", "out.jsonl", "--budget", 1, "--json")
    assert ended.code == 0, ended
    batch = ended.json["batch_id"]
    adopted = desk.run("ledger", "adopt", "--budget", 2)
    assert (adopted.code, "nothing to adopt" in adopted.stderr) == (2, True)
    assert desk.run("audit").code == 0
    released = desk.run("unconfirmed", "release", "--batch", "typo")
    assert (released.code, "no batch 'typo'" in released.stderr) == (2, True)
    assert "no provider 'nope' is configured" in desk.run("budget", "set", 1, "--model", "nope:x").stderr
    assert "configured" not in desk.run("budget", "set", 1, "--model", "openai:gpt-5-mini").stderr
    exported = desk.run("export", batch, "-o", "there.jsonl")
    assert (exported.code, "farebox export OUT" in exported.stderr) == (2, True)
    assert not (desk.home / "there.jsonl").exists()
    assert "nothing to cancel" in desk.run("cancel", batch).stderr


@pytest.mark.parametrize("flag", ["--batch", "--provider", "--model", "--tag"])
def test_a_name_that_is_empty_does_not_move_the_limit_of_everything(desk, flag):
    assert desk.run("budget", "set", 5).code == 0
    for command in (["set", 9], ["off"]):
        refused = desk.run("budget", *command, flag, "")
        assert (refused.code, f"{flag} is empty" in refused.stderr) == (2, True)
    assert desk.run("budget", "show", "--json").json["limit_usd"] == 5


@pytest.mark.parametrize(
    ("flag", "name", "advice"),
    [
        ("--model", "openai:gpt-5-mini@flex", "say --model openai:gpt-5-mini"),
        ("--model", "openai", "for a provider say --provider"),
        ("--provider", "openai:gpt-5-mini", "say --model, or --provider openai"),
    ],
)
def test_a_limit_that_would_bind_nothing_is_refused(desk, flag, name, advice):
    refused = desk.run("budget", "set", 1, flag, name)
    assert (refused.code, advice in refused.stderr) == (2, True)


def test_submit_of_paid_models_under_no_limit_at_all_says_how_to_limit_them(desk, simulate):
    simulate()
    desk.prompts(4)
    submit = ("submit", "in.jsonl", "-m", "sim:sim-1")
    with EmbeddedServer(desk.home / ".farebox"):
        assert desk.run("budget", "off").code == 0
        ended = desk.run(*submit, "--batch", "b")
        assert ended.code == 0, "who made a ledger without a limit has decided"
        assert "No limit holds for these jobs. `farebox estimate in.jsonl`" in ended.stderr
        assert "`farebox budget set USD --batch b" in ended.stderr
        assert "No limit holds" in desk.run("submit", "in.jsonl", "-m", "else:where").stderr
        assert desk.run(*submit, "--budget", 1, "--no-budget").code == 2
        limited = [[*submit, "--budget", 1], [*submit, "--no-budget"], [*submit, "--batch", "b2", "--budget", 1]]
        limited += [[*submit, "--batch", "b2"], ["submit", "in.jsonl", "-m", "echo:echo"]]
        for scope in (("--tag", "nightly"), ("--provider", "sim")):
            assert desk.run("budget", "set", 1, *scope).code == 0
            limited.append([*submit, *(scope if scope[0] == "--tag" else ())])
        for words in limited:
            ended = desk.run(*words)
            assert (ended.code, "No limit holds" in ended.stderr) == (0, False), words


def test_whatever_moves_a_limit_or_money_tells_programs_what_it_did(desk):
    day = desk.run("budget", "set", "2", "--per", "day", "--json").json
    assert (day["scope"], day["per"], day["limit_nusd"], day["spent_usd"]) == ("global", "day", 2_000_000_000, 0.0)
    assert desk.run("budget", "off", "--per", "day", "--json").json["limit_usd"] is None
    assert desk.run("unconfirmed", "release", "--all", "--json").json == {
        "released": 0,
        "amount_nusd": 0,
        "amount_usd": 0.0,
    }
    assert desk.run("cost", "reset", "--json").json == {"forgotten_nusd": 0, "forgotten_usd": 0.0}


def test_an_export_tells_programs_what_it_wrote(desk):
    desk.prompts(2)
    assert desk.run("run", "in.jsonl", "-m", "echo:echo", "-o", "out.jsonl", "--no-budget").code == 0
    told = desk.run("export", "out.jsonl", "-o", "out.csv", "--json").json
    assert told == {"lines": 2, "output": "out.csv", "format": "csv"}
    assert "stdout" in desk.run("export", "out.jsonl", "-o", "-", "--json").stderr
    refused = desk.run("export", "out.jsonl", "-o", "out.parquet")
    assert (refused.code, "what shall out.parquet hold?" in refused.stderr) == (2, True)
    assert desk.run("export", "out.jsonl", "-o", "out.backup", "--format", "jsonl").code == 0
