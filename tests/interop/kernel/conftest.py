"""A virtual machine whose kernel is the peer, and the wire to it.

ours, here                       wire (frames)              the kernel, there
10.201.1.10  192.0.2.10  ---------------------------------  192.0.2.1  10.50.0.1
fd00:201:1::10                                              fd00:50::1
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from kernel_peer import KernelPeer


@pytest.fixture(scope="session")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KernelPeer]:
    """The machine, once for all tests."""
    with KernelPeer(tmp_path_factory.mktemp("kernel")) as peer:
        yield peer
