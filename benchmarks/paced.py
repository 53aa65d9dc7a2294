"""Four worker processes under a provider's limits: how much of the allowance is used, and how many calls are refused.

The simulator judges: it keeps buckets as the vendors do, and its bill says what it let in.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import measure
from fleet import fleet
from measure import Report

from farebox_worker.bus.pause import resume

PROCESSES = measure.sized(4, 2)
WARM_UP_S = measure.sized(5)
WATCHED_S = measure.sized(30, 2)
CAP = 100  # output tokens of each call, and as many are made
SIZE = 1024


@dataclass(frozen=True)
class Case:
    """A provider's limits, how the fleet knows of them, and what they allow per minute, in calls."""

    name: str
    simulate: tuple[str, ...]
    settings: str
    models: tuple[str, ...] = ("sim-1",)
    allowed: float = 0.0  # calls per minute
    concurrency: int = 0
    latency_ms: int = 200

    @property
    def target(self) -> str:
        """How much of the allowance should be used, in %."""
        return "≥ 90" if self.concurrency else "≥ 95"


@dataclass(frozen=True)
class Found:
    """What the simulator counted while it was watched."""

    calls: int
    billed: int
    tokens: int
    seconds: float

    @property
    def refused(self) -> float:
        """Share of calls that were refused."""
        return 1 - self.billed / max(1, self.calls)

    @property
    def per_minute(self) -> float:
        """Calls that were let in, per minute."""
        return self.billed * 60 / self.seconds


LEARNED = ""
CASES = (
    Case("600 requests/min, configured", ("--rpm", "600"), '[models."sim:sim-1"]\nrpm = 600\n', allowed=600),
    Case("600 requests/min, learned from headers", ("--rpm", "600"), LEARNED, allowed=600),
    Case(
        "600 requests/min for two models of one provider, configured",
        ("--rpm", "600"),
        "rpm = 600\n",
        models=("sim-1", "sim-2"),
        allowed=600,
    ),
    Case("200,000 tokens/min, configured", ("--tpm", "200000"), '[models."sim:sim-1"]\ntpm = 200000\n'),
    Case("200,000 tokens/min, learned from headers", ("--tpm", "200000"), LEARNED),
    Case(
        "20 calls at once, configured",
        ("--concurrency", "20"),
        '[models."sim:sim-1"]\nmax_concurrency = 20\n',
        concurrency=20,
        latency_ms=500,
    ),
    Case("20 calls at once, found by trying", ("--concurrency", "20"), LEARNED, concurrency=20, latency_ms=500),
)


async def watch(case: Case, *, warm_up_s: float = WARM_UP_S, watched_s: float = WATCHED_S) -> Found:
    """Let four processes work under the limits of a case; what the simulator counted after the warm-up."""
    models = [option for model in case.models for option in ("--models", model)]
    options = (*models, "--output-tokens", str(CAP), *case.simulate)
    with measure.simulator(*options, latency_ms=case.latency_ms) as url:
        async with fleet() as crew:
            _configure(crew.place, url, case)
            for model in case.models:
                await crew.fill(40_000 // len(case.models), batch_id=model, lane=f"sim:{model}", size=SIZE)
            await crew.pause(*(f"sim:{model}" for model in case.models))
            await crew.start(PROCESSES)
            for model in case.models:
                await resume(crew.ledger.tongue, f"sim:{model}")
            await asyncio.sleep(warm_up_s)
            before, began = await _bill(url), time.monotonic()
            await asyncio.sleep(watched_s)
            after, ended = await _bill(url), time.monotonic()
    return Found(
        after["calls"] - before["calls"],
        after["billed_calls"] - before["billed_calls"],
        after["input_tokens"] + after["output_tokens"] - before["input_tokens"] - before["output_tokens"],
        ended - began,
    )


def measured(repeats: int) -> Report:
    """Watch all cases at once: they wait more than they work."""
    cases = CASES[-2:] if measure.IS_REHEARSAL else CASES
    found = measure.repeat(repeats, lambda: _once(cases), "paced")
    report = Report(
        f"paced: {PROCESSES} worker processes under one provider's limits",
        f"The simulator judges for {WATCHED_S} s, {WARM_UP_S} s after the start; the queue is never empty. All cases "
        "run at the same time, each with a server, a simulator and processes of its own.",
    )
    for case in cases:
        report.add(f"{case.name}: % of what is allowed", found[f"{case.name} used"], case.target)
        report.add(f"{case.name}: % of calls refused", found[f"{case.name} refused"], "< 1")
    return report


def _once(cases: Sequence[Case]) -> dict[str, float]:
    with ThreadPoolExecutor(len(cases)) as threads:
        watched = list(threads.map(lambda case: asyncio.run(watch(case)), cases))
    figures: dict[str, float] = {}
    for case, found in zip(cases, watched, strict=True):
        figures |= {f"{case.name} used": 100 * used(case, found), f"{case.name} refused": 100 * found.refused}
    return figures


def used(case: Case, found: Found) -> float:
    """Share of the allowance that was used."""
    if case.concurrency:
        return found.per_minute / (case.concurrency * 60_000 / case.latency_ms)
    if case.allowed:
        return found.per_minute / case.allowed
    return found.tokens * 60 / found.seconds / int(case.simulate[1])


def _configure(place: Path, url: str, case: Case) -> None:
    """Write a farebox.toml that knows the provider, its models' prices, and perhaps its limits."""
    text = f'[providers.sim]\nbase_url = "{url}/v1"\nfree = true\n' + case.settings
    (place / "farebox.toml").write_text(text, encoding="utf-8")


async def _bill(url: str) -> dict[str, int]:
    def read() -> dict[str, int]:
        with urllib.request.urlopen(f"{url}/bill") as answer:
            return json.load(answer)

    return await asyncio.to_thread(read)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        wanted = [CASES[int(number)] for number in sys.argv[1:]]
        for case in wanted:
            found = asyncio.run(watch(case))
            print(case.name, found, f"used {used(case, found):.1%}, refused {found.refused:.2%}", flush=True)
    else:
        for what, figure, target in measured(1).rows:
            print(f"{what}: {figure} ({target})")
