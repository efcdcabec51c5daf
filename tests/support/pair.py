"""Two boxes with a tunnel between them.

    moat:    lo 10.201.1.1   moat0   wild0 192.0.2.10 ---+
    portal:  lo 10.50.0.1    moat0   wild0 192.0.2.1  ---+

Each box has its private side's address on lo, so that both ends of the tunnel can be programs of
the namespaces themselves.
"""

from __future__ import annotations

import time

from boxes import MOAT, PATIENCE, PORTAL, Box, join, wait_for


class Pair:
    """A moat and a portal on one wild network, with a connection between them."""

    def __init__(self, moat: Box, portal: Box, encapsulation: str) -> None:
        self.moat, self.portal = moat, portal
        self.link()
        self.to_portal = {
            "name": "portal1",
            "remote_identity": PORTAL.identity,
            "remote_public_keys": [self.portal.public_key],
            "local_selectors": list(MOAT.networks),
            "remote_selectors": list(PORTAL.networks),
            "remote_address": PORTAL.wild,
            "initiate": True,
            "encapsulation": encapsulation,
            "dpd_interval": 2.0,
        }
        self.to_moat = {
            "name": "m0001",
            "remote_identity": MOAT.identity,
            "remote_public_keys": [self.moat.public_key],
            "local_selectors": list(PORTAL.networks),
            "remote_selectors": list(MOAT.networks),
            "encapsulation": encapsulation,
            "dpd_interval": 2.0,
        }

    def link(self) -> None:
        """Lay the network between the two, and give them their addresses and routes."""
        join(self.moat, self.portal)

    @property
    def outlives_moatd(self) -> bool:
        """Whether raw packets are carried on while a moatd is dead, encrypted as ever.

        A kernel does so; but what takes ESP out of UDP is moatd's socket.
        """
        return self.moat.data_plane == "kernel" and self.to_moat["encapsulation"] != "udp"

    def start(self) -> None:
        """Start both daemons, the portal first, and wait for the tunnel."""
        self.moat.apply("add", self.to_portal)
        self.portal.apply("add", self.to_moat)
        self.portal.start()
        self.moat.start()
        self.wait_until_up()

    def pings(self, address: str = "10.50.0.1") -> bool:
        """Whether the portal's private side answers one ping of the moat's within a second."""
        return self.moat.pings(address)

    def wait_until_up(self, deadline: float = 15.0) -> float:
        """Wait until a ping goes through the tunnel; return how long that took.

        That is in seconds of a real machine.
        """
        start = time.monotonic()
        wait_for(self.pings, "a ping through the tunnel", deadline)
        return (time.monotonic() - start) / PATIENCE
