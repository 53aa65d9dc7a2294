"""What is shown of a run and of a watched batch: no row is wrapped at any width, and a pipe gets plain lines."""

import io
import math
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from farebox.ledger import Scope
from farebox_worker.latency import RECENT_S, Latencies, RecentLatencies
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


def latencies(*times):
    found = Latencies()
    for ms in times:
        found.count(ms)
    return found


def test_latencies_are_the_same_after_they_were_written_and_of_several_processes_they_add_up():
    one, other = latencies(0, 5, 900, 900), latencies(*[40_000] * 12)
    assert Latencies.read(str(one)).counts == one.counts
    both = Latencies.of([one, other])
    assert (both.share_ms(0.1), both.share_ms(0.5)) == (5, pytest.approx(40_000, rel=0.05))
    assert str(Latencies()) == ""


def test_recent_latencies_are_forgotten_within_a_minute():
    now = 0.0
    recent = RecentLatencies(lambda: now)
    recent.count(7)
    for moment in (RECENT_S - 1, RECENT_S, 2 * RECENT_S - 1):
        now = moment
        assert recent.look().share_ms(0.5) == 7
    now = 2 * RECENT_S
    assert str(recent.look()) == ""
    recent.count(7)
    now = 10 * RECENT_S
    assert str(recent.look()) == "", "nobody looked for long"


class Told(Latencies):
    """Latencies of which the two shares are told that are shown."""

    def __init__(self, half, most):
        super().__init__()
        self.told = {0.5: half, 0.95: most}

    def share_ms(self, share):
        return self.told[share]


@pytest.mark.parametrize(
    ("times", "words"),
    [((8, 40), "8/40 ms"), ((850, 2100), "0.8/2.1 s"), ((710, 12_000), "0.7/12 s"), ((60_000, 70_000), "60/70 s")],
)
def test_a_lane_says_how_long_half_of_its_calls_took_and_nearly_all(times, words):
    sight = Sight(Counts(3), 9, 1, 2, 0, Scope("batch:b", None), lanes=(LaneSight("sim:sim-1", latency=Told(*times)),))
    assert words in "\n".join(drawn(sight, 80))
    assert f"sim:sim-1: p50/p95 {words}" in plain_line(sight, RATES)


@pytest.mark.parametrize(("width", "is_said"), [(80, True), (60, False)])
def test_on_a_narrow_terminal_the_latency_gives_way_to_the_name(width, is_said):
    lane = LaneSight("openai:gpt-5-mini@flex", 38, 64, 7600, latency=latencies(850), pace="540/600 rpm")
    assert ("p50/p95" in "\n".join(rows(width, (lane,)))) == is_said
