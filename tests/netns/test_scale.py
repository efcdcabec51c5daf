"""The benchmark of many tunnels, with few: whether all come up and stay, not how fast."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCALE = Path(__file__).resolve().parents[2] / "benchmarks" / "scale.py"
TUNNELS = 300


def test_every_tunnel_comes_up_stays_and_comes_back(tmp_path: Path) -> None:
    output = tmp_path / "scale.json"
    words = (str(SCALE), "--tunnels", str(TUNNELS), "--calm", "2", "--output", str(output))
    done = subprocess.run(
        (sys.executable, *words), capture_output=True, text=True, timeout=110, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(output.read_text())
    assert figures["tunnels"] == TUNNELS
    assert figures["lost_in_rekey_storm"] == figures["lost_in_calm"] == 0
    assert all(value > 0 for name, value in figures.items() if name.endswith(("_s", "_ms")))
