"""The limit under fire: workers are killed while they spend a dollar, and the provider's own bill is the judge.

This is one case, with the settings that are measured elsewhere here; `make chaos` plays many more, and hostile ones.
"""

from __future__ import annotations

import asyncio
import json
import random
import urllib.request

import measure
from fleet import Fleet, fleet
from measure import MODEL, Report

from farebox_worker.bus.pause import resume

LIMIT_USD, CALL_USD = 1.0, 0.02
PROCESSES = 4
JOBS = 200
KILL_USD = 0.06
LOOK_S, END_S = 0.1, 240.0
WORKER = ("-m", "farebox_worker", "worker", "--quiet", "--redis")


def measured(repeats: int) -> Report:
    """Spend the same dollar again and again."""
    found = measure.repeat(repeats, lambda: asyncio.run(_once()), "money")
    report = Report(
        "money: a limit, and workers that are killed",
        f"{PROCESSES} `farebox worker` with two slots each, {JOBS} calls of ${CALL_USD} that take 0.3 s, a limit "
        f"of ${LIMIT_USD:.0f} over all of them; whenever ${KILL_USD} more are gone one worker gets SIGKILL and another "
        "starts, until no call fits under the limit and nothing is held. The bill is the simulator's own; what the "
        "killed ones may have spent is unconfirmed and counts as spent.",
    )
    report.add("$ billed by the provider", found["bill"], f"≤ {LIMIT_USD:.0f}")
    report.add("$ unused at the end", found["unused"], f"< {CALL_USD}")
    report.add("$ of it unconfirmed", found["unconfirmed"])
    report.add("workers killed", found["kills"])
    return report


async def _once() -> dict[str, float]:
    options = ("--cost-usd", str(CALL_USD), "--output-tokens", "100-100")
    with measure.simulator(*options, latency_ms=300) as url:
        async with fleet() as bus:
            _configure(bus, url)
            await bus.ledger.set_limit("global", round(LIMIT_USD * 1e9))
            await bus.pause(MODEL)
            await bus.fill(JOBS, lane=MODEL)
            for _ in range(PROCESSES):
                await bus.start()
            await resume(bus.ledger.tongue, MODEL)
            kills = await _rage(bus)
            for one in bus.workers:
                one.kill()
                one.wait()
            bus.workers.clear()
            (total,) = [scope for scope in await bus.ledger.scopes() if scope.name == "global"]
            bill = await asyncio.to_thread(_bill_usd, url)
    return {
        "bill": bill,
        "unused": LIMIT_USD - total.used_nusd / 1e9,
        "unconfirmed": total.unconfirmed_nusd / 1e9,
        "kills": kills,
    }


async def _rage(bus: Fleet) -> int:
    """Kill and replace workers as the money goes, until no call fits any more; how many were killed."""
    kills = 0
    for _ in range(round(END_S / LOOK_S)):
        (total,) = [scope for scope in await bus.ledger.scopes() if scope.name == "global"]
        if not total.held_nusd and LIMIT_USD * 1e9 - total.used_nusd < CALL_USD * 1e9:
            return kills
        if total.used_nusd - total.held_nusd >= (kills + 1) * KILL_USD * 1e9:
            victim = bus.workers.pop(random.randrange(len(bus.workers)))
            victim.kill()
            victim.wait()
            kills += 1
            await bus.start_command([*WORKER, bus.server.url], 0)
        await asyncio.sleep(LOOK_S)
    raise SystemExit(f"the limit was not reached within {END_S:.0f} s: {total}")


def _configure(bus: Fleet, url: str) -> None:
    """Write a farebox.toml by which a call may cost exactly what it costs, and a lease ends soon."""
    prices = f"input_usd_per_mtok = 0.0\noutput_usd_per_mtok = {CALL_USD * 1e4}\ncontext_window = 128000\n"
    text = f'[worker]\nconcurrency = 2\nlease_s = 2.0\n[providers.sim]\nbase_url = "{url}/v1"\n'
    (bus.place / "farebox.toml").write_text(f'{text}[models."{MODEL}"]\n{prices}', encoding="utf-8")


def _bill_usd(url: str) -> float:
    with urllib.request.urlopen(f"{url}/bill") as answer:
        return json.load(answer)["cost_nusd"] / 1e9
