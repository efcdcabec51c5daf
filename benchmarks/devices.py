"""What bursts cost at the real devices, in microseconds, on one core.

    python benchmarks/devices.py [--rounds N]

Needs root. In a network namespace of its own, a burst of 44 envelopes goes out through lo and comes
in again: in UDP with and without the kernel's offloads, as IP protocol 50, and for comparison with
one call of the kernel's for each envelope. Through a TUN device go 64 KB: as one super-packet, and
as 44 packets. Sending through lo includes all of the kernel's work up to the receiving socket. A
figure is the median of the rounds.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import socket
import statistics
import struct
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from moatvpn.counters import Counters
from moatvpn.drivers.raw import RawEspSocket
from moatvpn.drivers.tun import TunDevice
from moatvpn.drivers.udp import UdpPort
from moatvpn.esp.burst import Burst
from moatvpn.wire.endpoint import Endpoint
from moatvpn.wire.offload import GSO_TCPV4, NEEDS_CSUM

ENVELOPES, SIZE = 44, 1464  # what 64 KB of raw packets take on a path of 1500 octets
SEGMENT = 1448
LOOPBACK = "127.0.0.1"
_CLONE_NEWNET = 0x40000000
_SOL_PACKET, _PACKET_VNET_HDR = 263, 15  # of packet(7)

Call = Callable[[], object]


def row(name: str, rounds: int, out: Call, come: Call, between: Call | None = None) -> None:
    """Print what out and come take, one after the other; between does not count."""
    took: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for call, figures in ((out, took[0]), (between, None), (come, took[1])):
            if call is not None:
                began = perf_counter()
                call()
                if figures is not None:
                    figures.append((perf_counter() - began) * 1e6)
    medians = (f"{statistics.median(each):.1f} us" for each in took)
    print("{:<36}{:>12}{:>12}".format(name, *medians), flush=True)


def all_of(receive: Callable[[], Any], octets: int) -> Call:
    """Return what takes envelopes of so many octets in."""

    def take() -> None:
        left = octets
        while left > 0:
            came = receive()
            arrivals = came[0] if isinstance(came, tuple) else came
            left -= sum(len(arrival[0]) for arrival in arrivals)

    return take


def one_by_one(
    sender: socket.socket, receiver: socket.socket, to: tuple[str, int], data: memoryview
) -> tuple[Call, Call]:
    """Return what sends and takes in data with a call of the kernel's for each envelope."""
    envelopes = [bytes(data[at : at + SIZE]) for at in range(0, len(data), SIZE)]

    def out() -> None:
        for envelope in envelopes:
            sender.sendto(envelope, to)

    def come() -> None:
        for _ in envelopes:
            receiver.recvmsg(65535, 256)

    return out, come


def envelopes(rounds: int, counters: Counters) -> None:
    """Measure the sockets."""
    data = memoryview(bytearray(b"\x01" * (ENVELOPES * SIZE)))
    for offloads in (True, False):
        with (
            closing(UdpPort(0, counters, framed=True, offloads=offloads)) as one,
            closing(UdpPort(0, counters, framed=True, offloads=offloads)) as other,
        ):
            burst = Burst(data, SIZE, Endpoint(LOOPBACK, other.port), True, 2, "", whole=True)
            name = "UDP, offloads" if offloads else "UDP, sendmmsg, recvmsg"
            come = all_of(other.receive, len(data))
            row(name, rounds, partial(one.send_burst, burst), come)
            if not offloads:
                plain = one.envelopes.socket, other.envelopes.socket
                row("UDP, one by one", rounds, *one_by_one(*plain, (LOOPBACK, other.port), data))
    with closing(RawEspSocket(counters)) as raw:
        burst = Burst(data, SIZE, Endpoint(LOOPBACK, 0), False, 2, "", whole=True)
        come = all_of(raw.receive, len(data))
        row("protocol 50, sendmmsg, recvmmsg", rounds, partial(raw.send_burst, burst), come)
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, 50) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        row("protocol 50, one by one", rounds, *one_by_one(sock, sock, (LOOPBACK, 0), data))


def tcp_packet(length: int) -> bytes:
    """Return a TCP packet of length octets of payload, without the checksum of TCP's."""
    total = 40 + length
    ip = bytearray(struct.pack("!BBHIBBH", 0x45, 0, total, 0, 64, 6, 0))
    ip += bytes((10, 7, 0, 2, 10, 7, 0, 1))
    ip[10:12] = (-sum(struct.unpack("!10H", ip)) % 0xFFFF).to_bytes(2, "big")
    return bytes(ip) + struct.pack("!HHIIBBHHH", 9, 9, 0, 0, 0x50, 0x10, 999, 0, 0) + bytes(length)


def super_packets(rounds: int, counters: Counters) -> None:
    """Measure the TUN device."""
    length = ENVELOPES * SEGMENT
    large, small = tcp_packet(length), tcp_packet(SEGMENT)
    offload = struct.pack("<BBHHHH", NEEDS_CSUM, GSO_TCPV4, 40, SEGMENT, 20, 16)
    with (
        closing(TunDevice("tun7", counters, offloads=True)) as tun,
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as kernel,
    ):
        up = ("up", "mtu", "1500", "addrgenmode", "none")
        subprocess.run(["ip", "link", "set", "tun7", *up], check=True)
        kernel.bind(("tun7", 0x0800))
        kernel.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)

        def kernel_sends(packet: bytes, number: int) -> None:
            for _ in range(number):
                kernel.send(packet)

        def write(pieces: Sequence[bytes | memoryview], number: int, virtio: bytes) -> None:
            for _ in range(number):
                tun.write(pieces, virtio)

        def read(number: int) -> None:
            while number > 0:
                number -= len(tun.read_batch())

        view = memoryview(large)
        pieces = [view[at : at + SIZE] for at in range(0, len(large), SIZE)]
        for name, packet, cut, number, virtio in (
            ("TUN, super-packet", large, pieces, 1, offload),
            ("TUN, 44 packets", small, (small,), ENVELOPES, b""),
        ):
            row(
                name,
                rounds,
                partial(write, cut, number, virtio),
                partial(read, number),
                partial(kernel_sends, (virtio or bytes(len(offload))) + packet, number),
            )


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description="Measure the devices.")
    parser.add_argument("--rounds", type=int, default=300, help="rounds of which the median counts")
    rounds = parser.parse_args().rounds
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNET):
        raise SystemExit(f"no network namespace ({os.strerror(ctypes.get_errno())}): run as root")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    print("{:<36}{:>12}{:>12}".format("a burst of 64 KB", "out", "in"))
    counters = Counters()
    envelopes(rounds, counters)
    super_packets(rounds, counters)
    if counters.snapshot():
        raise SystemExit(f"dropped: {counters.snapshot()}")


if __name__ == "__main__":
    main()
