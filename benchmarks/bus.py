"""The bus alone: jobs that wait already, one worker process that echoes, nobody who follows."""

from __future__ import annotations

import asyncio
import time
from collections import Counter

import measure
from measure import Report

from farebox.batch import Batch
from farebox.connection import connect
from farebox.keys import Keys
from farebox.ledger import Ledger
from farebox.records import VERSION, Job
from farebox.scripts import SUBMIT
from farebox_worker.bus import scripts

FEW = 40
JOBS = measure.sized(20_000, 10 * FEW)
CHUNK = 64
LOOK_S = 0.03
COUNTS = ("round_trips", "commands", "claim", "admit", "settle", "scripts", "longest", "bytes_in", "bytes_out")
BODY = b'{"messages":[{"role":"user","content":"' + b"x" * 960 + b'"}],"max_tokens":100}'
VERBS = {script.sha: script.name for script in (SUBMIT, scripts.CLAIM, scripts.ADMIT, scripts.SETTLE)}
WATCH = ("--slowlog-log-slower-than", "40", "--slowlog-max-len", "1000000")


def measured(repeats: int) -> Report:
    """Work off a full lane with `farebox worker`, and a nearly empty one."""
    found = measure.repeat(repeats, _once, "bus")
    report = Report(
        "bus: claim, admit, settle",
        f"`farebox worker`, one process, echo, {JOBS:,} jobs of 1 KB submitted before; start-up "
        f"subtracted by a run on {FEW}. Commands and script times are the server's own (INFO commandstats, and SLOWLOG "
        "above 40 µs, in a run that is not timed).",
    )
    report.add("jobs/s", found["rate"], "≥ 5,000")
    report.add("CPU ms per job: worker", found["worker"])
    report.add("CPU ms per job: server", found["server"])
    report.add("verbs per job, each one round trip", found["round_trips"])
    report.add("Redis commands per job, those inside the scripts counted", found["commands"])
    report.add("KB per job to the server", found["bytes_in"])
    report.add("KB per job from the server", found["bytes_out"])
    report.add(f"script ms per {CHUNK} jobs: claim", found["claim"])
    report.add(f"script ms per {CHUNK} jobs: admit", found["admit"])
    report.add(f"script ms per {CHUNK} jobs: settle", found["settle"])
    report.add(f"script ms per {CHUNK} jobs, together", found["scripts"], "≤ 1")
    report.add("longest single script, ms", found["longest"])
    return report


def _once() -> dict[str, float]:
    few, many, counts = _run(FEW), _run(JOBS), _run(JOBS, *WATCH)
    jobs = JOBS - FEW
    return {
        "rate": jobs / (many["wall_s"] - few["wall_s"]),
        "worker": 1000 * (many["worker_s"] - few["worker_s"]) / jobs,
        "server": 1000 * (many["server_s"] - few["server_s"]) / jobs,
        **{name: counts[name] for name in COUNTS},
    }


def _run(jobs: int, *extra: str) -> dict[str, float]:
    with measure.server(*extra) as server, measure.folder() as place:
        asyncio.run(_fill(server.url, jobs))
        before, began = measure.cpu_s(server.pid), time.perf_counter()
        worker = measure.start_farebox("worker", "--quiet", "--redis", server.url, cwd=place)
        asyncio.run(_until_done(server.url, jobs))
        wall_s, server_s = time.perf_counter() - began, measure.cpu_s(server.pid) - before
        worker.terminate()
        found = {"wall_s": wall_s, "worker_s": measure.spent_cpu_s(worker), "server_s": server_s}
        return found | (asyncio.run(_counts(server.url, jobs)) if extra else {})


async def _until_done(url: str, jobs: int) -> None:
    redis = connect(url)
    batch = Keys("farebox").batch("bus")
    while int(await redis.hget(batch, "succeeded") or 0) < jobs:  # noqa: ASYNC110 - it is another process
        await asyncio.sleep(LOOK_S)
    await redis.aclose()


async def _fill(url: str, jobs: int) -> None:
    redis = connect(url)
    await Ledger(redis).create()
    batch = Batch(redis, "bus")
    await batch.open()
    await batch.submit(Job(VERSION, f"job-{number:07}", "echo:echo", "chat", BODY) for number in range(jobs))
    await redis.config_resetstat()
    await redis.slowlog_reset()
    await redis.aclose()


async def _counts(url: str, jobs: int) -> dict[str, float]:
    """Read the server's own counts, and its log of what took longer than what a script calls."""
    redis = connect(url)
    stats = await redis.info("commandstats")
    traffic = await redis.info("stats")
    entries = await redis.slowlog_get(1_000_000)
    await redis.aclose()
    spent_us: Counter[str] = Counter()
    longest_us = 0
    for entry in entries:
        words = entry["command"].split()
        if words[0].upper() == b"EVALSHA" and (verb := VERBS.get(words[1].decode())):
            spent_us[verb] += entry["duration"]
            longest_us = max(longest_us, entry["duration"])
    chunks = jobs / CHUNK
    return {
        "round_trips": stats["cmdstat_evalsha"]["calls"] / jobs,
        "commands": sum(stat["calls"] for stat in stats.values()) / jobs,
        **{verb: spent_us[verb] / 1000 / chunks for verb in ("claim", "admit", "settle")},
        "scripts": stats["cmdstat_evalsha"]["usec"] / 1000 / chunks,
        "longest": longest_us / 1000,
        "bytes_in": traffic["total_net_input_bytes"] / jobs / 1024,
        "bytes_out": traffic["total_net_output_bytes"] / jobs / 1024,
    }
