"""Super-packets: one TCP packet of up to 64 KB that stands for many, and the header that says so.

The header is Linux's virtio_net_hdr, as a TUN device has it before each packet (virtio 1.2,
5.1.6; Linux, include/uapi/linux/virtio_net.h). HEADER_LENGTH octets, little endian:

    flags (1) | gso_type (1) | hdr_len (2) | gso_size (2) | csum_start (2) | csum_offset (2)

gso_size is how much of TCP's payload goes into each segment. With NEEDS_CSUM the checksum of TCP
or UDP is still to be made over everything from csum_start on, and its field, csum_offset octets
further, holds the sum of the pseudo-header meanwhile. In one's complement arithmetic a sum is a
remainder by 0xFFFF, which is how it is worked out here (RFC 1071).
"""

from __future__ import annotations

import struct

from moatvpn.counters import DropReason
from moatvpn.errors import PeerError

HEADER_LENGTH = 10
_HEADER = struct.Struct("<BBHHHH")

NEEDS_CSUM = 1
GSO_NONE, GSO_TCPV4, GSO_TCPV6 = 0, 1, 4
GSO_UDP_L4 = 5  # many datagrams as one, since Linux 6.2; of our own making, never a peer's
GSO_ECN = 0x80  # the first segment alone carries CWR (RFC 3168, 6.1.2)
_TCP, _UDP = 6, 17
_TCP_HEADER, _UDP_HEADER = 20, 8
_TCP_CHECKSUM_AT, _UDP_CHECKSUM_AT = 16, 6
_IPV4_HEADER, _IPV6_HEADER = 20, 40
_IPV4_FRAGMENT = 0x3FFF  # more fragments, and the offset
# Linux leaves at least 8 octets of payload beside TCP's options (tcp_min_snd_mss). Less would only
# make a storm of packets out of few envelopes.
_SMALLEST_SEGMENT = 8
_BY_FRAGMENTS = 0xFFFF  # a gso_size that means something else in the kernel (GSO_BY_FRAGS)

_MOST_SPARED = 256  # segments that are saved: more, of a few octets each, are not worth the work
_FIN_PSH, _CWR = 0x09, 0x80
_SEQUENCE_SPACE = 1 << 32
_put_length = struct.Struct("!H").pack_into
_put_length_and_id = struct.Struct("!HH").pack_into
_put_sequence = struct.Struct("!I").pack_into

Packet = bytes | bytearray | memoryview


def check(offload: bytes, packet: Packet) -> None:
    """Refuse a peer's virtio header that is not sound for its packet.

    Raises PeerError (ESP_BAD_OFFLOAD).
    """
    for_kernel(offload, packet)


def for_kernel(offload: bytes, packet: Packet, length: int | None = None) -> bytes:
    """Return the virtio header to write before a peer's packet, made anew from what is sound.

    packet must be one whole IP packet and nothing more: TCP to be cut, or TCP or UDP that lacks
    its checksum alone; neither a fragment, nor IPv6 with extension headers. length is that of the
    whole, where packet is but its headers. hdr_len is ours: it lets the kernel keep the payload in
    pages. Raises PeerError (ESP_BAD_OFFLOAD) otherwise.
    """
    if len(offload) != HEADER_LENGTH:
        raise _bad(f"header of {len(offload)} octets")
    flags, kind, _, size, start, at = _HEADER.unpack(offload)
    if length is None:
        length = len(packet)
    version, protocol, transport = _layout(packet, length)
    if flags != NEEDS_CSUM or start != transport:
        raise _bad(f"flags {flags:#x}, checksum from {start} in IPv{version} of {transport}")
    if protocol == _TCP:
        end, right_at = transport + _TCP_HEADER, _TCP_CHECKSUM_AT
        if end <= length:
            end = transport + (packet[transport + 12] >> 4) * 4
            if end < transport + _TCP_HEADER:
                raise _bad("TCP header of less than 20 octets")
    elif protocol == _UDP:
        end, right_at = transport + _UDP_HEADER, _UDP_CHECKSUM_AT
        stated = packet[transport + 4 : transport + 6]
        if int.from_bytes(stated, "big") != length - transport:
            raise _bad(f"UDP of {length - transport} octets that states otherwise")
    else:
        raise _bad(f"protocol {protocol}")
    if at != right_at or end > length:
        raise _bad(f"protocol {protocol} of {length - transport} octets, checksum at {at}")
    if kind == GSO_NONE:
        if size:
            raise _bad(f"segments of {size} octets where none are asked for")
    elif protocol != _TCP or kind & ~GSO_ECN != (GSO_TCPV4 if version == 4 else GSO_TCPV6):
        raise _bad(f"segmentation {kind:#x} of protocol {protocol} in IPv{version}")
    elif not _SMALLEST_SEGMENT <= size < _BY_FRAGMENTS or end == length:
        raise _bad(f"segments of {size} octets out of {length - end}")
    return header(kind, end, size, transport, at)


def header(kind: int, end: int, size: int, start: int, checksum_at: int) -> bytes:
    """Return the virtio header of a packet whose checksum the kernel is to make.

    end is that of the headers, start that of TCP's or UDP's, in octets from the packet's.
    """
    return _HEADER.pack(NEEDS_CSUM, kind, end, size, start, checksum_at)


def _bad(detail: str) -> PeerError:
    return PeerError(DropReason.ESP_BAD_OFFLOAD, detail)


def _layout(packet: Packet, length: int) -> tuple[int, int, int]:
    """Return version, upper protocol and its offset, if packet is one whole IP packet."""
    version = packet[0] >> 4 if length else 0
    if version == 4 and length >= _IPV4_HEADER:
        transport = (packet[0] & 0x0F) * 4
        stated = packet[2] << 8 | packet[3]
        fragment = (packet[6] << 8 | packet[7]) & _IPV4_FRAGMENT
        if _IPV4_HEADER <= transport <= length == stated and not fragment:
            return 4, packet[9], transport
    elif version == 6 and length >= _IPV6_HEADER:
        stated = packet[4] << 8 | packet[5]
        if stated + _IPV6_HEADER == length:
            return 6, packet[6], _IPV6_HEADER
    raise _bad(f"{length} octets of version {version}")


def segments(offload: bytes, packet: Packet) -> list[bytes]:
    """Return the raw packets, with whole checksums, that a packet of our own kernel's stands for.

    TCP is cut to gso_size as the kernel would do it: sequence numbers and the IPv4
    identifications count up, FIN and PSH are the last segment's, CWR is the first one's. Whatever
    stands before csum_start is taken as it is, IPv6 extension headers too. An empty offload means
    a packet that is whole already. Raises PeerError (ESP_BAD_OFFLOAD) where offload does not fit
    packet at all.
    """
    if not offload:
        return [bytes(packet)]
    if len(offload) != HEADER_LENGTH:
        raise _bad(f"header of {len(offload)} octets")
    flags, kind, _, size, start, at = _HEADER.unpack(offload)
    if kind == GSO_NONE:
        return [_completed(packet, start, at) if flags & NEEDS_CSUM else bytes(packet)]
    if size and start + _TCP_HEADER < len(packet):
        end = start + (packet[start + 12] >> 4) * 4
        fit = start + _TCP_HEADER <= end < len(packet)
        shape = packet[0] >> 4, kind & ~GSO_ECN
        four = shape == (4, GSO_TCPV4) and start >= _IPV4_HEADER
        if fit and (four or (shape == (6, GSO_TCPV6) and start >= _IPV6_HEADER)):
            return _cut(packet, start, end, size)
    raise _bad(f"segmentation {kind:#x} of {len(packet)} octets to {size} from {start}")


def spared(offload: bytes, packet: Packet, lost: list[tuple[int, int]]) -> list[bytes]:
    """Return the segments of a peer's super-packet that its lost octets are no part of.

    lost are the ranges of those in packet, where anything may stand: from the first on, and before
    the second. Raises PeerError (ESP_BAD_OFFLOAD) for a header that for_kernel refuses.
    """
    _, kind, end, size, _, _ = _HEADER.unpack(for_kernel(offload, packet))
    if kind == GSO_NONE or any(first < end for first, _ in lost):
        return []
    if len(packet) > _MOST_SPARED * size:
        return []
    return [
        segment
        for begin, segment in zip(
            range(end, len(packet), size), segments(offload, packet), strict=True
        )
        if not any(first < begin + size and begin < last for first, last in lost)
    ]


def _completed(packet: Packet, start: int, at: int) -> bytes:
    """Return packet with its checksum, whose field holds the pseudo-header's sum, filled in."""
    if start + at + 2 > len(packet):
        raise _bad(f"checksum from {start} at {at}")
    whole = bytearray(packet)
    # Zero means no checksum in UDP: 0xFFFF is sent in its place (RFC 768).
    checksum = -_sum(packet[start:]) % 0xFFFF
    if at == _UDP_CHECKSUM_AT:
        checksum = checksum or 0xFFFF
    _put_length(whole, start + at, checksum)
    return bytes(whole)


def _sum(data: Packet) -> int:
    """Return the sum of data's 16-bit words, but for a multiple of 0xFFFF."""
    remainder = int.from_bytes(data, "big") % 0xFFFF
    return remainder << 8 if len(data) & 1 else remainder


def _cut(packet: Packet, start: int, end: int, size: int) -> list[bytes]:
    """Return the segments of a TCP packet; its payload begins at end, TCP's header at start."""
    head = bytearray(packet[:end])
    length, version = len(packet), head[0] >> 4
    sequence = int.from_bytes(head[start + 4 : start + 8], "big")
    identification, flags, checksum_at = head[4] << 8 | head[5], head[start + 13], start + 16
    # What is the same in every segment goes into the sums once. The field of TCP's checksum holds
    # the pseudo-header's sum, and with it the length of the whole.
    head[start + 4 : start + 8] = bytes(4)
    head[start + 13] = 0
    tcp_sum = _sum(head[start:]) - (length - start)
    ip_sum = 0
    if version == 4:
        head[2:6], head[10:12] = bytes(4), bytes(2)
        ip_sum = _sum(head[:start])
    cut: list[bytes] = []
    begin = end
    while begin < length:
        stop = begin + size
        mask = ~_FIN_PSH if begin == end else ~(_FIN_PSH | _CWR)
        if stop >= length:
            stop, mask = length, mask | _FIN_PSH
        payload = packet[begin:stop]
        total = end + stop - begin
        if version == 4:
            _put_length_and_id(head, 2, total, identification)
            _put_length(head, 10, -(ip_sum + total + identification) % 0xFFFF)
            identification = (identification + 1) & 0xFFFF
        else:
            _put_length(head, 4, total - _IPV6_HEADER)
        _put_sequence(head, start + 4, sequence)
        head[start + 13] = flags & mask
        whole = tcp_sum + total - start + sequence + (flags & mask) + _sum(payload)
        _put_length(head, checksum_at, -whole % 0xFFFF)
        cut.append(b"".join((head, payload)))
        sequence = (sequence + stop - begin) % _SEQUENCE_SPACE
        begin = stop
    return cut
