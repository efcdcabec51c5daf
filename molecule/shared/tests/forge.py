"""Packets that nobody on the wild side should be able to do harm with."""

from __future__ import annotations

import socket
import struct

import lab
import pcap

# Sends IPv4 packets just as they are, each a line of hexadecimal digits on standard input.
_SENDER = """
import socket, sys, time
s = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
for line in sys.stdin:
    packet = bytes.fromhex(line)
    s.sendto(packet, (socket.inet_ntoa(packet[16:20]), 0))
    time.sleep(0.002)  # what is sent faster may be lost before anybody has to refuse it
"""


def ipv4(protocol: int, source: str, destination: str, payload: bytes) -> bytes:
    """Return an IPv4 packet; the kernel that sends it puts the checksum in."""
    length = 20 + len(payload)
    header = struct.pack("!BBHHHBBH", 0x45, 0, length, 0, 0, 64, protocol, 0)
    return header + socket.inet_aton(source) + socket.inet_aton(destination) + payload


def udp(source: str, destination: str, ports: tuple[int, int], payload: bytes) -> bytes:
    """Return a UDP datagram in an IPv4 packet, without a UDP checksum."""
    header = struct.pack("!HHHH", *ports, 8 + len(payload), 0)
    return ipv4(pcap.UDP, source, destination, header + payload)


def esp(source: str, destination: str, payload: bytes) -> bytes:
    """Return an envelope, or what would like to be one."""
    return ipv4(pcap.ESP, source, destination, payload)


def send(packets: list[bytes]) -> None:
    """Let the attacker send packets, from whatever source address they claim."""
    lines = "".join(packet.hex() + "\n" for packet in packets)
    lab.send_python("attacker", _SENDER, data=lines.encode())
