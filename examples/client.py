"""Ask from a program: one question, then a batch, under the limit of the bus.

export FAREBOX_REDIS_URL=redis://127.0.0.1:6379/0
farebox budget set 1                     # once per Redis: creates the ledger
farebox worker &                         # as many as you like, anywhere
python examples/client.py openai:gpt-5-mini
"""

import asyncio
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec

import farebox

PROMPTS = Path(__file__).parent / "prompts.jsonl"


class Weather(msgspec.Struct):
    """What the first question is to be answered with."""

    city: str
    celsius: int


def lines() -> Iterator[dict[str, object]]:
    """Read the prompts one by one: a batch may be larger than memory."""
    with PROMPTS.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


async def ask_one(client: farebox.Client, model: str) -> None:
    """Ask for an answer of a type. Asked again under the same job id, it comes from Redis and costs nothing."""
    handle = await client.submit(
        model, prompt='Say as JSON: {"city": "Oslo", "celsius": 12}', max_tokens=500, temperature=0,
        job_id=f"oslo {model}", response_schema=Weather,
    )  # fmt: skip
    answer = await handle.result(timeout=120)
    try:
        print(answer.parse(Weather), f"for ${answer.cost_usd:.6f}")
    except farebox.ReplyInvalidError as error:
        print(f"paid ${error.cost_usd:.6f}, but: {error}")


async def ask_many(client: farebox.Client, model: str) -> None:
    """Fill a batch and read each result once, as it comes."""
    batch = await client.submit_batch(lines(), name="example", model=model, max_tokens=300, budget_usd=0.5)
    count = failed = 0
    async for answer in batch.results():
        count += 1
        failed += answer.error is not None
    print(f"{count} answers, {failed} of them failures")


async def main(model: str) -> None:
    """Ask one question, then two hundred."""
    async with farebox.Client() as client:
        await ask_one(client, model)
        await ask_many(client, model)
        cost = await client.cost()
        print(f"${cost.spent_usd:.4f} spent of {'no limit' if cost.limit_usd is None else f'${cost.limit_usd:.2f}'}")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "echo:echo"))
