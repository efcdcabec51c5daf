"""Several CHILD_SAs side by side under one IKE SA (RFC 7296, 1.3.1 and 2.9).

moat                                              portal
  ... IKE_AUTH, with the first pair of networks ...
  HDR, SK{SA, Ni, KEi, TSi, TSr} ---------------->
                                        <--------  HDR, SK{SA, Nr, KEr, TSi, TSr}
  ... and so on, one for each pair ...
"""

from __future__ import annotations

from itertools import product

import pytest
from network import (
    MOAT,
    MOAT_HOST,
    PORTAL,
    PORTAL_HOST,
    Network,
    Peer,
    exchange_of,
    moat_config,
    portal_config,
    tables,
    watch_usable,
)

from moatvpn.config import MOST_LINES
from moatvpn.counters import DropReason
from moatvpn.ike import auth
from moatvpn.ike.children import MOST_CHILDREN
from moatvpn.ike.create_child import CreateChildTask
from moatvpn.ike.events import ChildUp, IkeDown, IkeRekeyed, IkeUp, Notice
from moatvpn.ike.refusal import RefusalError
from moatvpn.wire.ike_header import Exchange, PayloadType
from moatvpn.wire.ike_payloads import Notify, NotifyType

CREATE, INFORMATIONAL = Exchange.CREATE_CHILD_SA, Exchange.INFORMATIONAL
DELETE_LENGTH = 12  # octets of a Delete payload with one SPI of ESP
PRIVATE = ("10.201.1.0/24", "10.201.2.0/24", "fd00:201:1::/64")
CORPORATE = ("10.50.0.0/16", "10.60.0.0/16", "fd00:50::/32")
PAIRS = {(a, b) for a, b in product(PRIVATE, CORPORATE) if (":" in a) == (":" in b)}


def joined(network: Network, at_moat: dict, at_portal: dict) -> tuple[Peer, Peer]:
    moat, portal = Peer(MOAT, MOAT_HOST, 11), Peer(PORTAL, PORTAL_HOST, 22)
    network.join(moat, portal)
    networks = {"local_selectors": CORPORATE, "remote_selectors": PRIVATE}
    portal.ike.add_connection(portal_config(moat, **(networks | at_portal)), network.now)
    networks = {"local_selectors": PRIVATE, "remote_selectors": CORPORATE}
    moat.ike.add_connection(moat_config(portal, **(networks | at_moat)), network.now)
    return moat, portal


def networks_of(peer: Peer) -> set[tuple[str, str]]:
    """Return the pairs of networks of the CHILD_SAs that a peer sends on, its own side's first."""

    def first(selectors) -> str:
        return next(n for n in (*PRIVATE, *CORPORATE) if n.startswith(str(selectors[0].start)))

    return {(first(up.child.local_ts), first(up.child.remote_ts)) for up in peer.outbound.values()}


def crossed(pairs: set[tuple[str, str]]) -> set[tuple[str, str]]:
    return {(b, a) for a, b in pairs}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("loss", [0.0, 0.2])
def test_one_for_each_pair_of_networks(seed, loss):
    network = Network(seed, loss=loss, jitter=loss)
    moat, portal = joined(network, {"child_sas": "per-pair"}, {})
    network.run(40.0)
    assert networks_of(moat) == PAIRS
    assert networks_of(portal) == crossed(PAIRS)
    network.loss = network.jitter = 0.0
    network.run(60.0)  # what was under way has come to its end
    watch_usable(network, moat, portal)
    network.run(61.0)
    assert len(moat.outbound) == len(portal.outbound) == len(PAIRS)
    assert tables(moat)["child_spis"] == tables(portal)["child_spis"] == len(PAIRS)


@pytest.mark.parametrize("who", ["moat", "portal"])
def test_each_is_rekeyed_within_its_line(who):
    network = Network()
    moat, portal = joined(network, {"child_sas": "per-pair"}, {})
    network.run(2.0)
    watch_usable(network, moat, portal)
    peer, name = {"moat": (moat, "portal"), "portal": (portal, "c0001")}[who]
    before = {up.child.spi_in for up in moat.outbound.values()}
    peer.ike.rekey(name, "child", network.now)
    network.run(network.now + 10.0)
    assert networks_of(moat) == PAIRS
    assert networks_of(portal) == crossed(PAIRS)
    assert before.isdisjoint(up.child.spi_in for up in moat.outbound.values())
    assert tables(moat)["child_spis"] == tables(portal)["child_spis"] == len(PAIRS)
    peer.ike.rekey(name, "ike", network.now)
    network.run(network.now + 40.0)
    assert len(moat.kinds(IkeRekeyed)) == 1
    assert networks_of(moat) == PAIRS


@pytest.mark.parametrize("seed", range(4))
def test_rekeys_of_all_that_cross_leave_one_in_each_line(seed):
    network = Network(seed, jitter=0.05)
    moat, portal = joined(network, {"child_sas": "per-pair"}, {})
    network.run(2.0)
    watch_usable(network, moat, portal)
    moat.ike.rekey("portal", "child", network.now)
    portal.ike.rekey("c0001", "child", network.now)
    network.run(network.now + 30.0)
    assert networks_of(moat) == PAIRS
    assert tables(moat)["child_spis"] == tables(portal)["child_spis"] == len(PAIRS)
    assert not moat.kinds(IkeDown)


def test_the_portal_deletes_one_and_the_moat_fills_its_place():
    network = Network()
    moat, portal = joined(network, {"child_sas": "per-pair"}, {})
    network.run(2.0)
    gone = next(up for up in portal.outbound.values() if up.child.line == 2)
    children = portal.ike._context.connections["c0001"].children
    children.delete(gone.child.spi_in, network.now)
    network.run(network.now + 0.5)
    assert len(moat.outbound) == len(portal.outbound) == len(PAIRS) - 1
    network.run(network.now + 5.0)
    assert networks_of(moat) == PAIRS
    assert not moat.kinds(IkeDown)
    assert gone.child.spi_in not in {up.child.spi_in for up in portal.outbound.values()}


def test_a_peer_that_begins_more_lines_gets_so_many_and_no_more():
    """The last ones are answered HDR, SK{N(NO_ADDITIONAL_SAS)}."""
    network = Network()
    moat, portal = joined(network, {}, {})
    network.run(1.0)
    connection = moat.ike._context.connections["portal"]
    whole = connection.children.wanted()
    connection.children.wanted = lambda: whole * (MOST_LINES + 3)
    for line in range(1, MOST_LINES + 3):
        connection.sa.start(CreateChildTask(connection, connection.sa, line), network.now)
    network.run(network.now + 2.0)
    assert len(portal.outbound) == MOST_LINES
    assert len(moat.outbound) == MOST_LINES
    refused = [n.text for n in moat.kinds(Notice) if "refused" in n.text]
    assert len(refused) == 3
    assert all(str(int(NotifyType.NO_ADDITIONAL_SAS)) in text for text in refused)


def test_no_line_grows_without_end():
    network = Network()
    moat, portal = joined(network, {}, {})
    network.run(1.0)
    # A moat that rekeys and never deletes.
    network.lose = lambda d: d.local.host == MOAT_HOST and exchange_of(d) == (INFORMATIONAL, False)
    connection = moat.ike._context.connections["portal"]
    connection.children.delete_later = lambda *_: None
    for _ in range(MOST_CHILDREN + 3):
        moat.ike.rekey("portal", "child", network.now)
        network.run(network.now + 0.2)
    assert len(portal.inbound) <= MOST_CHILDREN


def test_what_is_in_nobodys_networks_is_refused_alone():
    network = Network()
    moat, portal = joined(
        network, {"child_sas": "per-pair"}, {"local_selectors": ("10.50.0.0/16",)}
    )
    network.run(10.0)
    assert networks_of(moat) == {(a, "10.50.0.0/16") for a in PRIVATE if ":" not in a}
    assert networks_of(portal) == crossed(networks_of(moat))
    assert not moat.kinds(IkeDown)
    assert any(str(int(NotifyType.TS_UNACCEPTABLE)) in n.text for n in moat.kinds(Notice))


def test_a_peer_that_takes_single_pairs_only_is_given_them(monkeypatch):
    """portal: HDR, SK{IDr, CERT, AUTH, N(SINGLE_PAIR_REQUIRED)}; the moat calls anew."""
    real = auth._answer_child

    def picky(sa, connection, secrets, payloads):
        offered = [p.body[0] for p in payloads if p.type in (PayloadType.TS_I, PayloadType.TS_R)]
        if max(offered) > 1:
            notify = Notify(NotifyType.SINGLE_PAIR_REQUIRED)
            raise RefusalError(DropReason.IKE_NO_PROPOSAL, notify)
        return real(sa, connection, secrets, payloads)

    monkeypatch.setattr("moatvpn.ike.auth._answer_child", picky)
    network = Network()
    moat, portal = joined(network, {}, {})
    network.run(10.0)
    assert networks_of(moat) == PAIRS
    assert networks_of(portal) == crossed(PAIRS)
    assert len(moat.kinds(IkeUp)) == 1


def test_a_new_ike_sa_has_all_of_them_again():
    network = Network()
    moat, portal = joined(network, {"child_sas": "per-pair"}, {})
    network.run(2.0)
    network.lose = lambda d: True
    network.run(40.0)
    network.lose = lambda d: False
    network.run(80.0)
    assert networks_of(moat) == PAIRS
    assert networks_of(portal) == crossed(PAIRS)
    assert len(moat.kinds(ChildUp)) == len(PAIRS) * len(moat.kinds(IkeUp))


def test_deletes_that_cross_are_answered_without_a_delete():
    """Each side learns from the other's request that it is gone (RFC 7296, 1.4.1 and 2.25.1).

        HDR, SK{D} ---+  +---  HDR, SK{D}
                       \\/
                       /\\
                 <----+  +---->
        HDR, SK{} ------------>  <---- HDR, SK{}
    """
    network = Network()
    moat, portal = joined(network, {"child_sas": "per-pair"}, {})
    network.run(2.0)
    there = next(up.child for up in portal.outbound.values() if up.child.line == 1)
    here = next(up.child for up in moat.outbound.values() if up.child.spi_out == there.spi_in)
    seen = len(network.log)
    for peer, name, child in ((moat, "portal", here), (portal, "c0001", there)):
        peer.ike._context.connections[name].children.delete(child.spi_in, network.now)
    network.run(network.now + 0.2)
    exchanged = [d for d in network.log[seen:] if exchange_of(d)[0] == INFORMATIONAL]
    requests = [len(d.data) for d in exchanged if not exchange_of(d)[1]]
    answers = [len(d.data) for d in exchanged if exchange_of(d)[1]]
    assert len(requests) == len(answers) == 2
    assert max(answers) == min(requests) - DELETE_LENGTH
    assert here.spi_in not in moat.inbound
    assert there.spi_in not in portal.inbound
    network.run(network.now + 6.0)
    assert networks_of(moat) == PAIRS  # the moat fills the place
    assert not moat.kinds(IkeDown)
