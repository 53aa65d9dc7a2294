"""The client for code that does not await: scripts, Django, Celery. The logic is the asynchronous client's.

Every call runs on an event loop of its own in a daemon thread, which starts with the first call. So an instance may be
made before a fork (Celery's prefork, gunicorn): each process gets a thread and connections of its own. It may be shared
by threads.
"""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Self, TypeVar

from farebox.answer import Answer
from farebox.batch import DEFAULT_BATCH
from farebox.client import Client, url_or_environment
from farebox.cost import Cost
from farebox.errors import InputError
from farebox.feed import WINDOW_BYTES, WINDOW_JOBS
from farebox.handle import BatchHandle, JobHandle
from farebox.ledger import GLOBAL
from farebox.progress import Progress
from farebox.records import Api, Tier
from farebox.request import Item, Message, When
from farebox.reuse import Reuse
from farebox.status import JobStatus

T = TypeVar("T")


class _Engine:
    """One process's thread, its event loop, and the client on it."""

    def __init__(self, url: str, namespace: str) -> None:
        self.client = Client(url, namespace=namespace)
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, name="farebox", daemon=True)
        self.thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether its thread still runs, here."""
        return self.thread.is_alive()

    def run(self, work: Coroutine[object, object, T]) -> T:
        future = asyncio.run_coroutine_threadsafe(work, self.loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    async def _end(self) -> None:
        """Tell who still waits, then end whatever is left on the loop."""
        await self.client.aclose()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        _, left = await asyncio.wait(others, timeout=1.0) if others else (None, set())
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        await self.loop.shutdown_asyncgens()

    def stop(self) -> None:
        self.run(self._end())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()


class _Hub:
    """Runs coroutines on this process's engine, made at the first use and anew after a fork."""

    def __init__(self, url: str, namespace: str) -> None:
        self._url = url
        self._namespace = namespace
        self._engine: _Engine | None = None
        self._lock = threading.Lock()
        _hubs.add(self)

    def leave_to_parent(self) -> None:
        """Begin anew in a forked process: the thread is not here, and the connections are the parent's.

        They are kept as they are: closing them would take them off the parent's event loop, which shares its epoll.
        """
        if self._engine:
            _of_parents.append(self._engine)
        self._engine, self._lock = None, threading.Lock()

    @property
    def engine(self) -> _Engine:
        with self._lock:
            self._engine = self._engine or _Engine(self._url, self._namespace)
            return self._engine

    def run(self, work: Callable[[Client], Coroutine[object, object, T]]) -> T:
        engine = self.engine
        return engine.run(work(engine.client))

    def close(self) -> None:
        with self._lock:
            engine, self._engine = self._engine, None
        if engine:
            engine.stop()


_hubs: weakref.WeakSet[_Hub] = weakref.WeakSet()
_of_parents: list[_Engine] = []


def _leave_all_to_parent() -> None:
    for hub in _hubs:
        hub.leave_to_parent()


os.register_at_fork(after_in_child=_leave_all_to_parent)


class SyncClient:
    """`farebox.Client` for code that does not await; its methods block, and raise the same errors.

    Use it as `with`, or call `close()` at the end. It may be called again after that.

    Args:
        url: where Redis is (redis://, rediss://, unix://, sentinel://); by default the environment's FAREBOX_REDIS_URL.
        namespace: which bus on that server.

    Raises: ConfigError when there is no URL.
    """

    def __init__(self, url: str | None = None, *, namespace: str = "farebox") -> None:
        self._hub = _Hub(url_or_environment(url), namespace)

    def __enter__(self) -> Self:
        """Check the server. Raises: ServerError when it is unreachable, or unfit to hold money."""
        try:
            self._hub.run(lambda client: client.__aenter__())
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections and end the thread. Jobs go on."""
        self._hub.close()

    def submit(  # noqa: PLR0913 - a request, field by field
        self,
        model: str,
        /,
        *,
        messages: Sequence[Message] | None = None,
        prompt: str | None = None,
        max_tokens: int | None = None,
        job_id: str | None = None,
        tags: Sequence[str] = (),
        priority: int = 0,
        deadline: When | None = None,
        not_before: When | None = None,
        batch: str = DEFAULT_BATCH,
        response_schema: type[object] | None = None,
        tier: Tier = "standard",
        api: Api = "chat",
        drop_params: Sequence[str] = (),
        fallbacks: Sequence[str] = (),
        spread: bool = False,
        reuse: Reuse | None = None,
        **body: object,
    ) -> SyncJobHandle:
        """Submit one completion, and return at once with its handle; see `Client.submit`."""
        handle = self._hub.run(
            lambda client: client.submit(
                model, messages=messages, prompt=prompt, max_tokens=max_tokens, job_id=job_id, tags=tags,
                priority=priority, deadline=deadline, not_before=not_before, batch=batch,
                response_schema=response_schema, tier=tier, api=api, drop_params=drop_params, fallbacks=fallbacks,
                spread=spread, reuse=reuse, **body,
            )
        )  # fmt: skip
        return SyncJobHandle(self._hub, handle.batch_id, handle.job_id, is_new=handle.is_new)

    def submit_batch(  # noqa: PLR0913 - what holds for all items
        self,
        items: Iterable[Item],
        *,
        name: str | None = None,
        model: str = "",
        budget_usd: float | None = None,
        max_tokens: int | None = None,
        tags: Sequence[str] = (),
        priority: int = 0,
        deadline: When | None = None,
        not_before: When | None = None,
        response_schema: type[object] | None = None,
        tier: Tier = "standard",
        drop_params: Sequence[str] = (),
        fallbacks: Sequence[str] = (),
        spread: bool = False,
        reuse: Reuse | None = None,
        ids_days: float = 90,
        results_days: float = 7,
        window_jobs: int = WINDOW_JOBS,
        window_bytes: int = WINDOW_BYTES,
    ) -> SyncBatchHandle:
        """Submit a batch of any length in constant memory, and seal it; see `Client.submit_batch`.

        The items are iterated in the calling thread, so they may come from a database connection of that thread.
        """
        feed = self._hub.run(
            lambda client: client.begin_batch(
                name=name, model=model, budget_usd=budget_usd, max_tokens=max_tokens, tags=tags, priority=priority,
                deadline=deadline, not_before=not_before, response_schema=response_schema, tier=tier,
                drop_params=drop_params, fallbacks=fallbacks, spread=spread, reuse=reuse, window_jobs=window_jobs,
                window_bytes=window_bytes,
            )
        )  # fmt: skip
        try:
            for item in items:
                if feed.take(item):
                    self._hub.run(lambda _: feed.flush())
            handle = self._hub.run(lambda _: feed.seal(ids_days=ids_days, results_days=results_days))
        except InputError:
            self._hub.run(lambda _: feed.give_up(ids_days=ids_days, results_days=results_days))
            raise
        return SyncBatchHandle(
            self._hub, handle.batch_id, created=handle.created, existing=handle.existing, reused=handle.reused
        )

    def job(self, job_id: str, *, batch: str = DEFAULT_BATCH) -> SyncJobHandle:
        """The handle of a job that was submitted before, by any process; nothing is looked up yet."""
        return SyncJobHandle(self._hub, batch, job_id)

    def batch(self, batch_id: str) -> SyncBatchHandle:
        """The handle of a batch that was submitted before, by any process; nothing is looked up yet."""
        return SyncBatchHandle(self._hub, batch_id)

    def cost(self, scope: str = GLOBAL) -> Cost:
        """Read a money counter; see `Client.cost`."""
        return self._hub.run(lambda client: client.cost(scope))


class SyncJobHandle:
    """One job; see `JobHandle`. It may be handed to other threads, and to a forked process."""

    def __init__(self, hub: _Hub, batch_id: str, job_id: str, *, is_new: bool = False) -> None:
        self.job_id = job_id
        self.batch_id = batch_id
        self.is_new = is_new
        self._hub = hub

    def __repr__(self) -> str:
        return f"<SyncJobHandle {self.job_id!r} of batch {self.batch_id!r}>"

    def _on(self, client: Client) -> JobHandle:
        return client.job(self.job_id, batch=self.batch_id)

    def result(self, timeout: float | None = None) -> Answer:
        """Wait up to `timeout` seconds for the job to end; see `JobHandle.result`."""
        return self._hub.run(lambda client: self._on(client).result(timeout))

    def status(self) -> JobStatus:
        """Say where the job is, and what holds it up; see `JobHandle.status`."""
        return self._hub.run(lambda client: self._on(client).status())

    def cancel(self) -> bool:
        """Cancel the job if it waits; see `JobHandle.cancel`."""
        return self._hub.run(lambda client: self._on(client).cancel())


class SyncBatchHandle:
    """One batch; see `BatchHandle`. It may be handed to other threads, and to a forked process."""

    def __init__(self, hub: _Hub, batch_id: str, *, created: int = 0, existing: int = 0, reused: int = 0) -> None:
        self.batch_id = batch_id
        self.created = created
        self.existing = existing
        self.reused = reused
        self._hub = hub

    def __repr__(self) -> str:
        return f"<SyncBatchHandle {self.batch_id!r}>"

    def _on(self, client: Client) -> BatchHandle:
        return client.batch(self.batch_id)

    def results(self, after: str = "", *, deletes: bool = False) -> Iterator[Answer]:
        """Yield the result of each job once, as they end, until the batch is complete; see `BatchHandle.results`."""
        engine = self._hub.engine

        async def begin() -> AsyncGenerator[Answer, None]:
            return self._on(engine.client).results(after, deletes=deletes)

        found = engine.run(begin())

        async def following() -> Answer | None:
            return await anext(found, None)

        async def end() -> None:
            await found.aclose()

        try:
            while (answer := engine.run(following())) is not None:
                yield answer
        finally:
            if engine.is_alive:
                engine.run(end())

    def progress(self) -> Progress:
        """Count the batch's jobs and money now; see `BatchHandle.progress`."""
        return self._hub.run(lambda client: self._on(client).progress())

    def wait(self, timeout: float | None = None) -> Progress:
        """Wait up to `timeout` seconds until every job has ended; see `BatchHandle.wait`."""
        return self._hub.run(lambda client: self._on(client).wait(timeout))

    def cancel(self, *, now: bool = False) -> bool:
        """Stop everything that is not sent; see `BatchHandle.cancel`."""
        return self._hub.run(lambda client: self._on(client).cancel(now=now))

    def retry_failed(self) -> int:
        """Submit every failed job again; see `BatchHandle.retry_failed`."""
        return self._hub.run(lambda client: self._on(client).retry_failed())
