"""Ethernet frames and capture files, for the tests of what reads them."""

from __future__ import annotations

import socket
import struct

import pcap

LAB, OTHER = bytes.fromhex("020000000210"), bytes.fromhex("020000000201")


def ipv4(protocol: int, payload: bytes, source: str, destination: str, fragment: int = 0) -> bytes:
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 1, fragment, 64, protocol, 0)
    return header + socket.inet_aton(source) + socket.inet_aton(destination) + payload


def ipv6(protocol: int, payload: bytes, source: str, destination: str) -> bytes:
    header = struct.pack("!IHBB", 6 << 28, len(payload), protocol, 255)
    addresses = (socket.inet_pton(socket.AF_INET6, a) for a in (source, destination))
    return header + b"".join(addresses) + payload


def udp(source: int, destination: int, data: bytes = b"") -> bytes:
    return struct.pack("!HHHH", source, destination, 8 + len(data), 0) + data


def frame(
    ethertype: int, packet: bytes, source: bytes = LAB, destination: bytes = OTHER
) -> pcap.Frame:
    return pcap.Frame(0.0, destination + source + ethertype.to_bytes(2, "big") + packet)


def file_of(*frames: pcap.Frame, order: str = "<") -> bytes:
    data = struct.pack(order + "IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)
    for one in frames:
        length = len(one.data)
        data += struct.pack(order + "IIII", 7, 500_000, length, length) + one.data
    return data
