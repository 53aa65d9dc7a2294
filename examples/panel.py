"""Ask several models the same, and let another one judge: jobs that follow jobs (fan-out, fan-in).

export FAREBOX_REDIS_URL=redis://127.0.0.1:6379/0
farebox budget set 1                     # once per Redis: creates the ledger
farebox worker &                         # as many as you like, anywhere
python examples/panel.py openai:gpt-5 openai:gpt-5-mini openai:gpt-5-nano anthropic:claude-haiku-4-5

The last model is the judge. Every job has an id made of its question, so a run that was killed goes on where it was.
"""

import asyncio
import sys
from collections.abc import Sequence
from hashlib import sha256

import msgspec

import farebox

QUESTIONS = (
    "Explain to a ten-year-old why the sky is blue, in two sentences.",
    "Name one risk of paying by the token, and how to bound it.",
    "Write a haiku about a queue.",
)


class Verdict(msgspec.Struct):
    """What the judge is to say."""

    best: int
    why: str


def key(*words: str) -> str:
    """Name a job by what it asks."""
    return sha256("\0".join(words).encode()).hexdigest()[:24]


async def ask(client: farebox.Client, model: str, prompt: str) -> farebox.Answer:
    """Ask one model, and wait."""
    handle = await client.submit(model, prompt=prompt, max_tokens=2000, job_id=key(model, prompt), batch="panel")
    return await handle.result(timeout=900)


async def judge(client: farebox.Client, question: str, models: Sequence[str], judged_by: str) -> str:
    """Let the models answer at the same time; then let the judge choose among those that did."""
    answers = await asyncio.gather(*(ask(client, model, question) for model in models))
    given = [answer for answer in answers if answer.error is None]
    if not given:
        return f"{question}\n  nobody answered: {answers[0].error}"
    listed = "\n\n".join(f"Answer {number}:\n{answer.text}" for number, answer in enumerate(given, 1))
    prompt = f"Which of these answers is best, by its number, and why?\n\nQuestion: {question}\n\n{listed}"
    handle = await client.submit(
        judged_by, prompt=prompt, max_tokens=2000, job_id=key(judged_by, prompt), batch="panel", priority=9,
        response_schema=Verdict,
    )  # fmt: skip
    ruling = await handle.result(timeout=900)
    cost = sum(answer.cost_usd for answer in [*answers, ruling])
    try:
        verdict = ruling.parse(Verdict)
        best = given[verdict.best - 1].model_ref if 1 <= verdict.best <= len(given) else "none of them"
    except (farebox.JobFailedError, farebox.ReplyInvalidError) as error:
        return f"{question}\n  no verdict: {error} (${cost:.6f})"
    return f"{question}\n  {best}: {verdict.why} (${cost:.6f})"


async def main(models: Sequence[str], judged_by: str) -> None:
    """Judge all questions at once, and tell each as it is decided."""
    async with farebox.Client() as client:
        for decided in asyncio.as_completed([judge(client, one, models, judged_by) for one in QUESTIONS]):
            print(await decided)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    asyncio.run(main(sys.argv[1:-1], sys.argv[-1]))
