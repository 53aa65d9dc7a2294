"""A real server with docs/users.acl in force, and clients of each role."""

import asyncio
import contextlib
import hashlib
import re
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from arq.connections import ArqRedis
from redis import Redis as SyncRedis
from redis.exceptions import RedisError
from tests.conftest import server_binary

from farebox.batch import Batch
from farebox.connection import connect
from farebox.keys import Keys
from farebox.ledger import Ledger
from farebox.records import Job
from farebox_worker.configuration import load
from farebox_worker.process.process import Process
from farebox_worker.shop import Shop

DOCS = Path(__file__).parent.parent / "docs"
RULES = (DOCS / "users.acl").read_text("utf-8")
LANE = "echo:echo"
KEYS = Keys()
REFUSAL = re.compile(r"permission|can't (run|access|publish)|ACL failure", re.IGNORECASE)


def password(role):
    return f"a password of {role}"


def filled(text):
    """The file as docs/security.md says to fill it in: a SHA-256 where a role's name stands."""
    return re.sub(r"#([A-Z]+)", lambda role: "#" + hashlib.sha256(password(role[1]).encode()).hexdigest(), text)


def for_namespace(name):
    """The file's lines of one namespace, for another one."""
    return "".join(f"{line}\n" for line in RULES.replace("farebox", name).splitlines() if f"user {name}-" in line)


@dataclass
class Guarded:
    """A server with the file in force, for the namespace `farebox` and for `other`."""

    socket: Path

    def url(self, role, namespace="farebox"):
        user = "admin" if role == "admin" else f"{namespace}-{role}"
        return f"unix://{user}:{password(role.upper()).replace(' ', '%20')}@{self.socket}"

    def eyes(self, role="admin"):
        return SyncRedis.from_url(self.url(role))


@pytest.fixture(name="guarded", scope="module")
def guarded_fixture():
    with tempfile.TemporaryDirectory(prefix="fb") as name:
        folder = Path(name)
        (folder / "users.acl").write_text(filled(RULES + for_namespace("other")))
        options = ["--port", "0", "--unixsocket", folder / "s", "--dir", folder, "--save", "", "--logfile", "log"]
        options += ["--enable-debug-command", "yes", "--aclfile", folder / "users.acl"]
        process = subprocess.Popen([server_binary(), *options])
        server = Guarded(folder / "s")
        try:
            deadline = time.monotonic() + 20
            while True:
                with contextlib.suppress(RedisError, OSError), server.eyes() as admin:
                    if admin.ping():
                        break
                assert process.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.02)
            yield server
        finally:
            process.kill()
            process.wait()


@pytest.fixture(name="admin")
def admin_fixture(guarded):
    with guarded.eyes() as admin:
        admin.flushall()
        admin.acl_log_reset()
        yield admin


@pytest.fixture(name="enter")
async def enter_fixture(guarded, admin):
    """Connects as a role."""
    entered = []

    def enter(role, namespace="farebox"):
        entered.append(connect(guarded.url(role, namespace), client=ArqRedis))
        return entered[-1]

    yield enter
    for client in entered:
        await client.aclose(close_connection_pool=True)


@pytest.fixture(name="ledger")
async def ledger_fixture(enter):
    """The operator's ledger, with a limit of $5."""
    ledger = Ledger(enter("operator"))
    await ledger.create()
    await ledger.set_limit("global", 5_000_000_000)
    return ledger


def refusals(admin):
    """What the server refused since the test began, but for the name a client gives itself."""
    entries = admin.acl_log()
    return [(entry["username"], entry["object"]) for entry in entries if "client" not in entry["object"]]


def jobs(count, **fields):
    body = b'{"messages":[{"role":"user","content":"Hello"}],"max_tokens":5}'
    return [Job(1, f"c{n}", LANE, "chat", body, **fields) for n in range(count)]


async def serve(client):
    """One worker process of today's settings, until nothing is left to do."""
    settings = load(environ={})
    async with Shop(settings) as shop:
        process = Process(client, settings, shop.routes, burst=True, handle_signals=False)
        await asyncio.wait_for(process.main(), 60)
        answered = process.jobs_complete
        await asyncio.wait_for(housekeep(process), 20)
        await process.depart()
        return answered


async def housekeep(process):
    """Let arq begin, do and end every chore as its clock would; the process has drained already."""
    process.allow_pick_jobs = True
    ids = {f"{chore.name}:{time.time_ns()}": chore.name for chore in process.cron_jobs}
    for job_id, name in ids.items():
        await process.pool.enqueue_job(name, _job_id=job_id, _queue_name=process.queue_name)
    while any([await process.pool.zscore(process.queue_name, job_id) for job_id in ids]):
        await process._poll_iteration()
        await asyncio.sleep(0.01)


async def submitted(enter, batch_id="b1", count=3):
    batch = Batch(enter("producer"), batch_id)
    await batch.open(batch_id)
    await batch.submit(jobs(count))
    return batch
