"""The money invariant under random verbs, on a fake and on a real server, judged by `money_machine`.

HYPOTHESIS_PROFILE=ci plays three times as many games, HYPOTHESIS_PROFILE=deep many more and longer ones.
"""

import os

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test
from tests.money.money_machine import MoneyMachine
from tests.shifted_time import shifted_time

DEEP = os.environ.get("HYPOTHESIS_PROFILE") == "deep"
REAL = (300 if os.environ.get("HYPOTHESIS_PROFILE") == "ci" else 100, 50)  # games, steps of each
FAKE = (20, 30)  # a step costs three times as much there


def games(server):
    count, steps = (2000, 80) if DEEP else REAL if server else FAKE
    return settings(
        max_examples=count,
        stateful_step_count=steps,
        deadline=None,
        database=None,
        print_blob=False,
        suppress_health_check=list(HealthCheck),
    )


@pytest.mark.timeout(7200 if DEEP else 600)
def test_no_interleaving_of_verbs_breaks_the_money_or_loses_a_job(server):
    with shifted_time():
        run_state_machine_as_test(lambda: MoneyMachine(server), settings=games(server))
