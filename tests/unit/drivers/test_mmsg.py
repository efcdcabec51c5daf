"""Bursts leave and packets come in one call of the kernel's, or one by one without such calls."""

from __future__ import annotations

import ctypes
import errno
import os
import socket
from collections.abc import Iterator

import pytest

from moatvpn.counters import Counters, DropReason
from moatvpn.drivers import mmsg
from moatvpn.drivers.mmsg import ManyReceiver, ManySender
from moatvpn.esp.burst import MAX_ENVELOPES, Burst
from moatvpn.wire.endpoint import Endpoint

LOOPBACK = "127.0.0.1"


@pytest.fixture(params=["many", "one by one"], autouse=True)
def calls(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "one by one":
        monkeypatch.setattr(mmsg, "_send_many", None)
        monkeypatch.setattr(mmsg, "_receive_many", None)
    else:
        # Should they be missing, this test would prove nothing.
        assert mmsg._send_many is not None
        assert mmsg._receive_many is not None


@pytest.fixture
def counters() -> Counters:
    return Counters()


@pytest.fixture
def here() -> Iterator[socket.socket]:
    with new_socket() as sock:
        yield sock


@pytest.fixture
def there() -> Iterator[socket.socket]:
    with new_socket() as sock:
        yield sock


def new_socket() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((LOOPBACK, 0))
    sock.setblocking(False)
    return sock


def burst_to(
    sock: socket.socket, data: bytes | bytearray, size: int, tos: int = 0, source: str = ""
) -> Burst:
    peer = Endpoint(*sock.getsockname())
    return Burst(memoryview(data), size, peer, True, tos, source, whole=True)


def cut(data: bytes, size: int) -> list[bytes]:
    return [data[offset : offset + size] for offset in range(0, len(data), size)]


def all_of(sock: socket.socket) -> list[bytes]:
    found = []
    while True:
        try:
            found.append(sock.recv(65535))
        except BlockingIOError:
            return found


def test_bursts_of_any_length_go_out_as_they_are(
    here: socket.socket, there: socket.socket, counters: Counters
) -> None:
    sender = ManySender(here, counters)
    ring = bytearray(os.urandom(65_000))
    # The same ring, size by size: what the calls point to is laid out anew where it has to be.
    for length, size in ((64_000, 1000), (62_001, 1000), (64_000, 1000), (65_000, 1452), (3, 2)):
        burst = burst_to(there, memoryview(ring)[:length], size)
        assert sender.send(burst, burst.peer.port)
        assert all_of(there) == cut(bytes(ring[:length]), size)
    data = os.urandom(5000)  # which nobody may write to
    assert sender.send(burst_to(there, data, 1200), there.getsockname()[1])
    assert all_of(there) == cut(data, 1200)


def test_every_burst_has_its_own_peer_source_and_tos_octet(
    here: socket.socket, there: socket.socket, counters: Counters
) -> None:
    here.close()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, new_socket() as third:
        sock.bind(("", 0))
        sender = ManySender(sock, counters)
        targets = (there, "", 0), (third, "127.0.0.7", 0xB9), (there, "", 2), (third, "", 0)
        for target, source, tos in targets:
            target.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)
            burst = burst_to(target, b"onetwo", 3, tos, source)
            assert sender.send(burst, burst.peer.port)
            for expected in (b"one", b"two"):
                data, ancillary, _, (host, _) = target.recvmsg(9, 99)
                assert (data, host) == (expected, source or LOOPBACK)
                assert ancillary == [(socket.IPPROTO_IP, socket.IP_TOS, bytes([tos]))]


def test_what_cannot_go_is_counted_envelope_by_envelope(
    here: socket.socket, counters: Counters
) -> None:
    sender = ManySender(here, counters)
    nowhere = Endpoint("255.255.255.255", 9)  # broadcast, which the socket has no leave for
    for peer, source in (
        (nowhere, ""),
        (Endpoint(LOOPBACK, 9), "192.0.2.250"),
        (Endpoint("no address", 9), ""),
    ):
        burst = Burst(memoryview(b"onetwo3"), 3, peer, True, 0, source, whole=False)
        assert not sender.send(burst, peer.port)
    assert counters.snapshot() == {DropReason.OUT_SEND_FAILED.value: 9}


def test_more_than_a_burst_is_refused(
    here: socket.socket, there: socket.socket, counters: Counters
) -> None:
    with pytest.raises(ValueError, match="65 envelopes"):
        ManySender(here, counters).send(burst_to(there, bytes(MAX_ENVELOPES + 1), 1), 9)
    assert all_of(there) == []


@pytest.mark.parametrize("calls", ["many"], indirect=True)
def test_a_burst_goes_on_where_the_kernel_stopped(
    here: socket.socket, there: socket.socket, counters: Counters, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, asked = mmsg._send_many, []

    def some(fd: int, start: ctypes.c_void_p, number: int, flags: int) -> int:
        asked.append(number)
        if len(asked) > 3:
            ctypes.set_errno(errno.ENOBUFS)
            return -1
        return int(real(fd, start, min(number, 2), flags))

    monkeypatch.setattr(mmsg, "_send_many", some)
    assert not ManySender(here, counters).send(
        burst_to(there, b"abcdefgh", 1), there.getsockname()[1]
    )
    assert all_of(there) == [b"a", b"b", b"c", b"d", b"e", b"f"]
    assert asked == [8, 6, 4, 2]
    assert counters.snapshot() == {DropReason.OUT_SEND_FAILED.value: 2}


def test_packets_of_any_size_come_in_order(here: socket.socket, there: socket.socket) -> None:
    receiver = ManyReceiver(there, 5, 65535)
    assert receiver.receive(5) == []
    sent = [os.urandom(size) for size in (1, 60_000, 1400, 65_507, 7, 300)]
    for packet in sent:
        here.sendto(packet, there.getsockname())
    found = []
    for limit, expected in ((2, 2), (9, 4)):
        while len(found) < len(sent) and expected:
            sizes = receiver.receive(limit)
            assert 0 < len(sizes) <= min(limit, 5)
            found += [bytes(receiver.places[i][:size]) for i, size in enumerate(sizes)]
            expected -= len(sizes)
    assert found == sent
    assert receiver.receive(5) == []
