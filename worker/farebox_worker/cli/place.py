"""Where an earlier run of the same file left its data, so that a command finds it from any directory."""

from __future__ import annotations

from pathlib import Path

import msgspec

from farebox_worker.files.sidecar import Sidecar
from farebox_worker.settings import Settings


def at_the_earlier_place(settings: Settings, known: Sidecar | None) -> Settings:
    """Go on in the data directory of the earlier run, unless somebody named another one."""
    if known is None or known.data_dir is None or settings.has_own_place:
        return settings
    redis = msgspec.structs.replace(settings.redis, data_dir=Path(known.data_dir))
    return msgspec.structs.replace(settings, redis=redis)
