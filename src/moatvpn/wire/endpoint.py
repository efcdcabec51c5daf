"""Where a datagram comes from and goes to, as values."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address

IKE_PORT = 500
NAT_PORT = 4500  # RFC 3948: IKE with a non-ESP marker, and ESP in UDP
KEEPALIVE = b"\xff"  # RFC 3948, 2.3: keeps a NAT's mapping, and is nothing else


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An address of the wild side: IP address as text, and UDP port.

    The port of a peer that sends ESP as IP protocol 50 is that of its IKE messages.
    """

    host: str
    port: int

    @property
    def host_octets(self) -> bytes:
        """Return the address as octets; raise ValueError where it is none."""
        numbers = self.host.split(".")
        if len(numbers) == 4 and ":" not in self.host:  # ten times as fast as ipaddress
            return bytes(map(int, numbers))
        return ip_address(self.host).packed

    def __str__(self) -> str:
        """Return host:port for logs."""
        return f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Datagram:
    """One UDP datagram that carries an IKE message, without the non-ESP marker.

    local is the address of ours that it was sent to or will be sent from; drivers add and remove
    the marker of RFC 3948, 2.2 wherever local.port is 4500. The one datagram that is no IKE message
    is KEEPALIVE, which has no marker either.
    """

    data: bytes
    local: Endpoint
    remote: Endpoint
