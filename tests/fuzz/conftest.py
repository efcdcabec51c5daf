"""Finds the harness of the exchange tests, which the fuzzers' targets are built on."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "exchange"))
