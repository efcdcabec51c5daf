"""The in-memory twins behave as the sockets they stand for."""

from __future__ import annotations

import pytest
from bursts import burst, each

from moatvpn.counters import Counters, DropReason
from moatvpn.drivers.memory import MemoryHost, MemoryNetwork, MemoryTun
from moatvpn.wire.endpoint import Datagram, Endpoint

A, B = "192.0.2.1", "198.51.100.2"


@pytest.fixture
def network() -> MemoryNetwork:
    return MemoryNetwork()


@pytest.fixture
def hosts(network: MemoryNetwork) -> tuple[MemoryHost, MemoryHost]:
    return network.attach(A, Counters()), network.attach(B, Counters())


Hosts = tuple[MemoryHost, MemoryHost]


def test_tun_gives_batches_in_order() -> None:
    tun = MemoryTun()
    tun.waiting.extend([b"1", b"2", b"3"])
    assert tun.read_batch(2) == [(b"1", b""), (b"2", b"")]
    assert tun.read_batch(2) == [(b"3", b"")]
    assert tun.write([b"4", b"5"], b"header")
    assert tun.delivered == [b"45"]
    assert tun.offloads == [b"header"]


def test_protocol_50_has_no_ports(hosts: Hosts) -> None:
    a, b = hosts
    assert a.raw.send_burst(burst(b"one", b"two", b"3", to=Endpoint(B, 500), tos=0xB8))
    came = each(b.raw.receive())
    assert came == [(data, Endpoint(A, 0), 0xB8) for data in (b"one", b"two", b"3")]
    assert b.raw.receive() == []


def test_udp_keeps_esp_and_ike_apart(hosts: Hosts) -> None:
    a, b = hosts
    message = Datagram(b"ike", Endpoint(A, 4500), Endpoint(B, 4500))
    assert a.ports[4500].send_ike(message)
    assert a.ports[4500].send_burst(burst(b"esp", to=Endpoint(B, 4500), tos=1))
    arrivals, messages = b.ports[4500].receive()
    assert each(arrivals) == [(b"esp", Endpoint(A, 4500), 1)]
    assert messages == []
    arrivals, messages = b.ports[4500].established.receive()
    assert arrivals == []
    assert messages == [Datagram(b"ike", Endpoint(B, 4500), Endpoint(A, 4500))]


def test_a_path_may_lose_and_duplicate(network: MemoryNetwork, hosts: Hosts) -> None:
    a, b = hosts
    network.path = lambda packet: () if packet.data == b"lost" else (packet, packet)
    for data in (b"lost", b"twice"):
        assert a.raw.send_burst(burst(data, to=Endpoint(B, 0)))
    assert [data for data, _, _ in each(b.raw.receive())] == [b"twice", b"twice"]
    assert [packet.data for packet in network.sent] == [b"lost", b"twice"]


def test_a_host_that_moved_is_found_at_its_new_address_only(
    network: MemoryNetwork, hosts: Hosts
) -> None:
    a, b = hosts
    network.move(b, "203.0.113.9")
    assert not a.raw.send_burst(burst(b"esp", to=Endpoint(B, 0)))
    assert a.counters.value(DropReason.OUT_SEND_FAILED) == 1
    assert a.raw.send_burst(burst(b"esp", to=Endpoint("203.0.113.9", 0)))
    assert len(b.raw.receive()) == 1
    assert b.local_address(A) == "203.0.113.9"
    old = Datagram(b"ike", Endpoint(B, 500), Endpoint(A, 500))
    assert not b.ports[500].send_ike(old)
