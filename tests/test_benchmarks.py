"""Benchmarks do not rot: every section runs at a fraction of its size, and the tables say what the sections say.

No figure of a rehearsal means anything, and none is looked at.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SECTIONS = sorted(path.stem for path in BENCHMARKS.glob("*.py") if "\ndef measured(" in path.read_text())
RESULTS = BENCHMARKS / "RESULTS.md"


@pytest.fixture
def targets(monkeypatch):
    """The module that makes the tables."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import targets  # noqa: PLC0415 - it is no package

    return targets


def run(*words):
    command = [sys.executable, str(BENCHMARKS / "run.py"), *words]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FAREBOX_")}
    environment["FAREBOX_BENCH_SCALE"] = "0.01"
    return subprocess.run(command, capture_output=True, text=True, timeout=280, check=False, env=environment)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", SECTIONS)
def test_every_section_runs_and_finds_its_place(name, tmp_path, targets):
    into = tmp_path / "RESULTS.md"
    ended = run(name, "--repeats", "1", "--into", str(into))
    assert ended.returncode == 0, ended.stderr[-3000:]
    section = into.read_text().partition(f"\n## {name}: ")[2]
    rows = targets.rows_of(name, section)
    assert rows
    for promise in (one for one in targets.PROMISES if one.section == name):
        assert (
            f"| {promise.words} | {targets.UNMEASURED}" not in into.read_text() or "could not be installed" in section
        )


def test_a_rehearsal_leaves_what_was_measured_alone():
    before = RESULTS.read_bytes()
    assert run("submit", "--repeats", "1").returncode == 0
    assert RESULTS.read_bytes() == before


def test_the_tables_are_those_of_the_sections_below_them(tmp_path):
    again = tmp_path / "RESULTS.md"
    again.write_bytes(RESULTS.read_bytes())
    assert run("--tables", "--into", str(again)).returncode == 0
    assert again.read_text() == RESULTS.read_text()


@pytest.mark.parametrize(
    ("figure", "target", "verdict"),
    [
        ("3.01 (2.59 to 3.74)", "≥ 3", "by the median"),
        ("31,897 (28,505 to 32,262)", "≥ 40,000", "**no**"),
        ("1,360 (1,360 to 1,360)", "≤ 1,600", "yes"),
        ("0.00 % of 589", "< 1 %", "yes"),
        ("1 (1 to 1)", "1", "yes"),
        ("1.02 (0.883 to 1.21)", "≤ 1.2", "by the median"),
        ("1.2 (1.2 to 1.2)", "< 1.2", "**no**"),
    ],
)
def test_a_figure_is_judged_by_its_median_and_its_worst_repeat(targets, figure, target, verdict):
    assert targets.Row("section", "what", figure, target).verdict == verdict


def test_a_target_that_cannot_be_judged_is_refused(targets):
    with pytest.raises(ValueError, match="reads like"):
        targets.bounded("flat")


def test_a_section_that_was_never_run_is_said_to_be_missing(targets):
    assert targets.tables({}).count(targets.UNMEASURED) == len(targets.PROMISES)
