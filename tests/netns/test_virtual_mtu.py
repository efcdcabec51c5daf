"""Raw packets of any size cross wild paths of any size, and no client hears of it.

The tunnels are set up once, and their paths made narrower one after the other, so that they are
measured anew each time. Needs root.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from string import ascii_lowercase

import pytest
from boxes import wait_for
from crossings import DO, DONT, pings, raw_packet, tcp, udp
from wild import CORP, CORP6, PC, PC6, Wild, wild

PATHS = (1500, 1492, 1400, 1280, 1124, 576)
# How envelopes travel, and what becomes of ICMP in the router.
TUNNELS = [(way, icmp) for way in ("auto", "udp") for icmp in ("passed", "dropped")]
VERSIONS = pytest.mark.parametrize("ends", [(PC, CORP), (PC6, CORP6)], ids=["ipv4", "ipv6"])
LAN = 1500
LARGEST = 65535
MEASURED = 30.0  # seconds within which both ends have to know a path that has changed
OCTETS = 2 << 20


@pytest.fixture(scope="module")
def tunnels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[tuple[str, str], Wild]]:
    """One tunnel of each kind, all of them up."""
    with ExitStack() as stack:
        made = {}
        for number, (encapsulation, icmp) in enumerate(TUNNELS):
            letters = ascii_lowercase[5 * number : 5 * number + 5]
            directory = tmp_path_factory.mktemp("wild")
            tunnel = stack.enter_context(wild(directory, encapsulation, letters=letters))
            if icmp == "dropped":
                tunnel.silence()
            made[encapsulation, icmp] = tunnel
        yield made


@pytest.fixture(scope="module", params=PATHS)
def narrowed(
    request: pytest.FixtureRequest, tunnels: dict[tuple[str, str], Wild]
) -> dict[tuple[str, str], Wild]:
    """All tunnels, over wild paths of so many octets, which both ends have measured."""

    def measured() -> bool:
        known = [tunnel.measured() for tunnel in tunnels.values()]
        return all(known)

    with ExitStack() as stack:
        for tunnel in tunnels.values():
            stack.enter_context(tunnel.unseen())
            tunnel.narrow(request.param)
        wait_for(measured, f"a path MTU of {request.param} everywhere", MEASURED)
    return tunnels


@pytest.fixture(params=TUNNELS, ids=lambda kind: "-".join(kind))
def path(request: pytest.FixtureRequest, narrowed: dict[tuple[str, str], Wild]) -> Wild:
    """One of them."""
    return narrowed[request.param]


@VERSIONS
def test_tcp(path: Wild, ends: tuple[str, str]) -> None:
    pc, corp = ends
    with (
        path.unseen(),
        tcp(path.pc, path.corp, pc, OCTETS),
        tcp(path.corp, path.pc, corp, OCTETS),
    ):
        pass


@VERSIONS
def test_udp(path: Wild, ends: tuple[str, str]) -> None:
    pc, corp = ends
    header = 48 if ":" in pc else 28
    with path.unseen():
        for size in (1472, 8000, 65507):
            way = DO if size + header <= LAN else DONT
            udp(path.pc, path.corp, corp, size, way=way)
            udp(path.corp, path.pc, pc, size, way=way)


@VERSIONS
def test_pings_of_every_length(path: Wild, ends: tuple[str, str]) -> None:
    with path.unseen():
        pings(path.pc, ends[1], range(2001), LAN)


@VERSIONS
def test_what_leaves_in_one_piece_arrives_in_one_piece(path: Wild, ends: tuple[str, str]) -> None:
    with path.unseen():
        sent, seen = raw_packet(path.pc, path.corp, ends, LAN)
        assert seen == [sent]
        sent, seen = raw_packet(path.corp, path.pc, ends[::-1], LAN)
        assert seen == [sent]


def test_large_private_networks(path: Wild) -> None:
    """Both private networks carry as much as there is to an IP packet, and all of it has DF."""
    path.lan(LARGEST)
    try:
        with path.unseen():
            for pc, corp in ((PC, CORP), (PC6, CORP6)):
                for size in (8000, LARGEST):
                    sent, seen = raw_packet(path.pc, path.corp, (pc, corp), size)
                    assert seen == [sent]
                    sent, seen = raw_packet(path.corp, path.pc, (corp, pc), size)
                    assert seen == [sent]
                with tcp(path.corp, path.pc, corp, OCTETS):
                    pass
            udp(path.pc, path.corp, CORP, LARGEST - 28, way=DO)
            pings(path.pc, CORP, range(8000, 8010), LARGEST)
    finally:
        path.lan(LAN)
