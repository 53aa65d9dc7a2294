"""What failed calls mean for others: their lane waits, or their provider, or this process serves it no longer.

Whatever is said here helps and is not needed: when the server does not hear it, the next call says the same again.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Mapping

from redis.exceptions import RedisError

from farebox.errors import LedgerError
from farebox.scripts import Tongue
from farebox_worker.attempts.attempt import Attempt
from farebox_worker.attempts.failures import LANE_PAUSE_CAP_S, Verdict
from farebox_worker.bus.blame import MOST_ALIKE, blame
from farebox_worker.bus.pause import Refusal, pause, stop_at_overrun
from farebox_worker.dispatch.witness import Witness
from farebox_worker.events import event
from farebox_worker.outage import is_of_the_server
from farebox_worker.routes import Route, Routes

log = logging.getLogger(__name__)

LEAST_REFUSAL_S = 0.5  # where the pause of refusals in a row begins to grow, when the provider says how long to wait


class Steering:
    """What one process does about its calls beyond their jobs.

    Args:
        tongue: pauses by it.
        routes: stops serving there.
        key_names: by provider, the environment variable of its key.
        witness: told of pauses.

    Attributes:
        last_error: the newest failure of a call, per lane, for people.
    """

    def __init__(self, tongue: Tongue, routes: Routes, key_names: Mapping[str, str | None], witness: Witness) -> None:
        self._tongue = tongue
        self._routes = routes
        self._key_names = key_names
        self._witness = witness
        self.last_error: dict[str, str] = {}

    async def heed(self, one: Attempt, verdict: Verdict | None, took_s: float) -> None:
        """Do what the end of a call means for others; `verdict` is None when it did not fail."""
        if verdict:
            await self._heed(one, verdict, took_s)

    async def stop_at_overrun(self, one: Attempt, cost_nusd: int) -> None:
        """Pause the lane of a call that cost more than was held for it, for good, until people look."""
        lane = one.route.lane
        try:
            paused = await stop_at_overrun(self._tongue, lane, hold_nusd=one.hold_nusd, cost_nusd=cost_nusd)
        except (RedisError, OSError, LedgerError) as error:
            _untold(lane, error)
        else:
            if paused:
                log.error("lane %s is %s", lane, paused, extra=event("overrun", lane=lane, why=paused.why))

    async def _heed(self, one: Attempt, verdict: Verdict, took_s: float) -> None:
        route = one.route
        self.last_error[route.lane] = verdict.message
        if verdict.alike:
            await self._blame(route, verdict)
        provider_id = route.entry.provider_id
        if verdict.action == "stop_provider":
            key = self._key_names.get(provider_id)
            why = f"{verdict.message}{f' (its key is in {key})' if key else ''}"
            if self._routes.stop(provider_id, why):
                extra = event("provider_stopped", provider=provider_id, why=why)
                log.error("provider %s is not served here any more: %s", provider_id, why, extra=extra)
        elif verdict.action == "pause_provider":
            await self._pause(route.lane, verdict.delay_s, verdict.failure_class, provider=provider_id)
        elif verdict.failure_class == "rate_limit" and verdict.action == "pause_lane":
            least_s = verdict.delay_s if one.retry_after_s is None else LEAST_REFUSAL_S
            refusal = Refusal(took_s, least_s or LEAST_REFUSAL_S)
            await self._pause(route.lane, verdict.delay_s, verdict.failure_class, refusal=refusal)
        elif verdict.action == "pause_lane":
            await self._pause(route.lane, verdict.delay_s, verdict.failure_class)
        elif verdict.failure_class == "overloaded" and one.retry_after_s:
            await self._pause(route.lane, min(one.retry_after_s, LANE_PAUSE_CAP_S), verdict.failure_class)

    async def _blame(self, route: Route, verdict: Verdict) -> None:
        lane, ref = route.lane, route.entry.model_ref
        try:
            paused = await blame(self._tongue, lane, model_ref=ref, what=verdict.alike, message=verdict.message)
        except (RedisError, OSError, LedgerError) as error:
            _untold(lane, error)
        else:
            if paused:
                extra = event("refused_alike", lane=lane, in_a_row=MOST_ALIKE)  # the message may quote a prompt
                words = "lane %s is paused: %d requests in a row were refused alike; `farebox lanes` says why"
                log.error(words, lane, MOST_ALIKE, extra=extra)

    async def _pause(
        self, lane: str, seconds: float | None, why: str, *, provider: str = "", refusal: Refusal | None = None
    ) -> None:
        """Pause a lane, or the provider whose account a call of the lane has found empty."""
        of = "" if provider else lane
        await quietly(
            pause(self._tongue, of, provider=provider, seconds=seconds or 1.0, why=why, refusal=refusal), lane
        )
        self._witness.paused(lane, seconds or 1.0, why)


async def quietly(verb: Awaitable[object], lane: str) -> None:
    """Do what helps and is not needed: when it fails, the next call says the same again."""
    try:
        await verb
    except (RedisError, OSError, LedgerError) as error:
        _untold(lane, error)


def _untold(lane: str, error: Exception) -> None:
    """Say that the server did not take something; an outage and a lost ledger are told once, by who waits for them."""
    level = logging.DEBUG if isinstance(error, LedgerError) or is_of_the_server(error) else logging.WARNING
    words = "lane %s: the server did not take what a call means for others: %s"
    log.log(level, words, lane, error, extra=event("pause_failed", lane=lane))
