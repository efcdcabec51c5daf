"""What IKE's side of a daemon asks of the ESP side, whichever carries the packets."""

from __future__ import annotations

from typing import Protocol

from moatvpn.esp.child import ChildSa
from moatvpn.esp.statistics import EspStatistics
from moatvpn.wire.endpoint import Endpoint


class DataPlane(Protocol):
    """All SAs of a box. esp.processor is the reference; drivers.kernel_plane drives the kernel's.

    What a method does is said there, and is the same for both.
    """

    def install(self, child: ChildSa, peer: Endpoint, *, activate_outbound: bool) -> None:
        """Receive on a CHILD_SA from now on, and send on it at once if activate_outbound."""
        ...

    def activate(self, spi_in: int) -> None:
        """Send on this CHILD_SA from now on, if it waits for that."""
        ...

    def remove(self, spi_in: int) -> None:
        """Forget a CHILD_SA, if there is one; packets for it alone are dropped from now on."""
        ...

    def remove_connection(self, connection: str) -> None:
        """Forget a connection, if there is one: SAs, policy and statistics."""
        ...

    def set_metric(self, connection: str, metric: int) -> None:
        """Prefer, of the connections for the same raw packets, the lowest metric that has an SA."""
        ...

    def set_peer(self, connection: str, peer: Endpoint, *, udp: bool) -> None:
        """Send the connection's envelopes to peer from now on, in UDP or as IP protocol 50."""
        ...

    def set_local(self, connection: str, host: str) -> None:
        """Take in at which address of ours the connection's peer speaks to us from now on."""
        ...

    def has_inbound(self, spi: int) -> bool:
        """Return whether an SA has this inbound SPI."""
        ...

    def rekeys_wanted(self) -> list[str]:
        """Return the connections whose outbound SA nears its end, each once for each SA."""
        ...

    def statistics(self, connection: str) -> EspStatistics:
        """Return what a connection has carried, all zero where there is none of that name."""
        ...
