"""A UDP port of ours: framing (RFC 3948), addresses, TOS octet, batches, failures."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing

import pytest
from bursts import burst, each

from moatvpn.counters import Counters, DropReason
from moatvpn.drivers.udp import UdpPort, local_address_towards
from moatvpn.errors import OperatorError
from moatvpn.wire.endpoint import KEEPALIVE, Datagram, Endpoint


@pytest.fixture
def counters() -> Counters:
    return Counters()


@pytest.fixture
def framed(counters: Counters) -> Iterator[UdpPort]:
    with closing(UdpPort(0, counters, framed=True)) as port:
        yield port


@pytest.fixture
def plain(counters: Counters) -> Iterator[UdpPort]:
    with closing(UdpPort(0, counters, framed=False)) as port:
        yield port


@pytest.fixture
def peer() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(5)
        yield sock


# A message about an IKE SA: its responder has an SPI. A first request has none there.
ABOUT_AN_SA = b"initiateresponds" + bytes(12)
FIRST = b"initiate" + bytes(20)
MARKER = bytes(4)


def at(sock: socket.socket) -> Endpoint:
    return Endpoint(*sock.getsockname())


def test_framed_port_tells_esp_ike_and_keepalives_apart(
    framed: UdpPort, peer: socket.socket, counters: Counters
) -> None:
    esp = (b"\0\0\1\0esp", b"\xff\xff\xff\xff")
    for data in (b"\xff", MARKER + ABOUT_AN_SA, *esp, MARKER + FIRST, MARKER, b"", b"\xff\xff"):
        peer.sendto(data, ("127.0.0.1", framed.port))
    local = Endpoint("127.0.0.1", framed.port)
    arrivals, messages = framed.receive()
    assert each(arrivals) == [(data, at(peer), 0) for data in esp]
    assert messages == []
    assert framed.established.receive() == ([], [Datagram(ABOUT_AN_SA, local, at(peer))])
    # What belongs to no SA, and what is too short for any, waits apart.
    arrivals, messages = framed.strangers.receive()
    assert each(arrivals) == [(b"\xff\xff", at(peer), 0)]
    assert messages == [Datagram(data, local, at(peer)) for data in (FIRST, b"")]
    assert counters.value(DropReason.ESP_TOO_SHORT) == 1  # b""


def test_a_keepalive_goes_out_without_a_marker(framed: UdpPort, peer: socket.socket) -> None:
    local = Endpoint("127.0.0.1", framed.port)
    assert framed.send_ike(Datagram(KEEPALIVE, local, at(peer)))
    assert peer.recv(64) == b"\xff"


def test_plain_port_takes_everything_for_ike(plain: UdpPort, peer: socket.socket) -> None:
    for data in (b"\xff", FIRST, ABOUT_AN_SA, MARKER + FIRST):
        peer.sendto(data, ("127.0.0.1", plain.port))
    for queue, expected in (
        (plain.established, [ABOUT_AN_SA, MARKER + FIRST]),
        (plain.strangers, [b"\xff", FIRST]),
    ):
        arrivals, messages = queue.receive()
        assert arrivals == []
        assert [message.data for message in messages] == expected


def test_the_local_address_is_the_one_that_was_sent_to(plain: UdpPort, peer: socket.socket) -> None:
    peer.sendto(FIRST, ("127.0.0.77", plain.port))
    (message,) = plain.strangers.receive()[1]
    assert message.local == Endpoint("127.0.0.77", plain.port)
    plain.send_ike(Datagram(b"answer", message.local, message.remote))
    assert peer.recvfrom(100) == (b"answer", ("127.0.0.77", plain.port))


def test_framed_port_sends_ike_with_the_marker(framed: UdpPort, peer: socket.socket) -> None:
    local = Endpoint("127.0.0.1", framed.port)
    assert framed.send_ike(Datagram(b"ike", local, at(peer)))
    assert peer.recv(100) == bytes(4) + b"ike"


@pytest.mark.parametrize("tos", [0, 3, 0xB8])
def test_esp_carries_the_tos_octet_both_ways(framed: UdpPort, counters: Counters, tos: int) -> None:
    with closing(UdpPort(0, counters, framed=True)) as other:
        assert framed.send_burst(
            burst(b"\1\2\3\4esp", to=Endpoint("127.0.0.1", other.port), tos=tos)
        )
        ((data, source, seen),) = each(other.receive()[0])
    assert (data, seen) == (b"\1\2\3\4esp", tos)
    assert source == Endpoint("127.0.0.1", framed.port)


@pytest.mark.parametrize("tos", [0, 3])
def test_esp_leaves_from_the_address_that_is_named(framed: UdpPort, counters: Counters, tos: int):
    with closing(UdpPort(0, counters, framed=True)) as other:
        target = Endpoint("127.0.0.1", other.port)
        assert framed.send_burst(burst(b"\1\2\3\4esp", to=target, tos=tos, source="127.0.0.77"))
        ((_, source, seen),) = each(other.receive()[0])
        assert (source, seen) == (Endpoint("127.0.0.77", framed.port), tos)
        assert not framed.send_burst(
            burst(b"\1\2\3\4esp", to=target, tos=tos, source="192.0.2.250")
        )  # not ours


def test_a_batch_is_bounded_and_the_rest_waits(framed: UdpPort, peer: socket.socket) -> None:
    for number in range(10):
        peer.sendto(bytes([1, 0, 0, number]), ("127.0.0.1", framed.port))
    assert [data[3] for data, _, _ in each(framed.receive(4)[0])] == [0, 1, 2, 3]
    assert [data[3] for data, _, _ in each(framed.receive(64)[0])] == [4, 5, 6, 7, 8, 9]
    assert framed.receive() == ([], [])


def test_what_cannot_be_sent_is_counted(framed: UdpPort, counters: Counters) -> None:
    nowhere = Endpoint("255.255.255.255", 9)  # broadcast, which the socket has no leave for
    assert not framed.send_burst(burst(b"\1\2\3\4", to=nowhere, tos=0))
    assert not framed.send_burst(burst(b"\1\2\3\4", to=nowhere, tos=2))
    not_ours = Endpoint("192.0.2.250", framed.port)
    assert not framed.send_ike(Datagram(b"ike", not_ours, Endpoint("127.0.0.1", 9)))
    assert counters.value(DropReason.OUT_SEND_FAILED) == 3


@pytest.mark.parametrize("framed", [False, True])
def test_a_flood_of_first_requests_fills_their_queue_alone_and_is_counted(
    counters: Counters, peer: socket.socket, framed: bool
) -> None:
    marker = MARKER if framed else b""
    with closing(UdpPort(0, counters, framed=framed)) as port:
        for _ in range(5000):
            peer.sendto(marker + FIRST + bytes(400), ("127.0.0.1", port.port))
        peer.sendto(marker + ABOUT_AN_SA, ("127.0.0.1", port.port))
        assert [message.data for message in port.established.receive()[1]] == [ABOUT_AN_SA]
        waited = 0
        while batch := port.strangers.receive()[1]:
            waited += len(batch)
        assert 0 < waited < 5000
        assert counters.value(DropReason.WILD_OVERFLOW) == 5000 - waited


def test_a_flood_of_envelopes_pushes_out_no_message_and_is_counted(
    counters: Counters, peer: socket.socket
) -> None:
    with closing(UdpPort(0, counters, framed=True)) as port:
        for _ in range(20_000):
            peer.sendto(b"\1\2\3\4" + bytes(1400), ("127.0.0.1", port.port))
        for data in (ABOUT_AN_SA, FIRST):
            peer.sendto(MARKER + data, ("127.0.0.1", port.port))
        assert [message.data for message in port.established.receive()[1]] == [ABOUT_AN_SA]
        assert [message.data for message in port.strangers.receive()[1]] == [FIRST]
        waited = 0
        while batch := port.receive()[0]:
            waited += len(batch)
        assert 0 < waited < 20_000
        assert counters.value(DropReason.WILD_OVERFLOW) == 20_000 - waited


def test_a_taken_port_is_told_to_a_person(framed: UdpPort, counters: Counters) -> None:
    with pytest.raises(OperatorError, match=rf"UDP port {framed.port}: cannot be opened"):
        UdpPort(framed.port, counters, framed=True)
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as other:
        other.bind(("127.0.0.1", 0))
        with pytest.raises(OperatorError, match="cannot be opened"):
            UdpPort(other.getsockname()[1], counters, framed=True)


def test_local_address_towards() -> None:
    assert local_address_towards("127.0.0.1") == "127.0.0.1"
    assert local_address_towards("255.255.255.255") is None
    assert local_address_towards("fd00::1") is None


def test_a_port_goes_by_the_number_that_it_stands_in_for(
    counters: Counters, peer: socket.socket
) -> None:
    with closing(UdpPort(0, counters, framed=True, known_as=4500)) as port:
        assert port.port not in (0, 4500)
        for data, queue in ((ABOUT_AN_SA, port.established), (FIRST, port.strangers)):
            peer.sendto(MARKER + data, ("127.0.0.1", port.port))
            (message,) = queue.receive()[1]
            assert message.local == Endpoint("127.0.0.1", 4500)
            assert port.send_ike(Datagram(b"answer", message.local, message.remote))
            assert peer.recvfrom(99) == (MARKER + b"answer", ("127.0.0.1", port.port))
