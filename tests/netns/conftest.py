"""A pair of boxes, with real daemons, devices and sockets; a namespace of one's own. Needs root."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from boxes import MOAT, PORTAL, new_box, run
from pair import Pair

_CLONE_NEWNET = 0x40000000


@pytest.fixture(scope="module", params=["auto", "udp"])
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pair]:
    """A tunnel that is up, once as IP protocol 50 and once in UDP."""
    directory = tmp_path_factory.mktemp("boxes")
    with (
        new_box(directory, "m", MOAT.identity) as moat,
        new_box(directory, "p", PORTAL.identity) as portal,
    ):
        pair = Pair(moat, portal, request.param)
        pair.start()
        yield pair


@pytest.fixture
def namespace() -> Iterator[None]:
    """A fresh network namespace for this thread, with lo up; back to the old one at the end."""
    libc = ctypes.CDLL(None, use_errno=True)
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    assert libc.unshare(_CLONE_NEWNET) == 0
    try:
        # A kernel that greets its new interfaces in IPv6 would put packets of its own among ours.
        for scope in ("all", "default"):
            Path(f"/proc/sys/net/ipv6/conf/{scope}/disable_ipv6").write_text("1")
        run("ip", "link", "set", "lo", "up")
        yield
    finally:
        assert libc.setns(before, _CLONE_NEWNET) == 0
        os.close(before)
