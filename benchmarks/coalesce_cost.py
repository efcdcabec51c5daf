"""What it gives to join raw packets before they are written to the TUN. Needs root.

    python benchmarks/coalesce_cost.py [--rounds N]

In two network namespaces of its own: packets of one flow are written to a TUN device in bursts,
forwarded over veth, and taken by a real socket in the other one, once each for itself and once
joined. The table shows microseconds a packet: all in, as the kernel forwards and delivers within
the write. A figure is the median of the rounds, which alternate.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import fcntl
import os
import socket
import statistics
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "support"))

from offload_packets import ACK, SYN, UDP, Shape, octets, whole

from moatvpn.esp.coalesce import coalesce

CLONE_NEWNET = 0x40000000
TUNSETIFF, TUNSETOFFLOAD, TUN_UDP_OFFLOADS = 0x400454CA, 0x400454D0, 0x61
IFF_TUN_NO_PI_VNET_HDR = 0x5001
WHOLE = bytes(10)
WINDOW_SCALE = bytes.fromhex("01 03 03 07 02 04 05 b4")
SO_RCVBUFFORCE = 33
MSS = 1460
BURSTS = (2, 4, 8, 16, 44)
SIZES = (22, 64, 512, 1400)  # octets of a datagram's payload

Bursts = Callable[[int], list[memoryview]]


def ip(*words: str) -> None:
    """Run ip with these words."""
    subprocess.run(["ip", *words], check=True)


class Lab:
    """A TUN device here, and a receiver beyond a veth."""

    def __init__(self, far: str) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(CLONE_NEWNET):
            raise SystemExit("run this as root")
        self.tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(self.tun, TUNSETIFF, struct.pack("16sH22x", b"tun7", IFF_TUN_NO_PI_VNET_HDR))
        try:
            fcntl.ioctl(self.tun, TUNSETOFFLOAD, TUN_UDP_OFFLOADS)
            self.udp = True
        except OSError:
            self.udp = False
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
        ip("link", "set", "tun7", "up")
        ip("route", "add", "10.201.1.0/24", "dev", "tun7")
        ip("link", "add", "veth7", "type", "veth", "peer", "name", "veth8", "netns", far)
        ip("link", "set", "veth7", "up")
        ip("address", "add", "10.50.0.1/24", "dev", "veth7")
        for words in ("link set veth8 up", "address add 10.50.0.10/24 dev veth8",
                      "route add default via 10.50.0.1"):  # fmt: skip
            ip("-n", far, *words.split())
        here, there = (os.open(path, os.O_RDONLY) for path in
                       ("/proc/thread-self/ns/net", f"/var/run/netns/{far}"))  # fmt: skip
        libc.setns(there, CLONE_NEWNET)
        self.listener = socket.create_server(("10.50.0.10", 443))
        self.datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.datagrams.bind(("10.50.0.10", 443))
        libc.setns(here, CLONE_NEWNET)
        for sock in (self.listener, self.datagrams):
            sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 16 << 20)
        self.write([([whole(Shape(protocol=UDP), b"")], b"")])  # settles who has which address
        self.datagrams.recv(1)
        self.datagrams.setblocking(False)

    def write(self, writings: list[tuple[list[memoryview], bytes]]) -> None:
        """Write what coalesce returns."""
        for pieces, offload in writings:
            os.writev(self.tun, [offload or WHOLE, *pieces])

    def empty(self) -> list[bytes]:
        """Return what waits in the TUN: what the receiver answers."""
        packets = []
        with contextlib.suppress(BlockingIOError):
            while True:
                packets.append(os.read(self.tun, 1 << 17)[10:])
        return packets

    def connect(self) -> tuple[socket.socket, Shape]:
        """Set up a TCP connection by hand; return its far end, and the shape of what follows."""
        shape = Shape(flags=SYN, sequence=999, acknowledged=0, tcp_options=WINDOW_SCALE)
        self.write([([whole(shape, b"")], b"")])
        answer = next(packet for packet in self.empty() if packet[33] == SYN | ACK)
        acknowledged = int.from_bytes(answer[24:28], "big") + 1
        shape = Shape(sequence=1000, acknowledged=acknowledged)
        self.write([([whole(shape, b"")], b"")])
        connection, _ = self.listener.accept()
        connection.setblocking(False)
        return connection, shape


def taken(sock: socket.socket) -> int:
    """Return how many octets wait in a socket."""
    total = 0
    with contextlib.suppress(BlockingIOError):
        while data := sock.recv(1 << 20):
            total += len(data)
    return total


def costs(lab: Lab, sock: socket.socket, bursts: Bursts, rounds: int) -> list[float]:
    """Return the microseconds a packet of single writes, of joined ones, and of joining alone."""
    rows = []
    for number in range(rounds):
        packets = bursts(2 * number)
        began = perf_counter()
        lab.write([([packet], b"") for packet in packets])
        single = perf_counter() - began
        came = taken(sock)
        lab.empty()
        packets = bursts(2 * number + 1)
        began = perf_counter()
        writings = coalesce(packets, udp=lab.udp, fewest=2)
        ready = perf_counter()
        lab.write(writings)
        joined = perf_counter() - began
        if not came or came != taken(sock):
            raise SystemExit("packets were lost")
        lab.empty()
        rows.append([1e6 * cost / len(packets) for cost in (single, joined, ready - began)])
    return [statistics.median(column) for column in zip(*rows, strict=True)]


def tcp(shape: Shape, number: int, begun: int) -> Bursts:
    """Return a maker of bursts of so many segments, which go on after begun of them.

    They stand in a ring that is used again and again, as decrypted packets do.
    """
    first = whole(shape._replace(identification=0), octets(MSS))
    ring = bytearray(first * number)
    views = [memoryview(ring)[at : at + len(first)] for at in range(0, len(ring), len(first))]
    ip_sum, tcp_sum = (int.from_bytes(first[at : at + 2], "big") for at in (10, 36))

    def burst(index: int) -> list[memoryview]:
        for at, view in enumerate(views, begun + index * number):
            view[:] = first
            struct.pack_into("!H", view, 4, at & 0xFFFF)
            struct.pack_into("!H", view, 10, (ip_sum - (at & 0xFFFF)) % 0xFFFF)
            sequence = (shape.sequence + at * MSS) % 2**32
            struct.pack_into("!I", view, 24, sequence)
            struct.pack_into("!H", view, 36, (tcp_sum + shape.sequence - sequence) % 0xFFFF)
        return views

    return burst


def udp(size: int, number: int = 40) -> Bursts:
    """Return a maker of bursts of datagrams."""
    burst = [
        memoryview(bytearray(whole(Shape(protocol=UDP, identification=at), octets(size))))
        for at in range(number)
    ]
    return lambda _: burst


def measured(lab: Lab, rounds: int) -> Iterator[tuple[str, list[float]]]:
    """Yield a name and the costs for each row of the table."""
    connection, shape = lab.connect()
    begun = 0
    for number in BURSTS:
        name = f"TCP, {number} of {MSS} octets"
        yield name, costs(lab, connection, tcp(shape, number, begun), rounds)
        begun += 2 * rounds * number
    for size in SIZES:
        yield f"UDP, 40 of {size} octets", costs(lab, lab.datagrams, udp(size), rounds)


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description="Measure the joining of packets.")
    parser.add_argument("--rounds", type=int, default=200, help="rounds of which the median counts")
    rounds = parser.parse_args().rounds
    far = f"coalesce{os.getpid()}"
    ip("netns", "add", far)
    try:
        lab = Lab(far)
        if not lab.udp:
            print("this kernel does not take super-packets of UDP")
        print(f"{'burst':<26}{'single':>10}{'joined':>10}{'(joining)':>11}{'ratio':>7}")
        for name, (single, joined, joining) in measured(lab, rounds):
            figures = f"{single:>7.2f} us{joined:>7.2f} us{joining:>8.2f} us"
            print(f"{name:<26}{figures}{single / joined:>7.2f}", flush=True)
    finally:
        ip("netns", "delete", far)


if __name__ == "__main__":
    main()
