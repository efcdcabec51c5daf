"""What the machine is that figures were made on."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import cryptography


def machine() -> dict[str, object]:
    """Return what the figures were made on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in lines if "model name" in line), "")
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "cryptography": cryptography.__version__,
        "load": os.getloadavg()[0],
    }
