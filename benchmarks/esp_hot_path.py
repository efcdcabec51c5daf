"""What one packet costs in the ESP engine, in microseconds, on one core.

    python benchmarks/esp_hot_path.py [--packets N] [--rounds N]

Two processors stand back to back. The table shows encapsulation and decapsulation for both
suites, small and large packets, and few and many tunnels: the cost must not depend on how many
tunnels there are. A figure is the median of the rounds. The last column is the bare cipher, so
that what the engine adds can be seen.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from time import perf_counter

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from moatvpn.counters import Counters
from moatvpn.crypto.aead import new_aead
from moatvpn.esp.child import ChildSa
from moatvpn.esp.processor import EspProcessor
from moatvpn.wire.algorithms import CipherSuite
from moatvpn.wire.endpoint import Endpoint
from moatvpn.wire.esp import ICV_LENGTH
from moatvpn.wire.selectors import TrafficSelector

SIZES = (64, 1400)  # octets of the raw packet
TUNNELS = (1, 10_000)
MOAT, PORTAL = Endpoint("192.0.2.10", 500), Endpoint("198.51.100.2", 500)
CORPORATE = IPv4Address("10.50.0.10")
ALL = (TrafficSelector.from_network("0.0.0.0/0"),)
POOL = int(IPv4Address("10.128.0.0"))


def home(number: int) -> IPv4Network:
    """Return the private network of one customer: a /24 each."""
    return IPv4Network((POOL + number * 256, 24))


def keying_material(suite: CipherSuite, seed: int) -> bytes:
    """Return keying material that is good enough to measure with, and for nothing else."""
    return seed.to_bytes(4, "big") * (suite.material_length // 4)


def ends(number: int, suite: CipherSuite) -> tuple[ChildSa, ChildSa]:
    """Return one CHILD_SA as the portal and as the moat sees it."""
    private = (TrafficSelector.from_network(home(number)),)
    spi_in, spi_out = 0x1000 + number, 0x1000000 + number
    one, other = keying_material(suite, 2 * number), keying_material(suite, 2 * number + 1)
    name = f"c{number}"
    return (
        ChildSa(name, spi_in, spi_out, suite, True, one, other, ALL, private, False),
        ChildSa(name, spi_out, spi_in, suite, True, other, one, private, ALL, False),
    )


def raw_packet(target: IPv4Address, size: int) -> bytes:
    """Return a UDP packet of size octets from the corporate host to target."""
    header = bytes((0x45, 0)) + size.to_bytes(2, "big") + bytes((0, 0, 0, 0, 63, 17, 0, 0))
    return (header + CORPORATE.packed + target.packed).ljust(size, b"\x5a")


def timed(call: Callable[[], None], packets: int) -> float:
    """Return how many microseconds call takes for each of the packets it handles."""
    began = perf_counter()
    call()
    return (perf_counter() - began) / packets * 1e6


def one_round(
    portal: EspProcessor, moat: EspProcessor, raw: bytes, packets: int
) -> tuple[float, float]:
    """Return the costs of encapsulation and decapsulation."""
    envelopes: list[bytes] = []

    def encapsulate() -> None:
        send, keep = portal.encapsulate, envelopes.append
        for _ in range(packets):
            envelope = send(raw)
            if envelope is not None:
                keep(envelope.data)

    def decapsulate() -> None:
        receive, came = moat.decapsulate, 0
        for data in envelopes:
            came += receive(data, PORTAL, 0) is not None
        if came != packets:
            raise SystemExit(f"lost {packets - came} of {packets} packets")

    return timed(encapsulate, packets), timed(decapsulate, packets)


def bare_cipher(suite: CipherSuite, size: int, packets: int) -> float:
    """Return what the cipher alone takes to encrypt a packet of size octets, NaN if it is CBC."""
    if not suite.combined:
        return math.nan
    aead, _ = new_aead(suite, keying_material(suite, 1))
    nonce, plaintext, associated = bytes(12), bytes(size), bytes(12)

    def encrypt() -> None:
        seal = aead.encrypt
        for _ in range(packets):
            if len(seal(nonce, plaintext, associated)) != size + ICV_LENGTH:
                raise SystemExit("the cipher's ICV has an unexpected length")

    return timed(encrypt, packets)


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description="Measure the ESP engine.")
    parser.add_argument("--packets", type=int, default=5_000, help="packets in a round")
    parser.add_argument("--rounds", type=int, default=7, help="rounds of which the median counts")
    options = parser.parse_args()
    columns = "{:<28}{:>9}{:>9}{:>13}{:>13}{:>13}"
    print(columns.format("suite", "tunnels", "octets", "encapsulate", "decapsulate", "bare cipher"))
    for suite in CipherSuite:
        for tunnels in TUNNELS:
            portal, moat = EspProcessor(Counters()), EspProcessor(Counters())
            for number in range(tunnels):
                at_portal, at_moat = ends(number, suite)
                portal.install(at_portal, MOAT, activate_outbound=True)
                moat.install(at_moat, PORTAL, activate_outbound=False)
            target = home(tunnels // 2).network_address + 9
            for size in SIZES:
                rounds = [
                    one_round(portal, moat, raw_packet(target, size), options.packets)
                    for _ in range(options.rounds)
                ]
                out, back = (statistics.median(costs) for costs in zip(*rounds, strict=True))
                cipher = bare_cipher(suite, size, options.packets)
                figures = (f"{cost:.2f} us" for cost in (out, back, cipher))
                print(columns.format(suite.value, tunnels, size, *figures), flush=True)


if __name__ == "__main__":
    main()
