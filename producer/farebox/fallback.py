"""Where a job may be answered: the lanes it names, in which it begins, and those it was tried in.

The lane decides who answers; a job only names the lanes that may. In another lane than its first it is asked under
that lane's model and tier, and its body stays as it is. In which lanes it failed is noted in its envelope, so that it
is tried in each once.
"""

from __future__ import annotations

import zlib

import msgspec

from farebox.errors import InputError
from farebox.keys import check_lane, lane_of, parts_of_lane
from farebox.records import Job, JobEnvelope

MOVED = "moved"  # the note of an envelope: a line per lane it failed in, with the attempts made there
MOST_FALLBACKS = 16


def lanes_of(job: Job) -> tuple[str, ...]:
    """The lanes that may answer a job, in its order."""
    return (lane_of(job.model_ref, job.tier), *job.fallbacks)


def first_lane(job: Job) -> str:
    """The lane a job is submitted to: its first; of one that is spread, one of all, always the same."""
    if not job.spread:
        return lane_of(job.model_ref, job.tier)
    lanes = lanes_of(job)
    return lanes[zlib.crc32(job.custom_id.encode()) % len(lanes)]


def kind_of(job: Job) -> str:
    """What the flow of a job with fallbacks is noted as, in the key of that name."""
    return "spread" if job.spread else "movable"


def as_asked_in(job: Job, lane: str) -> Job:
    """The job as it is asked in one of its lanes."""
    if lane == lane_of(job.model_ref, job.tier):
        return job
    model_ref, tier = parts_of_lane(lane)
    return msgspec.structs.replace(job, model_ref=model_ref, tier=tier)


def tried(envelope: JobEnvelope) -> dict[str, int]:
    """The lanes a job failed in for good, and how many attempts were made there."""
    entries = (entry.partition("\t") for entry in envelope.k.get(MOVED, "").split("\n") if entry)
    return {lane: int(attempts) for lane, _, attempts in entries}


def attempts_elsewhere(envelope: JobEnvelope) -> int:
    """How many attempts were made in the lanes a job failed in."""
    return sum(tried(envelope).values()) if MOVED in envelope.k else 0


def moved(envelope: JobEnvelope, lane: str, attempts: int) -> JobEnvelope:
    """The envelope of a job that failed in a lane after so many attempts, and goes to another."""
    before = f"{envelope.k[MOVED]}\n" if MOVED in envelope.k else ""
    return msgspec.structs.replace(envelope, k={**envelope.k, MOVED: f"{before}{lane}\t{attempts}"})


def lanes_after(envelope: JobEnvelope, lane: str) -> tuple[str, ...]:
    """The lanes that may answer a job when this one cannot, in order: later ones only, or any when it is spread."""
    job = envelope.a[0]
    lanes, failed = lanes_of(job), tried(envelope)
    if lane not in lanes:
        return ()
    place = lanes.index(lane)
    further = lanes[place + 1 :] + (lanes[:place] if job.spread else ())
    return tuple(one for one in further if one not in failed)


def check_fallbacks(first: str, fallbacks: tuple[str, ...]) -> tuple[str, ...]:
    """Return the fallbacks of a job whose first lane is `first`. Raises: InputError."""
    if len(fallbacks) > MOST_FALLBACKS:
        raise InputError(f"{len(fallbacks)} fallbacks: at most {MOST_FALLBACKS} are allowed")
    for place, lane in enumerate(fallbacks):
        provider, _, model = check_lane(lane).partition(":")
        if not provider or not model:
            raise InputError(f"fallback {lane!r}: name it as provider:model, such as anthropic:claude-haiku-4-5")
        if lane == first or lane in fallbacks[:place]:
            raise InputError(f"fallback {lane!r} is named twice: a job is tried with each model once")
    return fallbacks
