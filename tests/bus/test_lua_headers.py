"""The header of every Lua file is true: it names the body's ARGV, words and errors, and Python knows them."""

import re
from pathlib import Path
from typing import get_args, get_type_hints

import fakeredis
import pytest
from redis.exceptions import ResponseError

from farebox import scripts
from farebox_worker.bus import scripts as worker_scripts
from farebox_worker.bus.admit import Verdict
from farebox_worker.bus.settle import Action, Money, settle

ROOT = Path(__file__).parents[2]
FILES = {
    path.stem: path
    for folder in ("producer/farebox/lua", "worker/farebox_worker/bus")
    for path in (ROOT / folder).glob("*.lua")
}
SHARED = ("prelude", "tally", "scopes", "pace", "felt", "turns")  # they stand before others
SCRIPTS = {
    script.name: script
    for module in (scripts, worker_scripts)
    for script in vars(module).values()
    if isinstance(script, scripts.Script)
}
# Arguments per job, attempt or lane:
PARTS = {
    "settle": 9, "admit": 6, "tune": 4, "reassert": 6, "renew": 3, "claim": 3,
    "submit": 5, "acknowledge": 2, "drop": 3, "retry": 5, "reuse": 4,
}  # fmt: skip


def halves(name):
    """The comment a file begins with, and the rest of it without comments."""
    lines = FILES[name].read_text().splitlines()
    end = next(i for i, line in enumerate(lines) if not line.startswith("--"))
    return "\n".join(lines[:end]), "\n".join(re.sub(r"\s*--.*", "", line) for line in lines[end:])


def code_before(name):
    """The bodies that stand before a file's own, by what the loaded script holds."""
    before = [part for part in SHARED if name in SCRIPTS and FILES[part].read_text() in SCRIPTS[name].text]
    return "\n".join(halves(part)[1] for part in before), before


def test_every_file_is_a_verb_or_stands_before_one():
    assert set(FILES) == {*SCRIPTS, *SHARED}


@pytest.mark.parametrize("name", sorted(FILES))
def test_the_header_says_what_the_file_is(name):
    header, _ = halves(name)
    assert header.startswith(f"-- {name}: ")
    assert name in SHARED or "-- Returns {" in header


@pytest.mark.parametrize("name", sorted(FILES))
def test_the_header_names_every_argument(name):
    header, body = halves(name)
    _, before = code_before(name)
    for part in before:
        header += halves(part)[0]
    used = {(kind, int(place)) for kind, place in re.findall(r"(ARGV|KEYS)\[(\d+)\]", body)}
    named = {(kind, int(place)) for kind, place in re.findall(r"(ARGV|KEYS)\[(\d+)…?\]", header)}
    assert used <= named
    if name not in SHARED and "prelude" not in before:
        assert named <= used | {("ARGV", 2), ("ARGV", 5)}


@pytest.mark.parametrize("name", sorted(PARTS))
def test_the_arguments_per_item_are_counted_right(name):
    header, body = halves(name)
    strides = {int(n) for n in re.findall(r"#ARGV, (\d+) do", body)} | {
        int(n) for n in re.findall(r"#ARGV - \d+\) / (\d+)", body)
    }
    assert strides == {PARTS[name]}
    offsets = [int(n) for n in re.findall(r"ARGV\[(?:at|i) \+ (\d+)\]", body)]
    assert not offsets or max(offsets) < PARTS[name]
    for stated in re.findall(r"per \w+ \((\d+)\)", header):
        assert int(stated) == PARTS[name]


def words_of(text):
    return set(re.findall(r'"([a-z_]+)', text))


def section(header, start, end=None):
    after = header[header.index(start) :]
    return after[: after.index(end)] if end else after


def test_the_verdicts_of_admit_are_the_same_everywhere():
    header, body = halves("admit")
    said = words_of(section(header, "-- Returns", "-- Invariant"))
    assert said == set(re.findall(r"verdict = '([a-z_]+)", body)) == set(get_args(get_type_hints(Verdict)["word"]))


def test_the_words_of_settle_are_the_same_everywhere():
    header, body = halves("settle")
    returned = words_of(section(header, "-- Returns", "-- A mark"))
    assert returned == set(re.findall(r"verdict = '([a-z_]+)", body)) == words_of(settle.__doc__)
    actions = words_of(section(header, "-- action:", "-- money:"))
    assert actions == set(get_args(Action)) >= set(re.findall(r"action [~=]= '([a-z]+)'", body))
    moneys = words_of(section(header, "-- money:", "-- outcome"))
    assert moneys == set(get_args(Money)) >= set(re.findall(r"money [~=]= '([a-z]+)'", body))


@pytest.mark.parametrize("name", sorted(FILES))
def test_every_error_is_in_the_header_and_known_to_python(name):
    header, body = halves(name)
    raised = set(re.findall(r"error_reply\('([A-Z]+)", body))
    stated = set(re.findall(r"\b[A-Z]{6,}\b", section(header, "-- Errors:"))) if "-- Errors:" in header else set()
    known = set(re.findall(r'case "([A-Z]+)"', Path(scripts.__file__).read_text()))
    assert raised <= known
    assert raised == stated


@pytest.mark.parametrize("name", sorted(FILES))
def test_nothing_is_global(name):
    _, body = halves(name)
    everything = (
        code_before(name)[0] + "\n" + body if name not in SHARED else "\n".join(halves(part)[1] for part in SHARED)
    )
    assert not re.search(r"(?m)^\s*function\s", body)
    declared = set(re.findall(r"local function (\w+)", everything))
    for names in [
        *re.findall(r"(?m)local ([\w, ]+?)(?:\s*=|$)", everything),
        *re.findall(r"function[ \w]*\(([\w, .]*)\)", everything),
        *re.findall(r"for ([\w, ]+?)(?: in | =)", everything),
    ]:
        declared |= set(re.split(r",\s*", names))
    assigned = set()
    for names in re.findall(r"(?m)(?:^|\b(?:then|do|else)\b)\s*([A-Za-z_]\w*(?:, \w+)*)\s*=(?!=)", body):
        assigned |= set(re.split(r",\s*", names))
    assert assigned <= declared


ENOUGH = {
    "create": ["e"], "book": [1, 1, 1, 1, "global"], "reset": [], "fold": [10, 0, 0],
    "submit": ["n:flow:0:b:l", "b", "l", "n:1", "d", 0, 0, "p"], "limit": ["global", 5], "cancel": ["c", "1"],
    "reopen": ["c"],
    "claim": ["abcdefghijk", 1000, "", 10, "l", 2, 0],
    "admit": [1, 1, "global", "n:flow:0:b:l", "1", "n:1", "abcdefghijk00000", 1, 1, 3, 9],
    "tune": ["lane:l", "set", 60, 1000],
    "renew": [1000, "n:1", "n:flow:0:b:l", "abcdefghijk00000"],
    "settle": [10, 0, 1, "n:flow:0:b:l", "finish", "actual", "", 0, "succeeded", "", "", 1,
               "n:1", "abcdefghijk00000", 1, 3, 1, 1, "r", "p", "cut:5 tokens:3 left:4,5"],
    "lapse": ["1", ""], "confirm": ["release", "abcdefghijk00000"], "pause": ["lane:l", 10, "why", "provider", 5, 10],
    "withdraw": ["n:flow:0:b:l", "b", "", "n:1"], "move": ["n:flow:0:b:l", "n:flow:0:b:k", "movable", "n:1"],
    "drop": ["b", 10, "n:1", "n:flow:0:b:l", "r"], "retry": ["b", "n:1", "n:flow:0:b:l", "sha1", "p"],
    "blame": ["l", "model:l", "400 why", 20],
    "adopt": ["e", "f"], "acknowledge": ["n:", "n:1", "r"], "reuse": ["b", 10, "n:2", "d", "answered", "r"],
    "reassert": [1000, 1, "global", "n:1", "n:flow:0:b:l", "abcdefghijkl0001", 3, "", "1"],
}  # fmt: skip


async def test_every_script_runs_where_globals_are_errors():
    redis = fakeredis.FakeAsyncRedis(server=fakeredis.FakeServer())
    assert set(ENOUGH) == set(SCRIPTS)
    for batch in "bc":
        await redis.hset(f"n:batch:{batch}", "created_ms", 1)
    for name, arguments in ENOUGH.items():
        fixed = [] if name in ("create", "adopt", "acknowledge") else ["n:", "", 0]
        answer = await scripts.evaluate(redis, SCRIPTS[name], ["n:ledger"], [*fixed, *arguments])
        assert answer, name
    with pytest.raises(ResponseError, match="global"):
        await redis.eval("surprise = 1", 0)
    assert await redis.hget("n:scope:global", "spent") == b"3"
    await redis.aclose()
