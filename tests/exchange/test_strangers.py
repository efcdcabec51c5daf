"""What strangers cost, and who still gets in (RFC 7296, 2.6).

flood                                   portal
HDR, SAi1, KEi, Ni  ------------------>  at the rate of its address, network, and all
                    <------------------  HDR, N(COOKIE)
moat
HDR, SAi1, KEi, Ni  ------------------>
                    <------------------  HDR, N(COOKIE)
HDR, N(COOKIE), SAi1, KEi, Ni -------->  by a rate that no forger can use up
                    <------------------  HDR, SAr1, KEr, Nr
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from network import (
    MOAT,
    MOAT_HOST,
    PORTAL,
    PORTAL_HOST,
    SETTLED,
    Network,
    Peer,
    connected,
    established,
    exchange_of,
    many,
    moat_config,
    portal_config,
    tables,
)

from moatvpn.counters import DropReason
from moatvpn.ike.events import Notice
from moatvpn.ike.gate import DEFAULT_LIMITS, Rate
from moatvpn.wire.algorithms import PostQuantum
from moatvpn.wire.endpoint import Datagram, Endpoint
from moatvpn.wire.ike_first import MAX_FIRST_LENGTH
from moatvpn.wire.ike_header import HEADER_LENGTH, MAX_PAYLOADS, Exchange, PayloadType

AT_PORTAL = Endpoint(PORTAL_HOST, 500)
A_SECOND = 20_000
STEP = 0.01


def request_of_a_stranger() -> bytes:
    network = Network()
    stranger = Peer("stranger.example.net", "203.0.113.66", 9)
    network.join(stranger)
    stranger.ike.add_connection(moat_config(Peer(PORTAL, PORTAL_HOST, 1)), 0.0)
    network.run(0.3)
    return network.log[0].data


def one_host(number: int) -> Endpoint:
    return Endpoint("203.0.113.66", 1024 + number % 60_000)


def one_network(number: int) -> Endpoint:
    return Endpoint(f"203.0.{number >> 8 & 255}.{number & 255}", 500)


class Flood:
    """Sends the portal A_SECOND first requests each second, and keeps what it answers."""

    def __init__(self, portal: Peer, source: Callable[[int], Endpoint]) -> None:
        self.portal, self.source = portal, source
        self.request = request_of_a_stranger()
        self.sent = 0
        self.most = 0

    def until(self, now: float) -> None:
        while self.sent < now * A_SECOND:
            self.sent += 1
            data = self.sent.to_bytes(8, "big") + self.request[8:]
            datagram = Datagram(data, AT_PORTAL, self.source(self.sent))
            self.portal.ike.receive_datagram(datagram, now)
            self.most = max(self.most, tables(self.portal)["half_open"])


@pytest.mark.parametrize("source", [one_host, one_network])
def test_a_new_moat_comes_up_during_a_flood(source: Callable[[int], Endpoint]) -> None:
    network = Network()
    moat, portal = Peer(MOAT, MOAT_HOST, 11), Peer(PORTAL, PORTAL_HOST, 22)
    network.join(moat, portal)
    portal.ike.add_connection(portal_config(moat), 0.0)
    flood = Flood(portal, source)
    for step in range(100):
        if step == 50:
            moat.ike.add_connection(moat_config(portal), network.now)
        flood.until(step * STEP)
        network.run(step * STEP)
    network.run(1.01)
    assert connected(moat, portal)
    assert flood.most <= DEFAULT_LIMITS.cookies_above + 1
    counters = portal.counters
    looked_at = flood.sent - counters.value(DropReason.IKE_RATE_LIMIT)
    rate = DEFAULT_LIMITS.host if source is one_host else DEFAULT_LIMITS.network
    assert looked_at <= rate.burst + rate.a_second + 2
    assert counters.value(DropReason.IKE_COOKIE_NEEDED) == pytest.approx(looked_at, abs=60)


def test_an_established_moat_notices_nothing_of_a_flood_from_its_own_address() -> None:
    network = Network()
    moat, portal = established(network)
    flood = Flood(portal, lambda number: Endpoint(MOAT_HOST, 1024 + number % 60_000))
    for step in range(101, 201):
        flood.until(step * STEP)
        network.run(step * STEP)
        if step % 20 == 0:
            portal.ike.rekey("c0001", "ike", network.now)
            moat.ike.rekey("portal", "child", network.now)
    network.run(60.0)
    assert connected(moat, portal)
    assert tables(moat) == tables(portal) == SETTLED


def test_a_repeated_request_gets_its_answer_under_load() -> None:
    portal = Peer(PORTAL, PORTAL_HOST, 22)
    portal.ike.add_connection(portal_config(Peer(MOAT, MOAT_HOST, 11)), 0.0)
    request = request_of_a_stranger()
    asked = Datagram(request, AT_PORTAL, Endpoint(MOAT_HOST, 500))
    portal.ike.receive_datagram(asked, 0.0)
    (first,) = portal.ike.datagrams_to_send()
    Flood(portal, one_host).until(0.1)
    portal.ike.datagrams_to_send()
    portal.ike.receive_datagram(asked, 0.1)
    (second,) = portal.ike.datagrams_to_send()
    assert second.data == first.data


def test_set_ups_without_a_cookie_have_a_rate_however_few_are_half_open() -> None:
    limits = replace(DEFAULT_LIMITS, without_cookie=Rate(1, 10))
    network = Network()
    moats, portal = many(network, 30, limits)
    network.run(3.0)
    assert len(portal.inbound) == 30
    cookies = portal.counters.value(DropReason.IKE_COOKIE_NEEDED)
    assert 30 - 10 - 3 <= cookies <= 30 - 10
    first = [d for d in network.log if exchange_of(d) == (Exchange.IKE_SA_INIT, False)]
    assert len(first) == 30 + cookies
    assert all(tables(moat) == SETTLED for moat in moats)


def test_about_an_unknown_sa_no_more_is_said_than_a_few_lines() -> None:
    network = Network()
    _, portal = established(network)
    portal.take_events()
    events = len(portal.events)
    request = request_of_a_stranger()
    data = request[:8] + b"\1" * 8 + request[16:18] + bytes((Exchange.IKE_AUTH,)) + request[19:]
    for number in range(5000):
        portal.ike.receive_datagram(Datagram(data, AT_PORTAL, one_network(number)), network.now)
    assert portal.ike.datagrams_to_send() == []
    assert portal.counters.value(DropReason.IKE_UNKNOWN_SPI) == 5000
    portal.take_events()
    assert len(portal.events) - events <= DEFAULT_LIMITS.unknown.burst


def test_a_message_that_would_cost_much_to_parse_is_not_parsed() -> None:
    portal = Peer(PORTAL, PORTAL_HOST, 22)
    portal.ike.add_connection(portal_config(Peer(MOAT, MOAT_HOST, 11)), 0.0)
    request = request_of_a_stranger()
    empty = bytes((PayloadType.VENDOR, 0, 0, 4))
    for number, reason in (
        (MAX_PAYLOADS, "too many payloads"),
        (MAX_FIRST_LENGTH // len(empty), None),
    ):
        length = (len(request) + number * len(empty)).to_bytes(4, "big")
        chain = empty * (number - 1) + request[16:17] + empty[1:] + request[HEADER_LENGTH:]
        head = request[:16] + bytes((PayloadType.VENDOR,)) + request[17:24] + length
        portal.take_events()
        events = len(portal.events)
        portal.ike.receive_datagram(Datagram(head + chain, AT_PORTAL, one_host(number)), 0.0)
        portal.take_events()
        assert portal.ike.datagrams_to_send() == []
        assert [str(reason) in event.text for event in portal.kinds(Notice)[events:]] == (
            [True] if reason else []
        )
    assert portal.counters.value(DropReason.IKE_MALFORMED) == 2


def test_nobody_puts_half_open_sas_on_somebody_elses_account() -> None:
    network = Network()
    portal, stranger = Peer(PORTAL, PORTAL_HOST, 22), Peer("s.example.net", "203.0.113.66", 9)
    network.join(portal, stranger)
    portal.ike.add_connection(portal_config(stranger, post_quantum=PostQuantum.PREFER), 0.0)
    stranger.ike.add_connection(moat_config(portal, post_quantum=PostQuantum.PREFER), 0.0)

    def forge(datagram: Datagram) -> Datagram:
        if exchange_of(datagram) == (Exchange.IKE_INTERMEDIATE, False):
            return Datagram(datagram.data, Endpoint("192.0.2.10", 4500), datagram.remote)
        return datagram

    network.rewrite = forge
    network.run(0.4)
    assert any(exchange_of(d) == (Exchange.IKE_INTERMEDIATE, True) for d in network.log)
    half_open = portal.ike._context.half_open
    assert (half_open.of_host("203.0.113.66"), half_open.of_host("192.0.2.10")) == (1, 0)
    # Nor does a first request that comes again make answers go there.
    since = len(network.log)
    again = network.log[0]
    portal.ike.receive_datagram(Datagram(again.data, again.remote, again.local), network.now)
    network.run(network.now + 0.001)
    assert [d.remote for d in network.log[since:]] == [again.local]
