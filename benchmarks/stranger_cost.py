"""What one message of a stranger's costs the IKE core, in microseconds, on one core.

    python benchmarks/stranger_cost.py [--messages N] [--rounds N]

A portal that waits for its moats gets messages from addresses that it knows nothing of. A row is
what becomes of them; a figure is the median of the rounds. Only the last row, which a stranger
gets a limited number of or has a cookie for, may cost a key exchange.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from time import perf_counter

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from moatvpn.config import ConnectionConfig
from moatvpn.counters import Counters
from moatvpn.crypto.sign import generate_private_key, load_private_key
from moatvpn.ike.endpoint import IkeEndpoint
from moatvpn.ike.gate import DEFAULT_LIMITS, Limits, Rate
from moatvpn.wire.endpoint import Datagram, Endpoint

PORTAL = Endpoint("198.51.100.2", 500)
NEVER, ALWAYS = Rate(1e-9, 1), Rate(1e9, 1e9)
OPEN = replace(
    DEFAULT_LIMITS,
    half_open=10**9,
    half_open_of_host=10**9,
    host=ALWAYS,
    network=ALWAYS,
    everybody=ALWAYS,
)


def endpoint(limits: Limits, **changes: object) -> IkeEndpoint:
    """Return an endpoint with one connection: to a portal that is called, or as changes say."""
    signer = load_private_key(generate_private_key())
    names = ("portal.example.net", Counters(), os.urandom, lambda _: PORTAL.host)
    made = IkeEndpoint(names[0], signer, *names[1:], limits)
    settings = {
        "name": "c1",
        "remote_identity": "m1.example.net",
        "remote_public_keys": (signer.public_text,),
        "local_selectors": ("0.0.0.0/0",),
        "remote_selectors": ("10.201.1.0/24",),
    }
    made.add_connection(ConnectionConfig(**(settings | changes)), 0.0)
    return made


def first_request() -> bytes:
    """Return a moat's IKE_SA_INIT request."""
    moat = endpoint(DEFAULT_LIMITS, remote_address=PORTAL.host, initiate=True)
    moat.handle_timer(10.0)
    (datagram,) = moat.datagrams_to_send()
    return datagram.data


def unknown(request: bytes) -> bytes:
    """Return a message about an IKE SA that nobody has."""
    return request[:8] + b"\1" * 8 + request[16:18] + b"\x23" + request[19:]


CASES: dict[str, tuple[Limits, Callable[[bytes], bytes]]] = {
    "beyond the rate of its address": (replace(OPEN, host=NEVER), bytes),
    "about an unknown SPI": (replace(OPEN, unknown=NEVER), unknown),
    "answered with a cookie": (replace(OPEN, cookies_above=0), bytes),
    "answered with a key exchange": (
        replace(OPEN, cookies_above=10**9, without_cookie=ALWAYS),
        bytes,
    ),
}


def datagrams(message: bytes, number: int, serial: Iterator[int]) -> list[Datagram]:
    """Return messages that differ in SPI and source."""
    return [
        Datagram(
            (1 << 32 | n).to_bytes(8, "big") + message[8:],
            PORTAL,
            Endpoint(f"203.{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}", 500),
        )
        for n in (next(serial) for _ in range(number))
    ]


def cost(limits: Limits, message: bytes, number: int, rounds: int) -> float:
    """Return the median cost of a message in microseconds."""
    portal, serial = endpoint(limits), count(1)
    figures = []
    for turn in range(rounds + 1):  # the first warms up, and uses what is free of charge
        batch = datagrams(message, number, serial)
        start = perf_counter()
        for datagram in batch:
            portal.receive_datagram(datagram, 1.0)
            portal.datagrams_to_send()
            while portal.next_event() is not None:
                pass
        figures.append((perf_counter() - start) / number * 1e6)
        portal.handle_timer(20.0 * (turn + 1))  # half-open IKE SAs end
    return statistics.median(figures[1:])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    request = first_request()
    print(f"IKE_SA_INIT of {len(request)} octets")
    for name, (limits, change) in CASES.items():
        figure = cost(limits, change(request), options.messages, options.rounds)
        print(f"{name:32}{figure:8.1f} µs")


if __name__ == "__main__":
    main()
