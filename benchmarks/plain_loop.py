"""What one writes by hand: the SDK with its defaults, a semaphore and gather. `plain_loop.py SDK URL IN SLOTS`."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path


def openai(url: str):
    """Ask by chat completions."""
    from openai import AsyncOpenAI  # noqa: PLC0415 - the other SDK is not paid for

    client = AsyncOpenAI(api_key="none", base_url=f"{url}/v1")

    async def ask(body: dict) -> str | None:
        answer = await client.chat.completions.create(model="sim-1", **body)
        return answer.choices[0].message.content

    return ask


def anthropic(url: str):
    """Ask by messages."""
    from anthropic import AsyncAnthropic  # noqa: PLC0415 - one SDK in a loop, or its start-up counts twice

    client = AsyncAnthropic(api_key="none", base_url=url)

    async def ask(body: dict) -> str:
        said = {name: body[name] for name in ("messages", "max_tokens")}  # this SDK has no temperature
        answer = await client.messages.create(model="sim-1", **said)
        return answer.content[0].text

    return ask


async def main(sdk: str, url: str, lines: list[str], slots: int) -> None:
    """Ask everything and print how many were answered."""
    ask, free = {"openai": openai, "anthropic": anthropic}[sdk](url), asyncio.Semaphore(slots)

    async def one(line: str) -> str | None:
        async with free:
            return await ask(json.loads(line)["body"])

    answers = await asyncio.gather(*[one(line) for line in lines])
    print(sum(bool(answer) for answer in answers))


lines = Path(sys.argv[3]).read_text(encoding="utf-8").splitlines()
asyncio.run(main(sys.argv[1], sys.argv[2], lines, int(sys.argv[4])))
