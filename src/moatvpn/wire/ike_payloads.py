"""Bodies of the IKE payloads other than SA (RFC 7296, 3.4 to 3.13)."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address

from moatvpn.counters import DropReason
from moatvpn.errors import PeerError
from moatvpn.wire.selectors import TrafficSelector

ID_FQDN = 2
ID_DER_ASN1_DN = 9
CERT_X509_SIGNATURE = 4  # 3.6
CERT_RAW_PUBLIC_KEY = 15  # RFC 7670, 3
AUTH_SHARED_KEY = 2  # 3.8
AUTH_DIGITAL_SIGNATURE = 14  # RFC 7427, 3
_AUTHORITY_LENGTH = 20  # of a CA in CERTREQ: a SHA-1 of its key (3.7)
_TS_IPV4, _TS_IPV6 = 7, 8
_TS_HEAD = struct.Struct("!BBHHH")
MIN_NONCE, MAX_NONCE = 16, 256


class NotifyType(IntEnum):
    """Notify message types (RFC 7296, 3.10.1, and the RFCs of each extension)."""

    UNSUPPORTED_CRITICAL_PAYLOAD = 1
    INVALID_MAJOR_VERSION = 5
    INVALID_SYNTAX = 7
    INVALID_MESSAGE_ID = 9
    NO_PROPOSAL_CHOSEN = 14
    INVALID_KE_PAYLOAD = 17
    AUTHENTICATION_FAILED = 24
    SINGLE_PAIR_REQUIRED = 34
    NO_ADDITIONAL_SAS = 35
    TS_UNACCEPTABLE = 38
    UNACCEPTABLE_ADDRESSES = 40  # this one, 41, and 16396 to 16402: RFC 4555
    UNEXPECTED_NAT_DETECTED = 41
    TEMPORARY_FAILURE = 43
    CHILD_SA_NOT_FOUND = 44
    STATE_NOT_FOUND = 47
    INITIAL_CONTACT = 16384
    NAT_DETECTION_SOURCE_IP = 16388
    NAT_DETECTION_DESTINATION_IP = 16389
    COOKIE = 16390
    REKEY_SA = 16393
    ESP_TFC_PADDING_NOT_SUPPORTED = 16394
    MOBIKE_SUPPORTED = 16396
    ADDITIONAL_IP4_ADDRESS = 16397
    ADDITIONAL_IP6_ADDRESS = 16398
    NO_ADDITIONAL_ADDRESSES = 16399
    UPDATE_SA_ADDRESSES = 16400
    COOKIE2 = 16401
    NO_NATS_ALLOWED = 16402
    REDIRECT_SUPPORTED = 16406  # RFC 5685
    AUTH_LIFETIME = 16403  # RFC 4478
    REDIRECT = 16407
    REDIRECTED_FROM = 16408
    TICKET_LT_OPAQUE = 16409  # RFC 5723
    TICKET_REQUEST = 16410
    TICKET_ACK = 16411
    TICKET_NACK = 16412
    TICKET_OPAQUE = 16413
    IKEV2_FRAGMENTATION_SUPPORTED = 16430
    SIGNATURE_HASH_ALGORITHMS = 16431
    USE_PPK = 16435
    PPK_IDENTITY = 16436
    NO_PPK_AUTH = 16437
    INTERMEDIATE_EXCHANGE_SUPPORTED = 16438
    ADDITIONAL_KEY_EXCHANGE = 16441
    USE_AGGFRAG = 16442  # RFC 9347
    MOAT_FEATURES = 41001  # for private use (3.10.1): wire/ike_aggfrag.py


FIRST_STATUS_TYPE = 16384  # below it a notify is an error


@dataclass(frozen=True, slots=True)
class Notify:
    """A Notify payload (3.10). spi is empty but for notifies about one SA."""

    type: int
    data: bytes = b""
    protocol: int = 0
    spi: bytes = b""

    @property
    def is_error(self) -> bool:
        """Return whether the notify reports a failure."""
        return self.type < FIRST_STATUS_TYPE

    def encode(self) -> bytes:
        """Return the payload's body."""
        return struct.pack("!BBH", self.protocol, len(self.spi), self.type) + self.spi + self.data


def parse_notify(body: bytes) -> Notify:
    """Return the notify in body; raise PeerError where it is malformed."""
    if len(body) < 4 or len(body) < 4 + body[1]:
        raise PeerError(DropReason.IKE_MALFORMED, "notify too short")
    protocol, spi_size, kind = struct.unpack_from("!BBH", body)
    return Notify(kind, body[4 + spi_size :], protocol, body[4 : 4 + spi_size])


@dataclass(frozen=True, slots=True)
class Delete:
    """A Delete payload (3.11): SPIs are ours no longer. spis is empty for an IKE SA."""

    protocol: int
    spis: tuple[bytes, ...] = ()

    def encode(self) -> bytes:
        """Return the payload's body."""
        size = len(self.spis[0]) if self.spis else 0
        return struct.pack("!BBH", self.protocol, size, len(self.spis)) + b"".join(self.spis)


def parse_delete(body: bytes) -> Delete:
    """Return the delete in body; raise PeerError where it is malformed."""
    if len(body) < 4:
        raise PeerError(DropReason.IKE_MALFORMED, "delete too short")
    protocol, size, count = struct.unpack_from("!BBH", body)
    if len(body) != 4 + size * count or (size == 0 and count):
        raise PeerError(DropReason.IKE_MALFORMED, "delete of the wrong length")
    return Delete(protocol, tuple(body[4 + i * size : 4 + (i + 1) * size] for i in range(count)))


def encode_ke(group: int, public: bytes) -> bytes:
    """Return the body of a KE payload (3.4)."""
    return struct.pack("!HH", group, 0) + public


def parse_ke(body: bytes) -> tuple[int, bytes]:
    """Return the group and the public value of a KE payload."""
    if len(body) < 5:
        raise PeerError(DropReason.IKE_MALFORMED, "key exchange too short")
    return int.from_bytes(body[:2], "big"), body[4:]


def parse_nonce(body: bytes) -> bytes:
    """Return the nonce in body (3.9)."""
    if not MIN_NONCE <= len(body) <= MAX_NONCE:
        raise PeerError(DropReason.IKE_MALFORMED, f"nonce of {len(body)} octets")
    return body


def encode_fqdn(identity: str) -> bytes:
    """Return the body of an ID payload of type ID_FQDN (3.5)."""
    return bytes((ID_FQDN, 0, 0, 0)) + identity.encode("ascii")


def parse_fqdn(body: bytes) -> str | None:
    """Return the domain name in an ID payload, or None for an identity of another type."""
    if len(body) < 5:
        raise PeerError(DropReason.IKE_MALFORMED, "identity too short")
    if body[0] != ID_FQDN:
        return None
    try:
        return body[4:].decode("ascii").lower()
    except UnicodeDecodeError as error:
        raise PeerError(DropReason.IKE_MALFORMED, "identity is not ASCII") from error


def parse_distinguished_name(body: bytes) -> bytes | None:
    """Return the DER of the name in an ID payload, or None for an identity of another type."""
    if len(body) < 5:
        raise PeerError(DropReason.IKE_MALFORMED, "identity too short")
    return body[4:] if body[0] == ID_DER_ASN1_DN else None


def parse_certificate_body(body: bytes) -> tuple[int, bytes]:
    """Return the encoding and the data of a CERT payload (3.6)."""
    if len(body) < 2:
        raise PeerError(DropReason.IKE_MALFORMED, "CERT too short")
    return body[0], body[1:]


def encode_certificate_request(authorities: Sequence[bytes]) -> bytes:
    """Return the body of a CERTREQ payload for X.509 certificates of these CAs (3.7)."""
    if any(len(authority) != _AUTHORITY_LENGTH for authority in authorities):
        raise ValueError("a CA is 20 octets in CERTREQ")
    return bytes((CERT_X509_SIGNATURE,)) + b"".join(authorities)


def encode_hash_algorithms(hashes: Sequence[int]) -> bytes:
    """Return the data of SIGNATURE_HASH_ALGORITHMS (RFC 7427, 4)."""
    return b"".join(int(kind).to_bytes(2, "big") for kind in hashes)


def hash_algorithms(notifies: Sequence[Notify]) -> frozenset[int]:
    """Return what SIGNATURE_HASH_ALGORITHMS among notifies offers; nothing where there is none."""
    offered = [n.data for n in notifies if n.type == NotifyType.SIGNATURE_HASH_ALGORITHMS]
    return frozenset(
        int.from_bytes(data[i : i + 2], "big")
        for data in offered
        for i in range(0, len(data) - 1, 2)
    )


def encode_auth(method: int, data: bytes) -> bytes:
    """Return the body of an AUTH payload (3.8)."""
    return bytes((method, 0, 0, 0)) + data


def parse_auth(body: bytes) -> tuple[int, bytes]:
    """Return the method and the data of an AUTH payload."""
    if len(body) < 5:
        raise PeerError(DropReason.IKE_MALFORMED, "AUTH too short")
    return body[0], body[4:]


def encode_selectors(selectors: Sequence[TrafficSelector]) -> bytes:
    """Return the body of a TS payload (3.13)."""
    parts = [bytes((len(selectors), 0, 0, 0))]
    for ts in selectors:
        start, end = ts.start.packed, ts.end.packed
        kind = _TS_IPV4 if ts.start.version == 4 else _TS_IPV6
        size = _TS_HEAD.size + len(start) + len(end)
        parts.append(_TS_HEAD.pack(kind, ts.protocol, size, ts.start_port, ts.end_port))
        parts.append(start + end)
    return b"".join(parts)


def parse_selectors(body: bytes) -> tuple[TrafficSelector, ...]:
    """Return the traffic selectors in a TS payload; those of unknown types are left out."""
    if len(body) < 4 or not body[0]:
        raise PeerError(DropReason.IKE_MALFORMED, "traffic selectors too short")
    selectors = []
    offset = 4
    for _ in range(body[0]):
        if offset + _TS_HEAD.size > len(body):
            raise PeerError(DropReason.IKE_MALFORMED, "traffic selector beyond its payload")
        kind, protocol, length, first_port, last_port = _TS_HEAD.unpack_from(body, offset)
        if length < _TS_HEAD.size or offset + length > len(body):
            raise PeerError(DropReason.IKE_MALFORMED, f"traffic selector length {length}")
        addresses = body[offset + _TS_HEAD.size : offset + length]
        offset += length
        if kind not in (_TS_IPV4, _TS_IPV6):
            continue
        size = 4 if kind == _TS_IPV4 else 16
        if len(addresses) != 2 * size:
            raise PeerError(DropReason.IKE_MALFORMED, "traffic selector's addresses")
        family = IPv4Address if kind == _TS_IPV4 else IPv6Address
        start, end = family(addresses[:size]), family(addresses[size:])
        if int(start) > int(end) or first_port > last_port:
            raise PeerError(DropReason.IKE_MALFORMED, "traffic selector's range is empty")
        selectors.append(TrafficSelector(start, end, protocol, first_port, last_port))
    if offset != len(body):
        raise PeerError(DropReason.IKE_MALFORMED, "octets after the last traffic selector")
    return tuple(selectors)
