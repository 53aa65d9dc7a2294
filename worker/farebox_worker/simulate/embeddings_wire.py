"""OpenAI's embeddings, as the official client reads them: vectors that are the same for the same input."""

import base64
import struct
from dataclasses import dataclass, field
from hashlib import shake_128
from typing import Literal

import msgspec

from farebox_worker.simulate.answers import Ask, Choice
from farebox_worker.simulate.limits import Refused
from farebox_worker.simulate.openai_wire import OpenAIWire
from farebox_worker.simulate.wire import quoted

_DIMENSIONS = 256
_MOST_INPUTS = 2048


class _Request(msgspec.Struct):
    model: str
    input: str | list[str | int | list[int]]
    dimensions: int | None = None
    encoding_format: Literal["float", "base64"] = "float"


@dataclass(slots=True)
class _Embedding(Ask):
    """What an embeddings request wants: no answer in words (`n` is 0), but a vector for each input."""

    inputs: list[bytes] = field(default_factory=list)
    dimensions: int = _DIMENSIONS
    packed: bool = False


_DECODER = msgspec.json.Decoder(_Request)
_BODY = b'{"object":"list","data":[%b],"model":%b,"usage":{"prompt_tokens":%d,"total_tokens":%d}}'
_VECTOR = b'{"object":"embedding","index":%d,"embedding":%b}'


class EmbeddingsWire(OpenAIWire):
    """Speaks `/v1/embeddings`."""

    def ask(self, body: bytes) -> Ask:
        """Read a request; a text counts a quarter of its bytes as tokens, at least one, a list of tokens its length."""
        try:
            wanted = _DECODER.decode(body)
        except msgspec.DecodeError as error:
            raise Refused("bad_request", f"We could not parse your request: {error}") from error
        inputs = _inputs(wanted.input)
        if not 0 < len(inputs) <= _MOST_INPUTS or not all(inputs):
            raise Refused("bad_request", f"'input': 1 to {_MOST_INPUTS} of them, none empty.")
        dimensions = _DIMENSIONS if wanted.dimensions is None else wanted.dimensions
        if dimensions < 1:
            raise Refused("bad_request", "'dimensions': must be at least 1.")
        texts = [("user", one) for one in inputs if isinstance(one, str)]
        tokens = sum(-(-len(one.encode()) // 4) if isinstance(one, str) else len(one) for one in inputs)
        return _Embedding(
            wanted.model,
            texts,
            tokens,
            cap=0,
            n=0,
            inputs=[msgspec.json.encode(one) for one in inputs],
            dimensions=dimensions,
            packed=wanted.encoding_format == "base64",
        )

    def answer(self, ask: Ask, choices: list[Choice], token: bytes) -> bytes:
        """Return a `list` of vectors."""
        del choices, token  # it says nothing, and has no id
        vectors = [_vector(one, ask) for one in ask.inputs] if isinstance(ask, _Embedding) else []
        data = b",".join([_VECTOR % (number, vector) for number, vector in enumerate(vectors)])
        return _BODY % (data, quoted(ask.model), ask.input_tokens, ask.input_tokens)


def _inputs(given: str | list[str | int | list[int]]) -> list[str | list[int]]:
    """Return the texts and lists of tokens; bare numbers are one list of tokens."""
    if isinstance(given, str):
        return [given]
    numbers = [one for one in given if isinstance(one, int)]
    return [numbers] if numbers else [one for one in given if not isinstance(one, int)]


def _vector(text: bytes, ask: _Embedding) -> bytes:
    """Return a vector of unit length as JSON: a list, or 32-bit floats in base64."""
    raw = struct.unpack(f">{ask.dimensions}h", shake_128(text).digest(2 * ask.dimensions))
    length = sum(value * value for value in raw) ** 0.5 or 1.0
    vector = [value / length for value in raw]
    if ask.packed:
        return b'"%b"' % base64.b64encode(struct.pack(f"<{ask.dimensions}f", *vector))
    return msgspec.json.encode(vector)
