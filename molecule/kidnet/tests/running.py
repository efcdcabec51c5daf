"""Running site.yml on the moat as molecule does, while a test goes on."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
DATABASE = f"sqlite:///{ROOT}/build/lab/kidnet.sqlite"


def site(*words: str) -> str:
    """Run site.yml on the moat; return what it says."""
    environment = {
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        "ANSIBLE_NOCOLOR": "1",
        "MOAT_DATABASE": DATABASE,
    }
    inventories = ("molecule/shared/inventory", "molecule/kidnet/lab.yml")
    command = ["ansible-playbook", *(f"--inventory={ROOT}/{each}" for each in inventories)]
    done = subprocess.run(
        [*command, "--limit", "moats", str(ROOT / "site.yml"), *words],
        env=os.environ | environment, capture_output=True, text=True, timeout=180, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr
    return done.stdout
