"""A pair of boxes, with real daemons, devices and sockets. Needs root."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from boxes import MOAT, PORTAL, new_box
from pair import Pair


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
