"""Both sides at work on the same SA at once, and messages that come late (RFC 7296, 2.8 and 2.25).

    HDR, SK{N(REKEY_SA), SA, Ni, KEi, TS} ---+  +---  HDR, SK{N(REKEY_SA), SA, Ni, KEi, TS}
                                              \\/
                                              /\\
                                        <----+  +---->
    HDR, SK{SA, Nr, KEr, TS} ---------------->  <---------------- HDR, SK{SA, Nr, KEr, TS}

Of the four nonces the lowest tells which of the two new SAs goes.
"""

from __future__ import annotations

import pytest
from network import (
    MOAT_HOST,
    SETTLED,
    Network,
    Peer,
    connected,
    established,
    exchange_of,
    tables,
    watch_usable,
)

from moatvpn.ike.events import ChildDown, ChildUp, IkeDown, IkeRekeyed, IkeUp
from moatvpn.wire.endpoint import Datagram
from moatvpn.wire.ike_header import Exchange

CREATE, INFORMATIONAL = Exchange.CREATE_CHILD_SA, Exchange.INFORMATIONAL


def both_rekey(moat: Peer, portal: Peer, sa: str, now: float) -> None:
    moat.ike.rekey("portal", sa, now)
    portal.ike.rekey("c0001", sa, now)


def assert_settled(network: Network, moat: Peer, portal: Peer) -> None:
    assert connected(moat, portal)
    assert tables(moat) == tables(portal) == SETTLED
    assert len(moat.inbound) == len(portal.inbound) == 1
    one, other = moat.ike.status("portal"), portal.ike.status("c0001")
    assert (one.spi_i, one.spi_r) == (other.spi_i, other.spi_r)


def assert_never_set_up_anew(moat: Peer) -> None:
    assert not moat.kinds(IkeDown)
    assert len(moat.kinds(IkeUp)) == 1


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("sa", ["child", "ike"])
def test_simultaneous_rekeys_leave_the_one_without_the_lowest_nonce(sa, seed):
    network = Network()
    moat, portal = established(network)
    moat.random.seed(seed)
    portal.random.seed(seed + 100)
    watch_usable(network, moat, portal)
    before = moat.ike.status("portal").spi_i, set(moat.inbound)
    both_rekey(moat, portal, sa, network.now)
    started = network.now
    network.run(network.now + 0.5)
    creating = [d for d in network.log if exchange_of(d)[0] == CREATE]
    assert len(creating) == 4  # neither was refused, nor tried again
    network.run(started + 20.0)
    assert_settled(network, moat, portal)
    assert_never_set_up_anew(moat)
    after = moat.ike.status("portal").spi_i, set(moat.inbound)
    assert (before[0] != after[0]) == (sa == "ike")
    assert before[1].isdisjoint(after[1]) == (sa == "child")
    if sa == "child":
        # Two were made beside the old one; each side deleted one of those three.
        assert len(moat.kinds(ChildUp)) == len(portal.kinds(ChildUp)) == 3
        deletes = [d for d in network.log if exchange_of(d) == (INFORMATIONAL, False)]
        assert {d.local.host for d in deletes} == {moat.host, portal.host}


@pytest.mark.parametrize("late", ["moat", "portal"])
@pytest.mark.parametrize("sa", ["child", "ike"])
def test_a_request_that_comes_after_the_other_rekey_is_done_makes_nothing(sa, late):
    network = Network()
    moat, portal = established(network)
    watch_usable(network, moat, portal)
    slow = {"moat": moat, "portal": portal}[late].host
    until = network.now + 1.0
    network.lose = lambda d: (
        d.local.host == slow and exchange_of(d) == (CREATE, False) and network.now < until
    )
    both_rekey(moat, portal, sa, network.now)
    network.run(network.now + 45.0)
    assert_settled(network, moat, portal)
    assert_never_set_up_anew(moat)
    assert len(moat.kinds(ChildUp)) == (2 if sa == "child" else 1)
    assert len(moat.kinds(IkeRekeyed)) == (1 if sa == "ike" else 0)


@pytest.mark.parametrize("seed", range(10))
def test_everything_at_once_through_loss_settles(seed):
    network = Network(seed, loss=0.15, repeat=0.2, jitter=0.3)
    moat, portal = established(Network())
    network.join(moat, portal)
    network.run(1.5)
    for sa in ("child", "ike", "child"):
        both_rekey(moat, portal, sa, network.now)
    network.run(network.now + 3.0)
    both_rekey(moat, portal, "ike", network.now)
    network.run(network.now + 3.0)
    network.loss = 0
    network.run(network.now + 60.0)
    assert_settled(network, moat, portal)


def test_a_late_delete_does_not_bring_back_what_has_been_replaced():
    network = Network()
    moat, portal = established(network)
    moat.ike.rekey("portal", "child", network.now)
    network.run(network.now + 0.5)
    # The Delete of the first one is on its way for long, while the portal rekeys the second.
    network.lose = lambda d: d.local.host == MOAT_HOST and exchange_of(d) == (INFORMATIONAL, False)
    network.run(network.now + 2.0)
    portal.ike.rekey("c0001", "child", network.now)
    network.run(network.now + 0.5)
    newest = portal.outbound["c0001"]
    network.lose = lambda _: False
    network.run(network.now + 1.2)  # the Delete has come, that of the second one has not
    assert len(portal.inbound) == 3
    assert portal.outbound["c0001"] is newest
    network.run(network.now + 30.0)
    assert_settled(network, moat, portal)


def test_a_late_response_does_not_bring_back_what_has_been_replaced():
    network = Network()
    moat, portal = established(network)
    watch_usable(network, moat, portal)
    # The portal rekeys what the moat's own rekey made, before the moat knows that it has.
    blocked = network.now + 1.2
    network.lose = lambda d: (
        d.remote.host == MOAT_HOST and exchange_of(d) == (CREATE, True) and network.now < blocked
    )
    moat.ike.rekey("portal", "child", network.now)
    network.run(network.now + 0.3)
    portal.ike.rekey("c0001", "child", network.now)
    network.run(network.now + 40.0)
    assert_settled(network, moat, portal)


@pytest.mark.parametrize("side", ["moat", "portal"])
def test_a_delete_that_waits_is_not_lost_in_an_ike_rekey(side):
    network = Network()
    moat, portal = established(network)
    moat.ike.rekey("portal", "child", network.now)
    network.run(network.now + 1.0)
    # The Delete of the old CHILD_SA is lost for a while, and comes due within an IKE SA rekey.
    until = network.now + 1.2

    def lose(datagram: Datagram) -> bool:
        request = exchange_of(datagram) in ((INFORMATIONAL, False), (CREATE, True))
        return request and network.now < until

    network.lose = lose
    peer, name = {"moat": (moat, "portal"), "portal": (portal, "c0001")}[side]
    peer.ike.rekey(name, "ike", network.now)
    network.run(network.now + 45.0)
    assert_settled(network, moat, portal)
    assert_never_set_up_anew(moat)
    assert len(moat.kinds(ChildDown)) == len(portal.kinds(ChildDown)) == 1
    assert moat.kinds(IkeRekeyed)


def test_a_child_rekey_that_waits_goes_on_after_an_ike_rekey():
    network = Network()
    moat, portal = established(network)
    before = set(moat.inbound)
    moat.ike.rekey("portal", "ike", network.now)
    moat.ike.rekey("portal", "child", network.now)
    network.run(network.now + 45.0)
    assert_settled(network, moat, portal)
    assert_never_set_up_anew(moat)
    assert before.isdisjoint(moat.inbound)
