"""Agreeing on AGGFRAG (RFC 9347, 5.1) and on our private blocks, for each CHILD_SA anew.

moat                                                            portal
HDR, SK{IDi, AUTH, …, SAi2, TSi, TSr, N(USE_AGGFRAG), N(MOAT_FEATURES)} ---->
          <----  HDR, SK{IDr, AUTH, SAr2, TSi, TSr, N(USE_AGGFRAG), N(MOAT_FEATURES)}

either                                                          the other
HDR, SK{N(REKEY_SA), SA, Ni, KEi, TSi, TSr, N(USE_AGGFRAG), N(MOAT_FEATURES)} ---->
          <----  HDR, SK{SA, Nr, KEr, TSi, TSr, N(USE_AGGFRAG), N(MOAT_FEATURES)}
"""

from __future__ import annotations

import random

import pytest
from envelopes import ABLE, USE, USE_OURS, Change, joined, says
from network import (
    MOAT,
    PORTAL,
    PORTAL_HOST,
    Network,
    Peer,
    connected,
    exchange_of,
    portal_config,
)
from quantum import FOLLOWUP, PREFER, start

from moatvpn.counters import DropReason
from moatvpn.esp.child import NO_ABILITIES, ChildSa
from moatvpn.ike.events import Notice
from moatvpn.ike.tickets import TicketKeys
from moatvpn.wire.ike_aggfrag import MAGIC, PRIVATE_BLOCKS
from moatvpn.wire.ike_header import Exchange
from moatvpn.wire.ike_payloads import Notify, NotifyType

NONE, WITHOUT_OURS, ALL = (False, False, False), (True, False, False), (True, False, True)
OURS = ["USE_AGGFRAG", "MOAT_FEATURES"]
Said = tuple[str, str, list[str]]


def fields(child: ChildSa) -> tuple[bool, bool, bool]:
    return child.aggfrag, child.unsplit, child.private_blocks


def agreed(peer: Peer) -> tuple[bool, bool, bool]:
    """Return what a peer goes by where it sends, which is what it goes by where it receives."""
    (up,) = peer.outbound.values()
    assert fields(peer.inbound[up.child.spi_in].child) == fields(up.child)
    return fields(up.child)


def replaced(kind: NotifyType, data: bytes) -> Change:
    """Return the change of the notify of one type's data."""
    return lambda said: [Notify(kind, data) if n.type == kind else n for n in said]


def about_envelopes(said: list[Said]) -> list[list[str]]:
    return [[name for name in names if name in OURS] for _, _, names in said]


# Agreeing


def test_both_sides_offer_it_in_ike_auth(said: list[Said]) -> None:
    moat, portal = joined(Network())
    assert about_envelopes(said) == [OURS, OURS]
    assert agreed(moat) == agreed(portal) == ALL
    assert not moat.counters.snapshot()
    assert not portal.counters.snapshot()


def test_the_offer_asks_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    offers: list[Notify] = []

    def note(said: list[Notify]) -> list[Notify]:
        offers.extend(said)
        return said

    says(monkeypatch, MOAT, note)
    joined(Network())
    assert [(n.type, n.data) for n in offers] == [(16442, b"\x00"), (41001, b"moatvpn\x01")]


@pytest.mark.parametrize("side", [0, 1])
def test_who_has_no_data_plane_for_it_says_nothing_of_it(said: list[Said], side: int) -> None:
    abilities = (NO_ABILITIES, ABLE) if side == 0 else (ABLE, NO_ABILITIES)
    moat, portal = joined(Network(), abilities)
    assert about_envelopes(said) == ([[], []] if side == 0 else [OURS, []])
    assert agreed(moat) == agreed(portal) == NONE


@pytest.mark.parametrize("side", [0, 1])
def test_the_setting_of_either_side_puts_it_off(said: list[Said], side: int) -> None:
    off = {"aggfrag": "off"}
    moat, portal = joined(Network(), at_moat=[off, {}][side], at_portal=[{}, off][side])
    assert about_envelopes(said) == ([[], []] if side == 0 else [OURS, []])
    assert agreed(moat) == agreed(portal) == NONE
    assert not moat.counters.snapshot()
    assert not portal.counters.snapshot()


# Rekeys and further CHILD_SAs


@pytest.mark.parametrize("side", [0, 1])
def test_a_rekey_agrees_on_it_again(said: list[Said], side: int) -> None:
    network = Network()
    moat, portal = joined(network)
    before = moat.outbound["portal"].child
    del said[:]
    start((moat, portal)[side], "child", network)
    network.run(network.now + 10.0)
    assert [names for _, _, names in said[:2]] == [["REKEY_SA", *OURS], OURS]
    assert moat.outbound["portal"].child.spi_in != before.spi_in
    assert agreed(moat) == agreed(portal) == ALL


@pytest.mark.parametrize("unable", [0, 1])
@pytest.mark.parametrize("side", [0, 1])
def test_a_rekey_may_agree_on_something_else(side: int, unable: int) -> None:
    network = Network()
    peers = joined(network)
    for ability, expected in ((NO_ABILITIES, NONE), (ABLE, ALL)):
        peers[unable].ike._context.abilities = ability
        start(peers[side], "child", network)
        network.run(network.now + 10.0)
        assert connected(*peers)
        assert agreed(peers[0]) == agreed(peers[1]) == expected


@pytest.mark.parametrize("side", [0, 1])
def test_a_rekey_with_additional_key_exchanges(side: int) -> None:
    network = Network()
    quantum = {"post_quantum": PREFER}
    moat, portal = joined(network, at_moat=quantum, at_portal=quantum)
    start((moat, portal)[side], "child", network)
    network.run(network.now + 10.0)
    assert (FOLLOWUP, True) in map(exchange_of, network.log)
    assert agreed(moat) == agreed(portal) == ALL


@pytest.mark.parametrize("side", [0, 1])
def test_a_rekey_of_the_ike_sa_leaves_it_as_it_is(said: list[Said], side: int) -> None:
    network = Network()
    moat, portal = joined(network)
    del said[:]
    start((moat, portal)[side], "ike", network)
    network.run(network.now + 10.0)
    assert not any(about_envelopes(said))
    assert agreed(moat) == agreed(portal) == ALL


def test_each_of_several_child_sas_has_it() -> None:
    network = Network()
    moat, portal = joined(network, at_moat={"child_sas": "per-pair"})
    network.run(network.now + 5.0)
    for peer in (moat, portal):
        assert len(peer.outbound) == 2
        assert {fields(up.child) for up in peer.outbound.values()} == {ALL}
    assert (Exchange.CREATE_CHILD_SA, True) in map(exchange_of, network.log)


def test_a_resumed_ike_sa_agrees_on_it_again() -> None:
    network = Network()
    tickets = TicketKeys(random.Random(5).randbytes, lambda: network.now)
    moat, portal = joined(network, tickets=tickets)
    network.peers.remove(portal)
    again = Peer(PORTAL, PORTAL_HOST, 99, portal.signer, tickets=tickets, abilities=ABLE)
    again.ike.add_connection(portal_config(moat), network.now)
    network.join(again)
    moat.ike.note_outbound("portal", network.now)
    network.run(network.now + 6.0)
    assert moat.ike.status("portal").resumed
    assert connected(moat, again)
    assert agreed(moat) == agreed(again) == ALL


# Requirements, and what is malformed


@pytest.mark.parametrize("side", [0, 1])
def test_who_takes_no_split_packets_gets_none(monkeypatch: pytest.MonkeyPatch, side: int) -> None:
    says(monkeypatch, (MOAT, PORTAL)[side], replaced(USE, b"\x01"))
    network = Network()
    peers = joined(network)
    assert agreed(peers[side]) == ALL
    assert agreed(peers[not side]) == (True, True, True)
    start(peers[not side], "child", network)
    network.run(network.now + 10.0)
    assert agreed(peers[side]) == ALL
    assert agreed(peers[not side]) == (True, True, True)


BAD = [b"", b"\x00\x00", b"\x01\x00", b"\x02", b"\x03", b"\x04", b"\x80", b"\xff"]


@pytest.mark.parametrize("data", BAD)
@pytest.mark.parametrize("side", [0, 1])
def test_what_is_malformed_or_asks_too_much_is_not_agreed_on(
    monkeypatch: pytest.MonkeyPatch, side: int, data: bytes
) -> None:
    says(monkeypatch, (MOAT, PORTAL)[side], replaced(USE, data))
    network = Network()
    peers = joined(network)
    hearer = peers[not side]
    assert agreed(hearer) == NONE
    assert hearer.counters.snapshot() == {DropReason.IKE_AGGFRAG_REFUSED.value: 1}
    (text,) = [n.text for n in hearer.kinds(Notice) if n.level == "warning"]
    assert text.startswith("without AGGFRAG: USE_AGGFRAG ")
    network.run(network.now + 10.0)
    assert agreed(peers[0]) == agreed(peers[1]) == NONE


@pytest.mark.parametrize("data", BAD)
@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("who", [0, 1])
def test_so_it_is_in_a_rekey(
    monkeypatch: pytest.MonkeyPatch, who: int, side: int, data: bytes
) -> None:
    """Who begins with the rekey, side says what we cannot go by."""
    network = Network()
    peers = joined(network)
    says(monkeypatch, (MOAT, PORTAL)[side], lambda said: [Notify(USE, data), *said] if said else [])
    start(peers[who], "child", network)
    network.run(network.now + 10.0)
    assert connected(*peers)
    assert agreed(peers[0]) == agreed(peers[1]) == NONE
    assert peers[not side].counters.value(DropReason.IKE_AGGFRAG_REFUSED) == 1


def test_what_an_answer_has_spoilt_is_replaced_at_once(
    monkeypatch: pytest.MonkeyPatch, said: list[Said]
) -> None:
    """As with a peer whose notify has no octet of flags: it would send us what we don't read.

    moat                                                      portal
    HDR, SK{..., N(USE_AGGFRAG), N(MOAT_FEATURES)} ---->
                                          <----  HDR, SK{..., N(USE_AGGFRAG)()}
    HDR, SK{N(REKEY_SA), SA, Ni, KEi, TSi, TSr} ---->
                                          <----  HDR, SK{SA, Nr, KEr, TSi, TSr}
    """
    says(monkeypatch, PORTAL, replaced(USE, b""))
    network = Network()
    moat, portal = joined(network)
    assert about_envelopes(said)[:4] == [OURS, OURS, [], []]
    assert said[2] == ("m1", "?", ["REKEY_SA"])
    network.run(3.0)
    assert agreed(moat) == agreed(portal) == NONE
    network.run(10.0)
    del said[:]
    for kind in ("child", "ike"):
        start(moat, kind, network)
        network.run(network.now + 5.0)
    portal.ike.remove_connection("c0001", network.now)
    portal.ike.add_connection(portal_config(moat), network.now)
    network.run(network.now + 10.0)
    assert connected(moat, portal)
    assert not any(about_envelopes(said))  # never again
    assert len(moat.inbound) == len(portal.inbound) == 1
    assert moat.counters.value(DropReason.IKE_AGGFRAG_REFUSED) == 1


def test_a_peer_that_answers_so_unasked_is_not_asked_again_and_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    says(monkeypatch, PORTAL, lambda _: [Notify(USE, b"")])
    network = Network()
    moat, _ = joined(network)
    network.run(60.0)
    assert list(map(exchange_of, network.log)).count((Exchange.CREATE_CHILD_SA, False)) == 1
    assert moat.counters.snapshot() == {DropReason.IKE_AGGFRAG_REFUSED.value: 1}


@pytest.mark.parametrize("seed", range(4))
def test_one_of_several_that_is_spoilt_is_replaced_in_its_line(
    monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    says(monkeypatch, PORTAL, replaced(USE, b"\x02"))
    network = Network(seed, jitter=0.05)
    quantum = {"post_quantum": PREFER}
    at_moat = {"child_sas": "per-pair", **quantum}
    moat, portal = joined(network, at_moat=at_moat, at_portal=quantum)
    network.run(network.now + 20.0)
    for peer in (moat, portal):
        assert sorted(up.child.line for up in peer.outbound.values()) == [0, 1]
        assert {fields(up.child) for up in peer.outbound.values()} == {NONE}
        assert len(peer.inbound) == 2


def test_an_unreadable_answer_about_the_second_line_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network = Network()
    quantum = {"post_quantum": PREFER}
    flags = iter((b"\x00", b"", b"", b""))
    says(monkeypatch, PORTAL, lambda said: replaced(USE, next(flags))(said))
    pairs = {"child_sas": "per-pair", **quantum}
    moat, portal = joined(network, at_moat=pairs, at_portal=quantum)
    network.run(20.0)
    lines = {up.child.line: fields(up.child) for up in moat.outbound.values()}
    assert lines == {0: ALL, 1: NONE}
    assert {up.child.line: fields(up.child) for up in portal.outbound.values()} == lines
    assert len(moat.inbound) == 2


def test_an_answer_without_a_question_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    features = Notify(USE_OURS, MAGIC + bytes((PRIVATE_BLOCKS,)))
    says(monkeypatch, PORTAL, lambda _: [Notify(USE, b"\x00"), features])
    network = Network()
    moat, portal = joined(network, at_moat={"aggfrag": "off"})
    start(moat, "child", network)
    network.run(network.now + 10.0)
    assert agreed(moat) == agreed(portal) == NONE
    assert not moat.counters.snapshot()


# Private blocks


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", WITHOUT_OURS),
        (MAGIC, WITHOUT_OURS),
        (b"another" + b"\x01", WITHOUT_OURS),
        (MAGIC[:-1] + b"\x01", WITHOUT_OURS),
        (MAGIC + b"\x00", WITHOUT_OURS),
        (MAGIC + b"\xfe", WITHOUT_OURS),
        (MAGIC + b"\x81", ALL),
        (MAGIC + b"\x01and more", ALL),
    ],
)
def test_private_blocks_need_our_magic(
    monkeypatch: pytest.MonkeyPatch, side: int, data: bytes, expected: tuple[bool, bool, bool]
) -> None:
    says(monkeypatch, (MOAT, PORTAL)[side], replaced(USE_OURS, data))
    peers = joined(Network())
    assert agreed(peers[not side]) == expected
    assert not peers[not side].counters.snapshot()


@pytest.mark.parametrize("side", [0, 1])
def test_private_blocks_go_with_aggfrag_only(monkeypatch: pytest.MonkeyPatch, side: int) -> None:
    says(monkeypatch, (MOAT, PORTAL)[side], lambda said: [n for n in said if n.type != USE])
    peers = joined(Network())
    assert agreed(peers[not side]) == NONE


@pytest.mark.parametrize("side", [0, 1])
def test_a_peer_that_speaks_rfc_9347_alone(monkeypatch: pytest.MonkeyPatch, side: int) -> None:
    says(monkeypatch, (MOAT, PORTAL)[side], lambda said: [n for n in said if n.type == USE])
    peers = joined(Network())
    assert agreed(peers[not side]) == WITHOUT_OURS
