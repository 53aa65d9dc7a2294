"""The embedded server: a valkey-server of our own on a unix socket, one per data directory, shared by processes.

Whoever enters first starts it, whoever leaves last stops it, and a kill -9 of anybody loses nothing (AOF everysec).
Three locks carry this, all freed by the kernel when their holder dies: `start.lock` (exclusive while somebody enters
or leaves), `users.lock` (shared while somebody uses the server), `server.lock` (held by the server itself).
Each process enters for itself: a forked child must not use its parent's EmbeddedServer.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from farebox.errors import ServerError
from farebox_worker.events import event
from farebox_worker.server.server_process import (
    SILENT_S,
    ServerProcess,
    ask,
    find_server_binary,
    socket_path,
    start_server,
    url_of,
)

__all__ = ["EmbeddedServer", "ServerProcess", "find_server_binary", "start_server"]

log = logging.getLogger(__name__)

# Servers that others still use when we leave: keeping the handles keeps subprocess from warning about them.
_left_running: list[ServerProcess] = []


class EmbeddedServer:
    """The server of a data directory, from enter to exit.

    With `first_is_alone` a first user stays the only one until `let_others_in`: what is leased can be ended safely.

    Attributes, valid once entered:
        data_dir: absolute, 0700 when it is ours.
        url: `unix:///…/redis.sock`.
        first_user: no other live process was using this directory, so whatever is leased there is dead.
        created: the directory held no data.
    """

    def __init__(self, data_dir: Path, *, first_is_alone: bool = False) -> None:
        self.data_dir = data_dir.expanduser().resolve()
        self.url = ""
        self.first_user = False
        self.created = False
        self._users = -1
        self._child: ServerProcess | None = None
        self._first_is_alone = first_is_alone
        self._door = ExitStack()  # holds the start lock while the first user is to be alone

    @property
    def pid(self) -> int:
        """The server's process id, as noted when it was started."""
        return int((self.data_dir / "server.pid").read_text(encoding="ascii"))

    def __enter__(self) -> Self:
        """Attach to the running server, or start it. Raises: ServerError with what to do."""
        try:
            _make_directory(self.data_dir)
            with ExitStack() as door:
                door.enter_context(self._alone())
                self._become_user()
                try:
                    self.created = holds_no_data(self.data_dir)
                    self._attach_or_start()
                except BaseException:
                    os.close(self._users)
                    raise
                if self.first_user and self._first_is_alone:
                    self._door = door.pop_all()
        except OSError as error:
            raise ServerError(_explain(error, self.data_dir)) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave, and stop the server when nobody else uses it."""
        self.let_others_in()
        try:
            with self._alone():
                fcntl.flock(self._users, fcntl.LOCK_UN)
                if _try_lock(self._users):
                    self._shut_down()
        except OSError as problem:
            extra = event("server_stays", why=str(problem))
            log.warning("the embedded server on %s stays up: %s", self.data_dir, problem, extra=extra)
        finally:
            os.close(self._users)
        if self._child and self._child.is_running():
            _left_running.append(self._child)

    def let_others_in(self) -> None:
        """End being alone: whoever waits to enter may."""
        self._door.close()

    def revive(self) -> None:
        """Start the server again if it died under us; it reads what it had acknowledged. Raises: ServerError."""
        try:
            with self._alone():
                self._attach_or_start()
        except OSError as error:
            raise ServerError(_explain(error, self.data_dir)) from error

    @contextmanager
    def _alone(self) -> Iterator[None]:
        lock = _open(self.data_dir / "start.lock")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def _become_user(self) -> None:
        """Take the users' lock; that it was ours alone for a moment says that nobody else lives."""
        self._users = _open(self.data_dir / "users.lock")
        try:
            self.first_user = _try_lock(self._users)
            fcntl.flock(self._users, fcntl.LOCK_SH)
        except BaseException:
            os.close(self._users)
            raise

    def _attach_or_start(self) -> None:
        """Wait for the server that holds the lock to answer or to die; start one when none holds it."""
        lock = _open(self.data_dir / "server.lock")
        silent_since = time.monotonic()
        try:
            while not _try_lock(lock):
                address = _read(self.data_dir / "server.address")
                answer = ask(address, "PING") if address else ""
                if answer == "+PONG" or answer.startswith("-MISCONF"):  # it cannot write: whoever reads may go on
                    self.url = url_of(address)
                    return
                if answer:  # it reads its data: that takes as long as it takes
                    silent_since = time.monotonic()
                if time.monotonic() - silent_since > SILENT_S:
                    raise ServerError(
                        f"the server on {self.data_dir} (pid {_read(self.data_dir / 'server.pid')}) does not answer. "
                        "Look at its server.log; when it hangs, kill it and start again: nothing acknowledged is lost"
                    )
                time.sleep(0.01)
            self._start(lock)
        finally:
            os.close(lock)

    def _start(self, lock: int) -> None:
        address = socket_path(self.data_dir)
        _write(self.data_dir / "server.address", str(address))
        self._child = start_server(self.data_dir, appendfsync="everysec", lock_fd=lock)
        self.url = self._child.url

    def _shut_down(self) -> None:
        """Stop the server and wait until it is gone, so that whoever starts next meets its data at rest."""
        address = _read(self.data_dir / "server.address")
        lock = _open(self.data_dir / "server.lock")
        deadline = time.monotonic() + SILENT_S
        try:
            asked_at = -1.0
            while not _try_lock(lock):
                if time.monotonic() > deadline:
                    raise TimeoutError(errno.ETIMEDOUT, "it does not shut down")
                if time.monotonic() - asked_at > 1:
                    ask(address, "SHUTDOWN NOSAVE")
                    asked_at = time.monotonic()
                time.sleep(0.002)
        finally:
            os.close(lock)
        if self._child:
            self._child.wait(1)


def holds_no_data(data_dir: Path) -> bool:
    """Tell whether nothing was ever written to a data directory, though a server may have run on it.

    A server's first append-only file is its first generation, and empty until the first write.
    """
    generations = [path.name for path in (data_dir / "appendonlydir").glob("appendonly.aof.[0-9]*")]
    written = [*(data_dir / "appendonlydir").glob("*.incr.aof"), *data_dir.glob("appendonly.aof")]
    return (
        not (data_dir / "dump.rdb").exists()
        and all(name.startswith("appendonly.aof.1.") for name in generations)
        and all(path.stat().st_size == 0 for path in written)
    )


def has_begun(data_dir: Path, namespace: str) -> bool:
    """Tell whether a ledger of this namespace was ever begun in a data directory, whatever became of it."""
    return namespace in _read(data_dir / "ledgers").splitlines()


def note_begun(data_dir: Path, namespace: str) -> None:
    """Remember that a ledger was begun, where no command to the server can forget it."""
    if not has_begun(data_dir, namespace):
        with (data_dir / "ledgers").open("a", encoding="utf-8") as noted:
            noted.write(f"{namespace}\n")


def _make_directory(path: Path) -> None:
    """Make the directory, private and ignored by git; one that is there and not empty is left as it is."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not any(path.iterdir()):
        path.chmod(0o700)
        _write(path / ".gitignore", "*\n")


def _try_lock(lock: int) -> bool:
    with suppress(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def _open(path: Path) -> int:
    return os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _explain(error: OSError, data_dir: Path) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk of {data_dir} is full: free some space, or choose another directory with --data-dir"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"cannot write in {data_dir} ({error.strerror}): choose another directory with --data-dir"
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        return f"{data_dir} is not a directory: choose another with --data-dir"
    return f"cannot use {data_dir}: {error.strerror or error}. Choose another with --data-dir, or a server with --redis"
