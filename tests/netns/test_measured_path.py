"""The path MTU that moatd measures is the path's own, whatever ICMP says, or does not. Needs root.

moat <--- router ---> portal
     a hundred times a second: ICMP type 3, code 4, "the MTU is 552", quoting an envelope
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Event, Thread

import pytest
from boxes import PORTAL, wait_for
from crossings import discover, tcp
from wild import CORP, MOAT_WILD, PC, Wild, socket_in, wild

FORGED_MTU = 552  # octets, the least that Linux believes
SIZES = [1500, 1492, 1400, 1280, 1124, 576]
PACE = 1 << 20  # octets a second
_WANT, _IP_MTU = 1, 14  # for what heeds ICMP; what the kernel then takes for the path's MTU


@pytest.fixture(params=["auto", "udp"])
def tunnel(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Wild]:
    with wild(tmp_path, request.param) as made:
        yield made


def _frag_needed(source: str, destination: str, spi: int, protocol: int) -> bytes:
    """Return the ICMP message of a router that an envelope is too long for (RFC 1191, 4)."""
    ends = socket.inet_aton(source) + socket.inet_aton(destination)
    quoted = struct.pack("!BBHHHBBH", 0x45, 0, 1500, 7, 0x4000, 63, protocol, 0) + ends
    if protocol == socket.IPPROTO_UDP:
        quoted += struct.pack("!HHHH", 4500, 4500, 1480, 0)
    quoted += struct.pack("!II", spi, 1000).ljust(28, b"\0")
    head = struct.Struct("!BBHHH")
    summed = int.from_bytes(head.pack(3, 4, 0, 0, FORGED_MTU) + quoted, "big") % 0xFFFF
    return head.pack(3, 4, 0xFFFF ^ summed, 0, FORGED_MTU) + quoted


@contextmanager
def _forged(tunnel: Wild) -> Iterator[None]:
    """Tell both kernels that the tunnel's envelopes are too long, and have them believe it."""
    rows = tunnel.moat.connection("portal1"), tunnel.portal.connection("m0001")
    ways = (
        (tunnel.moat, MOAT_WILD, PORTAL.wild, int(rows[0]["spi_out"], 16)),
        (tunnel.portal, PORTAL.wild, MOAT_WILD, int(rows[1]["spi_out"], 16)),
    )
    udp = rows[0]["encapsulation"] == "udp"
    protocol = socket.IPPROTO_UDP if udp else socket.IPPROTO_ESP
    stop = Event()
    with ExitStack() as stack:
        forger = stack.enter_context(
            socket_in(tunnel.router, socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
        )

        def tell() -> None:
            while not stop.wait(0.01):
                for _, here, there, spi in ways:
                    forger.sendto(_frag_needed(here, there, spi, protocol), (here, 0))

        believers = []
        for box, _, there, _ in ways:
            heeds = stack.enter_context(socket_in(box, socket.AF_INET, socket.SOCK_RAW, protocol))
            discover(heeds, _WANT)
            heeds.connect((there, 0))
            believers.append(heeds)

        def believed() -> bool:
            mtus = [heeds.getsockopt(socket.IPPROTO_IP, _IP_MTU) for heeds in believers]
            return mtus == [FORGED_MTU, FORGED_MTU]

        thread = Thread(target=tell)
        thread.start()
        try:
            wait_for(believed, "the kernels' belief", 5)
            yield
            assert believed()
        finally:
            stop.set()
            thread.join()


@pytest.mark.parametrize("icmp", [True, False], ids=["icmp", "no-icmp"])
def test_the_size_shown_is_the_paths(tunnel: Wild, icmp: bool) -> None:
    if not icmp:
        tunnel.silence()
    with tunnel.unseen(), tcp(tunnel.pc, tunnel.corp, PC, pace=PACE):
        for mtu in SIZES:  # a path that shrinks under traffic
            tunnel.narrow(mtu)
            tunnel.settle(5)
    for box in (tunnel.moat, tunnel.portal):
        assert [row["path_mtu"] for row in box.ctl("status")["connections"]] == [SIZES[-1]]


def test_each_direction_has_its_own(tunnel: Wild) -> None:
    tunnel.narrow(1400, 1124)
    with tunnel.unseen(), tcp(tunnel.pc, tunnel.corp, PC, pace=PACE):
        tunnel.settle(5)


@pytest.mark.parametrize("encapsulation", ["auto", "udp"])
def test_a_new_tunnel_measures_its_path_before_there_is_traffic(
    tmp_path: Path, encapsulation: str
) -> None:
    def narrow(made: Wild) -> None:
        made.silence()
        made.narrow(1400, 1280)

    with wild(tmp_path, encapsulation, narrow) as tunnel, tunnel.unseen():
        wait_for(lambda: tunnel.path_mtu() == (1400, 1280), "the path's MTU", 5)


def test_forged_icmp_has_no_effect(tunnel: Wild) -> None:
    tunnel.settle(5)
    with tunnel.unseen(), _forged(tunnel):
        for sender, receiver, address in (
            (tunnel.pc, tunnel.corp, PC),
            (tunnel.corp, tunnel.pc, CORP),
        ):
            with tcp(sender, receiver, address, 8 << 20):
                pass
            assert tunnel.path_mtu() == (1500, 1500)
        # A path that is measured under such fire is measured all the same.
        for box in (tunnel.portal, tunnel.moat):
            box.kill()
            box.start()
        wait_for(lambda: tunnel.path_mtu() == (1500, 1500), "the path's MTU", 15)


def test_forged_icmp_does_not_cut_up_what_may_be_fragmented(tunnel: Wild) -> None:
    """Where the peer does not aggregate, envelopes may be fragmented, as IKE's messages may be."""
    for box, record in ((tunnel.moat, tunnel.to_portal), (tunnel.portal, tunnel.to_moat)):
        box.apply("replace", {**record, "aggfrag": "off"})
    tunnel.wait_until_up()
    with tunnel.unseen(), _forged(tunnel):
        for size in range(400, 1401, 50):
            assert tunnel.pc.run("ping", "-c1", "-W1", "-s", str(size), CORP)
        tunnel.moat.ctl("rekey", "portal1", "--ike")
        tunnel.wait_until_up()
