"""NAT detection (RFC 7296, 2.23): hashes of the addresses that each side sees.

IKE_SA_INIT carries them, and with MOBIKE any INFORMATIONAL exchange may (RFC 4555, 3.8).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from moatvpn.crypto.nat import nat_detection_hash
from moatvpn.wire.endpoint import Endpoint
from moatvpn.wire.ike_header import PayloadType
from moatvpn.wire.ike_payloads import Notify, NotifyType

_DIGEST = 20  # octets of SHA-1


@dataclass(frozen=True, slots=True)
class Path:
    """What a message is hashed for: the SPIs as in its header, our address and the peer's."""

    spi_i: bytes
    spi_r: bytes
    local: Endpoint
    remote: Endpoint

    def hash(self, endpoint: Endpoint) -> bytes:
        """Return the hash of one of the addresses."""
        return nat_detection_hash(self.spi_i, self.spi_r, endpoint)


@dataclass(frozen=True, slots=True)
class Seen:
    """What the peer's hashes tell.

    there, here: a NAT is on the peer's side, on ours. as_seen is the hash of our own address as the
    peer sees it, which changes when a NAT's mapping does.
    """

    there: bool
    here: bool
    as_seen: bytes


def payloads(path: Path, force_udp: bool) -> list[tuple[int, bytes]]:
    """Return both notifies. force_udp: the peer shall see a NAT, and so use UDP."""
    source = bytes(_DIGEST) if force_udp else path.hash(path.local)
    return [
        (PayloadType.NOTIFY, Notify(NotifyType.NAT_DETECTION_SOURCE_IP, source).encode()),
        (
            PayloadType.NOTIFY,
            Notify(NotifyType.NAT_DETECTION_DESTINATION_IP, path.hash(path.remote)).encode(),
        ),
    ]


def see(path: Path, notifies: Sequence[Notify]) -> Seen | None:
    """Return what the notifies of a message of the peer's tell; None where it has none."""
    sources = [n.data for n in notifies if n.type == NotifyType.NAT_DETECTION_SOURCE_IP]
    targets = [n.data for n in notifies if n.type == NotifyType.NAT_DETECTION_DESTINATION_IP]
    if not sources or not targets:
        return None
    there = path.hash(path.remote) not in sources
    return Seen(there, path.hash(path.local) not in targets, targets[0])
