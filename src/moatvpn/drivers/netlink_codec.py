"""The frame of netlink messages and their attributes (netlink(7)): pure functions on octets."""

from __future__ import annotations

import struct
from collections.abc import Iterator

HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence number, sender
ATTRIBUTE = struct.Struct("=HH")  # length, type
ERROR = 2  # NLMSG_ERROR
DONE = 3  # NLMSG_DONE
REQUEST, ACKNOWLEDGE, DUMP = 0x1, 0x4, 0x300
CREATE, EXCLUSIVE = 0x400, 0x200
_NESTED = 0x8000 | 0x4000  # flags in an attribute's type


def aligned(data: bytes) -> bytes:
    """Return data with what netlink puts behind it, up to a multiple of four octets."""
    return data + bytes(-len(data) % 4)


def attribute(kind: int, value: bytes) -> bytes:
    """Return one attribute."""
    return aligned(ATTRIBUTE.pack(ATTRIBUTE.size + len(value), kind) + value)


def message(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    """Return one whole message."""
    return HEADER.pack(HEADER.size + len(body), kind, flags, sequence, 0) + body


def messages(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yield type, sequence number and body of each message in data; stop at one that is cut."""
    offset = 0
    while offset + HEADER.size <= len(data):
        length, kind, _, sequence, _ = HEADER.unpack_from(data, offset)
        if length < HEADER.size or offset + length > len(data):
            return
        yield kind, sequence, data[offset + HEADER.size : offset + length]
        offset += (length + 3) & ~3


def attributes(data: bytes) -> dict[int, bytes]:
    """Return the attributes in data by type; what is cut is left out."""
    found: dict[int, bytes] = {}
    offset = 0
    while offset + ATTRIBUTE.size <= len(data):
        length, kind = ATTRIBUTE.unpack_from(data, offset)
        if length < ATTRIBUTE.size or offset + length > len(data):
            break
        found[kind & ~_NESTED] = data[offset + ATTRIBUTE.size : offset + length]
        offset += (length + 3) & ~3
    return found
