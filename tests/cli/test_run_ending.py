"""When a run gives up: only what nobody will bring any more is a reason to end."""

from unittest.mock import AsyncMock, MagicMock

import pytest

from farebox_worker.files.tally import Tally
from farebox_worker.run.job import STILL_S, MainJob
from farebox_worker.settings import RetentionSettings


@pytest.fixture
def run(monkeypatch):
    """A run whose batch has nothing left that waits, runs or is parked, while lines are outstanding."""
    batch = MagicMock(batch_id="b")
    batch.waiting = AsyncMock(return_value=(0, 0, 0))
    batch.progress = AsyncMock(return_value=MagicMock(cancelled=False))
    out = MagicMock(tally=Tally())
    follow = MagicMock(outstanding={"one"}, written=3)
    parts = (batch, out, MagicMock(), follow, MagicMock(), MagicMock())
    job = MainJob(*parts, total=4, retention=RetentionSettings(), revive=AsyncMock(), prospect=MagicMock())
    monkeypatch.setattr(job, "_note", lambda progress: None)
    monkeypatch.setattr(job, "_look_at_lanes", AsyncMock())
    return job, follow


async def test_what_ended_between_the_last_step_and_the_look_is_no_reason_to_give_up(run):
    job, follow = run
    follow.step = AsyncMock(return_value=1)
    assert not await job._is_stuck(still_s=STILL_S + 1)
    follow.step.assert_awaited_once()


async def test_answers_that_nobody_will_bring_end_the_run_with_the_reason(run):
    job, follow = run
    follow.step = AsyncMock(return_value=0)
    assert not await job._is_stuck(still_s=0), "not before all was still for a while"
    assert await job._is_stuck(still_s=STILL_S + 1)
    assert "their answers are gone" in job._ending.reason
