"""Traffic selectors as values (RFC 7296, 3.13.1; RFC 4301, 4.4.1.1)."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

MOST_SELECTORS = 255  # a TS payload counts them in one octet
ANY_PROTOCOL = 0
LAST_PORT = 65535


@dataclass(frozen=True, slots=True)
class TrafficSelector:
    """One range of addresses, ports and protocol.

    start and end are of one family and inclusive; protocol 0 means any; ports are inclusive and
    mean nothing where the protocol has none.
    """

    start: Address
    end: Address
    protocol: int = ANY_PROTOCOL
    start_port: int = 0
    end_port: int = LAST_PORT

    @classmethod
    def from_network(cls, network: Network | str) -> TrafficSelector:
        """Return the selector that covers all of network, any protocol and port.

        Raises ValueError where network is a string that names no network.
        """
        net = ip_network(network) if isinstance(network, str) else network
        return cls(net.network_address, net.broadcast_address)

    def covers(self, other: TrafficSelector) -> bool:
        """Return whether every packet that other selects is selected by self."""
        return self.intersect(other) == other

    def intersect(self, other: TrafficSelector) -> TrafficSelector | None:
        """Return what both select (narrowing, RFC 7296, 2.9), or None where that is nothing."""
        if self.start.version != other.start.version:
            return None
        if ANY_PROTOCOL not in (self.protocol, other.protocol) and self.protocol != other.protocol:
            return None
        start = self.start if int(self.start) >= int(other.start) else other.start
        end = self.end if int(self.end) <= int(other.end) else other.end
        start_port = max(self.start_port, other.start_port)
        end_port = min(self.end_port, other.end_port)
        if int(start) > int(end) or start_port > end_port:
            return None
        return TrafficSelector(start, end, self.protocol or other.protocol, start_port, end_port)
