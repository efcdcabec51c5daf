"""The lab's machines as fixtures, on a wild side where everybody hears every frame."""

from __future__ import annotations

import os

os.environ.setdefault("MOAT_LAB_PREFIX", "moat-lockdown-")

import hardware
import pytest
from machines import attacker, corp, moat, pc, portal, router, tunnel

__all__ = ["attacker", "corp", "moat", "pc", "portal", "router", "tunnel"]


@pytest.fixture(scope="session", autouse=True)
def shared_medium() -> None:
    hardware.share_medium("access")
