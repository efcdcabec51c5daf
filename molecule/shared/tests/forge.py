"""Packets and frames that nobody on the wild side should be able to do harm with."""

from __future__ import annotations

import socket
import struct

import lab
import pcap

SOLICITATION, ADVERTISEMENT = 135, 136  # types of ICMPv6 (RFC 4861)
EVERYBODY = "ff:ff:ff:ff:ff:ff"
_ALL_NODES, _ALL_NODES_MAC = "ff02::1", "33:33:00:00:00:01"
_MORE_FRAGMENTS = 0x2000  # RFC 791, 3.1

# Sends IPv4 packets just as they are, each a line of hexadecimal digits on standard input.
_SENDER = """
import socket, sys, time
s = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
for line in sys.stdin:
    packet = bytes.fromhex(line)
    s.sendto(packet, (socket.inet_ntoa(packet[16:20]), 0))
    time.sleep(0.002)  # what is sent faster may be lost before anybody has to refuse it
"""
# The same for whole Ethernet frames, at the interface argv[1].
_FRAME_SENDER = """
import socket, sys, time
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.bind((sys.argv[1], 0))
for line in sys.stdin:
    s.send(bytes.fromhex(line))
    time.sleep(float(sys.argv[2]))
"""


def checksum(data: bytes) -> int:
    """Return the Internet checksum of data (RFC 1071)."""
    total = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ipv4(
    protocol: int,
    source: str,
    destination: str,
    payload: bytes,
    *,
    options: bytes = b"",
    part: tuple[int, int, bool] = (0, 0, False),
) -> bytes:
    """Return an IPv4 packet.

    options are whole words of the header. part is what makes it a fragment: the number that all
    fragments of a packet have, the first octet's place (of eight), and whether more follow.
    """
    number, place, more = part
    words, length = 5 + len(options) // 4, 20 + len(options) + len(payload)
    flags = place // 8 | (_MORE_FRAGMENTS if more else 0)
    start = struct.pack("!BBHHHBB", 0x40 | words, 0, length, number, flags, 64, protocol)
    ends = socket.inet_aton(source) + socket.inet_aton(destination) + options
    return start + struct.pack("!H", checksum(start + b"\0\0" + ends)) + ends + payload


def udp(source: str, destination: str, ports: tuple[int, int], payload: bytes) -> bytes:
    """Return a UDP datagram in an IPv4 packet, without a UDP checksum."""
    return ipv4(pcap.UDP, source, destination, udp_datagram(ports, payload))


def udp_datagram(ports: tuple[int, int], payload: bytes) -> bytes:
    """Return a UDP datagram without a checksum."""
    return struct.pack("!HHHH", *ports, 8 + len(payload), 0) + payload


def icmp(source: str, destination: str, kind: int, code: int, rest: bytes) -> bytes:
    """Return an ICMP message in an IPv4 packet; rest is what follows the checksum."""
    message = bytes((kind, code)) + b"\0\0" + rest
    message = message[:2] + struct.pack("!H", checksum(message)) + rest
    return ipv4(pcap.ICMP, source, destination, message)


def tcp_syn(source: str, destination: str, ports: tuple[int, int], payload: bytes) -> bytes:
    """Return the first segment of a TCP connection, with data, in an IPv4 packet."""
    ends = socket.inet_aton(source) + socket.inet_aton(destination)
    start = struct.pack("!HHIIBBH", *ports, 1, 0, 5 << 4, 2, 1024)
    pseudo = ends + struct.pack("!HH", pcap.TCP, len(start) + 4 + len(payload))
    segment = start + struct.pack("!HH", checksum(pseudo + start + bytes(4) + payload), 0)
    return ipv4(pcap.TCP, source, destination, segment + payload)


def esp(source: str, destination: str, payload: bytes) -> bytes:
    """Return an envelope, or what would like to be one."""
    return ipv4(pcap.ESP, source, destination, payload)


def _mac(address: str) -> bytes:
    return bytes.fromhex(address.replace(":", ""))


def ethernet(source: str, destination: str, ethertype: int, packet: bytes) -> bytes:
    """Return an Ethernet frame from and to MAC addresses."""
    return _mac(destination) + _mac(source) + struct.pack("!H", ethertype) + packet


def arp(
    operation: int, sender: tuple[str, str], target: tuple[str, str], destination: str
) -> bytes:
    """Return a frame of ARP (RFC 826): sender and target are a MAC and an IPv4 address each."""
    packet = struct.pack("!HHBBH", 1, pcap.ETHERTYPE_IPV4, 6, 4, operation)
    for mac, address in (sender, target):
        packet += _mac(mac) + socket.inet_aton(address)
    return ethernet(sender[0], destination, pcap.ETHERTYPE_ARP, packet)


def ipv6(protocol: int, source: str, destination: str, payload: bytes) -> bytes:
    """Return an IPv6 packet."""
    ends = b"".join(socket.inet_pton(socket.AF_INET6, a) for a in (source, destination))
    return struct.pack("!IHBB", 6 << 28, len(payload), protocol, 255) + ends + payload


def icmpv6(source_mac: str, source: str, destination: str, kind: int, rest: bytes) -> bytes:
    """Return a frame to all nodes with an ICMPv6 message that a neighbour might send."""
    message = bytes((kind, 0, 0, 0)) + rest
    empty = ipv6(pcap.ICMPV6, source, destination, b"")
    pseudo = empty[8:] + struct.pack("!II", len(message), pcap.ICMPV6)
    message = message[:2] + struct.pack("!H", checksum(pseudo + message)) + rest
    packet = ipv6(pcap.ICMPV6, source, destination, message)
    return ethernet(source_mac, _ALL_NODES_MAC, pcap.ETHERTYPE_IPV6, packet)


def router_advertisement(mac: str) -> bytes:
    """Return a router advertisement (RFC 4861, 4.2) with itself as router, prefix and resolver."""
    prefix = socket.inet_pton(socket.AF_INET6, "2001:db8:66::")
    life = struct.pack("!I", 1800)
    rest = struct.pack("!BBHII", 64, 0, 1800, 0, 0)
    rest += b"\x01\x01" + _mac(mac)  # its link-layer address
    rest += bytes((3, 4, 64, 0xC0)) + life * 2 + bytes(4) + prefix  # on-link, for addresses
    rest += bytes((25, 3, 0, 0)) + life + prefix[:15] + b"\x53"  # RFC 8106, 5.1
    return icmpv6(mac, "fe80::66", _ALL_NODES, 134, rest)


def neighbour_message(mac: str, kind: int, address: str) -> bytes:
    """Return a neighbour solicitation or advertisement (RFC 4861, 4.3, 4.4) about an address."""
    flags = 0xE0000000 if kind == ADVERTISEMENT else 0  # a router's, solicited, and to be believed
    option = bytes((2 if kind == ADVERTISEMENT else 1, 1)) + _mac(mac)
    rest = struct.pack("!I", flags) + socket.inet_pton(socket.AF_INET6, address) + option
    return icmpv6(mac, "fe80::66", _ALL_NODES, kind, rest)


def dhcp_request(sender: str, client: bytes, address: str) -> bytes:
    """Return a broadcast frame from the MAC address sender in which a client wants an address
    again that it claims to have had (RFC 2131, 4.3.2); client is its MAC address, six octets."""
    message = struct.pack("!BBBB4sHH16x", 1, 1, 6, 0, client[:4], 0, 0x8000)
    message += client.ljust(16, b"\0") + bytes(192) + b"\x63\x82\x53\x63"
    message += b"\x35\x01\x03" + b"\x32\x04" + socket.inet_aton(address) + b"\xff"
    packet = udp("0.0.0.0", "255.255.255.255", (68, 67), message)
    return ethernet(sender, EVERYBODY, pcap.ETHERTYPE_IPV4, packet)


def send(packets: list[bytes]) -> None:
    """Let the attacker send packets, from whatever source address they claim."""
    lines = "".join(packet.hex() + "\n" for packet in packets)
    lab.send_python("attacker", _SENDER, data=lines.encode())


def send_frames(frames: list[bytes], pause: float = 0.002) -> None:
    """Let the attacker send Ethernet frames, with so many seconds between two."""
    lines = "".join(frame.hex() + "\n" for frame in frames)
    lab.send_python("attacker", _FRAME_SENDER, "access0", str(pause), data=lines.encode())
