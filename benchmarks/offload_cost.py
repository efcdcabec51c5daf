"""What super-packets cost in Python, in microseconds, on one core.

    python benchmarks/offload_cost.py [--rounds N]

A super-packet of 45 segments of TCP is cut in place of the kernel, as for a peer that takes plain
packets only; its virtio header is checked, as one that comes from a peer is; and the checksum of a
packet of 1500 octets is filled in. A figure is the median of the rounds.
"""

from __future__ import annotations

import argparse
import statistics
import struct
import sys
from collections.abc import Callable
from ipaddress import IPv4Address
from pathlib import Path
from time import perf_counter

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from moatvpn.wire.offload import GSO_NONE, GSO_TCPV4, NEEDS_CSUM, check, segments

SEGMENT, SEGMENTS = 1448, 45
HEADERS = 52  # IPv4, and TCP with timestamps
CALLS = 200
ADDRESSES = IPv4Address("10.50.0.10").packed + IPv4Address("10.128.0.10").packed


def tcp_packet(payload: int) -> memoryview:
    """Return a TCP packet with so many octets of payload and without its checksum."""
    header = bytes((0x45, 0)) + (HEADERS + payload).to_bytes(2, "big")
    header += bytes((0, 1, 0x40, 0, 63, 6, 0, 0)) + ADDRESSES
    header += struct.pack("!HHIIBBHHH12x", 443, 49153, 1, 1, 0x80, 0x10, 500, 0, 0)
    return memoryview(header + bytes(range(1, 251)) * (payload // 250 + 1))[: HEADERS + payload]


def virtio(kind: int, size: int) -> bytes:
    """Return the virtio header of such a packet, to be cut to size octets."""
    return struct.pack("<BBHHHH", NEEDS_CSUM, kind, HEADERS, size, 20, 16)


def cost(call: Callable[[], object], rounds: int) -> float:
    """Return the microseconds that one call takes."""
    taken = []
    for _ in range(rounds):
        began = perf_counter()
        for _ in range(CALLS):
            call()
        taken.append((perf_counter() - began) / CALLS * 1e6)
    return statistics.median(taken)


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description="Measure the cutting of super-packets.")
    parser.add_argument("--rounds", type=int, default=15, help="rounds of which the median counts")
    rounds = parser.parse_args().rounds
    large, small = tcp_packet(SEGMENT * SEGMENTS), tcp_packet(SEGMENT)
    cut, fill = virtio(GSO_TCPV4, SEGMENT), virtio(GSO_NONE, 0)
    for what, call in (
        (f"cut {len(large)} octets into {SEGMENTS} packets", lambda: segments(cut, large)),
        (f"fill in the checksum of {len(small)} octets", lambda: segments(fill, small)),
        ("check a peer's header of a super-packet", lambda: check(cut, large)),
    ):
        print(f"{what:<44}{cost(call, rounds):>9.2f} us", flush=True)


if __name__ == "__main__":
    main()
