"""Bursts through real sockets in a namespace: offloads, DF on the wire, what is too large."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import Any

import pytest
from boxes import run, wait_for

from moatvpn.counters import Counters, DropReason
from moatvpn.drivers.raw import RawEspSocket
from moatvpn.drivers.udp import UdpPort
from moatvpn.esp.burst import Burst
from moatvpn.wire.endpoint import Datagram, Endpoint

LOOPBACK = "127.0.0.1"
SIZE = 1400
# What an envelope has that is no IKE message: an SPI.
SPI = b"\x00\x00\x01\x02"
ABOUT_AN_SA, FIRST = b"initiateresponds", b"initiate" + bytes(8)
ETH_P_ALL = 3

pytestmark = pytest.mark.usefixtures("namespace")


@pytest.fixture
def counters() -> Counters:
    return Counters()


@pytest.fixture
def wire() -> Iterator[socket.socket]:
    """Everything that goes through lo, from the IPv4 header on."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL)) as sock:
        sock.bind(("lo", ETH_P_ALL))
        yield sock


class Ends:
    """Two ends that send bursts to each other, in UDP or as protocol 50."""

    def __init__(self, way: str, counters: Counters, open_for: ExitStack) -> None:
        self.udp = way != "raw"
        self.one: Any
        if self.udp:
            on = way == "udp"
            self.one, self.other = (
                open_for.enter_context(closing(UdpPort(0, counters, framed=True, offloads=on)))
                for _ in range(2)
            )
            self.peer = Endpoint(LOOPBACK, self.other.port)
        else:
            self.one = self.other = open_for.enter_context(closing(RawEspSocket(counters)))
            self.peer = Endpoint(LOOPBACK, 0)

    def burst(self, data: bytes, size: int = SIZE, tos: int = 0, *, whole: bool = True) -> Burst:
        return Burst(memoryview(bytearray(data)), size, self.peer, self.udp, tos, "", whole)

    def come(self) -> list[tuple[bytes, int, Endpoint, int]]:
        arrivals = self.other.receive()
        arrivals = arrivals[0] if self.udp else arrivals
        return [(bytes(data), size, source, tos) for data, size, source, tos in arrivals]


@pytest.fixture(params=["udp", "udp without offloads", "raw"])
def ends(request: pytest.FixtureRequest, counters: Counters) -> Iterator[Ends]:
    with ExitStack() as open_for:
        yield Ends(request.param, counters, open_for)


def envelopes(number: int, last: int = SIZE) -> bytes:
    """Return so many envelopes, the last of which has another length."""
    made = [SPI + os.urandom(SIZE - len(SPI)) for _ in range(number)]
    return b"".join(made)[: (number - 1) * SIZE + last]


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize(("number", "last", "tos"), [(46, 777, 0xBA), (2, 1400, 0), (1, 900, 1)])
def test_a_burst_arrives(
    ends: Ends, counters: Counters, number: int, last: int, tos: int, whole: bool
) -> None:
    data = envelopes(number, last)
    assert ends.one.send_burst(ends.burst(data, tos=tos, whole=whole))
    came: list[tuple[bytes, int, Endpoint, int]] = []
    while sum(len(part) for part, *_ in came) < len(data):
        came += wait_for(ends.come, "envelopes", 5)
    assert b"".join(part for part, *_ in came) == data
    for part, size, source, seen in came:
        assert size == SIZE or len(part) == size == last
        assert (source.host, seen) == (LOOPBACK, tos)
        assert source.port == (ends.one.port if ends.udp else 0)
    assert counters.snapshot() == {}


def test_the_kernel_cuts_and_joins_bursts_of_udp(counters: Counters) -> None:
    with ExitStack() as open_for:
        ends = Ends("udp", counters, open_for)
        data = envelopes(46, 3)
        assert ends.one.send_burst(ends.burst(data))
        source = Endpoint(LOOPBACK, ends.one.port)
        assert wait_for(ends.come, "envelopes", 5) == [(data, SIZE, source, 0)]


def seen_on(wire: socket.socket) -> list[bytes]:
    """Return what has left since the last time; through lo it has left once it is sent."""
    found = []
    while True:
        try:
            found.append(wire.recv(65535, socket.MSG_DONTWAIT))
        except BlockingIOError:
            return found


def test_df_is_set_on_what_has_to_stay_whole(ends: Ends, wire: socket.socket) -> None:
    # The option is the socket's, and so must be turned over with every change.
    for whole in (True, False, False, True, True, False):
        for number in (1, 3):
            assert ends.one.send_burst(ends.burst(envelopes(number), whole=whole))
            packets = seen_on(wire)
            assert packets
            assert {packet[6] & 0x40 != 0 for packet in packets} == {whole}


def test_ike_may_be_fragmented_after_what_may_not(counters: Counters, wire: socket.socket) -> None:
    with ExitStack() as open_for:
        ends = Ends("udp", counters, open_for)
        assert ends.one.send_burst(ends.burst(envelopes(1)))
        here = Endpoint(LOOPBACK, ends.one.port)
        assert ends.one.send_ike(Datagram(ABOUT_AN_SA, here, ends.peer))
        may_fragment = {
            packet[28:32] == bytes(4): packet[6] & 0x40 == 0 for packet in seen_on(wire)
        }
        assert may_fragment == {False: False, True: True}


FAR, NEAR, FORGED_MTU = "10.9.0.2", "10.9.0.1", 600


def too_big(packet: bytes) -> bytes:
    """Return what a router would say of a packet that its next link cannot carry (RFC 1191, 4)."""
    message = struct.pack("!BBHHH", 3, 4, 0, 0, FORGED_MTU) + packet[:28]
    checksum = -sum(struct.unpack(f"!{len(message) // 2}H", message)) % 0xFFFF
    return message[:2] + checksum.to_bytes(2, "big") + message[4:]


@pytest.mark.parametrize("way", ["udp", "udp without offloads", "raw"])
def test_forged_icmp_makes_nothing_smaller_that_has_to_stay_whole(
    counters: Counters, wire: socket.socket, way: str
) -> None:
    run("ip", "link", "add", "wild0", "type", "veth", "peer", "name", "wild1")
    for device in ("wild0", "wild1"):
        run("ip", "link", "set", device, "up")
    run("ip", "address", "add", f"{NEAR}/24", "dev", "wild0")
    run("ip", "neighbour", "add", FAR, "lladdr", "02:00:00:00:00:01", "dev", "wild0")
    wire.bind(("wild0", ETH_P_ALL))
    with ExitStack() as open_for:
        ends = Ends(way, counters, open_for)
        ends.peer = Endpoint(FAR, 4500 if ends.udp else 0)

        def to_far() -> list[bytes]:
            return [packet for packet in seen_on(wire) if packet[16:20] == bytes((10, 9, 0, 2))]

        def left() -> list[bytes]:
            assert ends.one.send_burst(ends.burst(envelopes(3)))
            return to_far()

        before = left()
        with (
            socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as forger,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other,
        ):
            other.setsockopt(socket.IPPROTO_IP, 10, 2)  # IP_MTU_DISCOVER, IP_PMTUDISC_DO
            other.sendto(bytes(1), (FAR, 9))
            # Which of our queues the kernel asks about a forgery is chance, and one believes none;
            # what it is told of somebody else's packet, it believes for all who send there.
            for packet in (before[0], *to_far()):
                forger.sendto(too_big(packet), (NEAR, 0))
            wait_for(
                lambda: f"mtu {FORGED_MTU}" in run("ip", "route", "get", FAR).stdout,
                "the forgery",
                5,
            )
            with pytest.raises(OSError, match="too long"):
                other.sendto(bytes(FORGED_MTU), (FAR, 9))
        after = left()
        assert list(map(len, after)) == list(map(len, before))
        assert max(map(len, after)) > SIZE
    assert counters.snapshot() == {}


@pytest.mark.parametrize("number", [1, 5])
def test_what_has_to_stay_whole_and_is_too_large_is_counted(
    ends: Ends, counters: Counters, number: int
) -> None:
    run("ip", "link", "set", "lo", "mtu", "1300")
    assert not ends.one.send_burst(ends.burst(envelopes(number)))
    assert counters.snapshot() == {DropReason.OUT_TOO_LARGE.value: number}
    assert ends.come() == []
    # The same may go in fragments; and what is small enough, as it is.
    assert ends.one.send_burst(ends.burst(envelopes(number), whole=False))
    assert ends.one.send_burst(ends.burst(envelopes(number)[: 1200 * number], 1200))
    came = []
    while len(b"".join(part for part, *_ in came)) < number * (SIZE + 1200):
        came += wait_for(ends.come, "envelopes", 5)
    assert counters.snapshot() == {DropReason.OUT_TOO_LARGE.value: number}


def test_a_long_packet_of_a_peer_that_knows_no_better(ends: Ends, counters: Counters) -> None:
    run("ip", "link", "set", "lo", "mtu", "1500")
    data = [SPI + os.urandom(size) for size in (60_000, 1400, 65_000, 100)]
    for each in data:
        assert ends.one.send_burst(ends.burst(each, len(each), whole=False))
    came: list[bytes] = []
    while len(came) < len(data):
        came += [part for part, *_ in wait_for(ends.come, "a packet", 5)]
    assert came == data
    assert counters.snapshot() == {}


def test_a_device_that_cannot_help_is_done_without(
    counters: Counters, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ExitStack() as open_for:
        ends = Ends("udp", counters, open_for)
        real, refused = ends.one._socket, []

        class Refusing:
            """A socket whose device leaves checksums to others."""

            def sendmsg(self, data: Any, ancillary: Any, *rest: Any) -> int:
                if any(level == socket.IPPROTO_UDP for level, _, _ in ancillary):
                    refused.append(data)
                    raise OSError(errno.EIO, "no")
                return int(real.sendmsg(data, ancillary, *rest))

        monkeypatch.setattr(ends.one, "_socket", Refusing())
        for _ in range(3):
            assert ends.one.send_burst(ends.burst(envelopes(3)))
            came = []
            while len(came) < 3:
                came += wait_for(ends.come, "envelopes", 5)
        monkeypatch.setattr(ends.one, "_socket", real)
        assert len(refused) == 1
    assert counters.snapshot() == {}


@pytest.mark.parametrize("head", ["envelope", "ike", "first request"])
def test_ike_messages_among_envelopes_are_found(counters: Counters, head: str) -> None:
    envelope = SPI + bytes(28)
    marked, stranger = (bytes(4) + kind + bytes(12) for kind in (ABOUT_AN_SA, FIRST))
    first = {"envelope": envelope, "ike": marked, "first request": stranger}[head]
    datagrams = [first, envelope, envelope, marked, envelope, stranger, envelope, b"\xff"]
    with ExitStack() as open_for:
        ends = Ends("udp", counters, open_for)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            peer.bind((LOOPBACK, 0))
            peer.setsockopt(socket.IPPROTO_UDP, 103, len(envelope))  # UDP_SEGMENT
            peer.sendto(b"".join(datagrams), (ends.peer.host, ends.peer.port))
            source = Endpoint(*peer.getsockname())
        # All of them lie in the queue that the first of them belongs to.
        queues = {
            "envelope": ends.other.envelopes,
            "ike": ends.other.established,
            "first request": ends.other.strangers,
        }
        queue = queues[head]
        arrivals, messages = queue.receive()
        assert (
            b"".join(bytes(data) for data, *_ in arrivals) == datagrams.count(envelope) * envelope
        )
        assert {(size, *rest) for _, size, *rest in arrivals} == {(len(envelope), source, 0)}
        assert messages == [
            Datagram(data[4:], ends.peer, source)
            for data in datagrams
            if data in (marked, stranger)
        ]
        for other in queues.values():
            assert other.receive() == ([], [])


def test_a_batch_is_bounded_in_octets(counters: Counters) -> None:
    with ExitStack() as open_for:
        ends = Ends("udp", counters, open_for)
        for _ in range(12):
            assert ends.one.send_burst(ends.burst(envelopes(46)))
        batches = []
        while came := ends.come():
            batches.append(sum(len(part) for part, *_ in came))
        assert max(batches) <= (1 << 18) + 65535
        assert sum(batches) == 12 * 46 * SIZE
    assert counters.snapshot() == {}


def test_empty_datagrams_are_counted(counters: Counters) -> None:
    with ExitStack() as open_for:
        for way in ("udp", "raw"):
            ends = Ends(way, counters, open_for)
            with socket.socket(
                socket.AF_INET,
                socket.SOCK_DGRAM if ends.udp else socket.SOCK_RAW,
                0 if ends.udp else 50,
            ) as peer:
                peer.sendto(b"", (ends.peer.host, ends.peer.port))
            queue = ends.other.strangers if ends.udp else ends.other
            assert not any(queue.receive())
    assert counters.snapshot() == {DropReason.ESP_TOO_SHORT.value: 2}
