"""The watch on the wild side finds what is in clear: the lab's scenario of the lockdown rests on
it."""

from __future__ import annotations

import socket
import struct
from ipaddress import ip_network

import pcap
import pytest
import sentry
from frames import LAB, OTHER, file_of, frame, ipv4, ipv6, udp

MARKER = b"what the pc says"
INSIDE_MAC = bytes.fromhex("020000000110")
INSIDE = sentry.Inside(
    frozenset({INSIDE_MAC.hex(":")}),
    (ip_network("10.201.0.0/16"), ip_network("fd00::/8")),
    MARKER,
)
MOAT, PORTAL, PC = "192.0.2.10", "198.51.100.2", "10.201.1.10"
IKE = bytes(17) + b"\x20\x22\x08" + bytes(4) + (40).to_bytes(4, "big") + bytes(12)
ESP = b"\xc0\x01\x02\x03" + bytes(40)


def ip4(protocol: int, payload: bytes, source: str = MOAT, destination: str = PORTAL) -> pcap.Frame:
    return frame(pcap.ETHERTYPE_IPV4, ipv4(protocol, payload, source, destination))


def arp(sender: str, target: str) -> pcap.Frame:
    packet = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1)
    packet += LAB + socket.inet_aton(sender) + bytes(6) + socket.inet_aton(target)
    return frame(pcap.ETHERTYPE_ARP, packet)


def found(*frames: pcap.Frame, also: frozenset[str] = frozenset()) -> list[str]:
    """Return what is found in a capture file of those frames."""
    read = pcap.read_pcap(file_of(*frames))
    known = frozenset({OTHER.hex(":")})
    return sentry.findings(read, LAB.hex(":"), INSIDE, known, also)


RIGHT = {
    "ESP": ip4(50, ESP),
    "IKE": ip4(17, udp(500, 500, IKE)),
    "IKE behind NAT": ip4(17, udp(4500, 4500, bytes(4) + IKE)),
    "ESP in UDP": ip4(17, udp(4500, 4500, ESP)),
    "a keepalive": ip4(17, udp(4500, 4500, b"\xff")),
    "DHCP": ip4(17, udp(68, 67, bytes(240)), "0.0.0.0", "255.255.255.255"),
    "ARP for the gateway": arp(MOAT, "192.0.2.1"),
}
WRONG = {
    "a ping": ip4(1, b"\x08\x00" + bytes(6)),
    "TCP": ip4(6, bytes(20)),
    "DNS": ip4(17, udp(50000, 53, bytes(30))),
    "a packet of the pc": ip4(17, udp(7002, 7002, MARKER), PC, "203.0.113.80"),
    "an envelope from the pc's address": ip4(50, ESP, PC),
    "an envelope to an inner address": ip4(50, ESP, MOAT, "10.201.0.1"),
    "ESP without an SPI": ip4(50, bytes(40)),
    "the pc's words as ESP": ip4(50, ESP + MARKER),
    "the pc's words on IKE's port": ip4(17, udp(500, 500, MARKER * 2)),
    "anything on IKE's port": ip4(17, udp(500, 500, bytes(40))),
    "IKE of another length": ip4(17, udp(500, 500, IKE + bytes(1))),
    "IKE from another port": ip4(17, udp(50000, 500, IKE)),
    "a datagram on the other port": ip4(17, udp(4500, 4500, bytes(40))),
    "a fragment": frame(0x0800, ipv4(17, udp(500, 500, IKE), MOAT, PORTAL, fragment=0x2000)),
    "a DHCP server's answer": ip4(17, udp(67, 68, bytes(240))),
    "ARP about an inside address": arp(MOAT, PC),
    "ARP from an inside address": arp("10.201.1.1", "192.0.2.1"),
    "IPv6": frame(0x86DD, ipv6(17, udp(547, 547), "fd00:201:1::10", "ff05::2")),
    "ESP in IPv6": frame(0x86DD, ipv6(50, ESP, "2001:db8::1", "2001:db8::2")),
    "housekeeping of IPv6": frame(0x86DD, ipv6(58, bytes(8), "fe80::1", "ff02::2")),
    "no IP at all": frame(0x88B5, bytes(40)),
    "cut short": frame(0x0800, b"\x45"),
}


def test_what_may_leave_is_let_be() -> None:
    assert found(*RIGHT.values()) == []


@pytest.mark.parametrize("words", WRONG)
def test_a_frame_in_clear_is_found_among_others(words: str) -> None:
    assert found(*RIGHT.values()) == []
    assert found(*RIGHT.values(), WRONG[words], *RIGHT.values())


@pytest.mark.parametrize("ends", [(INSIDE_MAC, OTHER), (LAB, INSIDE_MAC), (b"\x02abcde", OTHER)])
def test_an_envelope_of_a_strange_machine_is_found(ends: tuple[bytes, bytes]) -> None:
    assert found(frame(0x0800, ipv4(50, ESP, MOAT, PORTAL), *ends))


def test_what_others_say_is_their_own_affair() -> None:
    assert found(frame(0x0800, ipv4(1, MARKER, PORTAL, MOAT), OTHER, LAB)) == []


def test_what_passes_besides_is_named() -> None:
    housekeeping = WRONG["housekeeping of IPv6"]
    assert found(housekeeping, also=frozenset({"IPv6 link-local"})) == []
    assert found(housekeeping, WRONG["IPv6"], also=frozenset({"IPv6 link-local"}))
