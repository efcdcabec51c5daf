"""What two peers have agreed about changing addresses (RFC 4555), as long as they have IKE SAs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Mobility:
    """Shared by an IKE SA and all that replace it.

    steers: we are the initiator of the first of them, RFC 4555's "initiator", which decides the
    addresses. nat_traversal: the peer detects NATs, too. force_udp: we want UDP without a NAT, too.
    supported: both sides speak MOBIKE. peer_hosts: further addresses of the peer, as it told.
    """

    steers: bool = False
    nat_traversal: bool = False
    force_udp: bool = False
    supported: bool = False
    peer_hosts: tuple[str, ...] = ()

    @property
    def waits(self) -> bool:
        """Return whether the peer is the one to find another way when one is broken."""
        return self.supported and not self.steers
