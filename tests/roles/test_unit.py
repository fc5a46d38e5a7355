"""The systemd units, read by systemd itself: no misspelt key, and no more exposed than promised."""

import json
import shutil
import subprocess

import pytest

from .hosts import ROOT

FILES = ROOT / "roles" / "daemon" / "files"
MOST_EXPOSED = 2.0

pytestmark = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


def test_exposure() -> None:
    unit = FILES / "meshd@.service"
    threshold = str(int(MOST_EXPOSED * 10))
    command = ["systemd-analyze", "security", "--offline=yes", f"--threshold={threshold}", "--json=short", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)


def test_both_units_grant_the_same_one_capability() -> None:
    for unit in ("meshd@.service", "without-credentials/meshd@.service", "meshd-guard@.service"):
        lines = (FILES / unit).read_text().splitlines()
        assert [line for line in lines if line.startswith("CapabilityBoundingSet=")] == [
            "CapabilityBoundingSet=CAP_NET_ADMIN"
        ]


@pytest.mark.parametrize("unit", ["meshd@.service", "without-credentials/meshd@.service", "meshd-guard@.service"])
def test_systemd_knows_every_key(tmp_path: object, unit: str) -> None:
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(FILES / unit)],
        capture_output=True,
        text=True,
        check=False,
    )
    complaints = [line for line in done.stderr.splitlines() if "Unknown" in line or "Failed to parse" in line]
    assert complaints == []
