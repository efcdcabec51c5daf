"""What happens to an established tunnel: rekeys, deletes, dead peers, moves, hostile messages.

Rekey of a CHILD_SA:
  HDR, SK{N(REKEY_SA), SA, Ni, KEi, TSi, TSr} --->
                                        <--------  HDR, SK{SA, Nr, KEr, TSi, TSr}
  HDR, SK{D(old)} ------------------------------->
                                        <--------  HDR, SK{D(old)}
"""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from network import (
    PORTAL_HOST,
    Network,
    Peer,
    connected,
    established,
    pair,
    portal_config,
    reborn,
    watch_usable,
)

from moatvpn.counters import DropReason
from moatvpn.ike.events import ChildUp, IkeDown, IkeRekeyed, IkeUp, PeerMoved
from moatvpn.wire.endpoint import NAT_PORT, Datagram, Endpoint


@pytest.mark.parametrize("side", ["moat", "portal"])
@pytest.mark.parametrize("seed", range(4))
def test_child_rekey_never_leaves_a_moment_without_a_usable_sa(side, seed):
    network = Network(seed, loss=0.2, repeat=0.2, jitter=0.2)
    moat, portal = pair(network, dpd_interval=60.0)  # no set-up anew instead of the rekey
    network.run(30.0)
    assert connected(moat, portal)
    watch_usable(network, moat, portal)
    before = moat.outbound["portal"].child.spi_out
    peer, name = (moat, "portal") if side == "moat" else (portal, "c0001")
    peer.ike.rekey(name, "child", network.now)
    network.run(network.now + 4.0)
    network.loss = 0
    network.run(network.now + 20.0)
    assert moat.outbound["portal"].child.spi_out != before
    assert connected(moat, portal)
    assert len(moat.inbound) == len(portal.inbound) == 1


@pytest.mark.parametrize("side", ["moat", "portal"])
def test_ike_rekey_keeps_the_child_sas(side):
    network = Network()
    moat, portal = established(network)
    watch_usable(network, moat, portal)
    old = moat.ike.status("portal")
    children = dict(moat.inbound)
    peer, name = (moat, "portal") if side == "moat" else (portal, "c0001")
    peer.ike.rekey(name, "ike", network.now)
    network.run(network.now + 5.0)
    new = moat.ike.status("portal")
    assert {new.spi_i, new.spi_r}.isdisjoint({old.spi_i, old.spi_r})
    assert moat.inbound == children
    assert moat.kinds(IkeRekeyed)
    assert portal.kinds(IkeRekeyed)
    assert not moat.kinds(IkeDown)
    # The new IKE SA works: it can rekey the child it inherited.
    peer.ike.rekey(name, "child", network.now)
    network.run(network.now + 10.0)
    assert moat.inbound.keys() != children.keys()
    assert connected(moat, portal)


def test_both_sides_rekeying_at_once_settles():
    network = Network()
    moat, portal = established(network)
    watch_usable(network, moat, portal)
    for _ in range(3):
        moat.ike.rekey("portal", "child", network.now)
        portal.ike.rekey("c0001", "child", network.now)
        moat.ike.rekey("portal", "ike", network.now)
        portal.ike.rekey("c0001", "ike", network.now)
        network.run(network.now + 40.0)
    assert connected(moat, portal)
    assert len(moat.inbound) == len(portal.inbound) == 1
    assert not moat.kinds(IkeDown)


def test_lifetimes_rekey_by_themselves_for_a_day():
    network = Network()
    moat, portal = established(network)
    watch_usable(network, moat, portal)
    since = [peer.ike.status(name).up_since for peer, name in ((moat, "portal"), (portal, "c0001"))]
    network.run(86_400.0)
    assert connected(moat, portal)
    assert len(moat.kinds(ChildUp)) > 24
    assert len(moat.kinds(IkeRekeyed)) >= 6
    assert len(moat.kinds(IkeUp)) == 1
    # The IKE SA is hours old, the tunnel a day.
    assert moat.ike.status("portal").established_at > 60_000.0
    for peer, name in ((moat, "portal"), (portal, "c0001")):
        assert peer.ike.status(name).up_since == since.pop(0) < 10.0


def test_a_dead_portal_is_noticed_and_found_again():
    network = Network()
    moat, portal = established(network)
    network.peers.remove(portal)
    reborn = Peer(portal.identity, PORTAL_HOST, 99, portal.signer)
    reborn.ike.add_connection(portal_config(moat), network.now)
    network.join(reborn)
    moat.ike.note_outbound("portal", network.now)
    network.run(network.now + 15.0)
    assert len(moat.kinds(IkeUp)) == 2
    assert connected(moat, reborn)


def test_a_reborn_moat_replaces_its_old_sas_at_the_portal():
    network = Network()
    moat, portal = established(network)
    new = reborn(network, moat, portal)
    network.run(network.now + 2.0)
    assert connected(new, portal)
    assert len(portal.inbound) == 1


def test_the_portal_follows_the_moat_to_a_new_address():
    network = Network()
    moat, portal = established(network)
    moat.host = "192.0.2.77"
    moat.ike.local_address_changed(network.now)
    network.run(network.now + 1.0)
    assert portal.kinds(PeerMoved)[-1].peer == Endpoint("192.0.2.77", NAT_PORT)
    assert not moat.kinds(IkeDown)
    assert connected(moat, portal)


def test_removal_tells_the_peer():
    network = Network()
    moat, portal = established(network)
    moat.ike.remove_connection("portal", network.now)
    network.run(network.now + 1.0)
    assert not moat.inbound
    assert not portal.inbound
    assert portal.kinds(IkeDown)[-1].reason == "the peer deleted the IKE SA"


def test_repeated_and_changed_messages_change_nothing():
    network = Network()
    moat, portal = established(network)
    state, events = portal.ike.status("c0001"), list(portal.events)
    recorded = [d for d in network.log if d.remote.host == PORTAL_HOST]
    for original in recorded:
        forged = Endpoint("203.0.113.66", 500)
        for index in range(len(original.data)):
            octets = bytearray(original.data)
            octets[index] ^= 0x55
            portal.ike.receive_datagram(Datagram(bytes(octets), original.remote, forged), 2.0)
    portal.take_events()
    lasting = [e for e in portal.events[len(events) :] if not hasattr(e, "text")]
    assert lasting == []
    assert portal.ike.status("c0001") == state
    assert portal.counters.value(DropReason.IKE_NOT_AUTHENTIC) > 100
    assert connected(moat, portal)


NETWORK = Network()
MOAT_PEER, PORTAL_PEER = established(NETWORK)


@settings(max_examples=400, deadline=None)
@given(
    st.one_of(
        st.binary(max_size=400),
        st.tuples(
            st.sampled_from(["known", "new", "half"]),
            st.integers(0, 255),
            st.sampled_from([34, 35, 36, 37, 200]),
            st.integers(0, 255),
            st.binary(max_size=300),
        ),
    )
)
def test_hostile_bytes_only_ever_count(hostile):
    if isinstance(hostile, tuple):
        which, first, exchange, flags, body = hostile
        status = PORTAL_PEER.ike.status("c0001")
        spi_r = {"known": status.spi_r, "new": bytes(8), "half": bytes(7) + b"\1"}[which]
        head = status.spi_i + spi_r + bytes((first, 0x20, exchange, flags)) + bytes(4)
        hostile = head + (28 + len(body)).to_bytes(4, "big") + body
    before = PORTAL_PEER.ike.status("c0001")
    source = Endpoint("203.0.113.66", 500)
    local = Endpoint(PORTAL_HOST, 500)
    PORTAL_PEER.ike.receive_datagram(Datagram(hostile, local, source), NETWORK.now)
    assert PORTAL_PEER.ike.status("c0001") == before
    assert all(len(d.data) <= 400 for d in PORTAL_PEER.ike.datagrams_to_send())
