"""`OUT.farebox`: what ties an output file to its batch and its server, so that a run finds itself again.

It is replaced as a whole and holds no secret. It never says what is done: OUT alone is the authority on that.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import msgspec

from farebox.errors import InputError
from farebox_worker.files.content import Compared
from farebox_worker.files.durable import replace_file

VERSION = 1


class Sidecar(msgspec.Struct, frozen=True, kw_only=True):
    """What `OUT.farebox` says, as a JSON object; unknown members of a later version are passed over.

    `data_dir` is the embedded server's directory, null for a shared server, whose address may hold secrets. Paths are
    absolute, `created` bears its zone. `schema` is the one that answers are judged by. `compared` is
    the input as it was when all that was submitted of it was known to be as its lines say; null where that cannot be
    said.
    """

    version: int = VERSION
    batch_id: str
    epoch: str
    namespace: str
    input: str
    created: datetime
    data_dir: str | None = None
    schema: dict[str, object] | None = None
    compared: Compared | None = None

    def __post_init__(self) -> None:
        """Refuse what would lead elsewhere when the command is run in another directory."""
        for path in (self.input, self.data_dir):
            if path is not None and not Path(path).is_absolute():
                raise ValueError(f"not an absolute path: {path}")
        if not self.batch_id or self.created.tzinfo is None:
            raise ValueError("a sidecar needs a batch_id, and a time with its zone")


_decode = msgspec.json.Decoder(Sidecar).decode


def sidecar_path(out: str | Path) -> Path:
    """Name the sidecar of an output file."""
    return Path(f"{out}.farebox")


def read(path: str | Path) -> Sidecar | None:
    """Read a sidecar by its own path; None when there is none.

    Raises: InputError when it cannot be read, is damaged, or was written by a newer Farebox.
    """
    try:
        sidecar = _decode(Path(path).read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(
            f"{path} is damaged ({error}). Restore it, or delete it and run the same command again: "
            "the output file itself says what is done."
        ) from error
    if sidecar.version > VERSION:
        raise InputError(f"{path} was written by a newer Farebox (version {sidecar.version}): use that one here.")
    return sidecar


def write(path: str | Path, sidecar: Sidecar) -> None:
    """Write a sidecar under its own path, atomically and durably.

    Raises: InputError when the directory cannot be written to.
    """
    content = msgspec.json.format(msgspec.json.encode(sidecar), indent=2) + b"\n"
    try:
        replace_file(Path(path), content)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}. Free space or rights are needed there.") from error
