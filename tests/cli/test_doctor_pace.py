"""The doctor says what holds a lane back that has work, workers and no pause: its rate, or what is let in at once."""

import pytest

from farebox_worker.bus.pace import Pace, Rates
from farebox_worker.cli.options import child_environment
from farebox_worker.doctor.fleet import check_lanes
from farebox_worker.lanes import Lane
from farebox_worker.settings import RedisSettings, Settings, WorkerSettings


def said(**fields):
    lane = Lane("p:a", workers=1, **{"runnable": 50} | fields)
    return [check.message for check in check_lanes([lane], Settings(), has_workers=True) if check.name == "pace"]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"pace": Pace(Rates(rpm=600), requests=590)}, "it sends as much as its rate allows (590/600 rpm)"),
        ({"pace": Pace(Rates(tpm=1000), tokens=950)}, "it sends as much as its rate allows (950/1,000 tpm)"),
        ({"shared_pace": Pace(Rates(rpm=600), requests=600)}, "p sends as much as its rate allows (600/600 rpm)"),
        ({"pace": Pace(target=20), "in_flight": 20}, "20 calls at once are what its provider lets in"),
    ],
)
def test_a_lane_that_its_pace_holds_back_is_named_with_the_reason(fields, words):
    (message,) = said(**fields)
    assert message.startswith("50 jobs of p:a wait: ")
    assert words in message


@pytest.mark.parametrize(
    "fields",
    [
        {"pace": Pace(Rates(rpm=600), requests=300)},
        {"pace": Pace(Rates(rpm=600), requests=600), "runnable": 0},
        {"pace": Pace(target=64), "in_flight": 10},
        {},
    ],
)
def test_nothing_is_said_of_a_lane_that_could_send_more(fields):
    assert said(**fields) == []


def test_a_child_process_works_as_the_flags_of_its_parent_say(tmp_path):
    settings = Settings(
        redis=RedisSettings(data_dir=tmp_path), worker=WorkerSettings(concurrency=7, fallback_after_s=2.5)
    )
    environment = child_environment(settings)
    assert environment["FAREBOX_WORKER_CONCURRENCY"] == "7"
    assert environment["FAREBOX_WORKER_FALLBACK_AFTER_S"] == "2.5"
