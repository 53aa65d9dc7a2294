"""What is shown of a run and of a watched batch: no row is wrapped at any width, and a pipe gets plain lines."""

import io
import math
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from farebox.ledger import Scope
from farebox_worker.files.latency import Latencies
from farebox_worker.run.forecast import Outlook
from farebox_worker.run.picture import MOST_LANES, picture, plain_line
from farebox_worker.run.screen import Screen
from farebox_worker.run.sight import Counts, LaneSight, Rates, Sight, Speed

USD = 10**9
LANES = (
    LaneSight("sim:a-model-with-quite-a-long-name@flex", 38, 64, 7600, "540/600 rpm", 12, "sim answered 500: [oops]"),
    LaneSight("sim:sim-1", 0, None, 12, "", 0, "paused by the operator until resumed", is_paused=True),
)
SIGHT = Sight(
    Counts(12_345, 12, 3, 366, 40, 81_000, 12_000), 20_000, 38, 7_600, 17,
    Scope("batch:b", 20 * USD, 5 * USD, USD, USD // 10), name="support-tickets-7f3a",
    notes=("sim:sim-1 waits",), outlook=Outlook(22 * USD, 18_000, "batch:b", 9),
)  # fmt: skip
RATES = Rates(412.0, 8100.0, 1200.0)


def drawn(sight, width, rates=RATES):
    """The rows as a terminal of so many columns shows them."""
    file = io.StringIO()
    Console(file=file, width=width, force_terminal=True, color_system=None, highlight=False).print(
        picture(sight, rates, width)
    )
    return file.getvalue().rstrip("\n").split("\n")


def rows(width, lanes=LANES):
    return drawn(Sight(**{name: getattr(SIGHT, name) for name in Sight.__slots__} | {"lanes": lanes}), width)


@pytest.mark.parametrize("width", [40, 80, 120])
def test_everything_is_said_at_every_width(width):
    shown = rows(width)
    text = "\n".join(shown)
    assert max(map(len, shown)) <= width
    for words in ("12,345/20,000 62%", "38 running", "7,600 waiting", "12 failed", "366 truncated", "17 parked",
                  "40 reused", "412 jobs/s", "81,000 tokens in, 8,100/s", "12,000 out, 1,200/s", "$5.00 spent",
                  "$1.00 held", "$0.10 unconfirmed", "of $20.00", "about $22.00 in all", "38/64"):  # fmt: skip
        assert words in text, words
    assert ("540/600 rpm" in text) == (width >= 60)
    assert "[oops]" in text or width == 40, "words of others are no markup"


@given(
    width=st.integers(20, 200),
    done=st.integers(0, 10**9),
    total=st.integers(0, 10**9),
    limit=st.integers(0, 10**12),
    spent=st.integers(0, 10**12),
    lanes=st.integers(0, 20),
)
def test_no_row_is_wider_than_the_terminal(width, done, total, limit, spent, lanes):
    sight = Sight(
        Counts(done), total, 1, 2, 0, Scope("batch:b", limit or None, spent, 5), name="b" * 64,
        lanes=tuple(LaneSight("m" * 70, n) for n in range(lanes)),
    )  # fmt: skip
    shown = drawn(sight, width)
    assert max(map(len, shown)) <= width
    assert len(shown) < 24 + 2 * MOST_LANES


def test_many_lanes_are_shortened():
    shown = rows(80, tuple(LaneSight(f"sim:m{n}", n) for n in range(20)))
    assert shown[-2] == "and 12 more lanes"


def test_time_left_is_that_of_the_last_seconds_and_unknown_while_stuck():
    assert "19 s left" in rows(80)[0]
    stuck = Sight(Counts(5), 10, 0, 0, 5, Scope("batch:b", None))
    assert "left" not in drawn(stuck, 80)[0]
    assert "left" not in plain_line(stuck, RATES)


def test_speed_is_that_of_the_last_thirty_seconds():
    now = 0.0
    speed = Speed(lambda: now)
    assert speed.note(Counts(1000)) == Rates()
    for now in range(1, 101):
        rates = speed.note(Counts(1000 + 10 * now if now < 50 else 1490, output_tokens=5 * now))
    assert rates == Rates(0.0, 0.0, 5.0)


def test_a_pipe_gets_a_plain_line_now_and_then_and_quiet_nothing(capsys):
    with Screen(plain_after_s=0) as screen:
        screen.show(SIGHT)
        screen.show(SIGHT)
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith("farebox: support-tickets-7f3a: 12,345/20,000 done, 0.0/s, 38 running")
    assert "\x1b" not in said
    with Screen(is_quiet=True, plain_after_s=0) as screen:
        screen.show(SIGHT)
        screen.say("nothing")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("share", [0.01, 0.5, 0.95, 1.0])
def test_a_share_of_the_latencies_is_right_to_five_percent(seed, share):
    chosen = Random(seed)
    times = [int(chosen.lognormvariate(6, 2)) for _ in range(chosen.randint(1, 500))]
    latencies = Latencies()
    for ms in [*times, 999_999_999]:
        latencies.count(ms)
    latencies.count(999_999_999, -1)
    exact = sorted(times)[math.ceil(share * len(times)) - 1]
    assert latencies.share_ms(share) == pytest.approx(exact, rel=0.05, abs=1)


def test_without_a_call_there_is_no_latency():
    assert Latencies().share_ms(0.5) is None
