"""The ECN field of a raw packet that leaves a tunnel (RFC 6040, 4.2)."""

from __future__ import annotations

from moatvpn.counters import DropReason
from moatvpn.errors import PeerError
from moatvpn.wire.ip import CE, ECN_MASK, ECT_0, ECT_1, set_ecn, traffic_class


def decapsulate_ecn(packet: bytes, outer_tos: int) -> bytes:
    """Return packet with what the path said of congestion.

    Raises PeerError (ESP_INNER_ECN) where the path marked congestion on a packet whose ends do not
    understand the mark: it must be dropped.
    """
    outer = outer_tos & ECN_MASK
    if outer in (0, ECT_0):
        return packet
    inner = traffic_class(packet) & ECN_MASK
    if outer == CE:
        if not inner:
            raise PeerError(DropReason.ESP_INNER_ECN)
        return packet if inner == CE else set_ecn(packet, CE)
    return set_ecn(packet, ECT_1) if inner == ECT_0 else packet
