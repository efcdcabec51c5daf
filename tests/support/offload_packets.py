"""Raw packets of TCP and UDP for tests of offloads, and a slow, plain way to check their sums."""

from __future__ import annotations

import random
import struct
from ipaddress import ip_address
from typing import NamedTuple

SOURCE, TARGET = ip_address("10.201.1.10").packed, ip_address("10.50.0.10").packed
SOURCE6, TARGET6 = ip_address("fd00:201:1::10").packed, ip_address("fd00:50::ff:10").packed
TCP, UDP = 6, 17
FIN, SYN, RST, PSH, ACK, URG, ECE, CWR = 1, 2, 4, 8, 16, 32, 64, 128
NEEDS_CSUM, DATA_VALID = 1, 2
TIMESTAMPS = bytes.fromhex("0101 080a 0001e240 0003944c")


def octets(number: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(number)


def words_sum(data: bytes) -> int:
    """Return the one's complement sum of data, word for word (RFC 1071, 4.1)."""
    total = 0
    for at in range(0, len(data), 2):
        total += data[at] << 8 | (data[at + 1] if at + 1 < len(data) else 0)
        total = (total & 0xFFFF) + (total >> 16)
    return total


def pseudo_header(packet: bytes, start: int, protocol: int) -> bytes:
    addresses = packet[12:20] if packet[0] >> 4 == 4 else packet[8:40]
    return addresses + struct.pack("!II", len(packet) - start, protocol)


def header_length(packet: bytes) -> int:
    return (packet[0] & 15) * 4 if packet[0] >> 4 == 4 else 40


def checksums_are_right(packet: bytes, start: int = 0, protocol: int = 0) -> bool:
    """Return whether IPv4's checksum and that of TCP or UDP verify, and the lengths fit.

    start and protocol are those of the transport header, where extension headers stand before it.
    """
    if packet[0] >> 4 == 4:
        start = start or header_length(packet)
        protocol = protocol or packet[9]
        if words_sum(packet[:start]) != 0xFFFF or packet[2] << 8 | packet[3] != len(packet):
            return False
    else:
        start, protocol = start or 40, protocol or packet[6]
        if (packet[4] << 8 | packet[5]) + 40 != len(packet):
            return False
    return words_sum(pseudo_header(packet, start, protocol) + packet[start:]) == 0xFFFF


class Shape(NamedTuple):
    """What a packet is to look like. options are IPv4's, or extension headers of IPv6."""

    version: int = 4
    protocol: int = TCP
    options: bytes = b""
    tcp_options: bytes = b""
    flags: int = ACK
    sequence: int = 1000
    acknowledged: int = 77
    window: int = 500
    identification: int = 1
    fragment: int = 0x4000  # DF
    tos: int = 0
    ttl: int = 64
    ports: tuple[int, int] = (49153, 443)
    first_header: int | None = None  # IPv6's next header, where options stand before protocol


def ip_header(shape: Shape, length: int) -> bytes:
    """Return the IP header before length octets of transport, IPv4's with its checksum."""
    if shape.version == 6:
        first = shape.protocol if shape.first_header is None else shape.first_header
        start = 6 << 28 | shape.tos << 20 | 0x12345
        head = struct.pack("!IHBB", start, len(shape.options) + length, first, shape.ttl)
        return head + SOURCE6 + TARGET6 + shape.options
    words = 5 + len(shape.options) // 4
    head = struct.pack(
        "!BBHHHBBH4s4s",
        0x40 | words,
        shape.tos,
        words * 4 + length,
        shape.identification,
        shape.fragment,
        shape.ttl,
        shape.protocol,
        0,
        SOURCE,
        TARGET,
    )
    head += shape.options
    return head[:10] + struct.pack("!H", 0xFFFF - words_sum(head)) + head[12:]


def transport_header(shape: Shape, payload: bytes) -> bytes:
    """Return the header of TCP or UDP, with a checksum of 0."""
    if shape.protocol == UDP:
        return struct.pack("!HHHH", *shape.ports, 8 + len(payload), 0)
    words = 5 + len(shape.tcp_options) // 4
    return (
        struct.pack(
            "!HHIIBBHHH",
            *shape.ports,
            shape.sequence,
            shape.acknowledged,
            words << 4,
            shape.flags,
            shape.window,
            0,
            0,
        )
        + shape.tcp_options
    )


def partial(shape: Shape, payload: bytes) -> bytes:
    """Return a packet whose transport checksum holds the pseudo-header's sum, as kernels do it."""
    transport = transport_header(shape, payload) + payload
    head = ip_header(shape, len(transport))
    packet = bytearray(head + transport)
    at = len(head) + (6 if shape.protocol == UDP else 16)
    total = words_sum(pseudo_header(bytes(packet), len(head), shape.protocol))
    packet[at : at + 2] = total.to_bytes(2, "big")
    return bytes(packet)


def whole(shape: Shape, payload: bytes) -> bytes:
    """Return a packet with all its checksums."""
    transport = transport_header(shape, payload) + payload
    packet = bytearray(ip_header(shape, len(transport)) + transport)
    start = len(packet) - len(transport)
    total = words_sum(pseudo_header(bytes(packet), start, shape.protocol) + transport)
    at, checksum = start + 16, 0xFFFF - total
    if shape.protocol == UDP:
        at, checksum = start + 6, checksum or 0xFFFF
    packet[at : at + 2] = checksum.to_bytes(2, "big")
    return bytes(packet)


def virtio(
    flags: int = NEEDS_CSUM,
    kind: int = 0,
    header: int = 0,
    size: int = 0,
    start: int = 20,
    at: int = 16,
) -> bytes:
    return struct.pack("<BBHHHH", flags, kind, header, size, start, at)


def stream(shape: Shape, *sizes: int, last: int | None = None) -> list[bytes]:
    """Return segments of one TCP connection, or datagrams of one UDP flow, of those sizes."""
    packets = []
    for number, size in enumerate(sizes):
        flags = last if last is not None and number == len(sizes) - 1 else shape.flags
        packets.append(whole(shape._replace(flags=flags), octets(size, number)))
        shape = shape._replace(
            sequence=(shape.sequence + size) % 2**32,
            identification=(shape.identification + 1) % 2**16,
        )
    return packets
