"""A simulator as a process of its own: announces where it listens, ends on SIGINT or SIGTERM, shows the bill."""

import asyncio
import contextlib
import resource
import signal
import sys
from pathlib import Path

import msgspec
import uvloop

from farebox_worker.simulate.options import Options
from farebox_worker.simulate.server import Simulator


def serve(options: Options, ready_file: Path | None = None) -> None:
    """Run a simulator until SIGINT or SIGTERM, then print its bill to stderr.

    `ready_file` gets the URL once connections are accepted; it appears whole or not at all.

    Raises:
        OSError: the port is taken, or a file cannot be written.
        ValueError: the journal is not one.
    """
    _allow_many_connections()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(options, ready_file))


async def _serve(options: Options, ready_file: Path | None) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with Simulator(options) as simulator:
        url = simulator.url
        _say(f"farebox simulate: {url}  (OpenAI base_url {url}/v1, Anthropic base_url {url})")
        if ready_file is not None:
            _announce(ready_file, url)
        await stop.wait()
    _say(f"farebox simulate: the bill is {msgspec.json.encode(simulator.bill()).decode()}")


def _announce(ready_file: Path, url: str) -> None:
    draft = ready_file.with_name(ready_file.name + ".part")
    draft.write_text(url)
    draft.replace(ready_file)


def _allow_many_connections() -> None:
    """Raise the soft limit of open files to the hard one: each client connection is a file."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
