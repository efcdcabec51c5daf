"""Read what tcpdump wrote: enough of pcap, Ethernet, IP and UDP to say what a frame is.

Nothing here trusts a length that the capture claims beyond the bytes that are there.
"""

from __future__ import annotations

import ipaddress
import struct
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

_MAGIC_MICROSECONDS = 0xA1B2C3D4
_MAGIC_NANOSECONDS = 0xA1B23C4D
_LINKTYPE_ETHERNET = 1

ETHERTYPE_IPV4 = 0x0800
ETHERTYPE_ARP = 0x0806
ETHERTYPE_IPV6 = 0x86DD

ICMP, TCP, UDP, ESP, ICMPV6 = 1, 6, 17, 50, 58
_IKE_PORTS = {500, 4500}
_DHCP_PORTS = {67, 68}

_MORE, _OFFSET = 0x2000, 0x1FFF  # in an IPv4 header's word of fragments (RFC 791, 3.1)
_FRAGMENT_HEADER = 44  # of IPv6
_FRAGMENTATION_NEEDED, _PACKET_TOO_BIG = b"\x03\x04", b"\x02"  # ICMP's type and code, ICMPv6's type


@dataclass(frozen=True, slots=True)
class Frame:
    """One captured Ethernet frame: seconds since the epoch, and its octets."""

    time: float
    data: bytes

    @property
    def destination_mac(self) -> str:
        return self.data[0:6].hex(":")

    @property
    def source_mac(self) -> str:
        return self.data[6:12].hex(":")

    @property
    def ethertype(self) -> int:
        return int.from_bytes(self.data[12:14], "big")

    @property
    def packet(self) -> bytes:
        """What the frame carries."""
        return self.data[14:]


@dataclass(frozen=True, slots=True)
class Packet:
    """The IP header of a frame. The ports are None but for TCP and UDP, and in later fragments;
    payload is what follows the IP header, without the frame's padding; fragment is whether this is
    a part of a packet only."""

    version: int
    source: str
    destination: str
    protocol: int
    source_port: int | None
    destination_port: int | None
    payload: bytes
    fragment: bool = False

    @property
    def ports(self) -> set[int]:
        return {port for port in (self.source_port, self.destination_port) if port is not None}

    def says_too_big(self) -> bool:
        """Whether this tells a sender that its packets have to be smaller, or cut."""
        if self.protocol == ICMP:
            return self.payload[:2] == _FRAGMENTATION_NEEDED
        return self.protocol == ICMPV6 and self.payload[:1] == _PACKET_TOO_BIG

    def is_link_local(self) -> bool:
        """Whether this is IPv6 housekeeping that no router passes on."""
        source, destination = map(ipaddress.ip_address, (self.source, self.destination))
        return (
            self.version == 6
            and (source.is_link_local or source.is_unspecified)
            and (destination.is_link_local or destination.is_multicast)
        )


def read_pcap(data: bytes) -> Iterator[Frame]:
    """Yield the frames of a capture file; a last record that is cut short ends it."""
    if len(data) < 24:
        raise ValueError("no pcap file: shorter than its header")
    order = "<" if data[0] in (_MAGIC_MICROSECONDS & 0xFF, _MAGIC_NANOSECONDS & 0xFF) else ">"
    magic, linktype = struct.unpack(order + "I16xI", data[:24])
    if magic not in (_MAGIC_MICROSECONDS, _MAGIC_NANOSECONDS) or linktype != _LINKTYPE_ETHERNET:
        raise ValueError(f"no pcap file of Ethernet frames: {magic:#x}, {linktype}")
    fraction = 1e-6 if magic == _MAGIC_MICROSECONDS else 1e-9
    record = struct.Struct(order + "IIII")
    position = 24
    while position + record.size <= len(data):
        seconds, parts, captured, _ = record.unpack_from(data, position)
        position += record.size
        if position + captured > len(data):
            return
        yield Frame(seconds + parts * fraction, data[position : position + captured])
        position += captured


def parse_packet(frame: Frame) -> Packet | None:
    """Return the IP packet in frame, or None where there is none."""
    data = frame.packet
    if frame.ethertype == ETHERTYPE_IPV4 and len(data) >= 20:
        header = (data[0] & 0x0F) * 4
        total, cut = (int.from_bytes(data[i : i + 2], "big") for i in (2, 6))
        addresses = [str(ipaddress.IPv4Address(data[i : i + 4])) for i in (12, 16)]
        payload, first, part = data[header:total], not cut & _OFFSET, bool(cut & (_MORE | _OFFSET))
        return _with_ports(4, addresses, data[9], payload, first=first, fragment=part)
    if frame.ethertype == ETHERTYPE_IPV6 and len(data) >= 40:
        total = 40 + int.from_bytes(data[4:6], "big")
        addresses = [str(ipaddress.IPv6Address(data[i : i + 16])) for i in (8, 24)]
        protocol, payload = data[6], data[40:total]
        if protocol == 0 and len(payload) >= 8:  # hop-by-hop options, as MLD has them
            protocol, payload = payload[0], payload[8 + payload[1] * 8 :]
        part = protocol == _FRAGMENT_HEADER
        return _with_ports(6, addresses, protocol, payload, first=True, fragment=part)
    return None


def _with_ports(
    version: int,
    addresses: list[str],
    protocol: int,
    payload: bytes,
    *,
    first: bool,
    fragment: bool,
) -> Packet:
    ports: tuple[int | None, int | None] = (None, None)
    if first and protocol in (TCP, UDP) and len(payload) >= 4:
        ports = struct.unpack("!HH", payload[:4])
    return Packet(version, *addresses, protocol, *ports, payload, fragment)


def describe(frame: Frame) -> str:
    """Return what frame is: one of "ARP", "ESP", "IKE", "DHCP", "IPv6 link-local", or, for all
    else, the words that a failing test should show."""
    if frame.ethertype == ETHERTYPE_ARP:
        return "ARP"
    packet = parse_packet(frame)
    if packet is None:
        return f"ethertype {frame.ethertype:#06x}"
    if packet.protocol == ESP:
        return "ESP"
    if packet.protocol == UDP and packet.ports & _IKE_PORTS:
        return "IKE"
    if packet.protocol == UDP and packet.ports <= _DHCP_PORTS and packet.ports:
        return "DHCP"
    if packet.protocol == ICMPV6 and packet.is_link_local():
        return "IPv6 link-local"
    return f"protocol {packet.protocol} from {packet.source} to {packet.destination}"


def summarise(frames: Iterable[Frame]) -> Counter[str]:
    """Return how many frames there are of each description."""
    return Counter(describe(frame) for frame in frames)
