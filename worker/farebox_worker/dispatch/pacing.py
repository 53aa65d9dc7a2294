"""What this process tells the fleet of a lane's pace: what is configured, what headers say, what its calls felt.

Nothing is told twice: what is configured once per lane and ledger, what headers say when it changes. What calls felt
goes with their settlement.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterable

from farebox.scripts import Tongue
from farebox_worker.attempts.attempt import Attempt
from farebox_worker.attempts.failures import Verdict
from farebox_worker.bus.pace import Rates, felt, rates_in, tune
from farebox_worker.bus.settle import Settlement
from farebox_worker.routes import Route, Routes
from farebox_worker.settings import ProviderSettings

_CUTS = frozenset({"rate_limit", "timeout"})
_FULL = frozenset({503, 529})  # no room now, where other 5xx are faults
_NEVER_SENT = frozenset({"unreachable", "config"})
_NOTHING = Rates()


class Pacing:
    """The pace as one process knows it.

    Args:
        tongue: where to tell it.
        routes: the lanes it serves.
        providers: their settings.
    """

    def __init__(self, tongue: Tongue, routes: Routes, providers: dict[str, ProviderSettings]) -> None:
        self._tongue = tongue
        self._routes = routes
        self._providers = {name: Rates(one.rpm or 0, one.tpm or 0) for name, one in providers.items()}
        self._epoch = ""
        self._told: set[str] = set()
        self._seen: dict[str, Rates] = {}

    def is_told(self, lanes: Iterable[str]) -> bool:
        """Whether the ledger of now was told of all these lanes."""
        return self._epoch == self._tongue.epoch and self._told.issuperset(lanes)

    async def tell(self, lanes: Iterable[str]) -> None:
        """Tell what is configured for lanes, and for their providers.

        Raises: LedgerError; redis errors pass through.
        """
        if self._epoch != self._tongue.epoch:
            self._told.clear()
            self._seen.clear()
        fresh = [route for lane in lanes if lane not in self._told and (route := self._routes.find(lane))]
        if fresh:
            await tune(
                self._tongue,
                lanes={route.lane: Rates(route.entry.rpm or 0, route.entry.tpm or 0) for route in fresh},
                providers={name: self._providers.get(name, Rates()) for name in {r.entry.provider_id for r in fresh}},
            )
        self._told.update(route.lane for route in fresh)
        self._epoch = self._tongue.epoch

    def learn(self, one: Attempt) -> Awaitable[None] | None:
        """Tell what the headers of an answer allow; None when it is no news.

        Awaited, it raises: LedgerError; redis errors pass through.
        """
        rates, lane = rates_in(one.headers) if one.headers else _NOTHING, one.route.lane
        if rates == _NOTHING or self._seen.get(lane) == rates:
            return None
        self._seen[lane] = rates
        return self._tell_seen(lane, rates)

    async def _tell_seen(self, lane: str, rates: Rates) -> None:
        try:
            await tune(self._tongue, lanes={lane: rates}, seen=True)
        except BaseException:
            self._seen.pop(lane, None)  # it is news until it is told
            raise

    def felt(self, one: Attempt, settlement: Settlement, verdict: Verdict | None, seconds: float) -> str:
        """Say what an admitted attempt, sent so many seconds ago, tells of its lane's pace."""
        if verdict is None:
            is_sent, is_cut = settlement.felt != "unsent", False
        else:
            is_sent = verdict.failure_class not in _NEVER_SENT
            is_full = verdict.failure_class == "overloaded" and one.status in _FULL
            is_cut = is_full or (verdict.failure_class in _CUTS and verdict.action != "fail")
        is_metered = self._is_metered(one.route)
        if is_sent and not is_cut and not is_metered and not one.headers:
            return ""
        return felt(
            is_sent=is_sent,
            sent_s_ago=seconds,
            is_cut=is_cut,
            unused_tokens=_unused(one, settlement) if is_metered else 0,
            headers=one.headers,
        )

    def _is_metered(self, route: Route) -> bool:
        shared = self._providers.get(route.entry.provider_id, _NOTHING)
        return bool(route.entry.tpm or shared.tpm or self._seen.get(route.lane, _NOTHING).tpm)


def _unused(one: Attempt, settlement: Settlement) -> int:
    """How many of the tokens that were reserved were not used; none where nobody knows."""
    used = settlement.input_tokens + settlement.output_tokens
    if settlement.money == "unconfirmed" or (settlement.money != "release" and not used):
        return 0
    return one.tokens - used
