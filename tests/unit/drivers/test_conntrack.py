"""Which connections are forgotten, by the kernel's description of each."""

from __future__ import annotations

import struct
from ipaddress import ip_address, ip_network

import pytest

from moatvpn.drivers.conntrack import concerns
from moatvpn.drivers.netlink_codec import attribute

NEST = 0x8000
NETWORKS = [ip_network("192.168.77.0/24"), ip_network("fd00:201:1::/64")]


def side(kind: int, source: str, destination: str) -> bytes:
    """Return one direction of a connection: CTA_TUPLE_ORIG is 1, CTA_TUPLE_REPLY 2."""
    first = 1 if ip_address(source).version == 4 else 3
    addresses = attribute(first, ip_address(source).packed)
    addresses += attribute(first + 1, ip_address(destination).packed)
    return attribute(kind | NEST, attribute(1 | NEST, addresses))


def connection(*sides: bytes) -> bytes:
    return struct.pack("=BBH", 2, 0, 0) + b"".join(sides)


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (connection(side(1, "192.168.77.10", "198.51.100.1")), True),
        (connection(side(1, "198.51.100.1", "192.168.77.10")), True),
        # Translated: the home's address stands in the answers.
        (
            connection(
                side(1, "198.51.100.1", "192.0.2.1"), side(2, "192.168.77.10", "198.51.100.1")
            ),
            True,
        ),
        (connection(side(1, "fd00:201:1::10", "fd00:50::10")), True),
        (connection(side(1, "10.201.1.10", "198.51.100.1")), False),
        (connection(side(1, "fd00:50::10", "fd00:50::11")), False),
        (connection(), False),
        (connection(attribute(1 | NEST, b"\x01")), False),
        (b"", False),
    ],
)
def test_a_connection_is_known_by_any_of_its_addresses(body: bytes, found: bool) -> None:
    assert concerns(body, NETWORKS) is found
    assert not concerns(body, [])
