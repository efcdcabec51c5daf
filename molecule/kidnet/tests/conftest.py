"""The lab's machines as fixtures, with the kid's and those of the second VPN."""

from __future__ import annotations

import os

os.environ.setdefault("MOAT_LAB_PREFIX", "moat-kid-")

import lab
import pytest
from machines import corp, moat, pc, tunnel
from testinfra.host import Host

__all__ = ["corp", "moat", "pc", "tunnel"]


@pytest.fixture(scope="session")
def kid() -> Host:
    return lab.host("kid")


@pytest.fixture(scope="session")
def pc2() -> Host:
    return lab.host("pc2")


@pytest.fixture(scope="session")
def corp2() -> Host:
    return lab.host("corp2")
