"""The lab's machines as fixtures; a test gets a tunnel that works, and leaves one behind."""

from __future__ import annotations

from collections.abc import Iterator

import lab
import pytest
from testinfra.host import Host


@pytest.fixture(scope="session")
def pc() -> Host:
    return lab.host("pc")


@pytest.fixture(scope="session")
def moat() -> Host:
    return lab.host("moat")


@pytest.fixture(scope="session")
def router() -> Host:
    return lab.host("router")


@pytest.fixture(scope="session")
def portal() -> Host:
    return lab.host("portal")


@pytest.fixture(scope="session")
def corp() -> Host:
    return lab.host("corp")


@pytest.fixture(scope="session")
def attacker() -> Host:
    return lab.host("attacker")


@pytest.fixture(autouse=True)
def tunnel() -> Iterator[None]:
    """The tunnel works before a test and after it."""
    lab.wait_for_tunnel()
    yield
    lab.wait_for_tunnel()
