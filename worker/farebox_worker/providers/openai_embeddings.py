"""OpenAI's embeddings: the request with its bounds, the answer. Only input is counted, so there is no cap."""

from __future__ import annotations

import msgspec
from msgspec import Raw

from farebox.errors import InputError
from farebox.records import Job
from farebox_worker.providers import body as bodies
from farebox_worker.providers import openai_usage
from farebox_worker.providers.base import Facts, Prepared, Said
from farebox_worker.providers.openai_request import Endpoint


class _Request(msgspec.Struct):
    input: Raw


class _Vectors(msgspec.Struct):
    data: list[Raw]
    usage: Raw = Raw()


_DIGITS = tuple(str(digit).encode() for digit in range(10))
_INPUTS = (b'"', b"[", b"{", *_DIGITS)

_request = msgspec.json.Decoder(_Request)
_raws = msgspec.json.Decoder(list[Raw])
_vectors = msgspec.json.Decoder(_Vectors)


def prepare(job: Job, facts: Facts, endpoint: Endpoint) -> Prepared:
    """Make the request for a job. Raises: InputError."""
    body = bodies.unescaped(job.body)
    if job.tier == "flex":
        raise InputError("embeddings have no tier flex: use --tier standard, or cheapest")
    fields = bodies.fields_of(body)
    fields["model"] = bodies.raw(facts.model_id)
    final = bodies.written(fields)
    bound = _input_bound(body, final, facts, is_vendor=endpoint.is_vendor)
    return Prepared(body=final, input_bound=bound, output_bound=0, capped_by_default=False, api=job.api)


def read(original: bytes, prepared: Prepared) -> Said | None:
    """Read an answer; None when it is none. Raises: msgspec.DecodeError."""
    answer = _vectors.decode(original)
    if not answer.data:
        return openai_usage.billed(original, prepared)
    return Said(original, openai_usage.read(answer.usage, prepared))


def _input_bound(body: bytes, final: bytes, facts: Facts, *, is_vendor: bool) -> int:
    """Bound the input tokens: a number of a list of tokens is at least a byte too. Raises: InputError."""
    try:
        content = bytes(_request.decode(body).input)
        inputs = _raws.decode(content) if content.startswith(b"[") else [Raw(content)]
    except msgspec.DecodeError as error:
        raise InputError(f"the body is not a request for embeddings: {error}") from None
    if not content.startswith((b'"', b"[")) or not inputs or not all(bytes(one).startswith(_INPUTS) for one in inputs):
        raise InputError("input must be a text, a list of texts, or lists of tokens")
    if any(bytes(one).startswith(b"{") for one in inputs):  # images and more, which other servers embed
        return bodies.context_bound(facts, "input other than text") * len(inputs)
    if is_vendor:
        return len(final)
    texts = 1 if bytes(inputs[0]).startswith(_DIGITS) else len(inputs)
    return bodies.byte_bound(final) + bodies.CHAT_TEMPLATE * texts
