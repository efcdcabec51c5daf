"""Messages of the kernel's IPsec, as octets (linux/xfrm.h): SAs, policies and what it tells.

Addresses of the wild side are IPv4; what is inside may be either. All structures are those of the
64-bit kernel; numbers are in its own octet order but for SPIs and ports.
"""

from __future__ import annotations

import struct
import sys
from dataclasses import dataclass, field
from ipaddress import IPv4Address, ip_address
from socket import AF_INET, AF_INET6

from moatvpn.drivers.netlink_codec import attribute, attributes
from moatvpn.esp.replay import WINDOW
from moatvpn.esp.sa import LAST_PACKET_EXTENDED, SOFT_DENOMINATOR, SOFT_NUMERATOR
from moatvpn.wire.algorithms import CipherSuite
from moatvpn.wire.endpoint import Endpoint
from moatvpn.wire.esp import LAST_SEQUENCE

NEW_SA, DEL_SA, GET_SA, DEL_POLICY, GET_POLICY = 0x10, 0x11, 0x12, 0x14, 0x15
NEW_POLICY, EXPIRE, UPDATE_POLICY, NEW_AE, MAPPING = 0x13, 0x18, 0x19, 0x1E, 0x26
# Multicast groups, as the bits that a socket is bound to: 2, 5 and 8.
EVENT_GROUPS = 1 << 1 | 1 << 4 | 1 << 7

IN, OUT, FORWARD = 0, 1, 2

_ALG_CRYPT, _ENCAP, _TEMPLATE, _ALG_AEAD = 2, 4, 5, 18
_REPLAY_THRESHOLD, _ALG_AUTH_TRUNC, _REPLAY_ESN, _IF_ID, _MAPPING_TIME = 11, 20, 23, 31, 32

_PROTOCOL_ESP = 50
_MODE_TUNNEL = 1
_ESP_IN_UDP = 2
# The outer header never says DF; any family may be inside; numbers of 64 bits.
_NO_PMTU_DISCOVERY, _ANY_FAMILY, _ESN = 4, 32, 128
_UNLIMITED = (1 << 64) - 1
_ALL_ALGORITHMS = 0xFFFFFFFF

# The kernel tells of an SA in use once a second (net.core.xfrm_aevent_etime), and not besides by
# every so many packets.
_NEVER = 0x7FFFFFFF
_MAPPING_SECONDS = 1

_SELECTOR = struct.Struct("=16s16s4s4sHBBBxxxII")
_ID = struct.Struct("=16s4sB3x")
_LIMITS = struct.Struct("=8Q")
_CURRENT = struct.Struct("=4Q")
_SA_TAIL = struct.Struct("=3I2IHBBB7x")  # statistics, seq, reqid, family, mode, window, flags
_SA_ID = struct.Struct("=16s4sHBx")
_POLICY_TAIL = struct.Struct("=IIBBBB4x")  # priority, index, direction, action, flags, share
_POLICY_ID = struct.Struct("=IB3x")
_TEMPLATE_TAIL = struct.Struct("=Hxx16sIBBBxIII")
_ENCAPSULATION = struct.Struct("=H2s2sxx16s")
_REPLAY = struct.Struct("=6I")  # words, oseq, seq, oseq_hi, seq_hi, window
_MAPPING_BODY = struct.Struct("=16s4sHBxI16s16s2s2s")

_CURRENT_AT = _SELECTOR.size + _ID.size + 16 + _LIMITS.size
SA_SIZE = _CURRENT_AT + _CURRENT.size + _SA_TAIL.size
_POLICY_SIZE = _SELECTOR.size + _LIMITS.size + _CURRENT.size + _POLICY_TAIL.size

_AEAD_NAMES = {
    CipherSuite.AES_256_GCM: b"rfc4106(gcm(aes))",
    CipherSuite.AES_128_GCM: b"rfc4106(gcm(aes))",
    CipherSuite.CHACHA20_POLY1305: b"rfc7539esp(chacha20,poly1305)",
}
_ICV_BITS = 128


@dataclass(frozen=True, slots=True)
class Selector:
    """Raw packets from one network to another. Ports are (value, mask); protocol 0 is any."""

    source: str
    source_length: int
    target: str
    target_length: int
    protocol: int = 0
    source_port: tuple[int, int] = (0, 0)
    target_port: tuple[int, int] = (0, 0)

    def encode(self) -> bytes:
        """Return struct xfrm_selector."""
        source, target = ip_address(self.source), ip_address(self.target)
        family = AF_INET if target.version == 4 else AF_INET6
        return _SELECTOR.pack(
            target.packed, source.packed,
            struct.pack("!HH", *self.target_port), struct.pack("!HH", *self.source_port),
            family, self.target_length, self.source_length, self.protocol, 0, 0,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class KernelSa:
    """One SA as the kernel is to have it. source and target are the envelope's addresses.

    ports are those of the UDP that it travels in, source and target, None where it is protocol 50.
    replay is what read_sa told of an SA that this one goes on for, empty for a fresh one.
    """

    source: str
    target: str
    spi: int
    reqid: int
    if_id: int
    suite: CipherSuite
    key: bytes = field(repr=False)
    esn: bool
    inbound: bool
    ports: tuple[int, int] | None
    replay: bytes = b""

    def encode(self) -> bytes:
        """Return the body of NEW_SA."""
        target, source = IPv4Address(self.target).packed, IPv4Address(self.source).packed
        flags = _NO_PMTU_DISCOVERY | _ANY_FAMILY | (_ESN if self.esn else 0)
        replay = self.replay or _REPLAY.pack(WINDOW // 32, 0, 0, 0, 0, WINDOW) + bytes(WINDOW // 8)
        parts = [
            bytes(_SELECTOR.size),
            _ID.pack(target, self.spi.to_bytes(4, "big"), _PROTOCOL_ESP),
            struct.pack("16s", source),
            _LIMITS.pack(_UNLIMITED, _UNLIMITED, *self._packet_limits(), 0, 0, 0, 0),
            bytes(_CURRENT.size),
            _SA_TAIL.pack(0, 0, 0, 0, self.reqid, AF_INET, _MODE_TUNNEL, 0, flags),
            *_algorithms(self.suite, self.key),
            attribute(_REPLAY_ESN, replay),
            attribute(_IF_ID, struct.pack("=I", self.if_id)),
            attribute(_REPLAY_THRESHOLD, struct.pack("=I", _NEVER)),
        ]
        if self.ports is not None:
            ports = (port.to_bytes(2, "big") for port in self.ports)
            parts.append(attribute(_ENCAP, _ENCAPSULATION.pack(_ESP_IN_UDP, *ports, bytes(16))))
            if self.inbound:
                parts.append(attribute(_MAPPING_TIME, struct.pack("=I", _MAPPING_SECONDS)))
        return b"".join(parts)

    def _packet_limits(self) -> tuple[int, int]:
        """Return after how many packets a rekey is wanted, and after how many the SA ends.

        Both are those of esp.sa, less what the SA that this one goes on for has carried.
        """
        if self.inbound:
            return _UNLIMITED, _UNLIMITED
        last = LAST_PACKET_EXTENDED if self.esn else LAST_SEQUENCE
        sent = sequence_out(self.replay)
        return max(1, last * SOFT_NUMERATOR // SOFT_DENOMINATOR - sent), max(1, last - sent)

    def identity(self) -> bytes:
        """Return the body of GET_SA and DEL_SA."""
        target = IPv4Address(self.target).packed
        return _SA_ID.pack(target, self.spi.to_bytes(4, "big"), AF_INET, _PROTOCOL_ESP)


@dataclass(frozen=True, slots=True)
class Template:
    """What a policy asks of a packet: an SA of reqid; in OUT also between which addresses, and SPI.

    Where source and target are empty any address will do, as any SPI for 0.
    """

    reqid: int
    source: str = ""
    target: str = ""
    spi: int = 0

    def encode(self) -> bytes:
        """Return struct xfrm_user_tmpl."""
        source, target = (IPv4Address(end or 0).packed for end in (self.source, self.target))
        return _ID.pack(target, self.spi.to_bytes(4, "big"), _PROTOCOL_ESP) + _TEMPLATE_TAIL.pack(
            AF_INET, source, self.reqid, _MODE_TUNNEL, 0, 0, *(_ALL_ALGORITHMS,) * 3
        )


def set_policy(
    direction: int, selector: Selector, template: Template, priority: int, if_id: int
) -> bytes:
    """Return the body of UPDATE_POLICY; the lowest priority is taken first."""
    return b"".join(
        (
            selector.encode(),
            _LIMITS.pack(*(_UNLIMITED,) * 4, 0, 0, 0, 0),
            bytes(_CURRENT.size),
            _POLICY_TAIL.pack(priority, 0, direction, 0, 0, 0),
            attribute(_TEMPLATE, template.encode()),
            attribute(_IF_ID, struct.pack("=I", if_id)),
        )
    )


def delete_policy(direction: int, selector: bytes, if_id: int) -> bytes:
    """Return the body of DEL_POLICY; selector is struct xfrm_selector."""
    return selector + _POLICY_ID.pack(0, direction) + attribute(_IF_ID, struct.pack("=I", if_id))


def _algorithms(suite: CipherSuite, material: bytes) -> list[bytes]:
    name = _AEAD_NAMES.get(suite)
    if name is not None:
        head = struct.pack("=64sII", name, 8 * len(material), _ICV_BITS)
        return [attribute(_ALG_AEAD, head + material)]
    key, mac = material[: suite.key_length], material[suite.key_length :]
    hashed = b"hmac(sha%d)" % (8 * len(mac))
    return [
        attribute(_ALG_CRYPT, struct.pack("=64sI", b"cbc(aes)", 8 * len(key)) + key),
        # Truncated to half of the hash (RFC 4868, 2.1).
        attribute(_ALG_AUTH_TRUNC, struct.pack("=64sII", hashed, 8 * len(mac), 4 * len(mac)) + mac),
    ]


# What the kernel tells


@dataclass(frozen=True, slots=True)
class SaState:
    """What the kernel has counted on an SA; octets are those of raw packets.

    replay is for KernelSa.replay.
    """

    packets: int
    octets: int
    replay: bytes


def sequence_out(replay: bytes) -> int:
    """Return the number of the last packet that was sent, from SaState.replay."""
    if len(replay) < _REPLAY.size:
        return 0
    _, low, _, high, _, _ = _REPLAY.unpack_from(replay)
    return int(high << 32 | low)


def skipped(replay: bytes, numbers: int, esn: bool) -> bytes:
    """Return SaState.replay with some outbound numbers left out, as nobody may use one twice."""
    words, _, seq, _, seq_hi, window = _REPLAY.unpack_from(replay)
    sent = sequence_out(replay) + numbers
    sent = sent if esn else min(sent, LAST_SEQUENCE)
    head = _REPLAY.pack(words, sent & LAST_SEQUENCE, seq, sent >> 32, seq_hi, window)
    return head + replay[_REPLAY.size :]


def read_sa(body: bytes) -> SaState:
    """Return what the answer to GET_SA says."""
    octets, packets, _, _ = _CURRENT.unpack_from(body, _CURRENT_AT)
    return SaState(packets, octets, attributes(body[SA_SIZE:]).get(_REPLAY_ESN, b""))


def sa_identity(body: bytes) -> bytes:
    """Return the body of DEL_SA for an SA that a dump told of."""
    target, spi, protocol = _ID.unpack_from(body, _SELECTOR.size)
    return _SA_ID.pack(target, spi, _family_of_sa(body), protocol)


def _family_of_sa(body: bytes) -> int:
    return int(_SA_TAIL.unpack_from(body, _CURRENT_AT + _CURRENT.size)[5])


def sa_if_id(body: bytes) -> int:
    """Return the interface's id of an SA that a dump told of."""
    return _if_id(body[SA_SIZE:])


def policy_key(body: bytes) -> tuple[int, bytes, int]:
    """Return direction, selector and interface's id of a policy that a dump told of."""
    tail = _POLICY_TAIL.unpack_from(body, _POLICY_SIZE - _POLICY_TAIL.size)
    return tail[2], body[: _SELECTOR.size], _if_id(body[_POLICY_SIZE:])


def _if_id(data: bytes) -> int:
    return int.from_bytes(attributes(data).get(_IF_ID, b""), sys.byteorder)


@dataclass(frozen=True, slots=True)
class SaEvent:
    """News of one SA, known by its target and SPI.

    worn: its soft limit is reached. moved: an authentic packet came from there. With neither it
    has been used since the last such news.
    """

    target: str
    spi: int
    worn: bool = False
    moved: Endpoint | None = None


def read_event(kind: int, body: bytes) -> SaEvent | None:
    """Return what a message to EVENT_GROUPS tells, None where it is nothing for us."""
    if kind == NEW_AE and len(body) >= _SA_ID.size:
        target, spi, family, protocol = _SA_ID.unpack_from(body)
        if (family, protocol) == (AF_INET, _PROTOCOL_ESP):
            return SaEvent(_host(target), int.from_bytes(spi, "big"))
    elif kind == EXPIRE and len(body) > SA_SIZE and _family_of_sa(body) == AF_INET:
        target, spi, protocol = _ID.unpack_from(body, _SELECTOR.size)
        hard = body[SA_SIZE]
        if protocol == _PROTOCOL_ESP and not hard:
            return SaEvent(_host(target), int.from_bytes(spi, "big"), worn=True)
    elif kind == MAPPING and len(body) >= _MAPPING_BODY.size:
        target, spi, family, _, _, _, source, _, port = _MAPPING_BODY.unpack_from(body)
        if family == AF_INET:
            moved = Endpoint(_host(source), int.from_bytes(port, "big"))
            return SaEvent(_host(target), int.from_bytes(spi, "big"), moved=moved)
    return None


def _host(address: bytes) -> str:
    return str(IPv4Address(address[:4]))
