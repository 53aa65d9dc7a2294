"""What crosses a process boundary: frozen Structs, written as MessagePack arrays.

Evolution: fields are only ever appended, each with a default; none is renamed, retyped or moved. `v` says which
version wrote a record; a reader takes every version up to its own and newer ones by their known fields. A word may be
added to a `Literal`: whoever does not know it refuses the record by name, so workers are upgraded before producers.
Golden bytes in `tests/producer/test_records.py` hold this. Never pickle.
"""

from __future__ import annotations

import hashlib
import time
from typing import Literal

import msgspec

Api = Literal["chat", "messages", "responses", "embeddings"]
Outcome = Literal["succeeded", "failed", "cancelled"]
Finish = Literal["answered", "truncated", "tool_call", "refused", "filtered", ""]
Tier = Literal["standard", "flex"]


class Job(msgspec.Struct, frozen=True, array_like=True):
    """One completion to run, as its producer asked for it.

    `body` is a JSON object in the wire format `api` names; it passes through untouched but for the model, the
    output cap and what the budget demands. `max_tokens` is the cap used when the body has none (None: the model's
    default). `drop_params` names parameters that may be dropped when the provider's API cannot say them.
    `deadline_ms` is in ms since 1970, UTC: after it the job is not sent any more, and fails. 0 is none.
    `fallbacks` names further lanes that may answer it (a model_ref, and `@flex`), in order; `spread` says that they and
    the first are equals, and whichever is free does (see `farebox.fallback`).
    """

    v: int
    custom_id: str
    model_ref: str
    api: Api
    body: bytes
    max_tokens: int | None = None
    tier: Tier = "standard"
    tags: tuple[str, ...] = ()
    drop_params: tuple[str, ...] = ()
    deadline_ms: int = 0
    fallbacks: tuple[str, ...] = ()
    spread: bool = False


class Result(msgspec.Struct, frozen=True, array_like=True):
    """How a job ended.

    `body` is the provider's JSON in the wire format the job was written in (its error body when it failed).
    `finish` is "" unless an answer came that says something. Money is in nano-dollars, `latency_ms` covers the last
    attempt.
    `cost_nusd` is the cost of every attempt that is known; `unconfirmed_nusd` what lost attempts may have cost.
    `tier` was asked for, `served_tier` is the one that the provider says it served ("" when it does not say), and
    `saved_nusd` what the same usage would have cost more at standard prices; negative when it cost less.
    `reused_from` is the id of the job whose answer this is, "" when it is its own; `saved_nusd` is what that one cost.
    `model_ref` is the one that answered, or failed last; `asked` the lane that the job named first, where that was
    another one, else "".
    `error_code` is the provider's own word where it has one, `failure_class` ours, by which failures are retried.
    `note` says what is odd of an answer: that nothing is in it, or that its usage could not be read.
    """

    v: int
    custom_id: str
    model_ref: str
    outcome: Outcome
    finish: Finish = ""
    status_code: int = 0
    request_id: str = ""
    body: bytes = b""
    error_code: str = ""
    error_message: str = ""
    attempts: int = 0
    cost_nusd: int = 0
    unconfirmed_nusd: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    latency_ms: int = 0
    tier: Tier = "standard"
    price_version: str = ""
    capped_by_default: bool = False
    served_tier: str = ""
    saved_nusd: int = 0
    reused_from: str = ""
    asked: str = ""
    failure_class: str = ""
    note: str = ""


class JobEnvelope(msgspec.Struct, frozen=True):
    """arq's own job dictionary (`arq.jobs.serialize_job`): try, function, args, kwargs, enqueue time in ms.

    `k` holds notes: `retried` (see `ResultEnvelope`), `moved` (see `farebox.fallback`).
    """

    t: int | None
    f: str
    a: tuple[Job]
    k: dict[str, str]
    et: int


class ResultEnvelope(msgspec.Struct, frozen=True):
    """arq's own result dictionary (`arq.jobs.serialize_result`).

    Args are kept of jobs that failed, so that they can be retried, and left out of others: a prompt is stored once.
    `k["retried"]` says when a job was put back after a failure, in ms of the server's clock: what the result stream
    says of it from before is no longer so.
    """

    t: int
    f: str
    a: tuple[Job, ...]
    k: dict[str, str]
    et: int
    s: bool
    r: Result
    st: int
    ft: int
    q: str
    id: str


VERSION = 1
FUNCTION = "complete"  # the one arq function that every worker knows

_encoder = msgspec.msgpack.Encoder()
_job_decoder = msgspec.msgpack.Decoder(JobEnvelope)
_result_decoder = msgspec.msgpack.Decoder(ResultEnvelope)


def encode_job(job: Job, enqueued_ms: int, *, retried_ms: int = 0) -> bytes:
    """Write a job as arq's job dictionary; `retried_ms` is when it was put back after it had failed, 0 for never."""
    notes = {"retried": str(retried_ms)} if retried_ms else {}
    return _encoder.encode(JobEnvelope(t=None, f=FUNCTION, a=(job,), k=notes, et=enqueued_ms))


def encode_again(envelope: JobEnvelope) -> bytes:
    """Write a job that was read, with what was noted since."""
    return _encoder.encode(envelope)


def decode_job(payload: bytes) -> JobEnvelope:
    """Read a job. Raises: msgspec.DecodeError when it is not one of ours."""
    return _job_decoder.decode(payload)


def encode_result(envelope: ResultEnvelope) -> bytes:
    """Write a result as arq's result dictionary."""
    return _encoder.encode(envelope)


def encode_unsent(result: Result, identity: str, flow: str, envelope: JobEnvelope | None = None) -> bytes:
    """Write the result of a job that ended now and was not sent; `envelope` is the job itself, where it is known."""
    now_ms = int(time.time() * 1000)
    return encode_result(
        ResultEnvelope(
            t=0,
            f=FUNCTION,
            a=envelope.a if envelope and result.outcome == "failed" else (),
            k=envelope.k if envelope else {},
            et=envelope.et if envelope else now_ms,
            s=result.outcome == "succeeded",
            r=result,
            st=now_ms,
            ft=now_ms,
            q=flow,
            id=identity,
        )
    )


def decode_result(payload: bytes) -> ResultEnvelope:
    """Read a result. Raises: msgspec.DecodeError when it is not one of ours."""
    return _result_decoder.decode(payload)


def job_id(namespace: str, batch_id: str, custom_id: str) -> str:
    """Name a job: the namespace, and 24 hex digits that stand for its batch and custom id.

    The namespace stands in front because arq's own keys (`arq:job:<id>`) hold nothing else that tells teams apart.
    """
    digest = hashlib.blake2b(f"{batch_id}\0{custom_id}".encode(), digest_size=12, person=b"farebox job")
    return f"{namespace}:{digest.hexdigest()}"


def content_digest(job: Job) -> str:
    """Stand for what a job asks among all jobs of a namespace, in 32 hex digits: an answer may be found by it."""
    content = _encoder.encode((job.model_ref, job.api, job.body, job.max_tokens, job.tier, job.drop_params))
    return hashlib.blake2b(content, digest_size=16, person=b"farebox content").hexdigest()


def body_digest(job: Job) -> str:
    """Stand for what a job asks, in 16 hex digits: the same id with another digest is another job, and refused."""
    content = _encoder.encode((job.model_ref, job.api, job.body, job.max_tokens, job.tier, job.drop_params))
    return hashlib.blake2b(content, digest_size=8, person=b"farebox body").hexdigest()
