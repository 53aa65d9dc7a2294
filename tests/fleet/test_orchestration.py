"""What the docs tell supervisors: their grace stands above `drain_s`, and what can be checked here is."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from farebox_worker.settings import WorkerSettings

ROOT = Path(__file__).parents[2]
FLEET = ROOT / "docs" / "fleet.md"


def block(page, heading):
    """The first indented block under a heading."""
    section = page.read_text("utf-8").partition(f"## {heading}\n")[2]
    found = re.search(r"(?:^(?:    .*)?\n)+", section, re.MULTILINE)
    return re.sub(r"^    ", "", found[0], flags=re.MULTILINE).strip() + "\n"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        pytest.param(block(FLEET, "systemd"), "TimeoutStopSec=", id="systemd"),
        pytest.param(block(FLEET, "Kubernetes"), "terminationGracePeriodSeconds: ", id="Kubernetes"),
        pytest.param((ROOT / "docker-compose.yml").read_text("utf-8"), "stop_grace_period: ", id="Compose"),
    ],
)
def test_every_grace_stands_a_minute_above_the_drain(text, name):
    grace_s = max(int(seconds) for seconds in re.findall(rf"{name}(\d+)", text))
    assert grace_s >= WorkerSettings().drain_s + 60
    assert WorkerSettings().drain_s >= WorkerSettings().request_timeout_s


def test_systemd_tells_the_supervisor_alone():
    assert "KillMode=mixed" in block(FLEET, "systemd")


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd here")
def test_systemd_finds_no_fault_with_the_unit(tmp_path):
    unit = tmp_path / "farebox-worker.service"
    unit.write_text(block(FLEET, "systemd").replace("/opt/farebox/bin/farebox", shutil.which("true")))
    ended = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True, timeout=60, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, "")
