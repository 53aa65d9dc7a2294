"""The money invariant under random verbs, on a fake and on a real server, judged by `money_machine`.

HYPOTHESIS_PROFILE=deep plays many more and longer games.
"""

import os

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test
from tests.money_machine import MoneyMachine
from tests.shifted_time import shifted_time

DEEP = os.environ.get("HYPOTHESIS_PROFILE") == "deep"
GAMES = settings(
    max_examples=2000 if DEEP else 50,
    stateful_step_count=80 if DEEP else 30,
    deadline=None,
    database=None,
    print_blob=False,
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.timeout(7200 if DEEP else 400)
def test_no_interleaving_of_verbs_breaks_the_money_or_loses_a_job(server):
    with shifted_time():
        run_state_machine_as_test(lambda: MoneyMachine(server), settings=GAMES)
