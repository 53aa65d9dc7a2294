"""Reading the input: one line, one job, judged on its own and streamed in constant memory.

A line is OpenAI's batch line (`custom_id`, `method`, `url`, `body`) or the short form (`messages` or `prompt`, and
whatever else belongs into the body). The body's values are never decoded: numbers, key order and spelling stay as
they were written. Reading sends nothing and asks no provider.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, Protocol

import msgspec

from farebox.errors import FareboxError, InputError
from farebox.records import VERSION, Job, Tier
from farebox_worker.files import members as shape
from farebox_worker.files.members import MAX_LINE_BYTES, Members
from farebox_worker.files.table import NameTable

_BUFFER_BYTES = 1 << 20
_BOM = b"\xef\xbb\xbf"
_TIERS: dict[bytes, Tier] = {b'"flex"': "flex", b'"default"': "standard"}

_encode = msgspec.json.Encoder().encode


class ResolvedModel(Protocol):
    """What `resolve` returns: anything that knows its full name."""

    @property
    def model_ref(self) -> str:
        """`provider_id:model_id`."""


Resolve = Callable[[str, str | None], ResolvedModel]
Opener = Callable[[], BinaryIO]


class Line(msgspec.Struct, frozen=True):
    """One line that was not blank: a job, or the reason why it is none.

    `number` counts from 1, blank lines included. `error` is a sentence that says what to change.
    `custom_id` is `line-N` where the line has none that can be read.
    """

    number: int
    custom_id: str
    job: Job | None = None
    error: str | None = None


def read_jobs(  # noqa: PLR0913 - the flags of `farebox run` and `submit` that shape a job
    path: str | Path,
    *,
    resolve: Resolve,
    model: str | None = None,
    provider: str | None = None,
    max_tokens: int | None = None,
    tier: Tier | Callable[[str], Tier] = "standard",
    tags: Sequence[str] = (),
    drop_params: Sequence[str] = (),
    check: Callable[[Job], object] | None = None,
    opener: Opener | None = None,
) -> Iterator[Line]:
    """Read the jobs of a file, one `Line` for each line that is not blank; bad lines never stop it.

    Args:
        path: the file; only named in errors when `opener` is given.
        resolve: turns a model's name and `provider` into a known model, or raises a FareboxError.
        model: overrides every line's own model.
        provider: says whose model a bare name is.
        max_tokens: the output cap in tokens for bodies that have none.
        tier: the tier of lines whose `service_tier` names neither `flex` nor `default`, or what chooses it for a
            model_ref.
        tags: the tags of every job, before the line's own.
        drop_params: parameters that may be dropped when the provider's API cannot say them.
        check: raises a FareboxError for a job that cannot run (no price, untranslatable, never fits).
        opener: opens the input in binary mode, for what is no file.

    Raises: InputError when the file cannot be opened or read.
    """
    template = Job(VERSION, "", "", "chat", b"", max_tokens, "standard", tuple(tags), tuple(drop_params))
    choose = tier if callable(tier) else lambda _: tier
    judge = _Judge(template, lambda name: resolve(name, provider), choose, model, check)
    try:
        with opener() if opener else Path(path).open("rb", buffering=_BUFFER_BYTES) as file:
            for number, raw in _numbered(file):
                if raw is None or not raw.isspace():
                    yield judge.line(number, raw)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error


def _numbered(file: BinaryIO) -> Iterator[tuple[int, bytes | None]]:
    """Split at newlines only; None stands for a line above the limit, which is passed over in pieces."""
    number = 0
    while line := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(line) <= MAX_LINE_BYTES or line.endswith(b"\n"):
            yield number, (line.removeprefix(_BOM) or b"\n") if number == 1 else line
        else:
            line = b""  # not kept while the rest is passed over
            while (piece := file.readline(_BUFFER_BYTES)) and not piece.endswith(b"\n"):
                pass
            yield number, None


class _Judge:
    """Turns lines into jobs; remembers the custom ids and the models it has seen."""

    def __init__(
        self,
        template: Job,
        resolve: Callable[[str], ResolvedModel],
        choose: Callable[[str], Tier],
        model: str | None,
        check: Callable[[Job], object] | None,
    ) -> None:
        self._template = template
        self._resolve = lru_cache(maxsize=1024)(lambda name: _resolved(resolve, name))
        self._choose = lru_cache(maxsize=1024)(choose)
        self._model = model
        self._check = check
        self._first_lines = NameTable()

    def line(self, number: int, raw: bytes | None) -> Line:
        """Judge one line; None is one that was too large to read."""
        custom_id = f"line-{number}"
        try:
            members = shape.split(raw)
            custom_id = shape.custom_id(members) or custom_id
            self._claim(custom_id, number)
            job = self._job(custom_id, members)
            if self._check:
                self._check(job)
        except FareboxError as error:
            return Line(number, custom_id, error=str(error))
        return Line(number, custom_id, job)

    def _claim(self, custom_id: str, number: int) -> None:
        """Take a custom id for a line, be it good or bad, so that which line owns it never depends on other errors."""
        if first := self._first_lines.add(custom_id, number):
            raise InputError(f"custom_id {custom_id!r} stands on line {first} already: give each line its own")

    def _job(self, custom_id: str, members: Members) -> Job:
        own = members.pop("farebox", None)
        api, body = shape.batch_body(members) if shape.is_batch(members) else ("chat", shape.short_body(members))
        name = body.pop("model", None)
        shape.judge_body(body)
        template, model_ref = self._template, self._model_ref(name)
        return Job(
            VERSION,
            custom_id,
            model_ref,
            api,
            _encode(body),
            template.max_tokens,
            _own_tier(body) or self._choose(model_ref),
            template.tags if own is None else tuple(dict.fromkeys(template.tags + shape.own_tags(own))),
            template.drop_params,
        )

    def _model_ref(self, raw_name: msgspec.Raw | None) -> str:
        if self._model is None and raw_name is None:
            raise InputError('no model: add "model" to the line, or give one for all lines with -m')
        model_ref, error = self._resolve(self._model or shape.text("model", raw_name))
        if error:
            raise InputError(error)
        return model_ref


def _own_tier(body: Members) -> Tier | None:
    """Read the body's own `service_tier`, where it names a lane of ours."""
    named = body.get("service_tier")
    return None if named is None else _TIERS.get(bytes(named))


def _resolved(resolve: Callable[[str], ResolvedModel], name: str) -> tuple[str, str]:
    """Resolve a name to its model_ref, or to an error's text: a wrong name in a million lines is looked up once."""
    try:
        return resolve(name).model_ref, ""
    except FareboxError as error:
        return "", str(error) or f"unknown model {name!r}"
