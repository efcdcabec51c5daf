"""What whoever watches the wild side sees of a tunnel that hides its traffic. Needs root.

pc --- moat ===== router ===== portal --- corp
                    ^ sees lengths and times
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from boxes import wait_for
from crossings import tcp
from wild import CORP, MOAT_WILD, PC, Wild, socket_in, wild

from moatvpn.drivers.sockets import SO_RCVBUFFORCE

OCTETS, RATE = 1200, 200
SECONDS = 4  # of a watch
TOLERANCE = 0.15  # of the rate: the machine may have other work, and what is missed is left out
TRANSFER = 300_000  # octets: less than the rate takes in a watch
_ETH_P_IP, _NAT_PORT = 0x0800, 4500
_QUIET = 0.1  # seconds
_TIMESTAMPNS = 35  # SO_TIMESTAMPNS, and what its control message is called
_TIMESPEC = struct.Struct("qq")

CONSTANT = {"tfc": "constant", "tfc_octets": OCTETS, "tfc_rate": RATE}


class Watch:
    """Envelopes of the moat's as the router receives them: when, how long, and the TOS octet."""

    def __init__(self, sock: socket.socket) -> None:
        self.seen: list[tuple[float, int, int]] = []
        self._until = float("inf")
        self._sock = sock
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        when = 0.0
        while when < self._until:
            try:
                packet, told, _, _ = self._sock.recvmsg(2048, 64)
            except TimeoutError:
                when = time.time() - _QUIET
                continue
            seconds, nanoseconds = _TIMESPEC.unpack(told[0][2])
            when = seconds + nanoseconds / 1e9
            if _is_envelope(packet):
                self.seen.append((when, len(packet), packet[1]))

    def finish(self) -> None:
        """Read what has come until now, and then no more."""
        self._until = time.time()
        self._thread.join()

    @property
    def sizes(self) -> set[int]:
        return {octets for _, octets, _ in self.seen}

    @property
    def per_second(self) -> list[int]:
        """Return how many came in each whole second from the first on, the last one left out."""
        start = self.seen[0][0]
        whole = int(self.seen[-1][0] - start)
        return [sum(n <= when - start < n + 1 for when, _, _ in self.seen) for n in range(whole)]


def _is_envelope(packet: bytes) -> bool:
    """Return whether an IPv4 packet is ESP of the moat's, as protocol 50 or in UDP."""
    if packet[12:16] != socket.inet_aton(MOAT_WILD):
        return False
    if packet[9] == socket.IPPROTO_ESP:
        return True
    port = int.from_bytes(packet[20:22], "big")
    return packet[9] == socket.IPPROTO_UDP and port == _NAT_PORT and packet[28:32] != bytes(4)


@contextmanager
def watched(tunnel: Wild) -> Iterator[Watch]:
    with socket_in(
        tunnel.router, socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETH_P_IP)
    ) as sock:
        sock.setsockopt(socket.SOL_SOCKET, _TIMESTAMPNS, 1)
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 22)  # a whole transfer at once
        sock.bind(("home0", _ETH_P_IP))
        sock.settimeout(_QUIET)
        watch = Watch(sock)
        try:
            yield watch
        finally:
            watch.finish()


@contextmanager
def hiding(directory: Path, encapsulation: str, settings: dict[str, Any]) -> Iterator[Wild]:
    """A tunnel whose two ends both hide; block begins once the moat's envelopes have the size."""

    def change(made: Wild) -> None:
        made.to_portal.update(settings)
        made.to_moat.update(settings)

    with wild(directory, encapsulation, change) as tunnel:

        def settled() -> bool:
            tunnel.pc.run("ping", "-c1", "-W1", CORP, check=False)
            rows = tunnel.moat.connection("portal1"), tunnel.portal.connection("m0001")
            return all(row["envelope_octets"] == row["path_mtu"] == OCTETS for row in rows)

        wait_for(settled, f"envelopes of {OCTETS} octets", 20)
        yield tunnel


@pytest.fixture(params=["auto", "udp"])
def encapsulation(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_a_constant_rate_and_one_size_with_traffic_and_without(
    tmp_path: Path, encapsulation: str
) -> None:
    with hiding(tmp_path, encapsulation, CONSTANT) as tunnel:
        assert tunnel.moat.connection("portal1")["tfc"] == "constant"
        with watched(tunnel) as idle:
            threading.Event().wait(SECONDS)
        with watched(tunnel) as busy:
            answers = tunnel.pc.run("ping", "-Q", "0xb8", "-c", "40", "-i", "0.05", CORP).stdout
            assert " 0% packet loss" in answers
            tunnel.pc.run("ping", "-M", "do", "-c", "1", "-W", "2", "-s", "1400", CORP)
            with tcp(tunnel.pc, tunnel.corp, PC, TRANSFER):
                pass
        for watch in (idle, busy):
            assert watch.sizes == {OCTETS}
            assert {tos for _, _, tos in watch.seen} == {0}
            assert watch.per_second == pytest.approx([RATE] * len(watch.per_second), rel=TOLERANCE)
        assert len(idle.per_second) >= SECONDS - 1
        before = tunnel.moat.connection("portal1")["spi_out"]
        tunnel.moat.ctl("rekey", "portal1")
        wait_for(lambda: tunnel.moat.connection("portal1")["spi_out"] != before, "the rekey", 10)
        with watched(tunnel) as after:
            assert tunnel.pc.pings(CORP)
        assert after.sizes == {OCTETS}


def test_one_size_whatever_the_packets(tmp_path: Path, encapsulation: str) -> None:
    with (
        hiding(tmp_path, encapsulation, {"tfc": "pad", "tfc_octets": OCTETS}) as tunnel,
        watched(tunnel) as watch,
    ):
        for size in (0, 100, 1000, 1200, 1472, 8000):
            tunnel.pc.run("ping", "-c", "2", "-i", "0.1", "-s", str(size), CORP)
        with tcp(tunnel.pc, tunnel.corp, PC, TRANSFER):
            pass
    assert watch.sizes == {OCTETS}
    assert len(watch.seen) > TRANSFER / OCTETS
