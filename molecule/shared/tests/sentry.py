"""Whether a capture on the wild side of a moat shows anything but what may leave it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_address

import pcap

_IKE_PORT, _IKE_PORT_NAT = 500, 4500
_IKE_HEADER, _IKE_VERSION = 28, 0x20  # RFC 7296, 3.1
_RESERVED_SPIS = 256  # RFC 4303, 2.1
_KEEPALIVE = b"\xff"  # RFC 3948, 2.3
_DHCP_CLIENT, _DHCP_SERVER = 68, 67


@dataclass(frozen=True)
class Inside:
    """What the private side is known by: its MAC addresses, networks, and what its packets say."""

    macs: frozenset[str]
    networks: tuple[IPv4Network | IPv6Network, ...]
    marker: bytes

    def has(self, address: str) -> bool:
        """Whether an IP address is one of the private side's."""
        one = ip_address(address)
        return any(one.version == net.version and one in net for net in self.networks)


def findings(
    frames: Iterable[pcap.Frame],
    moat: str,
    inside: Inside,
    known: frozenset[str],
    also: frozenset[str] = frozenset(),
) -> list[str]:
    """Return what is wrong with a capture, a line for each frame that ought not to be there.

    moat is the MAC address of the moat's wild side; known are those of others who are on that
    network by right. They say there what they like, even the private side's words: these may have
    come to them through the tunnel and the corporate firewall. Whoever is neither is taken for the
    moat. also names descriptions of pcap.describe that pass besides.
    """
    return [
        f"{frame.time:.6f} {frame.source_mac} to {frame.destination_mac}: {why}"
        for frame in frames
        for why in _wrong(frame, moat, inside, known, also)
    ]


def _wrong(
    frame: pcap.Frame, moat: str, inside: Inside, known: frozenset[str], also: frozenset[str]
) -> Iterator[str]:
    for mac in inside.macs & {frame.source_mac, frame.destination_mac}:
        yield f"{mac} is on the private side"
    if frame.source_mac in known:
        return
    if inside.marker in frame.data:
        yield "the private side's words in clear"
    if frame.source_mac != moat:
        yield "from nobody's address"
    description = pcap.describe(frame)
    if description in also:
        return
    if frame.ethertype == pcap.ETHERTYPE_ARP:
        yield from _wrong_arp(frame.packet, inside)
        return
    packet = pcap.parse_packet(frame)
    if packet is None or not _is_envelope(packet):
        yield description
    if packet is not None:
        for address in (packet.source, packet.destination):
            if inside.has(address):
                yield f"{address} is of the private side"


def _wrong_arp(packet: bytes, inside: Inside) -> Iterator[str]:
    for position in (14, 24):  # whose sender and target they are (RFC 826)
        address = str(IPv4Address(packet[position : position + 4].ljust(4, b"\0")))
        if inside.has(address):
            yield f"ARP about {address}, which is of the private side"


def _is_envelope(packet: pcap.Packet) -> bool:
    """Whether packet is one of those that a moat sends: ESP, IKE, ESP in UDP, or DHCP."""
    if packet.version != 4:
        return False
    if packet.protocol == pcap.ESP:
        return _is_spi(packet.payload)
    if packet.protocol != pcap.UDP or packet.fragment:
        return False
    data = packet.payload[8:]
    ports = (packet.source_port, packet.destination_port)
    if ports == (_DHCP_CLIENT, _DHCP_SERVER):
        return True
    if ports == (_IKE_PORT, _IKE_PORT):
        return _is_ike(data)
    if ports == (_IKE_PORT_NAT, _IKE_PORT_NAT):
        is_message = data.startswith(bytes(4)) and _is_ike(data[4:])
        return is_message or data == _KEEPALIVE or _is_spi(data)
    return False


def _is_ike(data: bytes) -> bool:
    """Whether data is an IKEv2 message by its version and length."""
    return (
        len(data) >= _IKE_HEADER
        and data[17] == _IKE_VERSION
        and int.from_bytes(data[24:28], "big") == len(data)
    )


def _is_spi(data: bytes) -> bool:
    """Whether data begins with an SPI and a sequence number."""
    return len(data) >= 8 and int.from_bytes(data[:4], "big") >= _RESERVED_SPIS
