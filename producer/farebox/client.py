"""The client: submit jobs and batches from any process, and await what becomes of them.

    async with farebox.Client("redis://bus:6379/0") as client:
        handle = await client.submit("openai:gpt-5-mini", prompt="Is 91 a prime number?", max_tokens=50)
        answer = await handle.result(timeout=60)
        print(answer.text, answer.cost_usd)

It sends nothing to a provider and knows no prices: workers do. It never creates a ledger.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import AsyncIterable, Iterable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self, cast

from redis.asyncio import Redis as AnyRedis

from farebox.amend import forget_ended
from farebox.batch import DEFAULT_BATCH
from farebox.commands import Redis
from farebox.connection import check_server, connect, shown
from farebox.cost import Cost
from farebox.errors import BatchClosedError, ConfigError, InputError, JobConflictError, ServerError
from farebox.feed import WINDOW_BYTES, WINDOW_JOBS, Feed
from farebox.handle import BatchHandle, JobHandle
from farebox.ledger import GLOBAL
from farebox.link import Link
from farebox.money import nusd_from_usd
from farebox.records import Api, Tier
from farebox.request import Item, Message, Request, When, job_of, ms_of
from farebox.reuse import Reuse, leave_word

URL_VARIABLE = "FAREBOX_REDIS_URL"
IDS_DAYS = 90.0
TIDY_S = 3600.0


class Client:
    """Submits to one bus; of one event loop. Use it as `async with`, or `await client.aclose()` at the end.

    Args:
        url: where Redis is (redis://, rediss://, unix://, sentinel://); by default the environment's FAREBOX_REDIS_URL.
        namespace: which bus on that server.
        redis: an asyncio client of your own in place of a URL, one that does not decode responses; it is not closed.

    Raises: ConfigError when there is no URL, or it cannot be read.
    """

    def __init__(self, url: str | None = None, *, namespace: str = "farebox", redis: AnyRedis | None = None) -> None:
        self._owns_redis = redis is None
        self._url = url_or_environment(url) if redis is None else ""
        self._redis = cast("Redis", redis) if redis else connect(self._url)
        self._opened: set[str] = set()
        self._tidies: dict[str, float] = {}
        self._link = Link(self._redis, namespace, shown(self._url) if self._url else "the Redis server")

    async def __aenter__(self) -> Self:
        """Check the server. Raises: ServerError when it is unreachable, or unfit to hold money."""
        try:
            await check_server(self._redis, url=self._url)
        except BaseException:
            await self.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections. Jobs go on; who still waits for one gets a FareboxError."""
        await self._link.complaint.aclose()
        await self._link.waiting.aclose()
        if self._owns_redis:
            await self._redis.aclose(close_connection_pool=True)

    async def submit(  # noqa: PLR0913 - a request, field by field
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
    ) -> JobHandle:
        """Submit one completion, and return at once with its handle.

        The same `job_id` in the same batch is the same job: submitted again with the same body it is not asked again,
        and the handle is that of the first (`handle.is_new` is False). Deadline, priority and tags are no part of the
        body. Jobs are known for 90 days after they ended, and their results for as long as the workers' configuration
        says ([retention] results_days).

        Args:
            model: `provider:model`, such as `openai:gpt-5-mini`.
            messages: the conversation; or
            prompt: the text of a single user message.
            max_tokens: the output cap in tokens; None for the model's default. It bounds what the job can cost.
            job_id: 1 to 512 characters; None makes a new one up.
            tags: the cost is counted under each, and bound by its limit.
            priority: 0 to 9; 9 goes first.
            deadline: after it the job is not sent any more: when its turn comes (not while it is parked or paused) it
                fails with the code `deadline`, unpaid.
            not_before: before it the job is not sent. Both are a datetime with a time zone, or a timedelta from now.
            batch: 1 to 64 letters, digits, dots, dashes and underscores; made when it is not there.
            response_schema: the type the answer is to fit: a msgspec Struct, dataclass, TypedDict or pydantic model.
            tier: `standard`, or `flex`, which costs half and may take long, where the vendor has it.
            api: whose words `messages` and `body` are: `chat`, `messages` (Anthropic), `responses` or `embeddings`; the
                last two take `prompt=` or `input=`, and the answer's vectors are `Answer.embeddings`.
            drop_params: parameters that may be dropped when the provider's API cannot say them.
            fallbacks: further models in order, such as `["anthropic:claude-haiku-4-5"]`: the next one is asked when one
                has failed for good or cannot go on for long; `Answer.model_ref` says which answered, docs/fallback.md
                when. What was submitted keeps the ones it was first submitted with.
            spread: the model and its fallbacks are equals: whichever has room answers.
            reuse: `"content"` takes the answer that an identical job of this namespace had, if it was submitted singly
                or said so too: same model, body, cap and tier. It comes at once and costs nothing
                (`Answer.reused_from`), as long as that job's result is kept. Leave it out where each answer is to be a
                new one, as with a temperature.
            body: what else the request holds, such as `temperature=0` or `tools=[…]`; it passes through untouched.

        Raises: InputError; JobConflictError when the id stands for another body; BatchClosedError; NoLedgerError and
        LedgerLostError; ServerFullError; ServerError.
        """
        request = Request(
            model=model, messages=messages, prompt=prompt, max_tokens=max_tokens, tags=tags, deadline=deadline,
            response_schema=response_schema, tier=tier, api=api, drop_params=drop_params, fallbacks=fallbacks,
            spread=spread, body=body,
        )  # fmt: skip
        name = job_id if job_id is not None else secrets.token_hex(12)
        due_ms = ms_of("not_before", not_before)
        return await self._submit(request, name, batch, _priority(priority), due_ms, _reuse(reuse))

    async def _submit(
        self, request: Request, job_id: str, batch_id: str, priority: int, due_ms: int, reuse: Reuse | None
    ) -> JobHandle:
        job, batch = job_of(request, job_id), self._link.batch(batch_id, reuse)
        knows_batch = batch_id in self._opened
        try:
            if not knows_batch:
                await self._open(batch_id)
            done = await self._link.do(lambda: batch.submit([job], priority=priority, not_before_ms=due_ms))
        except JobConflictError:
            raise JobConflictError([job_id]) from None
        except BatchClosedError:
            self._opened.discard(batch_id)
            if not knows_batch:
                raise
            return await self._submit(request, job_id, batch_id, priority, due_ms, reuse)  # it was forgotten meanwhile
        if reuse is None and done.created:
            with suppress(ServerError):  # the job is there: an answer that nobody finds costs less than a lost handle
                await self._link.do(lambda: leave_word(batch, [job], instead=False))
        await self._tidy(batch_id)
        return JobHandle(self._link, batch_id, job_id, is_new=done.created == 1)

    async def _tidy(self, batch_id: str) -> None:
        """Once an hour, forget what ended long ago: a batch that single jobs go to never expires."""
        if time.monotonic() < self._tidies.get(batch_id, 0.0):
            return
        self._tidies[batch_id] = time.monotonic() + TIDY_S
        with suppress(ServerError):
            await self._link.do(lambda: forget_ended(self._link.batch(batch_id), days=IDS_DAYS))

    async def _open(self, batch_id: str) -> None:
        batch = self._link.batch(batch_id)
        if not await self._link.do(lambda: self._redis.exists(self._link.keys.batch(batch_id))):
            await self._link.do(lambda: batch.open(batch_id))
        self._opened.add(batch_id)

    async def submit_batch(  # noqa: PLR0913 - what holds for all items
        self,
        items: Iterable[Item] | AsyncIterable[Item],
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
    ) -> BatchHandle:
        """Submit a batch of any length in constant memory, seal it, and return its handle.

        Not more than a window of jobs are unfinished at a time: beyond it this waits for the workers. Results can be
        read meanwhile, by `client.batch(name).results()`. Submitted again under the same name, after a crash or with
        more items, only what is new is asked.

        Args:
            items: dicts, or `farebox.Request`s; any iterable, also an asynchronous one. A dict is a line of a file:
                `{"custom_id"?, "model"?, "messages" | "prompt", …}`, or a line made for OpenAI's batch API.
            name: the batch's id, 1 to 64 letters, digits, dots, dashes and underscores; None makes a new one up.
            model: `provider:model` of dicts that name none.
            budget_usd: hard limit of the batch, in dollars.
            max_tokens: the output cap in tokens of dicts whose body has none.
            tags: the cost of dicts is counted under each; a `Request` has its own, as it has what follows.
            deadline: after it what is not sent yet fails with the code `deadline`, unpaid.
            response_schema: the type the answers are to fit.
            tier: `standard` or `flex`.
            drop_params: parameters that may be dropped when the provider's API cannot say them.
            fallbacks: further models of dicts that name none, in order; see `submit`.
            spread: the model and its fallbacks are equals: whichever has room answers.
            reuse: `"content"` takes the answers that identical jobs had; see `submit`.
            priority: 0 to 9; 9 goes first.
            not_before: before it nothing of the batch is sent.
            ids_days: how long its jobs are known once it is complete: so long nothing in it is asked twice.
            results_days: how long after its completion its results can be read.
            window_jobs: most jobs that are submitted and not finished.
            window_bytes: most bytes that they have together, about.

        Raises: InputError naming the item; JobConflictError naming the ids whose body changed; BatchClosedError;
        NoLedgerError and LedgerLostError; ServerFullError; ServerError.
        """
        feed = await self.begin_batch(
            name=name, model=model, budget_usd=budget_usd, max_tokens=max_tokens, tags=tags, priority=priority,
            deadline=deadline, not_before=not_before, response_schema=response_schema, tier=tier,
            drop_params=drop_params, fallbacks=fallbacks, spread=spread, reuse=reuse, window_jobs=window_jobs,
            window_bytes=window_bytes,
        )  # fmt: skip
        try:
            if isinstance(items, AsyncIterable):
                async for item in items:
                    if feed.take(item):
                        await feed.flush()
            else:
                for item in items:
                    if feed.take(item):
                        await feed.flush()
            return await feed.seal(ids_days=ids_days, results_days=results_days)
        except InputError:
            await feed.give_up(ids_days=ids_days, results_days=results_days)
            raise

    async def begin_batch(  # noqa: PLR0913 - what holds for all items
        self,
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
        window_jobs: int = WINDOW_JOBS,
        window_bytes: int = WINDOW_BYTES,
    ) -> Feed:
        """Open a batch to be filled piece by piece, for sources that push; see `submit_batch` for the arguments."""
        batch_id = name if name is not None else f"batch-{secrets.token_hex(6)}"
        batch = self._link.batch(batch_id)
        limit_nusd = _limit(budget_usd)
        defaults = Request(
            model=model, max_tokens=max_tokens, tags=tags, deadline=deadline, response_schema=response_schema,
            tier=tier, drop_params=drop_params, fallbacks=fallbacks, spread=spread,
        )  # fmt: skip
        feed = Feed(
            self._link, batch_id, defaults, priority=_priority(priority),
            not_before_ms=ms_of("not_before", not_before), window_jobs=window_jobs, window_bytes=window_bytes,
            reuse=_reuse(reuse),
        )  # fmt: skip
        await feed.open()
        if limit_nusd is not None:
            await self._link.do(lambda: batch.ledger.set_limit(f"batch:{batch_id}", limit_nusd))
        return feed

    def job(self, job_id: str, *, batch: str = DEFAULT_BATCH) -> JobHandle:
        """The handle of a job that was submitted before, by any process; nothing is looked up yet."""
        return JobHandle(self._link, batch, job_id)

    def batch(self, batch_id: str) -> BatchHandle:
        """The handle of a batch that was submitted before, by any process; nothing is looked up yet.

        Raises: InputError when it cannot be an id.
        """
        return BatchHandle(self._link, batch_id)

    async def cost(self, scope: str = GLOBAL) -> Cost:
        """Read a money counter: `global`, `batch:…`, `provider:…`, `model:provider:…` or `tag:…`; zeros when unknown.

        Raises: ServerError.
        """
        found = await self._link.do(lambda: self._link.ledger.scope(scope))
        return Cost(found.spent_nusd, found.held_nusd, found.unconfirmed_nusd, found.limit_nusd)


def url_or_environment(url: str | None) -> str:
    """Return the URL, or the environment's. Raises: ConfigError when there is neither."""
    found = url or os.environ.get(URL_VARIABLE)
    if not found:
        raise ConfigError(
            f"where is Redis? Give its URL, as in farebox.Client('redis://bus:6379/0'), or set {URL_VARIABLE}."
        )
    return found


def _reuse(reuse: Reuse | None) -> Reuse | None:
    if reuse not in (None, "content"):
        raise InputError(f'reuse={reuse!r}: it is "content", or left out')
    return reuse


def _priority(priority: int) -> int:
    if priority not in range(10):
        raise InputError(f"priority must be 0 to 9, not {priority!r}")
    return priority


def _limit(budget_usd: float | None) -> int | None:
    try:
        return None if budget_usd is None else nusd_from_usd(budget_usd)
    except ValueError as error:
        raise InputError(f"budget_usd: {error}") from None
