"""The limit holds under kill -9, judged by the provider's own bill. FAREBOX_CHAOS_S rages longer."""

import os
import tempfile

import pytest
from tests.conftest import server_binary
from tests.fleet.chaos import blackout, crowd, rage

SECONDS = float(os.environ.get("FAREBOX_CHAOS_S", "10"))

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(120 + 2 * SECONDS),
    pytest.mark.skipif(not server_binary(), reason="no server to kill"),
]


@pytest.fixture
def folder():
    with tempfile.TemporaryDirectory(prefix="fbc") as folder:  # short: a socket's path has 100 bytes
        yield folder


def test_the_bill_stays_within_the_limit_whoever_is_killed(folder):
    seed = int.from_bytes(os.urandom(3), "big")
    seen = rage(folder, seconds=SECONDS, seed=seed, server_kills=max(1, int(SECONDS / 6)))
    print(f"\nseed {seed}\n{seen.table()}")  # noqa: T201 - with pytest -s
    assert not seen.broken, f"seed {seed}\n{seen.table()}\n{seen.log[-3000:]}"
    assert seen.worker_kills >= 3


@pytest.mark.parametrize(("processes", "concurrency"), [(1, 500), (2, 250), (4, 50)])
def test_a_crowd_at_the_limit_spends_it_and_no_cent_more(folder, processes, concurrency):
    seen = crowd(folder, processes=processes, concurrency=concurrency)
    print(f"\n{processes} x {concurrency}\n{seen.table()}")  # noqa: T201 - with pytest -s
    assert not seen.broken, seen.table()
    assert seen.bill == seen.spent == seen.limit


def test_a_blackout_at_four_fifths_of_the_limit_spends_no_cent_above_it(folder):
    seen = blackout(folder)
    print(f"\n{seen.table()}")  # noqa: T201 - with pytest -s
    assert not seen.broken, seen.table()
    assert seen.worker_kills == 3
    assert seen.limit == seen.spent + seen.unconfirmed
