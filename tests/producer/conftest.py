"""What the client's tests share: a client of a ledger that was just made, and the workers' side of it."""

import pytest
from tests.producer.stand_in import StandIn

import farebox
from farebox.ledger import Ledger


@pytest.fixture
async def client(redis):
    await Ledger(redis).create()
    async with farebox.Client(redis=redis) as client:
        yield client


@pytest.fixture
def bus(redis):
    return StandIn(redis)
