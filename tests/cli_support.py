"""The command line as a user meets it: commands in processes of their own, a simulated provider, and its bill."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-m", "farebox_worker"]
EXAMPLES = Path(__file__).parents[1] / "examples" / "prompts.jsonl"
KEY = "sk-test-0123456789abcdefghij"  # what must never be seen anywhere
IN_USD, OUT_USD = 1.0, 2.0  # the simulator's prices, per million tokens


@dataclass
class Ended:
    """A command that has ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def json(self):
        return json.loads(self.stdout)


@dataclass
class Desk:
    """A user's directory, with what is in it, and commands run from it."""

    home: Path
    environment: dict = field(default_factory=dict)
    started: list = field(default_factory=list)

    def environ(self, **extra):
        kept = {name: value for name, value in os.environ.items() if not name.endswith("_API_KEY")}
        kept = {
            name: value for name, value in kept.items() if not name.startswith("FAREBOX_") or name == "FAREBOX_DEBUG"
        }
        return kept | self.environment | extra

    def start(self, *words, cwd=None, stdin=subprocess.DEVNULL, preexec_fn=None, **extra):
        """Start a command in a process group of its own, as a terminal would: with Ctrl-C heard."""

        def prepare():
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # it is ignored in whatever runs in the background
            if preexec_fn:
                preexec_fn()

        process = subprocess.Popen(
            [*COMMAND, *map(str, words)],
            cwd=cwd or self.home, env=self.environ(**extra), stdin=stdin, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, start_new_session=True, preexec_fn=prepare,  # noqa: PLW1509 - no threads here
        )  # fmt: skip
        self.started.append(process)
        return process

    def end(self, process, timeout_s=120):
        """Wait for a command. Nothing may ever end in a traceback, a warning or an escape code."""
        try:
            out, err = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            kill_group(process)
            out, err = process.communicate()
            pytest.fail(f"the command did not end in {timeout_s} s; stdout {out[-500:]}, stderr {err[-2000:]}")
        ended = Ended(process.returncode, out.decode(), err.decode())
        for sign in ("Traceback", "Warning:", "\x1b", "FAREBOX_DEBUG", "never retrieved", "was destroyed"):
            assert sign not in ended.stdout + ended.stderr, ended
        return ended

    def run(self, *words, timeout_s=120, **options):
        """Run a command to its end."""
        return self.end(self.start(*words, **options), timeout_s)

    def write(self, name, lines):
        """Write a file of prompts: each line a dict, or the raw text of one."""
        path = self.home / name
        path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
        return path

    def prompts(self, count, name="in.jsonl", first=0, max_tokens=50):
        """Write a file of `count` different prompts."""
        return self.write(name, [prompt(number, max_tokens) for number in range(first, first + count)])

    def configure(self, url, *, prices=True, extra=""):
        """Write a farebox.toml that leads to a simulator, as `sim` by one wire and as `claude` by the other."""
        rates = f"input_usd_per_mtok = {IN_USD}\noutput_usd_per_mtok = {OUT_USD}\n" if prices else ""
        text = (
            f'[providers.sim]\nkind = "openai"\nbase_url = "{url}/v1"\napi_key_env = "SIM_API_KEY"\n'
            f'[providers.claude]\nkind = "anthropic"\nbase_url = "{url}"\napi_key_env = "SIM_API_KEY"\n'
            f'[models."sim:sim-1"]\n{rates}[models."claude:sim-1"]\n{rates}{extra}'
        )
        (self.home / "farebox.toml").write_text(text)
        self.environment["SIM_API_KEY"] = KEY

    def files(self):
        """The names in the user's directory."""
        return sorted(path.name for path in self.home.iterdir() if not path.name.startswith(".sim"))

    def out(self, name="out.jsonl"):
        """The lines of an output file; every one must be valid JSON and complete."""
        content = (self.home / name).read_bytes()
        assert content.endswith(b"\n") or not content
        return [json.loads(line) for line in content.splitlines()]


def prompt(number, max_tokens=50):
    return {"custom_id": f"p{number}", "prompt": f"Say the number {number}.", "max_tokens": max_tokens}


def assert_exactly_once(lines, expected_ids):
    """One line per input line, each exactly once."""
    ids = [line["custom_id"] for line in lines]
    assert len(ids) == len(set(ids)), "a job has two lines"
    assert set(ids) == set(expected_ids)


def kill_group(process):
    """kill -9 of a command and everything it started in its group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def end_servers(folder):
    """End embedded servers that killed runs left behind under a directory."""
    for pid_file in folder.rglob("server.pid"):
        with contextlib.suppress(ProcessLookupError, ValueError, OSError):
            pid = int(pid_file.read_text())
            if str(folder).encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, signal.SIGKILL)


class Simulated:
    """A `farebox simulate` of our own."""

    def __init__(self, folder, *options):
        ready = folder / "ready"
        ready.unlink(missing_ok=True)
        command = [
            sys.executable, "-m", "farebox_worker.simulate", "--port", "0", "--ready-file", str(ready),
            "--input-usd-per-mtok", str(IN_USD), "--output-usd-per-mtok", str(OUT_USD), *map(str, options),
        ]  # fmt: skip
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 20
        while not ready.exists():
            assert self.process.poll() is None, "the simulator did not start"
            assert time.monotonic() < deadline
            time.sleep(0.01)
        self.url = ready.read_text()

    def bill(self):
        with urllib.request.urlopen(f"{self.url}/bill", timeout=10) as answer:
            return json.load(answer)

    def stop(self):
        self.process.terminate()
        self.process.wait(10)


@pytest.fixture
def desk():
    """An empty directory with a short path; whatever was started from it is ended."""
    home = Path(tempfile.mkdtemp(prefix="fbx"))
    desk = Desk(home)
    yield desk
    for process in desk.started:
        if process.poll() is None:
            kill_group(process)
            process.wait(10)
        for stream in (process.stdout, process.stderr):
            stream.close()
    end_servers(home)
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def _prompt_disk(desk):
    """A data directory in memory: where a disk takes its time, a kill may lose what it has not taken yet."""
    if not os.access("/dev/shm", os.W_OK):
        yield
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm", ignore_cleanup_errors=True) as place:
        (desk.home / ".farebox").symlink_to(place)
        yield


@pytest.fixture
def simulate(desk):
    """Starts simulators: `simulate("--latency-ms", 20)`; configures the desk for the first one."""
    running = []

    def start(*options, **settings):
        folder = desk.home / f".sim{len(running)}"
        folder.mkdir()
        simulated = Simulated(folder, *options)
        if not running:
            desk.configure(simulated.url, **settings)
        running.append(simulated)
        return simulated

    yield start
    for simulated in running:
        simulated.stop()
