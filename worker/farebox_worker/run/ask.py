"""What the flags of a command ask of a file: which models, in which tier, in which words."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, field

import msgspec

from farebox.records import Job, Tier
from farebox_worker.files.lines import IsKnown, Line, Resolve, read_jobs
from farebox_worker.files.source import Source
from farebox_worker.files.wording import Wording

CHEAPEST = "cheapest"
TIERS = ("standard", "flex", CHEAPEST)  # what --tier takes
TIER_HELP = "flex is half the price where the vendor has it, and may wait; cheapest takes it there."


@dataclass(frozen=True, slots=True)
class Ask:
    """What the flags say of the jobs of a file. `tier` is one of TIERS; `first` of the open lines are asked."""

    source: Source
    models: tuple[str, ...] = ()
    provider: str | None = None
    max_tokens: int | None = None
    tier: str = "standard"
    tags: tuple[str, ...] = ()
    drop_params: tuple[str, ...] = ()
    first: int | None = None
    wording: Wording = field(default_factory=Wording)
    fallbacks: tuple[str, ...] = ()
    spread: bool = False

    @property
    def named(self) -> tuple[str, ...]:
        """Every model that the flags name."""
        return (*self.models, *(name.removesuffix("@flex") for name in self.fallbacks))

    def read(
        self,
        *,
        resolve: Resolve,
        cheapest_tier: Callable[[str], Tier],
        check: Callable[[Job], object] | None = None,
        is_judged: bool = False,
        is_known: IsKnown | None = None,
        without: Container[int] = (),
    ) -> Iterator[Line]:
        """Read the file's jobs, as `read_jobs` does. Raises: InputError when it cannot be read."""
        return read_jobs(
            self.source.path,
            resolve=resolve,
            models=self.models,
            provider=self.provider,
            max_tokens=self.max_tokens,
            tier=cheapest_tier if self.tier == CHEAPEST else _named(self.tier),
            tags=self.tags,
            drop_params=self.drop_params,
            fallbacks=self.fallbacks,
            spread=self.spread,
            check=check,
            is_judged=is_judged,
            is_known=is_known,
            without=without,
            wording=self.wording,
            format_=self.source.format,
            opener=self.source.open,
        )

    def digest(self, models: Sequence[str]) -> str:
        """Stand for all that makes a line's job, but for the line; `models` are the full names of its own."""
        said = (models, self.provider, self.max_tokens, self.tier, self.drop_params, self.wording.said)
        return hashlib.sha256(msgspec.json.encode((said, self.source.format))).hexdigest()[:32]


def _named(tier: str) -> Tier:
    return "flex" if tier == "flex" else "standard"
