"""LiteLLM's router with its budget on, shared by Redis: `litellm_calls.py URL IN SLOTS REDIS_PORT`.

One deployment, a price for it, a provider budget that the file does not reach, its price table from the package
(LITELLM_LOCAL_MODEL_COST_MAP) instead of the network, no retries, no log.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from importlib.metadata import version
from pathlib import Path

import litellm
import uvloop
from litellm import Router


async def main(url: str, lines: list[str], slots: int, port: int) -> None:
    """Ask everything; print how many were answered, and what was measured."""
    litellm.suppress_debug_info = True
    logging.disable(logging.WARNING)
    priced = {"input_cost_per_token": 0.15e-6, "output_cost_per_token": 0.6e-6}
    wire = {"model": "openai/sim-1", "api_base": f"{url}/v1", "api_key": "none", **priced}
    router = Router(
        model_list=[{"model_name": "sim-1", "litellm_params": wire}],
        provider_budget_config={"openai": {"budget_limit": 100, "time_period": "1d"}},
        redis_host="127.0.0.1", redis_port=port, num_retries=0, set_verbose=False,
    )  # fmt: skip
    free = asyncio.Semaphore(slots)

    async def one(line: str) -> str | None:
        async with free:
            answer = await router.acompletion(model="sim-1", **json.loads(line)["body"])
        return answer.choices[0].message.content

    answers = await asyncio.gather(*[one(line) for line in lines])
    await asyncio.sleep(2.5)  # it books by callbacks, and writes to Redis once a second
    answered = sum(bool(answer) for answer in answers)
    print(json.dumps({"answered": answered, "versions": f"litellm {version('litellm')} openai {version('openai')}"}))


lines = Path(sys.argv[2]).read_text(encoding="utf-8").splitlines()
uvloop.run(main(sys.argv[1], lines, int(sys.argv[3]), int(sys.argv[4])))
