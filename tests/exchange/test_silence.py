"""A peer that falls silent, and peers that move while a request is in flight.

HDR, SK{} ------->  (no answer)
HDR, SK{} ------->  (no answer)
HDR, SK{} ------->  and beside it, with SPIs of its own:
HDR, SAi1, KEi, Ni ------->
"""

from __future__ import annotations

import pytest
from network import (
    MOAT_HOST,
    PORTAL_HOST,
    SETTLED,
    Network,
    Peer,
    connected,
    established,
    exchange_of,
    portal_config,
    reborn,
    tables,
)

from moatvpn.ike.events import IkeDown, IkeUp
from moatvpn.wire.endpoint import NAT_PORT, Datagram, Endpoint
from moatvpn.wire.ike_header import Exchange


def reborn_portal(network: Network, moat: Peer, portal: Peer) -> Peer:
    """Put a portal that has lost all its state in place of portal."""
    network.peers.remove(portal)
    again = Peer(portal.identity, PORTAL_HOST, 99, portal.signer)
    again.ike.add_connection(portal_config(moat), network.now)
    network.join(again)
    return again


def test_a_killed_portal_has_its_moat_back_before_retransmissions_run_out():
    network = Network()
    moat, portal = established(network)
    again = reborn_portal(network, moat, portal)
    killed = network.now
    assert moat.ike.status("portal").up_since < killed
    moat.ike.note_outbound("portal", network.now)
    while not connected(moat, again):
        network.run(network.now + 0.05)
        assert network.now < killed + 4.5
    assert not moat.kinds(IkeDown)
    assert moat.ike.status("portal").up_since > killed
    network.run(network.now + 40.0)
    assert tables(moat) == tables(again) == SETTLED
    assert len(moat.inbound) == 1


def test_an_answer_from_the_old_ends_the_attempt():
    network = Network()
    moat, portal = established(network)
    until = network.now + 3.6
    network.lose = lambda d: d.local.host == MOAT_HOST and network.now < until
    moat.ike.rekey("portal", "child", network.now)
    network.run(until)
    assert moat.ike._context.connections["portal"].attempt is not None
    network.run(network.now + 30.0)
    assert len(moat.kinds(IkeUp)) == 1
    assert not moat.kinds(IkeDown)
    assert connected(moat, portal)
    assert tables(moat) == tables(portal) == SETTLED


def test_the_old_one_stays_while_the_attempt_is_not_authenticated():
    network = Network()
    moat, portal = established(network)
    impostor = Peer(portal.identity, PORTAL_HOST, 98)
    impostor.ike.add_connection(portal_config(moat), network.now)
    # For a while, whoever sits at the portal's address cannot prove to be the portal.
    network.peers.remove(portal)
    network.join(impostor)
    children = dict(moat.inbound)
    moat.ike.note_outbound("portal", network.now)
    network.run(network.now + 6.0)
    assert not moat.kinds(IkeDown)
    assert moat.inbound == children
    network.peers.remove(impostor)
    network.join(portal)
    network.run(network.now + 30.0)
    assert connected(moat, portal)
    assert tables(moat) == tables(portal) == SETTLED


def test_a_portal_never_calls_a_silent_moat():
    network = Network()
    moat, portal = established(network)
    network.peers.remove(moat)
    before = len(network.log)
    network.run(network.now + 60.0)
    assert not portal.kinds(IkeDown)  # the moat may come back from another address (RFC 4555, 3.11)
    network.run(network.now + 300.0)
    assert portal.kinds(IkeDown)
    sent = [exchange_of(d)[0] for d in network.log[before:]]
    assert sent == [Exchange.INFORMATIONAL] * 11


def test_a_killed_moat_replaces_its_old_state_at_once():
    network = Network()
    moat, portal = established(network)
    new = reborn(network, moat, portal)
    network.run(network.now + 0.3)
    assert connected(new, portal)
    assert tables(portal) == SETTLED
    assert len(portal.inbound) == 1


@pytest.mark.parametrize("told_by", ["ike", "esp"])
def test_a_request_in_flight_follows_the_peer_to_its_new_address(told_by):
    network = Network()
    moat, portal = established(network)
    moat.host = "192.0.2.77"
    portal.ike.rekey("c0001", "child", network.now)
    network.run(network.now + 0.7)
    moved = network.now
    if told_by == "ike":
        moat.ike.local_address_changed(moved)
    else:
        portal.ike.peer_moved("c0001", Endpoint(moat.host, 0), moved)
    before = set(portal.inbound)
    network.run(moved + 0.1)  # long before the next retransmission
    assert set(portal.inbound) > before
    requests = [d for d in network.log if exchange_of(d) == (Exchange.CREATE_CHILD_SA, False)]
    assert {d.remote for d in requests[:-1]} == {Endpoint(MOAT_HOST, NAT_PORT)}
    assert requests[-1].remote == Endpoint(moat.host, NAT_PORT)
    assert len({d.data for d in requests}) == 1


def test_a_move_while_an_attempt_is_under_way():
    network = Network(loss=1.0)
    moat, portal = established(Network())
    network.join(moat, portal)
    network.now = 1.0
    moat.ike.rekey("portal", "child", network.now)
    network.run(3.0)
    moat.host = "192.0.2.77"
    network.loss = 0.0
    network.lose = lambda d: d.local.host == MOAT_HOST
    moat.ike.local_address_changed(network.now)
    network.run(network.now + 30.0)
    assert connected(moat, portal)
    assert portal.ike.status("c0001").peer == Endpoint(moat.host, NAT_PORT)
    assert tables(moat) == tables(portal) == SETTLED


def test_what_is_not_authenticated_does_not_keep_a_dead_peer_alive():
    network = Network()
    moat, portal = established(network)
    answers = [d for d in network.log if d.remote.host == MOAT_HOST]
    network.peers.remove(portal)
    moat.ike.note_outbound("portal", network.now)
    for _ in range(12):
        network.run(network.now + 1.0)
        for old in answers:
            moat.ike.receive_datagram(Datagram(old.data, old.remote, old.local), network.now)
    assert moat.kinds(IkeDown)
