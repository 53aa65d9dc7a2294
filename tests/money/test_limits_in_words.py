"""People read limits in words, the share that is in doubt, and commands that work where they stand."""

import os
import signal
from datetime import UTC, datetime

import pytest
from tests.cli_support import desk, simulate

from farebox.ledger import Limit, Scope
from farebox_worker.cli.options import ended_by_ctrl_c
from farebox_worker.configuration import load
from farebox_worker.limits import in_words, money_line, raise_command, room_again, window_end
from farebox_worker.session import flags_from_here, with_flags

__all__ = ["desk", "simulate"]

RUN = ("run", "in.jsonl", "-m", "sim:sim-1", "--max-tokens", 64)
RAW_NAMES = ("day:", "month:", "tag:", "provider:", "limit of global")


@pytest.mark.parametrize(
    ("name", "words", "command"),
    [
        ("global", "the global limit", "farebox budget set USD"),
        ("day:global", "the global daily limit", "farebox budget set USD --per day"),
        ("tag:nightly", "the limit of tag nightly", "farebox budget set USD --tag nightly"),
        ("month:tag:a:b", "the monthly limit of tag a:b", "farebox budget set USD --tag a:b --per month"),
        ("model:p:m", "the limit of model p:m", "farebox budget set USD --model p:m"),
        ("tag:two words", "the limit of tag two words", "farebox budget set USD --tag 'two words'"),
    ],
)
def test_a_limit_has_a_name_for_people_and_a_command_that_moves_it(name, words, command):
    assert in_words(name) == words
    assert raise_command(name) == command
    assert raise_command(name, " --data-dir x") == f"{command} --data-dir x"


def test_days_and_months_end_in_utc():
    last_evening = datetime(2026, 12, 31, 23, 30, tzinfo=UTC)
    assert window_end("day", last_evening) == window_end("month", last_evening) == datetime(2027, 1, 1, tzinfo=UTC)
    assert window_end("month", datetime(2028, 2, 1, tzinfo=UTC)) == datetime(2028, 3, 1, tzinfo=UTC)
    assert room_again("day:global", last_evening).endswith("2027-01-01 00:00 UTC")
    assert room_again("tag:day", last_evening) == ""


@pytest.mark.parametrize(
    ("scope", "line"),
    [
        (Scope("b", None, 5_000_000), "$0.005 spent"),
        (Scope("b", 10_000_000, 0, unconfirmed_nusd=2_500_000), "$0.00 spent, $0.0025 unconfirmed (25%) of $0.01"),
        (Scope("b", 10_000_000, 0, unconfirmed_nusd=1), "$0.00 spent, $0.000000001 unconfirmed (under 1%) of $0.01"),
        (Scope("b", 0, 0, unconfirmed_nusd=1), "$0.00 spent, $0.000000001 unconfirmed of $0.00"),
        (Scope("b", None, 5_000_000, overrun_nusd=1_000_000), "$0.005 spent ($0.001 of it overrun)"),
        (Limit("global", "day", 40_000_000, 0, 10_000_000, 20_000_000),
         "$0.00 spent, $0.01 held, $0.02 unconfirmed (50%) of $0.04"),
    ],
)  # fmt: skip
def test_a_line_of_money_tells_what_is_in_doubt_and_what_share_it_takes(scope, line):
    assert money_line(scope) == line


def test_a_command_to_copy_has_the_flags_that_are_needed_here_and_no_others(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert flags_from_here(load()) == ""
    assert flags_from_here(load(data_dir=tmp_path / ".farebox")) == ""
    assert flags_from_here(load(data_dir=tmp_path / "a b")) == f" --data-dir '{tmp_path}/a b'"
    shared = load(redis_url="redis://me:secret@bus:6379/0")
    assert flags_from_here(shared) == " --redis 'redis://***@bus:6379/0'"
    monkeypatch.setenv("FAREBOX_REDIS_URL", "redis://me:secret@bus:6379/0")
    assert flags_from_here(shared) == ""
    monkeypatch.delenv("FAREBOX_REDIS_URL")
    (tmp_path / "other.toml").write_text('[redis]\nnamespace = "team-b"\n')
    assert flags_from_here(load(tmp_path / "other.toml")) == f" --config {tmp_path}/other.toml"
    assert (
        with_flags("look (`farebox cost`), or `make x`", " --data-dir d")
        == "look (`farebox cost --data-dir d`), or `make x`"
    )


def test_ctrl_c_ends_work_that_awaits_nothing():
    def of_a_loop(*_):
        """Stand for the handler of an event loop, which only takes note."""

    before = signal.signal(signal.SIGINT, of_a_loop)
    try:
        with pytest.raises(KeyboardInterrupt), ended_by_ctrl_c():
            os.kill(os.getpid(), signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is of_a_loop
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    ("flags", "words", "command"),
    [
        (("--per", "day"), "the global daily limit ($0.00", "farebox budget set USD --per day"),
        (("--tag", "nightly"), "the limit of tag nightly ($0.00", "farebox budget set USD --tag nightly"),
        (("--provider", "sim", "--per", "month"), "the monthly limit of provider sim (", "--provider sim --per month"),
    ],
)
def test_a_parked_run_says_at_which_limit_and_what_moves_it(desk, simulate, flags, words, command):
    simulate("--output-tokens", 20)
    desk.prompts(20)
    assert desk.run("budget", "set", "5").code == 0
    assert desk.run("budget", "set", "0.0006", *flags).code == 0
    parked = desk.run(*RUN, "--tag", "nightly", "--json")
    assert parked.code == 4, parked
    assert f"Parked at {words}" in parked.stderr
    assert f"raise it with `{command}" in parked.stderr or command in parked.stderr
    assert ("UTC" in parked.stderr) == ("--per" in flags)
    assert parked.json["parked_at"]["limit_nusd"] == 600_000
    batch = parked.json["batch_id"]
    shown, listed, lanes = desk.run("status", batch), desk.run("batches", "--json"), desk.run("lanes")
    assert "): parked" in shown.stdout
    assert command in shown.stdout
    assert [one["state"] for one in listed.json["batches"]] == ["parked"]
    for said in (parked.stderr, shown.stdout, lanes.stdout, desk.run("doctor", "--offline").stdout):
        assert not [raw for raw in RAW_NAMES if raw in said], said


def test_money_in_doubt_has_its_share_in_the_park_message_and_a_command_beside_it(desk, simulate):
    simulate("--share-dropped", 1)
    desk.prompts(20)
    parked = desk.run(*RUN, "--budget", "0.0006", "--json")
    assert parked.code == 4, parked
    assert "Parked at the budget of this run, of which $0." in parked.stderr
    assert "%) are unconfirmed" in parked.stderr
    assert "`farebox unconfirmed list`" in parked.stderr
    listed = desk.run("unconfirmed", "list", "--json").json
    assert listed["total"]["unconfirmed_nusd"] == sum(one["amount_nusd"] for one in listed["unconfirmed"]) > 0
    assert desk.run("unconfirmed", "release", "nobody").code == 2
    assert desk.run("unconfirmed", "release", listed["unconfirmed"][0]["attempt"]).code == 0
