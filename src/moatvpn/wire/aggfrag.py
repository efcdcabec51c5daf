"""AGGFRAG payloads of ESP (RFC 9347, 6.1), and the private blocks that two of ours put there.

    sub-type 0 (1) | reserved (1) | BlockOffset (2) | data blocks, back to back

BlockOffset is how many octets, from the end of this header on, still belong to a block that began
in an earlier payload; it may be more than this payload has. The first four bits of a block tell
what it is:

    0  padding to the end of the payload
    4  a whole IPv4 packet, 6 a whole IPv6 packet: their own length fields say where they end
    8  a super-packet: flags (low bits) | kind (1) | length (2) | segment size (2) |
       checksum start (2) | checksum offset (2) | IP packet of that length
    9  a path probe: zero (3) | identifier (4);  10 the answer to one, of the same form

Blocks of types 8 to 10 go only to peers that have said they know them. A payload that begins with
one of type 9 or 10 may come amid a block, as one of nothing but padding may (2.2.3). Lengths are in
octets.
"""

from __future__ import annotations

import struct

from moatvpn.counters import DropReason
from moatvpn.errors import PeerError

NEXT_HEADER_AGGFRAG = 144
HEADER_LENGTH = 4
MOST_OFFSET = 0xFFFF  # that a header can say

PADDING, IPV4, IPV6, SUPER_PACKET, PROBE, PROBE_ANSWER = 0, 4, 6, 8, 9, 10
SUPER_HEADER_LENGTH = 10
PROBE_LENGTH = 8

_HEADER = struct.Struct("!BxH")
_IPV4_HEADER, _IPV6_HEADER = 20, 40
# How many octets of a block tell its length, by its type.
_TELLING = {IPV4: 4, IPV6: 6, SUPER_PACKET: 4, PROBE: 1, PROBE_ANSWER: 1}

# A virtio_net_hdr of Linux (wire.offload), and its place in a super-packet's header.
_VIRTIO = struct.Struct("<BBHHHH")
_SUPER = struct.Struct("!BBHHHH")
_SUPER_FLAGS = 0x0F
_PROBE = struct.Struct("!BxxxI")


def header(block_offset: int) -> bytes:
    """Return the four octets before the blocks."""
    return _HEADER.pack(0, block_offset)


def block_length(data: bytes, at: int, end: int) -> int | None:
    """Return the length of the block at that place in data, None where the end cuts that off.

    The block is no padding. Raises PeerError (ESP_AGGFRAG_MALFORMED) for an unknown type, and for
    a length that its own header contradicts.
    """
    kind = data[at] >> 4
    telling = _TELLING.get(kind)
    if telling is None:
        raise PeerError(DropReason.ESP_AGGFRAG_MALFORMED, f"block of type {kind}")
    if end - at < telling:
        return None
    if kind == IPV4:
        length = data[at + 2] << 8 | data[at + 3]
        if length >= _IPV4_HEADER:
            return length
    elif kind == IPV6:
        return _IPV6_HEADER + (data[at + 4] << 8 | data[at + 5])
    elif kind == SUPER_PACKET:
        length = data[at + 2] << 8 | data[at + 3]
        if length >= _IPV4_HEADER:
            return SUPER_HEADER_LENGTH + length
    else:
        return PROBE_LENGTH
    raise PeerError(DropReason.ESP_AGGFRAG_MALFORMED, f"block of {length} octets")


def super_header(offload: bytes, length: int) -> bytes:
    """Return the header of a super-packet, an IP packet of that length with that virtio header."""
    flags, kind, _, size, start, offset = _VIRTIO.unpack(offload)
    return _SUPER.pack(SUPER_PACKET << 4 | flags & _SUPER_FLAGS, kind, length, size, start, offset)


def offload_of(block: bytes) -> bytes:
    """Return the virtio header that the header of a super-packet stands for.

    Its own header length is left at 0: wire.offload fills it in, once it has checked the rest.
    """
    first, kind, _, size, start, offset = _SUPER.unpack_from(block)
    return _VIRTIO.pack(first & _SUPER_FLAGS, kind, 0, size, start, offset)


def probe(identifier: int, *, answer: bool = False) -> bytes:
    """Return a path probe's block, or the answer's."""
    return _PROBE.pack((PROBE_ANSWER if answer else PROBE) << 4, identifier)


def identifier_of(block: bytes) -> int:
    """Return the identifier of a path probe or an answer."""
    identifier: int = _PROBE.unpack_from(block)[1]
    return identifier
