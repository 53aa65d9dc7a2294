"""What one writes by hand: AsyncOpenAI with its defaults, a semaphore and gather. `plain_loop.py URL IN SLOTS`."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from openai import AsyncOpenAI


async def main(url: str, lines: list[str], slots: int) -> None:
    """Ask everything and print how many were answered."""
    client, free = AsyncOpenAI(api_key="none", base_url=url), asyncio.Semaphore(slots)

    async def ask(line: str) -> str | None:
        async with free:
            answer = await client.chat.completions.create(model="sim-1", **json.loads(line)["body"])
            return answer.choices[0].message.content

    answers = await asyncio.gather(*[ask(line) for line in lines])
    print(sum(bool(answer) for answer in answers))


asyncio.run(main(sys.argv[1], Path(sys.argv[2]).read_text(encoding="utf-8").splitlines(), int(sys.argv[3])))
