"""Reading the input: one line, one job for each model, judged on its own and streamed in constant memory.

A line is OpenAI's batch line (`custom_id`, `method`, `url`, `body`) or the short form (`messages` or `prompt`, and
whatever else belongs into the body). The body's values are never decoded: numbers, key order and spelling stay as
they were written. A row, of a table or of JSON, is data that fills a template. Reading sends nothing and asks no
provider.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, Protocol

import msgspec

from farebox.errors import ConfigError, FareboxError, InputError
from farebox.fallback import check_fallbacks
from farebox.keys import lane_of
from farebox.records import VERSION, Api, Job, Tier
from farebox_worker.files import members as shape
from farebox_worker.files.csv_table import CsvTable
from farebox_worker.files.members import MAX_LINE_BYTES, Members
from farebox_worker.files.source import ArchiveError, Format, Source
from farebox_worker.files.table import NameTable
from farebox_worker.files.template import Template, known_names
from farebox_worker.files.wording import Wording

_SKIPPED_BYTES = 1 << 20
_BOM = b"\xef\xbb\xbf"
_TIERS: dict[bytes, Tier] = {b'"flex"': "flex", b'"default"': "standard"}

_PROMPT = Template("{prompt}")

_encode = msgspec.json.Encoder().encode


class ResolvedModel(Protocol):
    """What `resolve` returns: anything that knows its full name."""

    @property
    def model_ref(self) -> str:
        """`provider_id:model_id`."""


Resolve = Callable[[str, str | None], ResolvedModel]
Opener = Callable[[], BinaryIO]
Found = bytes | Members | FareboxError | None  # a line as it was read; None when it was too large
IsKnown = Callable[[int, str, str], bool]  # a line's number, custom_id and own model's name ("": none)


class Line(msgspec.Struct, frozen=True):
    """One line that was not blank, asked of one model: a job, or the reason why it is none.

    `number` counts from 1, blank lines and a table's header included. `error` is a sentence that says what to change.
    `custom_id` is `line-N` where the line has none that can be read. With several models it ends in `@` and its model.
    """

    number: int
    custom_id: str
    job: Job | None = None
    error: str | None = None


def read_jobs(  # noqa: PLR0913 - the flags of `farebox run` and `submit` that shape a job
    path: str | Path,
    *,
    resolve: Resolve,
    models: Sequence[str] = (),
    provider: str | None = None,
    max_tokens: int | None = None,
    tier: Tier | Callable[[str], Tier] = "standard",
    tags: Sequence[str] = (),
    drop_params: Sequence[str] = (),
    fallbacks: Sequence[str] = (),
    spread: bool = False,
    check: Callable[[Job], object] | None = None,
    is_judged: bool = False,
    is_known: IsKnown | None = None,
    without: Container[int] = (),
    wording: Wording | None = None,
    format_: Format = "jsonl",
    opener: Opener | None = None,
) -> Iterator[Line]:
    """Read the jobs of a file, one `Line` for each line that is not blank and each model; bad lines never stop it.

    Args:
        path: the file; only named in errors when `opener` is given.
        resolve: turns a model's name and `provider` into a known model, or raises a FareboxError.
        models: what every line is asked of, whatever its own model.
        provider: says whose model a bare name is.
        max_tokens: the output cap in tokens for bodies that have none.
        tier: the tier of lines whose `service_tier` names neither `flex` nor `default`, or what chooses it for a
            model_ref.
        tags: the tags of every job, before the line's own.
        drop_params: parameters that may be dropped when the provider's API cannot say them.
        fallbacks: further models of lines that name none, in order, with `@flex` for that tier.
        spread: each line's model and its fallbacks are equals.
        check: raises a FareboxError for a job that cannot run (no price, untranslatable, never fits).
        is_judged: which lines bear an id that another has is known already, and is not found out again.
        is_known: told of a good line what `glance` finds in it; where it says so the line is passed over.
        without: numbers of lines that are passed over unread.
        wording: what flags add to lines.
        format_: `csv` for a table.
        opener: opens the input in binary mode, for what is no file.

    Raises: InputError when the file cannot be opened or read: an archive that is cut short, a table without a header
        or with broken quoting.
    """
    wording = wording or Wording()
    template = Job(
        VERSION, "", "", "chat", b"", max_tokens, "standard", tuple(tags), tuple(drop_params), 0, tuple(fallbacks),
        spread,
    )  # fmt: skip
    choose = tier if callable(tier) else lambda _: tier
    judge = _Judge(template, lambda name: resolve(name, provider), choose, models, check, wording)
    judge.first_lines = None if is_judged else NameTable()
    number = 0
    try:
        with (opener or Source(Path(path)).open)() as file:
            for number, found in _rows(file, path, wording) if format_ == "csv" else _numbered(file):
                if number not in without and not (is_known and judge.passes(number, found, is_known)):
                    yield from judge.lines(number, found)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except ArchiveError as error:
        raise InputError(f"cannot read {path} beyond line {number:,}: {error}. Get the whole file.") from None


def _rows(file: BinaryIO, path: str | Path, wording: Wording) -> Iterator[tuple[int, Found]]:
    """Read a table's rows, with the fields that the template and the id need."""
    template = wording.template or _PROMPT
    try:
        table = CsvTable(file)
        columns = {name: place for place, name in enumerate(table.columns) if name}
        ids = [wording.id_column] if wording.id_column else ["custom_id"] if "custom_id" in columns else []
        advice = "" if wording.template else "; say with --template what to ask"
        needed = {name: _place(columns, name, advice) for name in (*template.names, *ids)}
        for number, cells in table.rows():
            yield (
                number,
                (
                    cells
                    if isinstance(cells, InputError)
                    else {name: msgspec.Raw(_encode(cells[place])) for name, place in needed.items()}
                ),
            )
        table.release()
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _place(columns: dict[str, int], name: str, advice: str) -> int:
    if name not in columns:
        raise InputError(f"no column {name!r}: {known_names(list(columns))}{advice}")
    return columns[name]


def _numbered(file: BinaryIO) -> Iterator[tuple[int, Found]]:
    """Split at newlines only, without blank lines; one above the limit is passed over in pieces."""
    number = 0
    while line := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(line) <= MAX_LINE_BYTES or line.endswith(b"\n"):
            line = line.removeprefix(_BOM) if number == 1 else line
            if line and not line.isspace():
                yield number, line
        else:
            line = b""  # not kept while the rest is passed over
            while (piece := file.readline(_SKIPPED_BYTES)) and not piece.endswith(b"\n"):
                pass
            yield number, None


class _Asked(msgspec.Struct, frozen=True):
    """What a line asks, of whatever model."""

    api: Api
    body: bytes
    model: msgspec.Raw | None
    tier: Tier | None
    tags: tuple[str, ...]
    fallbacks: tuple[str, ...] | None = None


class _Judge:
    """Turns lines into jobs; remembers the custom ids and the models it has seen."""

    def __init__(
        self,
        template: Job,
        resolve: Callable[[str], ResolvedModel],
        choose: Callable[[str], Tier],
        models: Sequence[str],
        check: Callable[[Job], object] | None,
        wording: Wording,
    ) -> None:
        self._template = template
        self._resolve = lru_cache(maxsize=1024)(lambda name: _resolved(resolve, name))
        self._choose = lru_cache(maxsize=1024)(choose)
        self._models = models
        self._check = check
        self._wording = wording
        self.first_lines: NameTable | None = None
        refs = [self._resolve(name)[0] for name in models]
        if twice := next((ref for ref in refs if ref and refs.count(ref) > 1), None):
            raise InputError(f"-m names {twice} twice: each model is asked once")

    def lines(self, number: int, found: Found) -> Iterator[Line]:
        """Judge one line, for each model."""
        custom_id = f"line-{number}"
        try:
            if isinstance(found, FareboxError):
                raise found
            is_row = isinstance(found, dict)
            members = found if isinstance(found, dict) else shape.split(found)
            is_row = is_row or self._wording.is_row(members)
            own_id = self._wording.row_id(members) if is_row else shape.custom_id(members)
            custom_id = shape.fit_id(own_id) if own_id else custom_id
            self._claim(custom_id, number)
            asked = self._asked(members, is_row=is_row)
        except FareboxError as error:
            yield Line(number, custom_id, error=str(error))
            return
        for name in self._models or (None,):
            yield self._line(number, custom_id, asked, name)

    def passes(self, number: int, found: Found, is_known: IsKnown) -> bool:
        """Ask of a line whether it is known; its custom id is taken all the same."""
        if (seen := self._glance(found)) is None:
            return False
        custom_id, model = seen
        custom_id = custom_id or f"line-{number}"
        if not is_known(number, custom_id, model):
            return False
        if self.first_lines is not None:
            self.first_lines.add(custom_id, number)
        return True

    def _glance(self, found: Found) -> tuple[str, str] | None:
        """Read no more of a line than its id and its model; None where that is not enough."""
        if isinstance(found, bytes) and self._wording.template is None:
            return shape.glance(found)
        if not isinstance(found, dict):
            return None
        try:
            return self._wording.row_id(found), ""
        except FareboxError:
            return None

    def _line(self, number: int, custom_id: str, asked: _Asked, name: str | None) -> Line:
        is_one_of_many = len(self._models) > 1
        try:
            model_ref = self._model_ref(asked.model if name is None else name)
            custom_id = f"{custom_id}@{model_ref}" if is_one_of_many else custom_id
            job = self._job(custom_id, asked, model_ref)
            if self._check:
                self._check(job)
        except ConfigError:
            raise  # a key that is missing is no fault of the line
        except FareboxError as error:
            return Line(number, custom_id, error=str(error))
        return Line(number, custom_id, job)

    def _claim(self, custom_id: str, number: int) -> None:
        """Take a custom id for a line, be it good or bad, so that which line owns it never depends on other errors."""
        if self.first_lines is not None and (first := self.first_lines.add(custom_id, number)):
            raise InputError(f"custom_id {custom_id!r} stands on line {first} already: give each line its own")

    def _asked(self, members: Members, *, is_row: bool) -> _Asked:
        own = members.pop("farebox", None)
        api: Api = "chat"
        if is_row:
            body = self._wording.row_body(members, self._wording.template or _PROMPT)
        elif shape.is_batch(members):
            api, body = shape.batch_body(members)
        else:
            body = shape.short_body(members)
        name = body.pop("model", None)
        shape.judge_body(api, body)
        self._wording.complete(api, body)
        tags = self._template.tags
        tags = tags if own is None else tuple(dict.fromkeys(tags + shape.own_tags(own)))
        fallbacks = None if own is None else shape.own_fallbacks(own)
        return _Asked(api, _encode(body), name, _own_tier(body), tags, fallbacks)

    def _job(self, custom_id: str, asked: _Asked, model_ref: str) -> Job:
        template, tier = self._template, asked.tier or self._choose(model_ref)
        fallbacks = self._fallbacks(asked.fallbacks, lane_of(model_ref, tier))
        return Job(
            VERSION,
            custom_id,
            model_ref,
            asked.api,
            asked.body,
            template.max_tokens,
            tier,
            asked.tags,
            template.drop_params,
            0,
            fallbacks,
            template.spread and asked.fallbacks is None and bool(fallbacks),
        )

    def _fallbacks(self, own: tuple[str, ...] | None, first: str) -> tuple[str, ...]:
        """The lanes after the first: the line's own, or those of all lines but the line's own model."""
        if own is None and not self._template.fallbacks:
            return ()
        lanes = tuple(map(self._lane, self._template.fallbacks if own is None else own))
        return check_fallbacks(first, lanes if own is not None else tuple(lane for lane in lanes if lane != first))

    def _lane(self, name: str) -> str:
        bare = name.removesuffix("@flex")
        model_ref, error = self._resolve(bare)
        if error:
            raise InputError(f"fallback {error}")
        return lane_of(model_ref, "standard" if bare == name else "flex")

    def _model_ref(self, name: msgspec.Raw | str | None) -> str:
        if name is None:
            raise InputError('no model: add "model" to the line, or give one for all lines with -m')
        model_ref, error = self._resolve(name if isinstance(name, str) else shape.text("model", name))
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
