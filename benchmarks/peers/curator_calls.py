"""Curator, online, in a directory of its own: `curator_calls.py URL IN SLOTS`. It counts what it spends, without limit.

Its rate limits are set out of reach, so that none of them waits; no viewer, no telemetry (TELEMETRY_ENABLED).
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path

import litellm.litellm_core_utils.default_encoding  # noqa: F401 - tells tiktoken of the table it brings, or it downloads one
from bespokelabs import curator


class Asking(curator.LLM):
    """Asks each prompt as it is."""

    def prompt(self, row: dict) -> str:
        """Take the prompt."""
        return row["prompt"]

    def parse(self, row: dict, response: str) -> dict:
        """Keep the answer."""
        return {"prompt": row["prompt"], "answer": response}


def main(url: str, lines: list[str], slots: int) -> None:
    """Ask everything; print how many were answered, and what was measured."""
    bodies = [json.loads(line)["body"] for line in lines]
    asking = Asking(
        model_name="sim-1", backend="openai", generation_params={"max_tokens": 100, "temperature": 0.2},
        backend_params={
            "base_url": f"{url}/v1", "api_key": "none", "max_concurrent_requests": slots, "max_retries": 0,
            "max_requests_per_minute": 10_000_000, "max_tokens_per_minute": 10_000_000_000,
            "invalid_finish_reasons": ["content_filter"],  # an answer that its cap has cut is an answer
        },
    )  # fmt: skip
    rows = asking([{"prompt": body["messages"][0]["content"]} for body in bodies]).dataset
    answered = sum(bool(row["answer"]) for row in rows)
    print(json.dumps({"answered": answered, "versions": f"bespokelabs-curator {version('bespokelabs-curator')}"}))


lines = Path(sys.argv[2]).read_text(encoding="utf-8").splitlines()
main(sys.argv[1], lines, int(sys.argv[3]))
