"""The pace of a lane: what may be sent per minute and at once, shared by the fleet. `pace.lua` keeps it.

Here is what a process tells the fleet (limits from configuration or from a provider's headers, what its calls felt),
and what people are shown. Providers count requests and tokens in buckets that fill evenly; so does the fleet.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from redis.asyncio.client import Pipeline

from farebox.keys import Keys
from farebox.scripts import Argument, Tongue
from farebox_worker.bus.scripts import TUNE

PACE_FIELDS = ["rpm", "tpm", "rpm_seen", "tpm_seen", "window", "target"]
NO_LIMIT = 10**9  # requests or tokens per minute: who states so many means that there is no limit
LONGEST_PERIOD_S = 600.0  # a bucket that needs longer to fill is a quota per day, whose pace says nothing of a minute's
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


@dataclass(frozen=True, slots=True)
class Rates:
    """Requests and tokens per minute; 0 where nobody says."""

    rpm: int = 0
    tpm: int = 0


@dataclass(frozen=True, slots=True)
class Pace:
    """What a lane or a provider may send, and what it sent in the last minute, as far as it is limited.

    `target` is how many calls may be in flight in the whole fleet, as was learned; None: nothing was learned yet.
    """

    rates: Rates = Rates()
    requests: int = 0
    tokens: int = 0
    target: int | None = None

    def __str__(self) -> str:
        """Say what is used of what is allowed."""
        words = []
        if self.rates.rpm:
            words.append(f"{_short(self.requests)}/{_short(self.rates.rpm)} rpm")
        if self.rates.tpm:
            words.append(f"{_short(self.tokens)}/{_short(self.rates.tpm)} tpm")
        return ", ".join(words)


def _short(count: int) -> str:
    """Write a large number for a narrow column: 15k, 2.5M."""
    if count < 10_000:
        return f"{count:,}"
    return f"{count / 1000:.0f}k" if count < 999_500 else f"{count / 1_000_000:.3g}M"


async def tune(
    tongue: Tongue,
    *,
    lanes: Mapping[str, Rates] | None = None,
    providers: Mapping[str, Rates] | None = None,
    seen: bool = False,
) -> None:
    """Say what lanes and providers allow: as configured, or as was `seen` in headers, which configuration goes before.

    Raises: LedgerError; redis errors pass through.
    """
    arguments: list[Argument] = []
    for kind, rates in (("lane", lanes or {}), ("provider", providers or {})):
        for name, rate in rates.items():
            arguments += (f"{kind}:{name}", "seen" if seen else "set", rate.rpm, rate.tpm)
    await tongue.say(TUNE, *arguments)


def rates_in(headers: Mapping[str, str]) -> Rates:
    """Read what a provider's headers say it allows per minute; 0 where they do not, or speak of longer than minutes."""
    if "x-ratelimit-limit-requests" in headers or "x-ratelimit-limit-tokens" in headers:
        return Rates(*(_openai_rate(headers, what) for what in ("requests", "tokens")))
    return Rates(*(_number(headers.get(f"anthropic-ratelimit-{what}-limit")) for what in ("requests", "tokens")))


def left_in(headers: Mapping[str, str]) -> str:
    """Read how many requests and tokens a provider's headers say are left now: "9,4000", "" when they do not say."""
    found = []
    for what in ("requests", "tokens"):
        left = (
            headers.get(f"x-ratelimit-remaining-{what}") or headers.get(f"anthropic-ratelimit-{what}-remaining") or ""
        )
        found.append(left if left.isdecimal() else "")
    return ",".join(found) if any(found) else ""


def felt(
    *, is_sent: bool, sent_s_ago: float, is_cut: bool = False, unused_tokens: int = 0, headers: Mapping[str, str]
) -> str:
    """Say in the words of felt.lua what an attempt that was admitted tells of its lane's pace.

    `is_cut`: it was refused for load, or timed out. `unused_tokens` were reserved and not used.
    """
    words = [] if is_sent else ["unsent"]
    if is_cut:
        words.append(f"cut:{int(sent_s_ago * 1000)}")
    if unused_tokens:
        words.append(f"tokens:{unused_tokens}")
    if left := left_in(headers):
        words.append(f"left:{left}")
    return " ".join(words)


def ask_pace(pipe: Pipeline, keys: Keys, lane: str) -> None:
    """Add two commands, for a lane and for its provider, whose answers `read_pace` reads."""
    pipe.hmget(keys.lane(lane), PACE_FIELDS)
    pipe.hmget(keys.provider(lane.partition(":")[0]), PACE_FIELDS)


def read_pace(state: Sequence[bytes | None], now_ms: int) -> Pace:
    """Read PACE_FIELDS. What was sent in the last minute is estimated from that of two minutes of the clock."""
    rpm, tpm, rpm_seen, tpm_seen, window, target = state
    minute, requests, requests_before, tokens, tokens_before = [float(n) for n in (window or b"0 0 0 0 0").split()]
    age, share = now_ms // 60_000 - int(minute), 1 - now_ms % 60_000 / 60_000
    if age == 1:
        requests, requests_before, tokens, tokens_before = 0.0, requests, 0.0, tokens
    elif age:
        requests = requests_before = tokens = tokens_before = 0.0
    return Pace(
        Rates(_bound(int(rpm or rpm_seen or 0)), _bound(int(tpm or tpm_seen or 0))),
        max(0, round(requests + requests_before * share)),
        max(0, round(tokens + tokens_before * share)),
        int(float(target)) if target else None,
    )


def _openai_rate(headers: Mapping[str, str], what: str) -> int:
    """Read a limit. The time until its bucket is full again tells whether it is one per minute or per day."""
    limit = _number(headers.get(f"x-ratelimit-limit-{what}"))
    missing = limit - _number(headers.get(f"x-ratelimit-remaining-{what}"))
    reset_s = sum(
        float(n) * _UNITS_S[unit] for n, unit in _DURATION.findall(headers.get(f"x-ratelimit-reset-{what}", ""))
    )
    is_longer = missing > 0 and reset_s >= 1.0 and reset_s / missing * limit > LONGEST_PERIOD_S
    return 0 if is_longer else limit


def _number(text: str | None) -> int:
    return _bound(int(text)) if text and text.isdecimal() and len(text) < 16 else 0


def _bound(rate: int) -> int:
    """A rate that may bind, or 0 for none."""
    return rate if rate < NO_LIMIT else 0
