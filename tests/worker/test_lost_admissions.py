"""An admission whose acknowledgement came too late: nothing was sent, and so nothing is owed."""

from redis.exceptions import ConnectionError as RedisConnectionError
from tests.process_support import COST

from farebox_worker.bus.lapse import lapse
from farebox_worker.dispatch import dispatch as dispatch_module


async def test_a_hold_that_lapsed_before_its_worker_heard_of_it_is_released(stage, monkeypatch):
    real, is_stopped = dispatch_module.admit, []

    async def admit(tongue, fares):
        verdicts = await real(tongue, fares)
        if not is_stopped:  # for longer than its lease, between the server's answer and its arrival
            is_stopped.append(True)
            lapsed = await lapse(tongue, dead=True)
            assert [one.hold_nusd is not None for one in lapsed] == [True]
            raise RedisConnectionError("Timeout reading from socket")
        return verdicts

    monkeypatch.setattr(dispatch_module, "admit", admit)
    await stage.begin(1)
    async with stage.process():
        await stage.finished(1)
    assert await stage.money() == (COST, 0, 0), "it was never sent"
    assert len(stage.provider.posted) == 1
