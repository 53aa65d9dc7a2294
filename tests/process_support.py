"""What tests of a worker process share: a stage, on which a provider without HTTP does what the test says."""

import asyncio
import time
from contextlib import asynccontextmanager

import fakeredis
import pytest
from arq.connections import ArqRedis
from redis import Redis as SyncRedis
from tests.polling import until

from farebox.batch import Batch
from farebox.connection import connect
from farebox.records import Job
from farebox_worker.prices.catalogue import Entry
from farebox_worker.prices.rates import PRETEND
from farebox_worker.process.process import Process
from farebox_worker.providers.base import Facts, Prepared, Reply, TokenUsage
from farebox_worker.routes import Routes
from farebox_worker.settings import Settings, WorkerSettings

LANE = "sim:one"
HOLD = 30_000  # 10 tokens in at $1, 10 out at $2 per million
COST = 9_000  # 3 in, 3 out


class Scripted:
    """A provider that answers at once, or as `act` says. `posted` are the moments it was called."""

    provider_id = "sim"

    def __init__(self):
        self.posted = []
        self.act = None
        self.on_prepare = None
        self.tokens_out = 3
        self.served_tier = ""

    def prepare(self, job, facts):
        if self.on_prepare:
            self.on_prepare(job)
        return Prepared(job.body, 10, 10, capped_by_default=False, api="chat")

    async def post(self, prepared, *, timeout_s):
        self.posted.append(time.monotonic())
        if self.act:
            await self.act(len(self.posted))
        usage = TokenUsage(input_tokens=3, output_tokens=self.tokens_out)
        return Reply(200, "r", b"{}", b"{}", usage, "answered", served_tier=self.served_tier)

    async def aclose(self):
        pass


class Shelf:
    """A catalogue, and its prices, of one model."""

    def resolve(self, model_ref, *, tier):
        facts = Facts("one", 1000, 100, 100)
        return Entry(model_ref, "sim", "one", facts, PRETEND, free=False, rpm=None, tpm=None, max_concurrency=None)

    def refresh_if_older_than(self, seconds):
        return False


class Stage:
    """A bus with a batch, and processes on it."""

    def __init__(self, url):
        self.url = url
        self.fake = None if url else fakeredis.FakeServer()
        self.provider = Scripted()
        self.processes = []
        self.batch = Batch(self.client(), "b1")

    def client(self):
        if self.url:
            return connect(self.url, client=ArqRedis)
        return ArqRedis(fakeredis.FakeAsyncRedis(server=self.fake).connection_pool)

    def eyes(self):
        return SyncRedis.from_url(self.url) if self.url else fakeredis.FakeRedis(server=self.fake)

    async def begin(self, count=0):
        await self.batch.redis.flushall()
        await self.batch.ledger.create()
        await self.batch.open()
        await self.submit(count)

    async def submit(self, count, start=0):
        await self.batch.submit([Job(1, f"c{n}", LANE, "chat", b"{}") for n in range(start, start + count)])

    @asynccontextmanager
    async def process(self, *, burst=False, **worker):
        worker = {"concurrency": 4, "lease_s": 30.0, "drain_s": 10.0, "request_timeout_s": 5.0} | worker
        routes = Routes(Shelf(), Shelf(), lambda _: self.provider)
        settings = Settings(worker=WorkerSettings(**worker))
        process = Process(self.client(), settings, routes, burst=burst, handle_signals=False)
        process.task = asyncio.create_task(process.main())
        self.processes.append(process)
        try:
            yield process
        finally:
            process.leave()
            await asyncio.gather(process.task, return_exceptions=True)
            await process.close()

    async def money(self):
        scope = await self.batch.ledger.scope()
        return scope.spent_nusd, scope.held_nusd, scope.unconfirmed_nusd

    async def results(self):
        return [pair for entry in await self.batch.read(count=1000) for pair in entry.results]

    async def finished(self, count, within_s=10):
        await until(lambda: self._has_finished(count), within_s)

    async def _has_finished(self, count):
        return (await self.batch.progress()).finished >= count


@pytest.fixture
async def stage(server):
    stage = Stage(server)
    yield stage
    await stage.batch.redis.aclose(close_connection_pool=True)
