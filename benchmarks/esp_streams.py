"""What a burst of super-packets, or of small packets, costs in the ESP engine, on one core.

    python benchmarks/esp_streams.py [--rounds N]

Two processors stand back to back, without devices. The rows are TCP super-packets of 64 KB between
two of ours, whole packets of 1400 octets and of 64 octets aggregated, and the same without
aggregation, one raw packet an envelope. A figure is the best of the rounds, in microseconds of
processor time: for one raw packet, and for one envelope, beside what the cipher alone takes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from ipaddress import ip_network
from itertools import islice, product
from pathlib import Path
from time import process_time
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from moatvpn.counters import Counters
from moatvpn.crypto.aead import new_aead
from moatvpn.esp.burst import Arrival
from moatvpn.esp.child import ChildSa
from moatvpn.esp.outbound import Raw
from moatvpn.esp.processor import EspProcessor
from moatvpn.wire.algorithms import CipherSuite
from moatvpn.wire.endpoint import Endpoint
from moatvpn.wire.selectors import TrafficSelector

TUNNELS = (1, 10_000)  # the cost must not depend on how many there are
MOAT, PORTAL = Endpoint("192.0.2.10", 4500), Endpoint("198.51.100.2", 4500)
ALL = (TrafficSelector.from_network("0.0.0.0/0"),)
CORPORATE = TrafficSelector.from_network("10.50.0.0/24")
POOL = [
    TrafficSelector.from_network(str(network))
    for network in islice(ip_network("10.128.0.0/9").subnets(new_prefix=24), TUNNELS[-1])
]
SUITE = CipherSuite.AES_256_GCM
REPEAT = 8


class Case(NamedTuple):
    """One row: what it is called, the raw packets of one reading, and how they travel."""

    name: str
    packets: list[Raw]
    aggfrag: bool


def tcp(size: int, offload: bytes = b"") -> Raw:
    """Return a TCP packet of size octets, from the moat's network to the corporate one."""
    head = bytes((0x45, 0)) + size.to_bytes(2, "big") + bytes((0, 0, 0x40, 0, 63, 6, 0, 0))
    head += bytes((10, 201, 1, 10, 10, 50, 0, 10)) + bytes(12) + bytes((0x50, 0x10)) + bytes(6)
    return memoryview(head.ljust(size, b"\x5a")), offload


CASES = (
    Case("super-packet", [tcp(65_160 + 40, bytes((1, 1, 0, 0, 168, 5, 20, 0, 16, 0)))], True),
    Case("44 of 1400, aggregated", [tcp(1400)] * 44, True),
    Case("64 of 64, aggregated", [tcp(64)] * 64, True),
    Case("44 of 1400, one by one", [tcp(1400)] * 44, False),
    Case("64 of 64, one by one", [tcp(64)] * 64, False),
)


def processors(aggfrag: bool, tunnels: int) -> tuple[EspProcessor, EspProcessor]:
    """Return a moat's and a portal's processor that share so many CHILD_SAs in UDP.

    Packets take the last of them.
    """
    one, other = (bytes([seed]) * SUITE.material_length for seed in (1, 2))
    more = {"udp": True, "aggfrag": aggfrag, "private_blocks": aggfrag}
    moat, portal = EspProcessor(Counters()), EspProcessor(Counters())
    for number in range(tunnels):
        there, here = 0x1000 + number, 0x1000000 + number
        home = CORPORATE if number == tunnels - 1 else POOL[number]
        child = ChildSa(f"p{number}", there, here, SUITE, True, one, other, ALL, (home,), **more)
        moat.install(child, PORTAL, activate_outbound=True)
        child = ChildSa(f"m{number}", here, there, SUITE, True, other, one, (home,), ALL, **more)
        portal.install(child, MOAT, activate_outbound=True)
    settle(moat, portal)
    return moat, portal


def settle(*both: EspProcessor) -> None:
    """Let the two measure their paths of 1500 octets."""
    now = 0.0
    for _ in range(20):
        now += 0.5
        for sender, receiver in (both, both[::-1]):
            for burst in sender.due(now):
                size = len(burst.data) + 28
                if size <= 1500:
                    arrival = memoryview(bytes(burst.data)), burst.size, MOAT, 0
                    list(receiver.decapsulate([arrival], now))


def timed(call: Callable[[], object]) -> float:
    """Return the seconds of one call."""
    began = process_time()
    call()
    return process_time() - began


def measure(case: Case, tunnels: int, rounds: int) -> tuple[int, float, float]:
    """Return how many envelopes a reading makes, and the seconds of each way for one."""
    moat, portal = processors(case.aggfrag, tunnels)
    alone, _ = processors(
        case.aggfrag, tunnels
    )  # what it sends is not received: gaps would be waited for
    now = 100.0
    out, back = [], []
    kept: list[list[Arrival]] = []

    def send() -> None:
        for _ in range(REPEAT):
            for _ in alone.encapsulate(case.packets, now):
                pass

    def receive() -> None:
        for arrivals in kept:
            for arrived in portal.decapsulate(arrivals, now):
                if not arrived.packets:
                    raise SystemExit(f"{case.name}: nothing came out: {arrived}")

    for _ in range(rounds):
        now += 1
        out.append(timed(send) / REPEAT)
        kept = [
            [
                (memoryview(bytes(burst.data)), burst.size, MOAT, 0)
                for burst in moat.encapsulate(case.packets, now)
            ]
            for _ in range(REPEAT)
        ]
        back.append(timed(receive) / REPEAT)
    envelopes = sum(-(-len(data) // size) for data, size, _, _ in kept[0])
    return envelopes, min(out), min(back)


def cipher(rounds: int) -> tuple[float, float]:
    """Return the microseconds of the bare cipher for 1400 octets, each way."""
    aead, salt = new_aead(SUITE, bytes(SUITE.material_length))
    nonce, plain = salt + bytes(8), bytes(1400)
    sealed = aead.encrypt(nonce, plain, bytes(12))
    ways: tuple[Callable[[], object], ...] = (
        lambda: [aead.encrypt(nonce, plain, None) for _ in range(1000)],
        lambda: [aead.decrypt(nonce, sealed, bytes(12)) for _ in range(1000)],
    )
    encrypt, decrypt = (min(timed(way) for _ in range(rounds)) * 1e3 for way in ways)
    return encrypt, decrypt


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=100)
    rounds = parser.parse_args().rounds
    print(
        f"{'microseconds':26}{'tunnels':>8}{'envelopes':>10}"
        f"{'out':>8}{'in':>8}{'out/env':>9}{'in/env':>9}"
    )
    for case, tunnels in product(CASES, TUNNELS):
        envelopes, out, back = measure(case, tunnels, rounds)
        each, per = 1e6 / len(case.packets), 1e6 / envelopes
        figures = f"{out * each:8.2f}{back * each:8.2f}{out * per:9.2f}{back * per:9.2f}"
        print(f"{case.name:26}{tunnels:8}{envelopes:10}{figures}")
    encrypt, decrypt = cipher(rounds)
    print(f"{'the cipher alone':26}{'':18}{'':16}{encrypt:9.2f}{decrypt:9.2f}")


if __name__ == "__main__":
    main()
