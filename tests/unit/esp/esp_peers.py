"""A moat and a portal that share a CHILD_SA, raw packets, and a forger who knows the key."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import ip_address

from single import Envelope, RawPacket, SingleProcessor

from moatvpn.counters import Counters
from moatvpn.crypto.aead import new_aead
from moatvpn.esp.child import ChildSa
from moatvpn.wire.algorithms import CipherSuite
from moatvpn.wire.endpoint import Endpoint
from moatvpn.wire.esp import HEADER_LENGTH, extended_associated_data, start
from moatvpn.wire.selectors import TrafficSelector

MOAT, PORTAL = Endpoint("192.0.2.10", 4500), Endpoint("198.51.100.2", 4500)
PROTOCOL_50 = Endpoint(MOAT.host, 0)  # where a packet of the moat's comes from without UDP

HOME = tuple(map(TrafficSelector.from_network, ("10.201.1.0/24", "fd00:201:1::/64")))
ALL = tuple(map(TrafficSelector.from_network, ("0.0.0.0/0", "::/0")))
PC, CORP, STRANGER = "10.201.1.10", "10.50.0.10", "10.201.2.10"
PC6, CORP6 = "fd00:201:1::10", "fd00:50::10"

UDP, TCP = 17, 6


def checksum(header: bytes) -> int:
    """Return the Internet checksum of header, the slow and plain way (RFC 1071)."""
    total = sum(int.from_bytes(header[at : at + 2], "big") for at in range(0, len(header), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ipv4(
    payload: bytes = b"", source: str = PC, target: str = CORP, tos: int = 0, protocol: int = UDP
) -> bytes:
    """Return an IPv4 packet with a right checksum."""
    head = bytes((0x45, tos)) + (20 + len(payload)).to_bytes(2, "big") + bytes(4)
    head += bytes((63, protocol, 0, 0)) + ip_address(source).packed + ip_address(target).packed
    return head[:10] + checksum(head).to_bytes(2, "big") + head[12:] + payload


def ipv6(
    payload: bytes = b"", source: str = PC6, target: str = CORP6, tos: int = 0, protocol: int = UDP
) -> bytes:
    """Return an IPv6 packet with a flow label, so that a slip into it would show."""
    head = (6 << 28 | tos << 20 | 0xABCDE).to_bytes(4, "big") + len(payload).to_bytes(2, "big")
    head += bytes((protocol, 63)) + ip_address(source).packed + ip_address(target).packed
    return head + payload


def material(seed: int, suite: CipherSuite) -> bytes:
    """Return keying material of the suite's length."""
    return bytes((seed + index) % 256 for index in range(suite.material_length))


@dataclass
class Peer:
    """One processor with its counters, and the name of its one connection."""

    name: str
    other: Endpoint
    counters: Counters = field(default_factory=Counters)

    def __post_init__(self) -> None:
        self.esp = SingleProcessor(self.counters)

    @property
    def drops(self) -> dict[str, int]:
        return self.counters.snapshot()

    def send(self, packet: bytes) -> Envelope:
        """Return the envelope of a packet that must not be dropped."""
        envelope = self.esp.envelope(packet)
        assert envelope is not None, self.drops
        return envelope

    def receive(
        self, data: bytes, source: Endpoint | None = None, tos: int = 0
    ) -> RawPacket | None:
        return self.esp.raw_packet(data, source or self.other, tos)


@dataclass(frozen=True)
class Ends:
    """One CHILD_SA as both ends see it. number tells its SPIs and keys from another's."""

    number: int = 1
    suite: CipherSuite = CipherSuite.AES_256_GCM
    esn: bool = True
    udp: bool = True
    home: tuple[TrafficSelector, ...] = HOME
    corporate: tuple[TrafficSelector, ...] = ALL

    @property
    def moat(self) -> ChildSa:
        """Return the moat's view; its inbound SPI is 0x1000 and number."""
        keys = material(self.number, self.suite), material(self.number + 128, self.suite)
        spis = 0x1000 + self.number, 0x2000 + self.number
        return ChildSa("portal1", *spis, self.suite, self.esn, *keys, self.home, self.corporate,
                       self.udp)  # fmt: skip

    @property
    def portal(self) -> ChildSa:
        """Return the portal's view; its inbound SPI is 0x2000 and number."""
        keys = material(self.number + 128, self.suite), material(self.number, self.suite)
        spis = 0x2000 + self.number, 0x1000 + self.number
        return ChildSa("c0001", *spis, self.suite, self.esn, *keys, self.corporate, self.home,
                       self.udp)  # fmt: skip


def pair(ends: Ends | None = None) -> tuple[Peer, Peer]:
    """Return moat and portal, with a CHILD_SA in use."""
    ends = ends or Ends()
    moat, portal = Peer("portal1", PORTAL), Peer("c0001", MOAT)
    moat.esp.install(ends.moat, PORTAL, activate_outbound=True)
    portal.esp.install(ends.portal, MOAT, activate_outbound=True)
    return moat, portal


def forge(child: ChildSa, sequence: int, plaintext: bytes) -> bytes:
    """Return an authentic ESP packet to child's owner whose plaintext is whatever we like."""
    aead, salt = new_aead(child.suite, child.key_in)
    begin = start(child.spi_in, sequence)
    associated = extended_associated_data(child.spi_in, sequence)
    associated = associated if child.esn else begin[:HEADER_LENGTH]
    return begin + aead.encrypt(salt + begin[HEADER_LENGTH:], plaintext, associated)


def padded(payload: bytes, next_header: int) -> bytes:
    """Return a plaintext of payload with padding of our own making."""
    pad = -(len(payload) + 2) % 4
    return payload + bytes(range(1, pad + 1)) + bytes((pad, next_header))
