"""The ECN field of a raw packet that leaves a tunnel (RFC 6040, 4.2)."""

from __future__ import annotations

from moatvpn.counters import DropReason
from moatvpn.errors import PeerError
from moatvpn.wire.ip import CE, ECN_MASK, ECT_0, ECT_1, NOT_ECT, set_ecn, traffic_class

# Inner and outer field of an arriving packet, where the field that leaves is not the inner one.
# None: the path marked congestion on a packet whose ends do not understand the mark; drop it.
_DIFFERS: dict[tuple[int, int], int | None] = {
    (ECT_0, ECT_1): ECT_1,
    (NOT_ECT, CE): None,
    (ECT_0, CE): CE,
    (ECT_1, CE): CE,
}


def decapsulate_ecn(packet: bytes, outer_tos: int) -> bytes:
    """Return packet with what the path said of congestion.

    outer_tos is the DSCP and ECN octet of the outer header. Raises PeerError (ESP_INNER_ECN)
    where the packet must be dropped.
    """
    inner, outer = traffic_class(packet) & ECN_MASK, outer_tos & ECN_MASK
    ecn = _DIFFERS.get((inner, outer), inner)
    if ecn is None:
        raise PeerError(DropReason.ESP_INNER_ECN, "congestion marked on a packet that is not ECT")
    return packet if ecn == inner else set_ecn(packet, ecn)
