"""Where a datagram comes from and goes to, as values."""

from __future__ import annotations

from dataclasses import dataclass

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
