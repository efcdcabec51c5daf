"""Raw packets that follow one another, joined into super-packets for the kernel.

What goes through a TUN costs the kernel and us far more for each packet than for its octets, and
what another make of peer sends comes out of its envelopes one packet at a time. So consecutive
segments of a TCP connection, or datagrams of a UDP flow, become one super-packet here, as Linux's
generic receive offload would make it. Where the kernel cuts it again it makes the headers and
checksums anew: so packets are joined only if cutting gives back what came (but for the IPv4
identification of packets with DF, which nobody may read: RFC 6864, 4.1), and if every checksum is
right.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from moatvpn.wire.offload import GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, header

Packet = bytes | memoryview
# One packet in pieces, and its virtio header, empty where it needs none: what a TUN device takes.
Writing = tuple[list[Packet], bytes]
# To make a super-packet of fewer costs more than to write them, and to read what TCP's receiver
# acknowledges (benchmarks/coalesce_cost.py).
WORTH_JOINING = 4

_TCP, _UDP = 6, 17
# Version to TOS, length, identification, fragment to protocol, addresses and ports
_read_ipv4 = struct.Struct("!HHHI2x12s").unpack_from
_IPV4_TRANSPORT, _WITHOUT_OPTIONS = 20, 0x45
_DF, _ANY_FRAGMENT = 0x4000, 0xBFFF
# Version to flow label, length, next header and hop limit, addresses and ports
_read_ipv6 = struct.Struct("!IHH36s").unpack_from
_IPV6_TRANSPORT = 40
_PORTS = 4
# Sequence, acknowledgement, header length and flags, window, urgent pointer; options
_read_tcp = [struct.Struct(f"!4xIIHH2xH{4 * words}s").unpack_from for words in range(11)]
_TCP_HEADER, _TCP_CHECKSUM_AT, _TCP_FLAGS_AT = 20, 16, 13
_FLAGS, _ACK, _PSH = 0x0FFF, 0x10, 0x08
_read_udp = struct.Struct("!4xHH").unpack_from
_UDP_HEADER, _UDP_CHECKSUM_AT, _UDP_LENGTH_AT = 8, 6, 4
_SEQUENCE_SPACE, _IDENTIFICATIONS = 1 << 32, 1 << 16
_LARGEST = 0xFFFF  # octets of a super-packet, which its length field must state
_put_half = struct.Struct("!H").pack_into

# What is read of a packet of TCP or UDP: its flow, which is addresses and ports; all that it must
# share with its neighbours; sequence number (-1 in UDP); IPv4 identification; where the payload
# begins and ends; and whether none may follow.
_Read = tuple[bytes, tuple[object, ...], int, int, int, int, bool]
_NO_FLOW: _Read = (b"", (), 0, 0, 0, 0, True)


def coalesce(packets: Sequence[Packet], *, udp: bool, fewest: int = WORTH_JOINING) -> list[Writing]:
    """Return what to write to the TUN for these whole raw packets, which came in this order.

    Packets of one flow stay in their order. udp says whether the kernel takes super-packets of UDP
    (TunDevice.takes_udp), fewest how many packets are joined, at least.
    The pieces may be views of packets.
    """
    if len(packets) < fewest:
        return [([packet], b"") for packet in packets]
    runs: list[_Run] = []
    growing: dict[bytes, _Run] = {}
    for packet in packets:
        read = _read(packet, udp)
        if read is None:
            # It may belong to any flow, which it must not be overtaken in.
            growing.clear()
            runs.append(_Run(packet, _NO_FLOW))
            continue
        run = growing.get(read[0])
        if run is None or not run.take(packet, read):
            growing[read[0]] = run = _Run(packet, read)
            runs.append(run)
    writings: list[Writing] = []
    for run in runs:
        writings += run.writings(fewest)
    return writings


def joined(deliveries: Sequence[tuple[list[bytes], bytes]], *, udp: bool) -> Sequence[Writing]:
    """Return what to write for packets in pieces, some of which may be super-packets already.

    All stay in their order; what is whole between two that are not is joined as coalesce does.
    """
    writings: list[Writing] = []
    plain: list[Packet] = []
    for pieces, offload in deliveries:
        if not offload:
            plain.append(pieces[0] if len(pieces) == 1 else b"".join(pieces))
            continue
        writings += coalesce(plain, udp=udp)
        plain = []
        writings.append((list(pieces), offload))
    return writings + coalesce(plain, udp=udp)


def _read(packet: Packet, udp: bool) -> _Read | None:
    """Return what is to be known of a packet; None if its flow cannot be told."""
    size = len(packet)
    if size < _IPV4_TRANSPORT + _UDP_HEADER:
        return None
    if packet[0] == _WITHOUT_OPTIONS:
        start, length, identification, middle, flow = _read_ipv4(packet)
        if length != size or middle >> 16 & _ANY_FRAGMENT:
            return None
        at, protocol = _IPV4_TRANSPORT, middle & 0xFF
    elif packet[0] >> 4 == 6 and size >= _IPV6_TRANSPORT + _UDP_HEADER:
        start, length, middle, flow = _read_ipv6(packet)
        if length + _IPV6_TRANSPORT != size:
            return None
        at, protocol, identification = _IPV6_TRANSPORT, middle >> 8, 0
    else:
        return None
    if protocol == _TCP:
        begin = at + (packet[at + 12] >> 4) * 4 if size > at + _TCP_HEADER else size
        if at + _TCP_HEADER <= begin < size:
            sequence, acknowledged, flags, window, urgent, options = _read_tcp[
                (begin - at - _TCP_HEADER) // 4
            ](packet, at)
            if flags & _FLAGS & ~_PSH == _ACK:
                alike = start, middle, acknowledged, flags | _PSH, window, urgent, options
                return flow, alike, sequence, identification, begin, size, flags & _PSH != 0
    elif protocol == _UDP:
        stated, checksum = _read_udp(packet, at)
        begin = at + _UDP_HEADER
        if udp and checksum and stated == size - at and begin < size:
            return flow, (start, middle), -1, identification, begin, size, False
    elif at == _IPV6_TRANSPORT:
        return None  # extension headers, and maybe a fragment
    else:
        return _NO_FLOW
    return flow, (), 0, 0, 0, 0, True


class _Run:
    """A packet, and those that could be joined to it."""

    __slots__ = ("_closed", "_end", "_first", "_identification", "_packets", "_sequence", "_step")

    def __init__(self, packet: Packet, first: _Read) -> None:
        self._packets = [packet]
        self._first = first
        _, _, sequence, self._identification, begin, self._end, self._closed = first
        self._sequence = _after(sequence, self._end - begin)  # of what goes on
        self._step = -1  # from one identification to the next

    def take(self, packet: Packet, read: _Read) -> bool:
        """Join packet to the run; return False where it does not go on from what is there."""
        first = self._first
        if self._closed or read[1] != first[1]:
            return False
        _, _, sequence, identification, begin, end, last = read
        size, whole = end - begin, first[5] - begin
        if sequence != self._sequence or size > whole or self._end + size > _LARGEST:
            return False
        step = (identification - self._identification) % _IDENTIFICATIONS
        if step != self._step:
            if self._step >= 0 or not self._may_step(step):
                return False
            self._step = step
        self._packets.append(packet)
        self._sequence = _after(sequence, size)
        self._identification = identification
        self._end += size
        self._closed = last or size < whole
        return True

    def _may_step(self, step: int) -> bool:
        """Return whether IPv4's identifications may go on so; in IPv6 there is none, and no step.

        A super-packet's count up. Those of packets with DF may have any value, 0 for the most part.
        """
        packet = self._packets[0]
        return step == 1 or (
            step == 0 and (packet[0] != _WITHOUT_OPTIONS or bool(packet[6] << 8 & _DF))
        )

    def writings(self, fewest: int) -> list[Writing]:
        """Return the packets as one super-packet, or as they came."""
        packets = self._packets
        if len(packets) < fewest:
            return [([packet], b"") for packet in packets]
        begin, length = self._first[4], self._end
        head = bytearray(packets[0][:begin])
        four = head[0] == _WITHOUT_OPTIONS
        at, protocol = (_IPV4_TRANSPORT, head[9]) if four else (_IPV6_TRANSPORT, head[6])
        addresses = int.from_bytes(self._first[0][:-_PORTS], "big")
        if four:
            # A right header of IPv4 sums up to nothing, and TCP to what its pseudo-header lacks.
            headers = len(packets) * (begin - at)
            right = -len(packets) * (addresses + protocol) - headers - (length - begin)
        else:
            # Addresses and length are in the header as in the pseudo-header.
            rest = int.from_bytes(head[:4], "big") + int.from_bytes(head[6:8], "big")
            right = len(packets) * (rest - protocol)
        if (_sum(packets) - right) % 0xFFFF:
            # A checksum is wrong: none that is right must be made for what has been corrupted.
            return [([packet], b"") for packet in packets]
        if four:
            _put_half(head, 2, length)
            _put_half(head, 10, 0)
            _put_half(head, 10, -int.from_bytes(head[:at], "big") % 0xFFFF)
        else:
            _put_half(head, 4, length - at)
        if protocol == _TCP:
            kind, checksum_at = GSO_TCPV4 if four else GSO_TCPV6, _TCP_CHECKSUM_AT
            head[at + _TCP_FLAGS_AT] |= packets[-1][at + _TCP_FLAGS_AT] & _PSH
        else:
            kind, checksum_at = GSO_UDP_L4, _UDP_CHECKSUM_AT
            _put_half(head, at + _UDP_LENGTH_AT, length - at)
        pseudo_header = (addresses + protocol + length - at) % 0xFFFF
        _put_half(head, at + checksum_at, pseudo_header or 0xFFFF)
        pieces: list[Packet] = [bytes(head), *[packet[begin:] for packet in packets]]
        return [(pieces, header(kind, begin, len(packets[0]) - begin, at, checksum_at))]


def _after(sequence: int, size: int) -> int:
    return (sequence + size) % _SEQUENCE_SPACE if sequence >= 0 else sequence


def _sum(packets: list[Packet]) -> int:
    """Return the sum of all 16-bit words of packets, but for a multiple of 0xFFFF.

    All but the last are equally long. One sum finds what is wrong in any of them, as well as a sum
    for each would, at a third of the cost.
    """
    total, last = sum(map(int.from_bytes, packets[:-1])), int.from_bytes(packets[-1], "big")
    if len(packets[0]) & 1:
        total <<= 8  # an odd octet is the first one of a word
    return total + (last << 8 if len(packets[-1]) & 1 else last)
