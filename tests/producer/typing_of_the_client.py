"""What type checkers say of the client's public face: two of them read this file, and nothing runs it."""

from collections.abc import AsyncGenerator, Iterator
from typing import assert_type

import msgspec

import farebox


class Answered(msgspec.Struct):
    """What an answer is parsed as."""

    word: str


async def asynchronous(client: farebox.Client) -> None:
    """See the types of the client that awaits."""
    handle = await client.submit(
        "p:m", prompt="Hi", max_tokens=5, temperature=0, response_schema=Answered, reuse="content"
    )
    assert_type(handle, farebox.JobHandle)
    answer = await handle.result(timeout=5)
    assert_type(answer, farebox.Answer)
    assert_type(answer.parse(Answered), Answered)
    assert_type(answer.text, str)
    assert_type(answer.cost_usd, float)
    assert_type(answer.usage.total_tokens, int)
    assert_type(answer.error, farebox.JobError | None)
    assert_type(answer.tool_calls, tuple[farebox.ToolCall, ...])
    assert_type(await handle.cancel(), bool)
    assert_type(await handle.status(), farebox.JobStatus)
    assert_type((await handle.status()).state, farebox.JobState)
    batch = await client.submit_batch([{"prompt": "Hi"}, farebox.Request(model="p:m", prompt="Hi")], model="p:m")
    assert_type(batch, farebox.BatchHandle)
    assert_type(batch.results(), AsyncGenerator[farebox.Answer, None])
    assert_type(await batch.progress(), farebox.Progress)
    assert_type(await batch.retry_failed(), int)
    assert_type(await client.cost(), farebox.Cost)


def blocking(client: farebox.SyncClient) -> None:
    """See the types of the client that blocks."""
    handle = client.submit("p:m", prompt="Hi")
    assert_type(handle, farebox.SyncJobHandle)
    assert_type(handle.result(), farebox.Answer)
    assert_type(handle.status(), farebox.JobStatus)
    batch = client.submit_batch([{"prompt": "Hi"}])
    assert_type(batch, farebox.SyncBatchHandle)
    assert_type(batch.results(), Iterator[farebox.Answer])
    assert_type(batch.progress(), farebox.Progress)


def refused(client: farebox.SyncClient) -> None:
    """See what is no call of the client's; a checker that finds nothing wrong here is wrong."""
    client.submit("p:m", prompt="Hi", reuse="always")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    client.submit("p:m", prompt="Hi", tier="free")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    client.submit(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
