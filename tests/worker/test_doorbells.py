"""A busy process claims for the lanes that have free slots or a bell, and looks at all of them from time to time."""

import math

import pytest

from farebox.keys import Keys
from farebox.scripts import Tongue
from farebox_worker.dispatch import doorbells
from farebox_worker.dispatch.doorbells import LOOK_S, Doorbells
from farebox_worker.outage import Outage


@pytest.fixture
def now(monkeypatch):
    """A clock to set: its first item."""
    now = [100.0]
    monkeypatch.setattr(doorbells, "clock", lambda: now[0])
    return now


@pytest.fixture
def free():
    """The lanes that have a free slot."""
    return {"a:1", "b:2"}


@pytest.fixture
def bells(redis, free):
    tongue, lanes = Tongue(redis, Keys("farebox")), ["a:1", "b:2"]
    return Doorbells(tongue, Outage(), only_batch="", lanes=lambda: lanes, with_slots=lambda: free)


async def test_only_what_was_rung_for_is_worth_a_claim(bells, now):
    assert bells.heard(math.inf) is None, "nothing is known yet"
    assert bells.heard(math.inf) == set()
    bells.ring(["a:1"])
    bells.ring(["b:2"])
    assert bells.heard(math.inf) == {"a:1", "b:2"}
    assert bells.heard(math.inf) == set()


async def test_a_ring_for_nothing_in_particular_is_for_all(bells, now):
    bells.heard(math.inf)
    bells.ring(["a:1"])
    bells.ring()
    assert bells.heard(math.inf) is None


async def test_what_is_due_and_time_that_passed_are_for_all(bells, now):
    bells.heard(math.inf)
    bells.ring(["a:1"])
    assert bells.heard(100.0) is None, "a job is due"
    now[0] += LOOK_S
    bells.ring(["a:1"])
    assert bells.heard(math.inf) is None, "whoever is never at rest hears no bell"
    bells.ring(["a:1"])
    assert bells.heard(math.inf) == {"a:1"}


async def test_a_sleep_that_ends_by_itself_is_followed_by_a_look_at_all(bells, now):
    bells.heard(math.inf)
    await bells.sleep(0.001, has_room=False)
    assert bells.heard(math.inf) is None


async def test_a_bell_is_for_its_lane_alone(bells, redis, now):
    bells.heard(math.inf)
    await redis.rpush(Keys("farebox").lane_bell("b:2"), "1")
    await bells.sleep(5, has_room=True)
    bells.stop_listening()
    assert bells.heard(math.inf) == {"b:2"}


async def test_a_bell_for_a_lane_without_a_free_slot_is_left_to_others(bells, free, redis, now):
    bells.heard(math.inf)
    free.remove("b:2")
    bell = Keys("farebox").lane_bell("b:2")
    await redis.rpush(bell, "1")
    await bells.sleep(0.2, has_room=True)
    assert await redis.llen(bell) == 1
    await redis.rpush(Keys("farebox").lane_bell("a:1"), "1")
    bells.heard(math.inf)
    await bells.sleep(5, has_room=True)
    bells.stop_listening()
    assert bells.heard(math.inf) == {"a:1"}, "what it has a slot for it hears at once"
