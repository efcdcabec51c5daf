"""The benchmarks of many tunnels and customers, with few: whether all is well, not how fast."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
TUNNELS = 300


def test_every_tunnel_comes_up_stays_and_comes_back(tmp_path: Path) -> None:
    output = tmp_path / "scale.json"
    words = (
        str(BENCHMARKS / "scale.py"),
        "--tunnels",
        str(TUNNELS),
        "--calm",
        "2",
        "--output",
        str(output),
    )
    done = subprocess.run(
        (sys.executable, *words), capture_output=True, text=True, timeout=110, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(output.read_text())
    assert figures["tunnels"] == TUNNELS
    assert figures["lost_in_rekey_storm"] == figures["lost_in_calm"] == 0
    assert all(value > 0 for name, value in figures.items() if name.endswith(("_s", "_ms")))


def test_a_change_touches_whom_it_concerns_and_a_revoked_tunnel_ends(tmp_path: Path) -> None:
    output = tmp_path / "fleet.json"
    numbers = ("--customers", "8", "--few", "4")
    words = (str(BENCHMARKS / "fleet.py"), *numbers, "--output", str(output))
    done = subprocess.run(
        (sys.executable, *words), capture_output=True, text=True, timeout=110, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(output.read_text())
    assert (figures["customers"], figures["few"]["customers"]) == (8, 4)
    assert figures["boxes_touched"] == 2
    assert figures["revoke_s"] < 10
