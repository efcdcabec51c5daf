"""Two boxes in network namespaces of this machine: real daemons, devices and sockets.

    moat:    lo 10.201.1.1   moat0   wild0 192.0.2.10 ---+
    portal:  lo 10.50.0.1    moat0   wild0 192.0.2.1  ---+

Each box has its private side's address on lo, so that both ends of the tunnel can be programs of
the namespaces themselves. Needs root.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from boxes import Box, new_box, run, wait_for

MOAT_WILD, PORTAL_WILD = "192.0.2.10", "192.0.2.1"
MOAT_NAME, PORTAL_NAME = "m1.moats.example.net", "portal.example.net"


class Pair:
    """A moat and a portal on one wild network, with a connection between them."""

    def __init__(self, moat: Box, portal: Box, encapsulation: str) -> None:
        self.moat, self.portal = moat, portal
        ends = (self.moat.namespace, "type", "veth", "peer", "name", "wild0", "netns")
        run("ip", "link", "add", "wild0", "netns", *ends, self.portal.namespace)
        for box, wild, own, own6 in (
            (self.moat, MOAT_WILD, "10.201.1.1", "fd00:201:1::1"),
            (self.portal, PORTAL_WILD, "10.50.0.1", "fd00:50::1"),
        ):
            box.ip("address", "add", f"{wild}/24", "dev", "wild0")
            box.ip("link", "set", "wild0", "up")
            box.ip("address", "add", f"{own}/32", "dev", "lo")
            box.ip("address", "add", f"{own6}/128", "dev", "lo")
        self.moat.ip("route", "add", "10.50.0.0/24", "dev", "moat0", "src", "10.201.1.1")
        self.moat.ip("route", "add", "fd00:50::/64", "dev", "moat0", "src", "fd00:201:1::1")
        self.portal.ip("route", "add", "10.201.0.0/16", "dev", "moat0", "src", "10.50.0.1")
        self.portal.ip("route", "add", "fd00:201::/32", "dev", "moat0", "src", "fd00:50::1")
        private, corporate = ["10.201.1.0/24", "fd00:201:1::/64"], ["10.50.0.0/24", "fd00:50::/64"]
        self.to_portal = {
            "name": "portal1",
            "remote_identity": PORTAL_NAME,
            "remote_public_keys": [self.portal.public_key],
            "local_selectors": private,
            "remote_selectors": corporate,
            "remote_address": PORTAL_WILD,
            "initiate": True,
            "encapsulation": encapsulation,
            "dpd_interval": 2.0,
        }
        self.to_moat = {
            "name": "m0001",
            "remote_identity": MOAT_NAME,
            "remote_public_keys": [self.moat.public_key],
            "local_selectors": corporate,
            "remote_selectors": private,
            "encapsulation": encapsulation,
            "dpd_interval": 2.0,
        }

    def start(self) -> None:
        """Start both daemons, the portal first, and wait for the tunnel."""
        self.moat.apply("add", self.to_portal)
        self.portal.apply("add", self.to_moat)
        self.portal.start()
        self.moat.start()
        self.wait_until_up()

    def pings(self, address: str = "10.50.0.1") -> bool:
        """Whether the portal's private side answers one ping of the moat's within a second."""
        return self.moat.run("ping", "-c1", "-W1", address, check=False).returncode == 0

    def wait_until_up(self, deadline: float = 15.0) -> float:
        """Wait until a ping goes through the tunnel; return how long that took, in seconds."""
        start = time.monotonic()
        wait_for(self.pings, "a ping through the tunnel", deadline)
        return time.monotonic() - start


@pytest.fixture(scope="module", params=["auto", "udp"])
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pair]:
    """A tunnel that is up, once as IP protocol 50 and once in UDP."""
    directory = tmp_path_factory.mktemp("boxes")
    with new_box(directory, "m", MOAT_NAME) as moat, new_box(directory, "p", PORTAL_NAME) as portal:
        pair = Pair(moat, portal, request.param)
        pair.start()
        yield pair
