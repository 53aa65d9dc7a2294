"""A background pipeline in a web application: POST submits and returns at once, GET picks the result up later.

export FAREBOX_REDIS_URL=redis://127.0.0.1:6379/0 SUMMARY_MODEL=openai:gpt-5-mini
farebox budget set 1                     # once per Redis: creates the ledger
farebox worker &                         # as many as you like, anywhere
pip install starlette uvicorn && uvicorn --app-dir examples web:app

curl -X POST localhost:8000/summaries -d '{"text": "…"}'     # 202, and where the summary will be
curl localhost:8000/summaries/ID                             # 202 while it is made, then 200

No job is lost when the application restarts: it keeps nothing itself, and any of its processes can answer.
"""

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from hashlib import sha256

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

import farebox

BATCH = "summaries"  # of its own, so that it can be watched and limited


class Wanted(msgspec.Struct):
    """The body of a POST."""

    text: str


async def create(request: Request) -> JSONResponse:
    """Submit a summary. The same text is the same job: posted twice, it is paid once."""
    client: farebox.Client = request.app.state.client
    try:
        wanted = msgspec.json.decode(await request.body(), type=Wanted)
    except msgspec.DecodeError as error:
        return JSONResponse({"error": str(error)}, 400)
    model = os.environ.get("SUMMARY_MODEL", "echo:echo")
    name = sha256(f"{model}\0{wanted.text}".encode()).hexdigest()[:24]
    prompt = f"Summarise in one sentence:\n\n{wanted.text}"
    await client.submit(model, prompt=prompt, max_tokens=500, job_id=name, batch=BATCH, tags=["web"])
    return JSONResponse({"id": name}, 202, {"location": f"/summaries/{name}"})


async def read(request: Request) -> JSONResponse:
    """Tell how far a summary is, without waiting for it."""
    client: farebox.Client = request.app.state.client
    job = client.job(request.path_params["id"], batch=BATCH)
    status = await job.status()
    if status.state == "gone":
        return JSONResponse({"error": "no such summary, or it was made too long ago"}, 404)
    if not status.has_ended:
        return JSONResponse({"status": status.state, "reason": status.reason}, 202, {"retry-after": "1"})
    answer = await job.result(timeout=0)
    if answer.error:
        return JSONResponse({"status": status.state, "error": answer.error.message}, 502)
    return JSONResponse({"status": status.state, "summary": answer.text, "cost_usd": answer.cost_usd})


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncGenerator[None, None]:
    """Hold one client for all requests: it needs a connection or two, however many wait."""
    async with farebox.Client() as client:
        app.state.client = client
        yield


async def refuse(request: Request, error: Exception) -> JSONResponse:
    """Tell what Farebox says: a wrong request, a summary of last month, or (503) that Redis is away: try again."""
    del request
    code = 400 if isinstance(error, farebox.InputError) else 410 if isinstance(error, farebox.ResultGoneError) else 503
    return JSONResponse({"error": str(error)}, code)


routes = [Route("/summaries", create, methods=["POST"]), Route("/summaries/{id}", read)]
app = Starlette(routes=routes, lifespan=lifespan, exception_handlers={farebox.FareboxError: refuse})
