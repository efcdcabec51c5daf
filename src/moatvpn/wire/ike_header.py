"""The IKE header and the chain of generic payloads (RFC 7296, 3.1 and 3.2)."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from moatvpn.counters import DropReason
from moatvpn.errors import PeerError

HEADER_LENGTH = 28
_HEADER = struct.Struct("!8s8sBBBBII")
_GENERIC = struct.Struct("!BBH")
GENERIC_LENGTH = _GENERIC.size
VERSION_OFFSET = 17
_VERSION = 0x20  # major 2, minor 0
_FLAG_INITIATOR = 0x08
_FLAG_RESPONSE = 0x20
_CRITICAL = 0x80
NO_SPI = bytes(8)
# Two payloads of 255 IPv6 traffic selectors fit; no more than that bounds what a parse can cost.
MAX_MESSAGE_LENGTH = 24576
MAX_PAYLOADS = 128  # of one chain, for the same reason


class Exchange(IntEnum):
    """Exchange types (RFC 7296, 3.1; RFC 9242; RFC 9370)."""

    IKE_SA_INIT = 34
    IKE_AUTH = 35
    CREATE_CHILD_SA = 36
    INFORMATIONAL = 37
    IKE_SESSION_RESUME = 38  # RFC 5723
    IKE_INTERMEDIATE = 43
    IKE_FOLLOWUP_KE = 44


class PayloadType(IntEnum):
    """Payload types (RFC 7296, 3.2; RFC 7383, 2.5)."""

    NONE = 0
    SA = 33
    KE = 34
    ID_I = 35
    ID_R = 36
    CERT = 37
    CERTREQ = 38
    AUTH = 39
    NONCE = 40
    NOTIFY = 41
    DELETE = 42
    VENDOR = 43
    TS_I = 44
    TS_R = 45
    SK = 46
    CP = 47
    EAP = 48
    SKF = 53


KNOWN_EXCHANGES = frozenset(int(exchange) for exchange in Exchange)
KNOWN_PAYLOADS = frozenset(int(kind) for kind in PayloadType)


@dataclass(frozen=True, slots=True)
class IkeHeader:
    """The 28 octets before every message. SPIs are 8 octets; message_id counts exchanges."""

    spi_i: bytes
    spi_r: bytes
    next_payload: int
    exchange: int
    from_initiator: bool
    response: bool
    message_id: int
    length: int

    def encode(self) -> bytes:
        """Return the header's octets."""
        flags = (_FLAG_INITIATOR if self.from_initiator else 0) | (
            _FLAG_RESPONSE if self.response else 0
        )
        return _HEADER.pack(
            self.spi_i,
            self.spi_r,
            self.next_payload,
            _VERSION,
            self.exchange,
            flags,
            self.message_id,
            self.length,
        )


@dataclass(frozen=True, slots=True)
class RawPayload:
    """One payload before its body is understood: its type, critical bit and body."""

    type: int
    critical: bool
    body: bytes


def read_header(data: bytes) -> IkeHeader | None:
    """Return what stands where version 2 has its header, for any version; None where too short."""
    if len(data) < HEADER_LENGTH:
        return None
    spi_i, spi_r, first, _, exchange, flags, message_id, length = _HEADER.unpack_from(data)
    initiator, response = bool(flags & _FLAG_INITIATOR), bool(flags & _FLAG_RESPONSE)
    return IkeHeader(spi_i, spi_r, first, exchange, initiator, response, message_id, length)


def is_later_version(data: bytes) -> bool:
    """Return whether data, of at least a header's length, is of a later major version than 2."""
    return data[VERSION_OFFSET] >> 4 > _VERSION >> 4


def parse_header(data: bytes) -> IkeHeader:
    """Return the header of the message data; raise PeerError where it is not one of ours."""
    header = read_header(data)
    if header is None or len(data) > MAX_MESSAGE_LENGTH:
        raise PeerError(DropReason.IKE_MALFORMED, f"message of {len(data)} octets")
    version = data[VERSION_OFFSET]
    if version >> 4 != _VERSION >> 4:
        raise PeerError(DropReason.IKE_VERSION, f"version octet {version:#x}")
    if header.length != len(data):
        raise PeerError(DropReason.IKE_MALFORMED, f"length {header.length} of {len(data)} octets")
    if header.spi_i == NO_SPI:
        raise PeerError(DropReason.IKE_MALFORMED, "initiator SPI is zero")
    return header


def parse_chain(first: int, data: bytes) -> list[RawPayload]:
    """Return the payloads of data, the first of type first.

    An SK or SKF payload ends the chain (RFC 7296, 3.14; RFC 7383, 2.5): its own next-payload field
    names what is inside.
    Raises PeerError where the chain and data do not end together.
    """
    payloads: list[RawPayload] = []
    kind, offset = first, 0
    while kind != PayloadType.NONE:
        if offset + GENERIC_LENGTH > len(data):
            raise PeerError(DropReason.IKE_MALFORMED, "payload header beyond the message")
        following, flags, length = _GENERIC.unpack_from(data, offset)
        # At least the generic header, so that every turn of this loop moves on.
        if length < GENERIC_LENGTH or offset + length > len(data):
            raise PeerError(DropReason.IKE_MALFORMED, f"payload length {length}")
        body = bytes(data[offset + GENERIC_LENGTH : offset + length])
        if len(payloads) == MAX_PAYLOADS:
            raise PeerError(DropReason.IKE_MALFORMED, "too many payloads")
        payloads.append(RawPayload(kind, bool(flags & _CRITICAL), body))
        offset += length
        if kind in (PayloadType.SK, PayloadType.SKF):
            break
        kind = following
    if offset != len(data):
        raise PeerError(DropReason.IKE_MALFORMED, "octets after the last payload")
    return payloads


def unsealed(head: bytes, chain: bytes) -> bytes:
    """Return a message with the payloads chain in an SK payload that has nothing else in it.

    head is the message's header and the generic header of its SK or SKF payload; lengths become
    those of what is there. It is what AUTH covers of IKE_INTERMEDIATE (RFC 9242, 3.3.2).
    """
    inner = GENERIC_LENGTH + len(chain)
    return b"".join(
        (
            head[:16],
            bytes((PayloadType.SK,)),
            head[17:24],
            (HEADER_LENGTH + inner).to_bytes(4, "big"),
            head[HEADER_LENGTH : HEADER_LENGTH + 2],
            inner.to_bytes(2, "big"),
            chain,
        )
    )


def encode_chain(payloads: Sequence[tuple[int, bytes]]) -> tuple[int, bytes]:
    """Return the type of the first of payloads (pairs of type and body), and the chain's octets."""
    kinds = [int(kind) for kind, _ in payloads] + [int(PayloadType.NONE)]
    parts = []
    for following, (_, body) in zip(kinds[1:], payloads, strict=True):
        parts.append(_GENERIC.pack(following, 0, GENERIC_LENGTH + len(body)) + body)
    return kinds[0], b"".join(parts)
