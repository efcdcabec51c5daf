"""MOBIKE on the wire (RFC 4555), from both roles.

moat (calls, so it steers)                           portal
HDR, SK{…, N(MOBIKE_SUPPORTED)} ------->                     IKE_AUTH, from port 4500
                             <-------  HDR, SK{…, N(MOBIKE_SUPPORTED)}
                                                             from its new address:
HDR, SK{N(UPDATE_SA_ADDRESSES), N(NAT…), N(COOKIE2)} ------->
                             <-------  HDR, SK{N(COOKIE2), N(NAT…)}
                             <-------  HDR, SK{N(NAT…), N(COOKIE2)}
HDR, SK{N(COOKIE2), N(NAT…)} ------->                        now traffic goes there, too

moat                                                 portal (has called after a restart: it steers)
HDR, SK{N(NO_ADDITIONAL_ADDRESSES), N(NAT…), N(COOKIE2)} ------->
                             <-------  HDR, SK{N(COOKIE2), N(NAT…)}
                             <-------  HDR, SK{N(UPDATE_SA_ADDRESSES), N(NAT…), N(COOKIE2)}
HDR, SK{N(COOKIE2), N(NAT…)} ------->
"""

from __future__ import annotations

import pytest
from mobile import (
    BOTH,
    CHECK,
    ECHO,
    HOME,
    NEW,
    NEWER,
    UPDATE,
    Start,
    ask,
    called_by_the_portal,
    peer_of,
    roam,
)
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
    nat,
    pair,
    portal_config,
    sa_of,
    tables,
)

from moatvpn.counters import DropReason
from moatvpn.ike import mobike
from moatvpn.ike.events import IkeDown, IkeUp, PeerMoved
from moatvpn.wire.endpoint import NAT_PORT, Endpoint
from moatvpn.wire.ike_header import Exchange

# Agreeing


def test_ike_moves_to_port_4500_with_ike_auth_without_any_nat(said):
    network = Network()
    moat, portal = pair(network)
    network.run(1.0)
    ports = [(d.local.port, d.remote.port) for d in network.log]
    assert ports == [(500, 500)] * 2 + [(NAT_PORT, NAT_PORT)] * 2
    assert [names for _, _, names in said] == [
        ["INITIAL_CONTACT", "MOBIKE_SUPPORTED"],
        ["MOBIKE_SUPPORTED"],
    ]
    assert not moat.outbound["portal"].child.udp
    assert sa_of(moat).mobility.supported
    assert sa_of(portal).mobility.supported


@pytest.mark.parametrize("without", [MOAT, PORTAL])
def test_a_peer_without_mobike_moves_by_its_packets_as_ever(monkeypatch, without, said):
    offer = mobike.offer
    agree = mobike.agree
    knows = lambda sa: sa.context.identity != without  # noqa: E731
    monkeypatch.setattr(mobike, "offer", lambda sa: offer(sa) if knows(sa) else [])
    monkeypatch.setattr(mobike, "agree", lambda sa, said: knows(sa) and agree(sa, said))
    network = Network()
    moat, portal = established(network)
    assert not sa_of(moat).mobility.supported
    assert not sa_of(portal).mobility.supported
    roam(network, moat, NEW)
    network.run(network.now + 1.0)
    assert peer_of(portal) == Endpoint(NEW, NAT_PORT)
    assert said[-2:] == [("m1", "?", []), ("portal", "!", [])]
    portal.ike.peer_moved("c0001", Endpoint(NEWER, 0), network.now)
    assert peer_of(portal) == Endpoint(NEWER, NAT_PORT)  # at once


def test_no_mobike_and_port_500_with_a_peer_that_detects_no_nat(monkeypatch, said):
    from moatvpn.ike import nat as detection

    monkeypatch.setattr(detection, "payloads", lambda path, force_udp: [])
    network = Network()
    moat, _ = established(network)
    assert {d.remote.port for d in network.log} == {500}
    assert not sa_of(moat).mobility.supported
    assert not any("MOBIKE_SUPPORTED" in names for _, _, names in said)


# Moving


def test_an_update_and_its_check(said):
    network = Network()
    moat, portal = established(network)
    spis = sa_of(moat).spi_i, set(moat.inbound)
    del said[:]
    roam(network, moat, NEW)
    network.run(network.now + 1.0)
    assert said == [("m1", "?", UPDATE), ("portal", "!", ECHO), ("portal", "?", CHECK),
                    ("m1", "!", ECHO)]  # fmt: skip
    assert portal.kinds(PeerMoved) == [PeerMoved("c0001", Endpoint(NEW, NAT_PORT), False)]
    assert (sa_of(moat).spi_i, set(moat.inbound)) == spis
    assert connected(moat, portal)


def test_an_update_where_the_portal_steers(said):
    network = Network()
    moat, portal = called_by_the_portal(network)
    del said[:]
    roam(network, moat, NEW)
    network.run(network.now + 1.0)
    assert said == [
        ("m1", "?", ["NO_ADDITIONAL_ADDRESSES", *CHECK]),
        ("portal", "!", ECHO),
        ("portal", "?", UPDATE),
        ("m1", "!", ECHO),
    ]
    assert portal.kinds(PeerMoved) == [PeerMoved("c0001", Endpoint(NEW, NAT_PORT), False)]
    assert connected(moat, portal)


@BOTH
def test_traffic_waits_for_the_proof(start: Start):
    network = Network()
    moat, portal = start(network)
    roam(network, moat, NEW)
    # The moat's answers to the portal don't arrive.
    network.lose = lambda d: d.local.host == NEW and exchange_of(d)[1]
    network.run(network.now + 3.0)
    assert peer_of(portal) == Endpoint(MOAT_HOST, NAT_PORT)
    assert not portal.kinds(PeerMoved)
    network.lose = lambda _: False
    network.run(network.now + 5.0)
    assert peer_of(portal) == Endpoint(NEW, NAT_PORT)


@BOTH
def test_nothing_but_an_update_moves_the_peer(start: Start):
    network = Network()
    moat, portal = start(network)
    moat.host = NEW  # and MOBIKE's tasks do not know
    sa_of(moat).local = Endpoint(NEW, NAT_PORT)
    before = len(network.log)
    assert ask(network, moat) == []
    assert len(network.log) == before + 2  # it was answered where it had asked from
    assert network.log[-1].remote == Endpoint(NEW, NAT_PORT)
    assert peer_of(portal) == sa_of(portal).remote == Endpoint(MOAT_HOST, NAT_PORT)


@pytest.mark.parametrize("liar", [MOAT, PORTAL])
@BOTH
def test_a_wrong_cookie_ends_the_ike_sa(monkeypatch, start: Start, liar):
    network = Network()
    moat, portal = start(network)
    real = mobike.check_cookie2
    network.lose = lambda d: d.local.host == NEW and exchange_of(d)[0] == Exchange.IKE_SA_INIT

    def read(connection, sa, payloads):
        lies = sa.context.identity == liar
        monkeypatch.setattr(mobike, "check_cookie2", lambda c: bytes(len(c)) if lies else real(c))
        return honest(connection, sa, payloads)

    honest = mobike.read
    monkeypatch.setattr(mobike, "read", read)
    roam(network, moat, NEW)
    network.run(network.now + 1.0)
    deceived = portal if liar == MOAT else moat
    assert deceived.kinds(IkeDown)
    assert deceived.counters.value(DropReason.IKE_COOKIE2) == 1


def test_a_request_in_flight_goes_on_from_the_new_address_and_the_update_follows(said):
    network = Network()
    moat, portal = established(network)
    network.lose = lambda d: d.local.host == MOAT_HOST
    moat.ike.rekey("portal", "child", network.now)
    network.run(network.now + 0.2)
    del said[:]
    moved = len(network.log)
    roam(network, moat, NEW)
    network.run(network.now + 0.3)
    assert peer_of(portal) == Endpoint(NEW, NAT_PORT)
    assert [line for line in said if line[1] == "?" and line[0] == "m1"] == [("m1", "?", UPDATE)]
    first = network.log[moved]
    assert exchange_of(first) == (Exchange.CREATE_CHILD_SA, False)
    assert first.local == Endpoint(NEW, NAT_PORT)
    assert connected(moat, portal)


def test_a_second_change_while_the_update_is_in_flight(said):
    network = Network()
    moat, portal = established(network)
    del said[:]
    roam(network, moat, NEW)
    network.run(network.now + 0.005)  # it has left, and not arrived
    roam(network, moat, NEWER)
    network.run(network.now + 2.0)
    assert [line for line in said if line[0] == "m1" and line[1] == "?"] == [
        ("m1", "?", UPDATE)
    ] * 2
    assert peer_of(portal) == Endpoint(NEWER, NAT_PORT)
    # Nobody was ever sent traffic to the address that the moat had for a moment only.
    assert [e.peer.host for e in portal.kinds(PeerMoved)] == [NEWER]


@pytest.mark.parametrize("sa", ["child", "ike"])
@pytest.mark.parametrize("who", ["moat", "portal", "both"])
@pytest.mark.parametrize("late", [0.0, 0.005, 0.015, 0.025, 0.035])
@BOTH
def test_updates_that_cross_rekeys(start: Start, sa, who, late):
    network = Network()
    moat, portal = start(network)
    before = len(portal.kinds(IkeUp))
    roam(network, moat, NEW)
    network.run(network.now + late)
    if who != "portal":
        moat.ike.rekey("portal", sa, network.now)
    if who != "moat":
        portal.ike.rekey("c0001", sa, network.now)
    network.run(network.now + 40.0)
    assert peer_of(portal) == Endpoint(NEW, NAT_PORT)
    assert connected(moat, portal)
    assert tables(moat) == tables(portal) == SETTLED
    assert len(portal.kinds(IkeUp)) == before


@pytest.mark.parametrize("seed", range(12))
@BOTH
def test_roaming_through_loss_repetition_and_reordering(start: Start, seed):
    network = Network(seed)
    moat, portal = start(network)
    network.loss, network.repeat, network.jitter = 0.25, 0.3, 0.2
    hosts = [f"192.0.2.{number}" for number in (101, 102, 103)]
    for number, host in enumerate((*hosts, "10.0.0.5", MOAT_HOST)):
        behind = host.startswith("10.")
        network.rewrite = nat(Endpoint(HOME, 10000 + number), host) if behind else lambda d: d
        roam(network, moat, host)
        network.run(network.now + 3.0)
    network.loss = network.repeat = 0.0
    network.run(network.now + 90.0)
    assert connected(moat, portal)
    assert peer_of(portal) == Endpoint(MOAT_HOST, NAT_PORT)
    assert tables(moat) == tables(portal) == SETTLED
    assert [sa_of(box).nat for box in (moat, portal)] == [False, False]


@pytest.mark.parametrize("seed", range(8))
def test_a_moat_that_roams_while_its_portal_restarts(seed):
    network = Network(seed, loss=0.2)
    moat, portal = pair(network)
    network.run(20.0)
    network.peers.remove(portal)
    again = Peer(PORTAL, PORTAL_HOST, 97, portal.signer)
    again.ike.add_connection(portal_config(moat), network.now)
    again.ike.remember_peer("c0001", Endpoint(MOAT_HOST, NAT_PORT), network.now)
    network.join(again)
    roam(network, moat, NEW)
    start = network.now
    while not (connected(moat, again) and peer_of(again) == Endpoint(NEW, NAT_PORT)):
        network.run(network.now + 0.1)
        assert network.now - start < 20.0
    network.loss = 0.0
    network.run(network.now + 90.0)
    assert tables(moat) == tables(again) == SETTLED
