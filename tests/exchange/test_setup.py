"""IKE_SA_INIT and IKE_AUTH between two endpoints in memory.

moat                                              portal
  HDR, SAi1, KEi, Ni, N(NAT_DETECTION_*) -------->
                                        <--------  HDR, SAr1, KEr, Nr, N(NAT_DETECTION_*)
  HDR, SK{IDi, CERT, IDr, AUTH, SA, TSi, TSr} --->
                                        <--------  HDR, SK{IDr, CERT, AUTH, SA, TSi, TSr}
"""

from __future__ import annotations

import pytest
from network import (
    MOAT,
    MOAT_HOST,
    PORTAL,
    PORTAL_HOST,
    Network,
    Peer,
    connected,
    many,
    moat_config,
    nat,
    new_signer,
    pair,
    portal_config,
)

from moatvpn.counters import DropReason
from moatvpn.ike.events import IkeDown, IkeUp
from moatvpn.wire.algorithms import CipherSuite
from moatvpn.wire.endpoint import NAT_PORT, Datagram, Endpoint


def test_four_messages_make_a_tunnel():
    network = Network()
    moat, portal = pair(network)
    network.run(1.0)
    assert connected(moat, portal)
    assert len(network.log) == 4
    child = moat.outbound["portal"].child
    assert (child.suite, child.esn, child.udp) == (CipherSuite.AES_256_GCM, True, False)
    assert child.key_in != child.key_out
    assert portal.kinds(IkeUp)[0].peer == Endpoint(MOAT_HOST, NAT_PORT)
    assert [str(ts.start) for ts in portal.outbound["c0001"].child.remote_ts] == [
        "10.201.1.0",
        "fd00:201:1::",
    ]
    assert moat.counters.snapshot() == portal.counters.snapshot() == {}


@pytest.mark.parametrize("seed", range(12))
def test_comes_up_through_loss_repetition_and_reordering(seed):
    network = Network(seed, loss=0.3, repeat=0.3, jitter=0.4)
    moat, portal = pair(network)
    network.run(60.0)
    network.loss = network.repeat = 0
    network.run(90.0)
    assert connected(moat, portal)


def test_nat_is_found_and_moves_everything_to_udp_4500():
    network = Network()
    moat, portal = pair(network)
    network.rewrite = nat(Endpoint("203.0.113.7", 10000), MOAT_HOST)
    real_deliver = network._deliver

    def deliver(datagram: Datagram) -> None:
        real_deliver(datagram)

    network._deliver = deliver
    network.run(1.0)
    assert connected(moat, portal)
    assert moat.outbound["portal"].child.udp
    assert portal.outbound["c0001"].child.udp
    assert portal.outbound["c0001"].peer == Endpoint("203.0.113.7", 14500)
    assert moat.outbound["portal"].peer == Endpoint(PORTAL_HOST, 4500)


def test_udp_where_configured_without_any_nat():
    network = Network()
    moat, portal = pair(network, encapsulation="udp")
    network.run(1.0)
    assert connected(moat, portal)
    assert moat.outbound["portal"].child.udp
    assert portal.outbound["c0001"].child.udp


def test_a_moat_with_another_key_is_refused_and_counted():
    network = Network()
    moat, portal = Peer(MOAT, MOAT_HOST, 1), Peer(PORTAL, PORTAL_HOST, 2)
    stranger = Peer(MOAT, MOAT_HOST, 3, new_signer())
    network.join(stranger, portal)
    portal.ike.add_connection(portal_config(moat), 0.0)
    stranger.ike.add_connection(moat_config(portal), 0.0)
    network.run(3.0)
    assert not portal.kinds(IkeUp)
    assert not stranger.inbound
    assert portal.counters.value(DropReason.IKE_AUTHENTICATION_FAILED) >= 1


def test_a_portal_with_another_key_is_refused_by_the_moat():
    network = Network()
    moat, portal = Peer(MOAT, MOAT_HOST, 1), Peer(PORTAL, PORTAL_HOST, 2)
    network.join(moat, portal)
    portal.ike.add_connection(portal_config(moat), 0.0)
    wrong = (new_signer().public_text,)
    moat.ike.add_connection(moat_config(portal, remote_public_keys=wrong), 0.0)
    network.run(3.0)
    assert not moat.kinds(IkeUp)
    assert not moat.inbound
    assert moat.counters.value(DropReason.IKE_AUTHENTICATION_FAILED) >= 1


def test_an_unknown_identity_is_refused_and_counted():
    network = Network()
    moat, portal = Peer(MOAT, MOAT_HOST, 1), Peer(PORTAL, PORTAL_HOST, 2)
    network.join(moat, portal)
    moat.ike.add_connection(moat_config(portal), 0.0)
    network.run(3.0)
    assert not moat.kinds(IkeUp)
    assert portal.counters.value(DropReason.IKE_UNKNOWN_PEER) >= 1


def test_the_moat_never_gives_up():
    network = Network(loss=1.0)
    moat, portal = pair(network)
    network.run(3600.0)
    assert len(network.log) > 500
    network.loss = 0
    network.run(3612.0)
    assert connected(moat, portal)


def test_the_portal_s_selectors_narrow_what_the_moat_asks_for():
    network = Network()
    moat, portal = Peer(MOAT, MOAT_HOST, 1), Peer(PORTAL, PORTAL_HOST, 2)
    network.join(moat, portal)
    portal.ike.add_connection(portal_config(moat, local_selectors=("10.50.0.0/16",)), 0.0)
    moat.ike.add_connection(moat_config(portal), 0.0)
    network.run(1.0)
    remote = moat.outbound["portal"].child.remote_ts
    assert [(str(ts.start), str(ts.end)) for ts in remote] == [("10.50.0.0", "10.50.255.255")]


def test_one_connection_leaves_the_others_alone():
    network = Network()
    moats, portal = many(network, 20)
    network.run(2.0)
    assert len(portal.outbound) == 20
    portal.ike.remove_connection("c7", network.now)
    network.run(5.0)
    assert set(portal.outbound) == {f"c{n}" for n in range(20) if n != 7}
    assert [m.identity for m in moats if m.kinds(IkeDown)] == ["m7.example.net"]
