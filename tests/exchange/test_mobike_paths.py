"""MOBIKE where NATs, envelopes and further addresses tell of another path (RFC 4555, 3.4 to 3.9).

moat, behind a NAT                                   portal
HDR, SK{N(NAT…)} ------->                                    a liveness check, through a new mapping
                             <-------  HDR, SK{N(NAT…)}      which shows the new mapping
HDR, SK{N(UPDATE_SA_ADDRESSES), N(NAT…), N(COOKIE2)} ------->
                             <-------  HDR, SK{N(COOKIE2), N(NAT…)}
"""

from __future__ import annotations

import pytest
from mobile import (
    BOTH,
    CHECK,
    ECHO,
    HOME,
    NAT,
    NEW,
    SECOND,
    UPDATE,
    Ask,
    Start,
    ask,
    peer_of,
    roam,
)
from network import (
    MOAT,
    MOAT_HOST,
    PORTAL,
    PORTAL_HOST,
    Network,
    Peer,
    connected,
    established,
    exchange_of,
    moat_config,
    nat,
    pair,
    portal_config,
    sa_of,
)

from moatvpn.counters import DropReason
from moatvpn.ike import mobike
from moatvpn.ike.events import IkeDown, IkeUp, PeerMoved
from moatvpn.ike.ike_sa import IkeSa
from moatvpn.wire.endpoint import KEEPALIVE, NAT_PORT, Datagram, Endpoint
from moatvpn.wire.ike_header import Exchange, PayloadType
from moatvpn.wire.ike_mobike import additional_address, no_nats_allowed
from moatvpn.wire.ike_payloads import Notify, NotifyType

# NATs


@BOTH
def test_a_nat_that_appears_and_vanishes_changes_the_encapsulation_of_live_sas(start: Start):
    network = Network()
    moat, portal = start(network)
    spis = set(moat.inbound)
    network.rewrite = nat(Endpoint(HOME, 10000), "10.0.0.5")
    roam(network, moat, "10.0.0.5")
    network.run(network.now + 1.0)
    assert portal.kinds(PeerMoved)[-1] == PeerMoved("c0001", Endpoint(HOME, 14500), True)
    assert moat.kinds(PeerMoved)[-1] == PeerMoved("portal", Endpoint(PORTAL_HOST, NAT_PORT), True)
    keepalives = [d for d in network.log if d.data == KEEPALIVE]
    assert not keepalives
    moat.ike._context.connections["portal"].config = moat_config(portal, dpd_interval=600.0)
    portal.ike._context.connections["c0001"].config = portal_config(moat, dpd_interval=600.0)
    network.run(network.now + 100.0)
    idle = len([d for d in network.log if d.data == KEEPALIVE])
    assert idle >= 3
    network.rewrite = lambda datagram: datagram
    roam(network, moat, NEW)
    network.run(network.now + 100.0)
    assert portal.kinds(PeerMoved)[-1] == PeerMoved("c0001", Endpoint(NEW, NAT_PORT), False)
    assert not moat.kinds(PeerMoved)[-1].udp
    assert len([d for d in network.log if d.data == KEEPALIVE]) == idle
    assert set(moat.inbound) == spis


def test_udp_that_was_asked_for_stays_without_a_nat():
    network = Network()
    moat, portal = established(network, encapsulation="udp")
    roam(network, moat, NEW)
    network.run(network.now + 1.0)
    assert portal.kinds(PeerMoved) == [PeerMoved("c0001", Endpoint(NEW, NAT_PORT), True)]
    assert sa_of(moat).nat
    assert not sa_of(moat).behind_nat


def test_a_liveness_check_shows_that_the_mapping_has_changed(said):
    network = Network()
    network.rewrite = nat(Endpoint(HOME, 10000), MOAT_HOST)
    _, portal = pair(network)
    network.run(30.0)
    assert peer_of(portal) == Endpoint(HOME, 14500)
    del said[:]
    network.rewrite = nat(Endpoint(HOME, 20000), MOAT_HOST)
    network.run(40.0)
    asked = [names for who, what, names in said if (who, what) == ("m1", "?")]
    assert asked == [NAT, UPDATE]
    assert portal.kinds(PeerMoved)[-1] == PeerMoved("c0001", Endpoint(HOME, 24500), True)
    # The same host with another port needs no proof.
    assert not [line for line in said if line[:2] == ("portal", "?")]


def test_a_check_of_the_portal_shows_the_moat_that_its_nat_is_gone():
    """The moat asks nothing itself: every check of the portal's puts its own off.

    portal, told by an envelope                          moat
    HDR, SK{N(NAT…), N(COOKIE2)} ------->
                                 <-------  HDR, SK{N(NAT…), N(COOKIE2)}
                                 <-------  HDR, SK{N(UPDATE_SA_ADDRESSES), N(NAT…), N(COOKIE2)}
    """
    network = Network()
    network.rewrite = nat(Endpoint(HOME, 10000), MOAT_HOST)
    moat, portal = pair(network, dpd_interval=600.0)
    network.run(3.0)
    assert moat.outbound["portal"].child.udp
    network.rewrite = lambda datagram: datagram
    portal.ike.peer_moved("c0001", Endpoint(MOAT_HOST, NAT_PORT), network.now)
    network.run(network.now + 1.0)
    for peer, name, there in ((moat, "portal", PORTAL_HOST), (portal, "c0001", MOAT_HOST)):
        assert peer.kinds(PeerMoved)[-1] == PeerMoved(name, Endpoint(there, NAT_PORT), False)
    assert not sa_of(moat).behind_nat
    seen = len(network.log)
    network.run(network.now + 6.0)
    assert len(network.log) == seen  # and that is all there is to say


def test_no_nats_allowed_meets_none_or_the_update_is_refused():
    network = Network()
    moat, portal = established(network)
    here, there = Endpoint(MOAT_HOST, NAT_PORT), Endpoint(PORTAL_HOST, NAT_PORT)
    update = Notify(NotifyType.UPDATE_SA_ADDRESSES)
    true = Notify(NotifyType.NO_NATS_ALLOWED, no_nats_allowed(here, there))
    assert NotifyType.UNEXPECTED_NAT_DETECTED not in ask(network, moat, update, true)
    assert len(true.data) == 12
    network.rewrite = nat(Endpoint(HOME, 10000), MOAT_HOST)
    cookie = Notify(NotifyType.COOKIE2, b"12345678")
    told = ask(network, moat, update, true, cookie)
    assert told == [NotifyType.COOKIE2, NotifyType.UNEXPECTED_NAT_DETECTED]
    assert peer_of(portal) == sa_of(portal).remote == here
    assert portal.counters.value(DropReason.IKE_ADDRESSES_REFUSED) == 1


def test_no_nats_allowed_in_ike_auth(monkeypatch):
    def offer(sa: IkeSa) -> list[tuple[int, bytes]]:
        claim = Notify(NotifyType.NO_NATS_ALLOWED, no_nats_allowed(sa.local, sa.remote))
        return [*real(sa), (PayloadType.NOTIFY, claim.encode())]

    real = mobike.offer
    monkeypatch.setattr(mobike, "offer", offer)
    network = Network()
    moat, portal = pair(network)
    network.rewrite = nat(Endpoint(HOME, 10000), MOAT_HOST)
    network.run(1.0)
    assert not portal.kinds(IkeUp)
    assert portal.counters.value(DropReason.IKE_ADDRESSES_REFUSED) >= 1
    network.rewrite = lambda datagram: datagram
    network.run(4.0)
    assert connected(moat, portal)


@pytest.mark.parametrize("host", ["10.201.1.9", "224.0.0.9", "127.0.0.9", PORTAL_HOST])
def test_an_address_where_no_peer_can_be_is_refused(host):
    network = Network()
    moat, portal = established(network)
    network.lose = lambda d: exchange_of(d)[0] == Exchange.IKE_SA_INIT
    network.peers.reverse()  # so that the portal's own address leads to the portal
    sa_of(moat).local = Endpoint(host, NAT_PORT)
    network.rewrite = lambda d: (
        (Datagram(d.data, d.local, Endpoint(moat.host, NAT_PORT)) if d.remote.host == host else d)
        if d.local.host != host
        else d
    )
    told = ask(network, moat, Notify(NotifyType.UPDATE_SA_ADDRESSES))
    assert portal.counters.value(DropReason.IKE_ADDRESSES_REFUSED) == 1
    assert told in ([NotifyType.UNACCEPTABLE_ADDRESSES], [])
    assert peer_of(portal) == sa_of(portal).remote == Endpoint(MOAT_HOST, NAT_PORT)


def test_a_moat_whose_address_is_refused_starts_over():
    network = Network()
    moat, _ = established(network)
    roam(network, moat, "10.201.1.9")
    network.run(network.now + 3.0)
    assert "refuses our new address" in moat.kinds(IkeDown)[0].reason
    assert moat.counters.value(DropReason.IKE_ADDRESSES_REFUSED) == 1


# Envelopes


def test_an_envelope_from_another_port_of_the_same_host_moves_traffic_at_once():
    network = Network()
    network.rewrite = nat(Endpoint(HOME, 10000), MOAT_HOST)
    _, portal = established(network)
    portal.ike.peer_moved("c0001", Endpoint(HOME, 24500), network.now)
    portal.take_events()
    assert portal.kinds(PeerMoved)[-1] == PeerMoved("c0001", Endpoint(HOME, 24500), True)
    assert sa_of(portal).remote == Endpoint(HOME, 24500)


def test_an_envelope_from_another_host_makes_the_portal_ask_there_first(said):
    network = Network()
    moat, portal = established(network)
    del said[:]
    moat.host = NEW
    portal.ike.peer_moved("c0001", Endpoint(NEW, 0), network.now)
    portal.take_events()
    assert not portal.kinds(PeerMoved)
    network.run(network.now + 0.1)
    assert said == [("portal", "?", CHECK), ("m1", "!", ECHO)]
    assert portal.kinds(PeerMoved) == [PeerMoved("c0001", Endpoint(NEW, NAT_PORT), False)]


def test_forged_sources_of_envelopes_move_no_traffic_and_starve_nothing():
    network = Network()
    moat, portal = established(network)
    victims = [f"203.0.113.{number}" for number in range(1, 200)]
    before = len(network.log)
    for number, victim in enumerate(victims):  # 20 seconds, with ten packets a second
        portal.ike.peer_moved("c0001", Endpoint(victim, 0), network.now)
        if number == 100:
            portal.ike.rekey("c0001", "child", network.now)
        network.run(network.now + 0.1)
    assert not portal.kinds(PeerMoved)
    sent = [d for d in network.log[before:] if d.remote.host in victims]
    assert len({d.remote.host for d in sent}) <= 2
    assert len(sent) <= 8
    network.run(network.now + 30.0)
    assert not portal.kinds(IkeDown)
    assert not moat.kinds(IkeDown)
    assert connected(moat, portal)
    assert sa_of(portal).remote == Endpoint(MOAT_HOST, NAT_PORT)


def test_a_moat_behind_a_nat_follows_no_envelope():
    network = Network()
    network.rewrite = nat(Endpoint(HOME, 10000), MOAT_HOST)
    moat, _ = established(network)
    before = len(network.log)
    moat.ike.peer_moved("portal", Endpoint(SECOND, NAT_PORT), network.now)
    moat.ike.peer_moved("portal", Endpoint(PORTAL_HOST, 4501), network.now)
    network.run(network.now + 1.0)
    assert len(network.log) == before
    assert peer_of(moat) == Endpoint(PORTAL_HOST, NAT_PORT)


# Several addresses


def two_homed(network: Network) -> tuple[Peer, Peer]:
    moat = Peer(MOAT, MOAT_HOST, 11)
    portal = Peer(PORTAL, PORTAL_HOST, 22, own_hosts=(PORTAL_HOST, SECOND))
    network.join(moat, portal)
    portal.ike.add_connection(portal_config(moat), network.now)
    moat.ike.add_connection(moat_config(portal), network.now)
    network.run(network.now + 1.0)
    assert connected(moat, portal)
    return moat, portal


@pytest.mark.parametrize("moat_moves", [False, True])
def test_a_moat_finds_its_portal_at_its_other_address(said, moat_moves):
    network = Network()
    moat, portal = two_homed(network)
    assert said[-1] == ("portal", "!", ["MOBIKE_SUPPORTED", "ADDITIONAL_IP4_ADDRESS"])
    assert sa_of(moat).mobility.peer_hosts == (SECOND,)
    before = sa_of(moat).spi_i
    portal.host = SECOND  # the first one is cut off
    if moat_moves:
        roam(network, moat, NEW)
    moat.ike.note_outbound("portal", network.now)
    network.run(network.now + 5.0)
    assert peer_of(moat) == Endpoint(SECOND, NAT_PORT)
    assert peer_of(portal) == Endpoint(moat.host, NAT_PORT)
    assert sa_of(portal).local == Endpoint(SECOND, NAT_PORT)
    assert sa_of(moat).spi_i == before
    assert connected(moat, portal)


def test_a_moat_calls_its_restarted_portal_at_its_other_address():
    network = Network()
    moat, portal = two_homed(network)
    network.peers.remove(portal)
    again = Peer(PORTAL, SECOND, 97, portal.signer, own_hosts=(PORTAL_HOST, SECOND))
    again.ike.add_connection(portal_config(moat), network.now)
    network.join(again)
    moat.ike.note_outbound("portal", network.now)
    network.run(network.now + 25.0)
    assert connected(moat, again)
    assert peer_of(moat) == Endpoint(SECOND, NAT_PORT)


def test_a_new_list_of_addresses_replaces_the_old_one():
    network = Network()
    moat, portal = two_homed(network)
    listed = [additional_address(SECOND), additional_address("2001:db8::1")]
    assert ask(network, portal, *listed) == []
    assert sa_of(moat).mobility.peer_hosts == (SECOND, "2001:db8::1")
    assert ask(network, portal, Notify(NotifyType.NO_ADDITIONAL_ADDRESSES)) == []
    assert sa_of(moat).mobility.peer_hosts == ()
    many = [additional_address(f"198.51.100.{n}") for n in range(10, 60)]
    ask(network, portal, *many)
    assert len(sa_of(moat).mobility.peer_hosts) == mobike.MOST_HOSTS
    assert peer_of(moat) == Endpoint(PORTAL_HOST, NAT_PORT)


@pytest.mark.parametrize(
    "notify",
    [
        Notify(NotifyType.ADDITIONAL_IP4_ADDRESS, b"123"),
        Notify(NotifyType.ADDITIONAL_IP6_ADDRESS, b"1234"),
        Notify(NotifyType.COOKIE2, b"1234567"),
        Notify(NotifyType.COOKIE2, bytes(65)),
    ],
)
def test_a_malformed_notify_of_an_authentic_peer_ends_the_ike_sa(notify):
    network = Network()
    moat, portal = established(network)
    ask(network, moat, notify)
    assert portal.kinds(IkeDown)
    assert portal.counters.value(DropReason.IKE_MALFORMED) == 1


def test_a_cookie_is_copied_whoever_asks():
    network = Network()
    moat, portal = established(network)
    for peer in (moat, portal):
        for cookie in (b"12345678", bytes(64)):
            task = Ask([Notify(NotifyType.COOKIE2, cookie)])
            sa_of(peer).start(task, network.now)
            network.run(network.now + 0.5)
            assert task.answer == [Notify(NotifyType.COOKIE2, cookie)]


# Patience


def test_a_portal_that_waits_asks_again_as_soon_as_its_moat_is_there():
    network = Network()
    moat, portal = established(network)
    start, before = network.now, set(portal.inbound)
    network.lose = lambda d: (
        network.now < start + 40.0 and exchange_of(d) == (Exchange.CREATE_CHILD_SA, False)
    )
    portal.ike.rekey("c0001", "child", network.now)
    network.run(start + 40.0 + moat_config(portal).dpd_interval + 1.0)
    assert set(portal.inbound) > before  # long before its next retransmission, at 63 seconds
    assert connected(moat, portal)
