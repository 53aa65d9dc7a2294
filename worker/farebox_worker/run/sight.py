"""What there is to see of a batch at one moment, for `run` and `watch` alike, and how fast it goes."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from farebox.commands import Redis
from farebox.keys import Keys
from farebox.ledger import Scope
from farebox.progress import Progress
from farebox_worker.files.tally import Tally
from farebox_worker.heartbeats import read_heartbeats
from farebox_worker.lanes import Lane, read_lanes
from farebox_worker.latency import Latencies
from farebox_worker.run.forecast import Outlook

WINDOW_S = 30.0  # rates are those of so long


@dataclass(frozen=True, slots=True)
class Counts:
    """Jobs by how they ended, and the tokens of their answers."""

    done: int = 0
    failed: int = 0
    cancelled: int = 0
    truncated: int = 0
    reused: int = 0
    input_tokens: int = 0
    output_tokens: int = 0


@dataclass(frozen=True, slots=True)
class LaneSight:
    """One lane: jobs in flight of the `target` that the fleet keeps to (None: nobody knows), and what keeps it back.

    `queued` are jobs that could go or are due later; `pace` is what is used of its rate limits, "" without any;
    `trouble` why it is paused, or the newest failure; `latency` counts calls that were answered.
    """

    name: str
    in_flight: int = 0
    target: int | None = None
    queued: int = 0
    pace: str = ""
    retried: int = 0
    trouble: str = ""
    is_paused: bool = False
    is_unserved: bool = False
    latency: Latencies = field(default_factory=Latencies)


@dataclass(frozen=True, slots=True)
class Sight:
    """What there is to see. `outlook` is None until an answer says what answers are like; `name` is told by `watch`."""

    counts: Counts
    total: int
    running: int
    waiting: int
    parked: int
    scope: Scope
    name: str = ""
    notes: tuple[str, ...] = ()
    outlook: Outlook | None = None
    lanes: tuple[LaneSight, ...] = ()


def counts_of(done: int, tally: Tally) -> Counts:
    """Count what an output file holds; `done` are the lines of the input among it."""
    outcomes = tally.outcomes
    return Counts(
        done,
        outcomes["failed"],
        outcomes["cancelled"],
        tally.finishes["truncated"],
        tally.reused,
        tally.input_tokens,
        tally.output_tokens,
    )


def counts_in(progress: Progress) -> Counts:
    """Count what a batch says of itself."""
    scope = progress.scope
    return Counts(
        progress.finished,
        progress.failed,
        progress.cancelled_jobs,
        progress.finishes.get("truncated", 0),
        progress.reused,
        scope.input_tokens,
        scope.output_tokens,
    )


async def look_at_lanes(
    redis: Redis,
    keys: Keys,
    names: Collection[str] | None = None,
    *,
    errors: Mapping[str, str] | None = None,
    latencies: Mapping[str, Latencies] | None = None,
) -> tuple[LaneSight, ...]:
    """See these lanes, or all with work, the busiest first.

    `errors` by lane and `latencies` by model_ref are newer than what heartbeats say.
    """
    beats = await read_heartbeats(redis, keys)
    lanes = await read_lanes(redis, keys, beats)
    chosen = [lane for lane in lanes if (lane.has_work if names is None else lane.name in names)]
    found = []
    for lane in chosen:
        troubles = [beat.troubles[lane.name] for beat in beats if lane.name in beat.troubles]
        newest = (errors or {}).get(lane.name) or next((one.error for one in troubles if one.error), "")
        known = [beat.latencies.get(lane.name) for beat in beats]
        if latencies is not None:
            known = [latencies.get(lane.name.removesuffix("@flex"))]
        found.append(_sight_of(lane, sum(one.retried for one in troubles), newest, Latencies.of(filter(None, known))))
    return tuple(sorted(found, key=lambda one: (-one.in_flight, -one.queued, one.name)))


def _sight_of(lane: Lane, retried: int, error: str, latency: Latencies) -> LaneSight:
    used = ", ".join(words for words in (str(lane.pace), str(lane.shared_pace)) if words)
    return LaneSight(
        lane.name,
        lane.in_flight,
        lane.pace.target,
        lane.runnable + lane.later + lane.parked_jobs,
        used,
        retried,
        f"{lane.pause}" if lane.pause else error,
        is_paused=lane.pause is not None,
        is_unserved=lane.unserved > 0,
        latency=latency,
    )


@dataclass(frozen=True, slots=True)
class Rates:
    """What happens in a second: jobs that end, tokens in and out."""

    jobs: float = 0.0
    input_tokens: float = 0.0
    output_tokens: float = 0.0


class Speed:
    """How fast counts grow, over the last 30 seconds. `clock` tells seconds that never go back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: deque[tuple[float, Counts]] = deque()

    def note(self, counts: Counts) -> Rates:
        """Take the newest counts, and say how fast they grow."""
        now = self._clock()
        self._seen.append((now, counts))
        while len(self._seen) > 2 and self._seen[1][0] <= now - WINDOW_S:
            self._seen.popleft()
        since, before = self._seen[0]
        if now <= since:
            return Rates()
        grown = (
            counts.done - before.done,
            counts.input_tokens - before.input_tokens,
            counts.output_tokens - before.output_tokens,
        )
        return Rates(*(max(0, one) / (now - since) for one in grown))
