"""IP headers: what the ESP engine must read of a raw packet, and the ECN field (RFC 791, 8200).

read_header checks; the other functions take a packet that it has passed.
"""

from __future__ import annotations

import struct
from typing import TypeVar

from moatvpn.counters import DropReason
from moatvpn.errors import PeerError

Octets = TypeVar("Octets", bytes, memoryview)
NEXT_HEADER_IPV4 = 4
NEXT_HEADER_IPV6 = 41
NEXT_HEADER_NONE = 59
_TCP, _UDP, _SCTP, _DCCP = 6, 17, 132, 33
_WITH_PORTS = frozenset((_TCP, _UDP, _SCTP, _DCCP))
_IPV4_HEADER, _IPV6_HEADER = 20, 40
# First octet, total length, source, destination; and payload length, source, destination in halves.
_read_ipv4 = struct.Struct("!BxH8xII").unpack_from
_read_ipv6 = struct.Struct("!4xH2x4Q").unpack_from
# IPv6 extension headers whose second octet gives their length (RFC 8200, 4)
_HOP_BY_HOP, _ROUTING, _DESTINATION = 0, 43, 60
_EXTENSIONS = frozenset((_HOP_BY_HOP, _ROUTING, _DESTINATION))
_FRAGMENT = 44
_EXTENSION_UNIT = 8
_IPV4_OFFSET_MASK = 0x1FFF
ECN_MASK = 0x03
NOT_ECT, ECT_1, ECT_0, CE = 0, 1, 2, 3


def read_header(packet: bytes | memoryview, size: int | None = None) -> tuple[int, int, int, int]:
    """Return version, length in octets as the header states it, source and destination.

    size is how many octets there are, where packet is but the beginning of them. Addresses are
    integers. Octets may follow the stated length. Raises PeerError (ESP_INNER_MALFORMED) where
    they do not begin with a whole IP packet.
    """
    if size is None:
        size = len(packet)
    version = packet[0] >> 4 if size else 0
    if version == 4 and size >= _IPV4_HEADER:
        first, length, source, destination = _read_ipv4(packet)
        if _IPV4_HEADER <= (first & 0x0F) * 4 <= length <= size:
            return 4, length, source, destination
    elif version == 6 and size >= _IPV6_HEADER:
        length, high, low, target_high, target_low = _read_ipv6(packet)
        length += _IPV6_HEADER
        if length <= size:
            return 6, length, high << 64 | low, target_high << 64 | target_low
    raise PeerError(DropReason.ESP_INNER_MALFORMED, f"{size} octets of version {version}")


def flow_of(packet: Octets, size: int) -> Octets | None:
    """Return both addresses as they stand; nothing for a header that must be looked at as a whole.

    packet is size octets, or the beginning of them. None: its header states another length.
    """
    # Asked for every packet, each way: so numbers instead of names.
    if size >= 20 and packet[0] == 0x45:
        return packet[12:20] if packet[2] << 8 | packet[3] == size else None
    if size >= 40 and packet[0] >> 4 == 6:
        return packet[8:40] if (packet[4] << 8 | packet[5]) + 40 == size else None
    return packet[:0]


def protocol_and_ports(packet: bytes | memoryview) -> tuple[int, int | None, int | None]:
    """Return the upper protocol, source port and destination port.

    Ports are None where the protocol has none or a fragment does not carry them.
    """
    if packet[0] >> 4 == 4:
        protocol, offset = packet[9], (packet[0] & 0x0F) * 4
        later_fragment = (packet[6] << 8 | packet[7]) & _IPV4_OFFSET_MASK != 0
    else:
        protocol, offset, later_fragment = _skip_extensions(packet)
    if later_fragment or protocol not in _WITH_PORTS or len(packet) < offset + 4:
        return protocol, None, None
    source = packet[offset] << 8 | packet[offset + 1]
    return protocol, source, packet[offset + 2] << 8 | packet[offset + 3]


def _skip_extensions(packet: bytes | memoryview) -> tuple[int, int, bool]:
    """Return upper protocol, its offset, and whether it began in an earlier fragment."""
    protocol, offset = packet[6], _IPV6_HEADER
    while len(packet) >= offset + _EXTENSION_UNIT:
        if protocol == _FRAGMENT:
            protocol = packet[offset]
            if packet[offset + 2] << 8 | packet[offset + 3] & 0xF8:
                # What follows is the middle of something: it must not be read as headers.
                return protocol, offset, True
            offset += _EXTENSION_UNIT
        elif protocol in _EXTENSIONS:
            protocol = packet[offset]
            offset += (packet[offset + 1] + 1) * _EXTENSION_UNIT  # at least 8: the loop moves on
        else:
            break
    return protocol, offset, False


def traffic_class(packet: bytes | memoryview) -> int:
    """Return the octet of DSCP and ECN."""
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
    # In one's complement, old minus new is all that the sum changes by: a wrong checksum stays as
    # wrong as it was, for the receiving host to find.
    total = (~checksum & 0xFFFF) + (~old & 0xFFFF) + new
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    changed[10:12] = (~total & 0xFFFF).to_bytes(2, "big")
    return bytes(changed)
