"""A portal that has restarted calls its moats where they last were.

portal                                          moat
HDR, SAi1, KEi, Ni, N(NAT…)  ----------->       its IKE SA is dead, and it may call itself
                             <-----------       HDR, SAr1, KEr, Nr, N(NAT…)
HDR, SK{IDi, CERT, AUTH, …}  ----------->
                             <-----------       HDR, SK{IDr, CERT, AUTH, …}
"""

from __future__ import annotations

import pytest
from network import (
    DELAY,
    EMPTY,
    MOAT_HOST,
    PORTAL_HOST,
    SETTLED,
    Network,
    Peer,
    ask_for_cookies,
    connected,
    established,
    exchange_of,
    many,
    nat,
    portal_config,
    tables,
)

from moatvpn.counters import DropReason
from moatvpn.ike.callback import CALL_AGAIN, MOST_CALLING, MOST_CALLS
from moatvpn.ike.events import IkeDown, IkeUp
from moatvpn.wire.endpoint import NAT_PORT, Datagram, Endpoint
from moatvpn.wire.ike_header import Exchange

AT_MOAT = Endpoint(MOAT_HOST, 500)
INIT = (Exchange.IKE_SA_INIT, False)


def restarted(network: Network, moat: Peer, portal: Peer, seed: int = 99) -> Peer:
    """Put a portal in place of portal that has forgotten all but where its moat was."""
    peer = portal.ike.status("c0001").peer
    assert peer is not None
    network.peers.remove(portal)
    again = Peer(portal.identity, PORTAL_HOST, seed, portal.signer)
    again.ike.add_connection(portal_config(moat), network.now)
    again.ike.remember_peer("c0001", peer, network.now)
    network.join(again)
    return again


def calls(network: Network, host: str, since: int = 0) -> list[Datagram]:
    """Return the IKE_SA_INIT requests that a host has sent."""
    return [d for d in network.log[since:] if exchange_of(d) == INIT and d.local.host == host]


def test_an_idle_moat_is_called_back_at_once():
    network = Network()
    moat, portal = established(network)
    before = len(network.log)
    again = restarted(network, moat, portal)
    network.run(network.now + 0.2)
    assert connected(moat, again)
    assert len(calls(network, PORTAL_HOST, before)) == 1
    assert not calls(network, MOAT_HOST, before)
    assert not moat.kinds(IkeDown)
    network.run(network.now + 40.0)
    assert tables(moat) == tables(again) == SETTLED
    assert len(moat.kinds(IkeUp)) == 2


@pytest.mark.parametrize("sa", ["child", "ike"])
@pytest.mark.parametrize("who", ["moat", "portal"])
def test_what_the_portal_has_set_up_either_side_rekeys(who: str, sa: str):
    network = Network()
    moat, portal = established(network)
    again = restarted(network, moat, portal)
    network.run(network.now + 0.2)
    spis = set(moat.inbound), moat.ike.status("portal").spi_i
    peer, name = {"moat": (moat, "portal"), "portal": (again, "c0001")}[who]
    peer.ike.rekey(name, "ike" if sa == "ike" else "child", network.now)
    network.run(network.now + 20.0)
    assert connected(moat, again)
    assert tables(moat) == tables(again) == SETTLED
    now = set(moat.inbound), moat.ike.status("portal").spi_i
    assert (now[0] != spis[0], now[1] != spis[1]) == (sa == "child", sa == "ike")


def test_a_moat_that_the_portal_has_called_calls_again_when_it_must():
    network = Network()
    moat, portal = established(network)
    again = restarted(network, moat, portal)
    network.run(network.now + 0.2)
    network.peers.remove(again)
    third = Peer(portal.identity, PORTAL_HOST, 97, portal.signer)
    third.ike.add_connection(portal_config(moat), network.now)
    network.join(third)
    moat.ike.note_outbound("portal", network.now)
    network.run(network.now + 4.5)
    assert connected(moat, third)
    assert len(calls(network, MOAT_HOST)) == 2


def test_behind_a_nat_the_call_goes_through_its_mapping():
    network = Network()
    network.rewrite = nat(Endpoint("203.0.113.9", 10000), MOAT_HOST)
    moat, portal = established(network)
    mapping = Endpoint("203.0.113.9", 14500)
    assert portal.ike.status("c0001").peer == mapping
    before = len(network.log)
    again = restarted(network, moat, portal)
    network.run(network.now + 0.2)
    assert connected(moat, again)
    sent = network.log[before:]
    assert {d.remote for d in sent if d.local.host == PORTAL_HOST} == {mapping}
    assert {(d.local.port, d.remote.port) for d in sent if d.local.host == MOAT_HOST} == {
        (4500, 4500)
    }
    assert next(iter(moat.inbound.values())).child.udp
    assert again.ike.status("c0001").nat
    # It is the moat that is behind it, so it is the moat that keeps it open.
    network.run(network.now + 60.0)
    assert connected(moat, again)
    assert tables(moat) == tables(again) == SETTLED


def finds_it_dead(moat: Peer, now: float) -> None:
    """Let the moat find its IKE SA dead now, so that it calls."""
    connection = moat.ike._context.connections["portal"]
    assert connection.sa is not None
    connection.sa_failed(connection.sa, "as if its retransmissions had run out", now)


# From before the portal's call leaves until after its IKE_AUTH has been answered.
@pytest.mark.parametrize("after", [n * DELAY / 4 for n in range(30)])
def test_calls_that_cross_leave_one_ike_sa(after: float):
    network = Network()
    moat, portal = established(network)
    again = restarted(network, moat, portal)
    network.run(network.now + after)
    finds_it_dead(moat, network.now)
    network.run(network.now + 1.0)
    assert connected(moat, again)
    assert moat.ike.status("portal").spi_i == again.ike.status("c0001").spi_i
    settled, ups = len(network.log), len(moat.kinds(IkeUp)) + len(again.kinds(IkeUp))
    network.run(network.now + 120.0)
    assert connected(moat, again)
    assert tables(moat) == tables(again) == SETTLED
    assert not [d for d in network.log[settled:] if exchange_of(d)[0] == Exchange.IKE_SA_INIT]
    assert len(moat.kinds(IkeUp)) + len(again.kinds(IkeUp)) == ups


@pytest.mark.parametrize("seed", range(40))
def test_calls_that_cross_on_a_bad_network(seed: int):
    network = Network(seed)
    moat, portal = established(network)
    network.loss, network.repeat, network.jitter = 0.2, 0.1, 0.3
    again = restarted(network, moat, portal, seed + 100)
    moat.ike.note_outbound("portal", network.now)
    finds_it_dead(moat, network.now)
    network.run(network.now + 30.0)
    network.loss = network.repeat = network.jitter = 0.0
    network.run(network.now + 60.0)
    assert connected(moat, again)
    assert tables(moat) == tables(again) == SETTLED
    assert moat.ike.status("portal").spi_i == again.ike.status("c0001").spi_i


def test_the_moats_own_call_wins_once_its_ike_auth_has_left():
    """Both are in IKE_AUTH: the moat turns the portal away, the portal takes the moat's call."""
    network = Network()
    moat, portal = established(network)
    again = restarted(network, moat, portal)
    while not calls(network, PORTAL_HOST):
        network.run(network.now + 0.001)
    finds_it_dead(moat, network.now)
    network.run(network.now + 0.3)
    assert moat.counters.value(DropReason.IKE_CROSSED_CALL) == 1
    assert connected(moat, again)
    assert moat.ike._context.connections["portal"].sa.initiator
    network.run(network.now + 60.0)
    assert tables(moat) == tables(again) == SETTLED
    assert len(moat.kinds(IkeUp)) == 2
    assert len(again.kinds(IkeUp)) == 1


def test_the_portals_call_comes_late_after_the_moats_own():
    """The portal's IKE_AUTH is overtaken by the answer to the moat's: it is turned away still."""
    network = Network()
    moat, portal = established(network)
    network.delay = lambda d: (
        0.5 if d.local.host == PORTAL_HOST and exchange_of(d) == (Exchange.IKE_AUTH, False) else 0.0
    )
    again = restarted(network, moat, portal)
    while not calls(network, PORTAL_HOST):
        network.run(network.now + 0.001)
    finds_it_dead(moat, network.now)
    network.run(network.now + 5.0)
    assert moat.counters.value(DropReason.IKE_CROSSED_CALL) == 1
    assert connected(moat, again)
    network.run(network.now + 60.0)
    assert tables(moat) == tables(again) == SETTLED
    assert len(again.kinds(IkeUp)) == 1


def test_two_hundred_moats_are_called_a_few_at_a_time():
    network = Network()
    moats, portal = many(network, 200)
    network.run(5.0)
    network.peers.remove(portal)
    again = Peer(portal.identity, PORTAL_HOST, 77, portal.signer)
    network.join(again)
    for n, moat in enumerate(moats):
        name = f"c{n}"
        config = portal_config(moat, name=name, remote_selectors=(f"10.201.{n}.0/24",))
        again.ike.add_connection(config, network.now)
        peer = portal.ike.status(name).peer
        assert peer is not None
        again.ike.remember_peer(name, peer, network.now)
    start, most = network.now, 0
    # A slow path, so that calls take long enough to meet the limit.
    network.delay = lambda _: 0.4

    def watch() -> None:
        nonlocal most
        attempts = sum(c.attempt is not None for c in again.ike._context.connections.values())
        most = max(most, attempts)

    network.each_step = watch
    network.run(start + 9.0)
    assert MOST_CALLING // 2 < most <= MOST_CALLING
    assert all(again.ike.status(f"c{n}").state == "established" for n in range(200))
    network.each_step = lambda: None
    network.run(network.now + 30.0)
    assert tables(again) == SETTLED | {"ike_sas": 200, "child_spis": 200}
    assert all(tables(moat) == SETTLED for moat in moats)


def test_calls_that_nobody_answers_come_to_an_end():
    network = Network()
    moat, portal = established(network)
    before = len(network.log)
    network.peers.remove(moat)
    again = restarted(network, moat, portal)
    network.run(network.now + CALL_AGAIN * 2.0**MOST_CALLS)
    sent = calls(network, PORTAL_HOST, before)
    assert len({d.data for d in sent}) == MOST_CALLS
    assert len(sent) == 3 * MOST_CALLS
    assert tables(again) == EMPTY
    assert again.ike.get_timer() is None


def test_moats_that_are_gone_hold_up_no_other():
    network = Network()
    moats, portal = many(network, 20)
    network.run(3.0)
    network.peers.remove(portal)
    again = Peer(portal.identity, PORTAL_HOST, 77, portal.signer)
    network.join(again)
    for n, moat in enumerate(moats):
        config = portal_config(moat, name=f"c{n}", remote_selectors=(f"10.201.{n}.0/24",))
        again.ike.add_connection(config, network.now)
        again.ike.remember_peer(f"c{n}", Endpoint(moat.host, 500), network.now)
    for n in range(200):
        # Customers who moved out: their boxes answer no more.
        config = portal_config(
            moats[0],
            name=f"gone{n}",
            remote_identity=f"gone{n}.example.net",
            remote_selectors=(f"10.202.{n}.0/24",),
        )
        again.ike.add_connection(config, network.now)
        again.ike.remember_peer(f"gone{n}", Endpoint(f"203.0.113.{n}", 500), network.now)
    network.run(network.now + 15.0)
    assert all(again.ike.status(f"c{n}").state == "established" for n in range(20))


def test_a_connection_that_is_removed_is_called_no_more():
    network = Network()
    moat, portal = established(network)
    before = len(network.log)
    again = restarted(network, moat, portal)
    again.ike.remove_connection("c0001", network.now)
    network.run(network.now + 60.0)
    assert not calls(network, PORTAL_HOST, before)


def test_a_moat_answers_only_where_its_portal_is():
    network = Network()
    moat, portal = established(network)
    impostor = Peer(portal.identity, "203.0.113.66", 98, portal.signer)
    impostor.ike.add_connection(portal_config(moat), network.now)
    impostor.ike.remember_peer("c0001", AT_MOAT, network.now)
    network.join(impostor)
    network.run(network.now + 1.0)
    assert moat.counters.value(DropReason.IKE_UNKNOWN_PEER) >= 1
    assert not [d for d in network.log if d.remote.host == impostor.host]
    assert connected(moat, portal)


def test_whoever_sits_at_the_portals_address_needs_its_key():
    network = Network()
    moat, portal = established(network)
    children = dict(moat.inbound)
    network.peers.remove(portal)
    impostor = Peer(portal.identity, PORTAL_HOST, 98)
    impostor.ike.add_connection(portal_config(moat), network.now)
    impostor.ike.remember_peer("c0001", AT_MOAT, network.now)
    network.join(impostor)
    network.run(network.now + 1.0)
    assert moat.counters.value(DropReason.IKE_AUTHENTICATION_FAILED) == 1
    assert moat.inbound == children
    assert not moat.kinds(IkeDown)


def test_a_portal_that_has_moved_may_call_from_where_it_was_last():
    network = Network()
    moat, portal = established(network)
    portal.host = "198.51.100.77"
    # Its envelopes come from where it is now.
    moat.ike.peer_moved("portal", Endpoint(portal.host, 0), network.now)
    network.run(network.now + 1.0)
    assert moat.ike.status("portal").peer == Endpoint(portal.host, NAT_PORT)
    network.peers.remove(portal)
    again = Peer(portal.identity, portal.host, 97, portal.signer)
    again.ike.add_connection(portal_config(moat), network.now)
    again.ike.remember_peer("c0001", AT_MOAT, network.now)
    network.join(again)
    network.run(network.now + 0.3)
    assert connected(moat, again)


def test_under_load_a_moat_asks_its_portal_for_a_cookie():
    network = Network()
    moat, portal = established(network)
    ask_for_cookies(moat)
    before = len(network.log)
    again = restarted(network, moat, portal)
    network.run(network.now + 0.3)
    assert connected(moat, again)
    assert len(calls(network, PORTAL_HOST, before)) == 2
    assert moat.counters.value(DropReason.IKE_COOKIE_NEEDED) == 1
