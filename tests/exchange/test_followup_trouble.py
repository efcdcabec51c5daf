"""IKE_FOLLOWUP_KE that is lost, overtaken, or hostile; test_followup.py has the pictures."""

from __future__ import annotations

from itertools import groupby
from typing import Any

import pytest
from network import (
    MOAT_HOST,
    SETTLED,
    Network,
    Peer,
    connected,
    exchange_of,
    sa_of,
    tables,
)
from quantum import BOTH, FOLLOWUP, key_exchanges, pending, quantum, start

from moatvpn.counters import DropReason
from moatvpn.ike import followup
from moatvpn.ike.events import IkeDown
from moatvpn.ike.followup import FOLLOWUP_SECONDS
from moatvpn.ike.ike_sa import IkeSa
from moatvpn.ike.task import notifies_of
from moatvpn.wire.endpoint import Datagram
from moatvpn.wire.ike_header import PayloadType, parse_header
from moatvpn.wire.ike_payloads import Notify, NotifyType, encode_ke


def messages(network: Network) -> list[tuple[int, bool]]:
    return [message for message, _ in groupby(map(exchange_of, network.log))]


def in_order(moat: Peer, portal: Peer) -> None:
    assert connected(moat, portal)
    assert tables(moat) == tables(portal) == SETTLED
    assert not pending(moat) + pending(portal)
    assert not moat.kinds(IkeDown)
    assert sa_of(moat).spi_i == sa_of(portal).spi_i
    assert key_exchanges(moat, portal) == (BOTH, BOTH)


def ask(peer: Peer, sa: IkeSa, exchange: int, body: Any, network: Network) -> list[Notify]:
    """Have the owner of sa send a request to peer; return the notifies of the answer."""
    data = sa.seal(exchange, sa.next_request, False, body)
    sa.next_request += 1
    peer.ike.receive_datagram(Datagram(data, sa.remote, sa.local), network.now)
    (answer,) = [d.data for d in peer.ike.datagrams_to_send()][-1:]
    return notifies_of(sa.open(parse_header(answer), answer).payloads())


def test_a_key_exchange_that_belongs_to_nothing() -> None:
    # HDR, SK{KEi, N(ADDITIONAL_KEY_EXCHANGE)(?)} ---->
    #                            <----  HDR, SK{N(STATE_NOT_FOUND)}
    network = Network()
    moat, portal = quantum(network)
    for data in (b"", b"12345678"):
        body = [
            (PayloadType.KE, encode_ke(36, bytes(1184))),
            (PayloadType.NOTIFY, Notify(NotifyType.ADDITIONAL_KEY_EXCHANGE, data).encode()),
        ]
        told = ask(portal, sa_of(moat), FOLLOWUP, body, network)
        assert [notify.type for notify in told] == [NotifyType.STATE_NOT_FOUND]
    assert portal.counters.value(DropReason.IKE_UNEXPECTED_EXCHANGE) == 2
    assert portal.ike.status("c0001").state == "established"


def stall(network: Network) -> None:
    """Lose what follows CREATE_CHILD_SA."""
    network.lose = lambda d: exchange_of(d) == (FOLLOWUP, False)


def test_what_is_not_gone_on_with_is_forgotten() -> None:
    network = Network()
    moat, portal = quantum(network, dpd_interval=60.0)
    stall(network)
    start(moat, "child", network)
    network.run(network.now + 0.5)
    assert pending(portal) == 1
    assert tables(portal)["child_spis"] == 2
    moat.ike.remove_connection("portal", network.now)
    network.lose = lambda d: d.local.host == MOAT_HOST
    network.run(network.now + FOLLOWUP_SECONDS)
    assert pending(portal) == 0
    assert tables(portal)["child_spis"] == 1


def test_state_that_is_lost_is_made_again() -> None:
    network = Network()
    moat, portal = quantum(network)
    stall(network)
    start(moat, "child", network)
    network.run(network.now + 0.4)
    portal.ike._context.followups.forget(sa_of(portal).our_spi)
    network.lose = lambda _: False
    before = moat.outbound["portal"].child
    network.run(network.now + 15.0)
    assert (FOLLOWUP, True) in messages(network)
    in_order(moat, portal)
    assert moat.outbound["portal"].child != before


def test_an_ike_sa_that_ends_takes_it_along() -> None:
    network = Network()
    moat, portal = quantum(network)
    stall(network)
    start(moat, "child", network)
    start(moat, "ike", network)
    network.run(network.now + 0.4)
    assert pending(portal) == 1
    portal.ike.remove_connection("c0001", network.now)
    assert pending(portal) == 0
    assert tables(portal)["child_spis"] == 0
    network.run(network.now + 1.0)
    assert tables(moat)["child_spis"] == 0


@pytest.mark.parametrize(
    "body", [encode_ke(36, bytes(1183)), encode_ke(36, b"\xff" * 1184), encode_ke(31, bytes(32))]
)
def test_a_public_value_that_no_honest_peer_sends(
    monkeypatch: pytest.MonkeyPatch, body: bytes
) -> None:
    real = followup.FollowupTask.build
    monkeypatch.setattr(
        followup.FollowupTask,
        "build",
        lambda self, now: [(PayloadType.KE, body), *list(real(self, now))[1:]],
    )
    network = Network()
    moat, portal = quantum(network)
    start(moat, "child", network)
    network.run(network.now + 0.1)
    # An authentic, malformed message ends the IKE SA, and the moat starts over (2.21.3).
    assert portal.kinds(IkeDown)
    assert portal.counters.value(DropReason.IKE_MALFORMED) == 1
    network.run(network.now + 3.0)
    assert connected(moat, portal)
    assert tables(moat) == tables(portal) == SETTLED


def test_an_answer_without_a_link_ends_the_ike_sa(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network()
    moat, _portal = quantum(network)
    real = followup.Followups.expect
    monkeypatch.setattr(followup.Followups, "expect", lambda self, *a: real(self, *a)[:0])
    start(moat, "child", network)
    network.run(network.now + 0.1)
    assert moat.counters.value(DropReason.IKE_MALFORMED) == 1
    assert moat.kinds(IkeDown)


def test_a_child_sa_that_goes_meanwhile() -> None:
    # The peer deletes what it rekeys: what came before the delete comes to nothing (2.25).
    network = Network()
    moat, portal = quantum(network)
    stall(network)
    start(moat, "child", network)
    network.run(network.now + 0.3)
    (connection,) = portal.ike._context.connections.values()
    (record,) = connection.children.records.values()
    record.leaving = True
    network.lose = lambda _: False
    network.run(network.now + 1.0)
    assert len(portal.inbound) == 1
    assert tables(portal)["child_spis"] == 1
    assert not pending(portal)


@pytest.mark.parametrize("seed", range(6))
def test_altered_and_cut_messages_are_counted_and_no_more(seed: int) -> None:
    network = Network(seed)
    moat, portal = quantum(network, dpd_interval=60.0)
    draw = network.random

    def spoil(datagram: Datagram) -> Datagram:
        data = bytearray(datagram.data)
        if draw.random() < 0.3:
            data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        elif draw.random() < 0.1:
            del data[draw.randrange(len(data)) :]
        return Datagram(bytes(data), datagram.local, datagram.remote)

    network.rewrite = spoil
    for kind in ("child", "ike"):
        start(portal, kind, network)
        network.run(network.now + 2.0)
    network.rewrite = lambda datagram: datagram
    network.run(network.now + 60.0)
    assert connected(moat, portal)
    assert tables(moat) == tables(portal) == SETTLED
    assert not pending(moat) + pending(portal)
    assert not portal.ike._context.reassembly._partials
