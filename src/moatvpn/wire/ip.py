"""IP headers: what the ESP engine must read of a raw packet, and the ECN field (RFC 791, 8200)."""

from __future__ import annotations

from moatvpn.counters import DropReason
from moatvpn.errors import PeerError

NEXT_HEADER_IPV4 = 4
NEXT_HEADER_IPV6 = 41
NEXT_HEADER_NONE = 59
_TCP, _UDP, _SCTP, _DCCP = 6, 17, 132, 33
_WITH_PORTS = frozenset((_TCP, _UDP, _SCTP, _DCCP))
_IPV4_HEADER, _IPV6_HEADER = 20, 40
# IPv6 extension headers whose second octet gives their length (RFC 8200, 4)
_HOP_BY_HOP, _ROUTING, _DESTINATION = 0, 43, 60
_EXTENSIONS = frozenset((_HOP_BY_HOP, _ROUTING, _DESTINATION))
_FRAGMENT = 44
ECN_MASK = 0x03
ECT_1, ECT_0, CE = 1, 2, 3


def total_length(packet: bytes) -> int:
    """Return the length that the header of packet states, in octets.

    Raises PeerError (ESP_INNER_MALFORMED) where packet holds no whole IP packet.
    """
    size = len(packet)
    version = packet[0] >> 4 if size else 0
    if version == 4 and size >= _IPV4_HEADER:
        stated = packet[2] << 8 | packet[3]
        header = (packet[0] & 0x0F) * 4
        if _IPV4_HEADER <= header <= stated <= size:
            return stated
    elif version == 6 and size >= _IPV6_HEADER:
        stated = _IPV6_HEADER + (packet[4] << 8 | packet[5])
        if stated <= size:
            return stated
    raise PeerError(DropReason.ESP_INNER_MALFORMED, f"{size} octets of version {version}")


def addresses(packet: bytes) -> tuple[int, int, int]:
    """Return version, source and destination (as integers) of a packet that total_length passed."""
    if packet[0] >> 4 == 4:
        return 4, int.from_bytes(packet[12:16], "big"), int.from_bytes(packet[16:20], "big")
    return 6, int.from_bytes(packet[8:24], "big"), int.from_bytes(packet[24:40], "big")


def protocol_and_ports(packet: bytes) -> tuple[int, int | None, int | None]:
    """Return the upper protocol, source port and destination port.

    Ports are None where the protocol has none or a fragment does not carry them.
    """
    if packet[0] >> 4 == 4:
        protocol, offset = packet[9], (packet[0] & 0x0F) * 4
        fragment = (packet[6] << 8 | packet[7]) & 0x1FFF
    else:
        protocol, offset, fragment = _skip_extensions(packet)
    if fragment or protocol not in _WITH_PORTS or len(packet) < offset + 4:
        return protocol, None, None
    source = packet[offset] << 8 | packet[offset + 1]
    return protocol, source, packet[offset + 2] << 8 | packet[offset + 3]


def _skip_extensions(packet: bytes) -> tuple[int, int, int]:
    protocol, offset, fragment = packet[6], _IPV6_HEADER, 0
    while (protocol in _EXTENSIONS or protocol == _FRAGMENT) and len(packet) >= offset + 8:
        if protocol == _FRAGMENT:
            fragment |= (packet[offset + 2] << 8 | packet[offset + 3]) >> 3
            length = 8
        else:
            length = (packet[offset + 1] + 1) * 8  # at least 8, so the loop moves on
        protocol = packet[offset]
        offset += length
    return protocol, offset, fragment


def traffic_class(packet: bytes) -> int:
    """Return the DSCP and ECN octet."""
    if packet[0] >> 4 == 4:
        return packet[1]
    return (packet[0] & 0x0F) << 4 | packet[1] >> 4


def set_ecn(packet: bytes, ecn: int) -> bytes:
    """Return packet with another ECN field; an IPv4 checksum is brought up to date (RFC 1624)."""
    changed = bytearray(packet)
    if packet[0] >> 4 == 6:
        changed[1] = packet[1] & 0xCF | ecn << 4
        return bytes(changed)
    changed[1] = packet[1] & ~ECN_MASK | ecn
    checksum = packet[10] << 8 | packet[11]
    old, new = packet[0] << 8 | packet[1], changed[0] << 8 | changed[1]
    total = (~checksum & 0xFFFF) + (~old & 0xFFFF) + new
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    changed[10:12] = (~total & 0xFFFF).to_bytes(2, "big")
    return bytes(changed)
