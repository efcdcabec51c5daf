"""A peer that takes nothing that could hide our traffic: then there is no CHILD_SA with it.

initiator                                                       responder
HDR, SK{..., SAi2, TSi, TSr} ---->
                                <----  HDR, SK{IDr, AUTH, N(NO_PROPOSAL_CHOSEN)}   we are called

HDR, SK{..., SAi2, TSi, TSr} ---->
                                <----  HDR, SK{IDr, AUTH, SAr2, TSi, TSr}
HDR, SK{D} ---->                                                                   we call
"""

from __future__ import annotations

from typing import Any

import pytest
from envelopes import ABLE, NO_PADDING, USE, Change, joined, met, says
from network import MOAT, PORTAL, Network, Peer, connected
from quantum import start

from moatvpn.esp.child import NO_ABILITIES
from moatvpn.esp.tfc import TfcMode
from moatvpn.ike.events import ChildUp, Notice
from moatvpn.wire.ike_payloads import Notify

PAD: dict[str, Any] = {"tfc": TfcMode.PAD}
CONSTANT: dict[str, Any] = {"tfc": TfcMode.CONSTANT, "tfc_rate": 50}
NEITHER = "takes neither AGGFRAG nor padding"


def no_padding(said: list[Notify]) -> list[Notify]:
    return [*(notify for notify in said if notify.type != USE), Notify(NO_PADDING)]


def unsplit(said: list[Notify]) -> list[Notify]:
    return [Notify(USE, b"\x01") if notify.type == USE else notify for notify in said]


def nothing(said: list[Notify]) -> list[Notify]:
    return []


CASES = [
    pytest.param(PAD, no_padding, NEITHER, id="pad"),
    pytest.param(CONSTANT, no_padding, "takes no AGGFRAG", id="constant"),
    pytest.param(CONSTANT, nothing, "takes no AGGFRAG", id="constant, and padding is taken"),
    pytest.param(CONSTANT, unsplit, "takes unsplit packets only", id="constant, but unsplit"),
]


def failure(peer: Peer) -> Any:
    (name,) = peer.ike._context.connections
    return peer.ike.status(name).failure


def warnings(peer: Peer) -> list[str]:
    return [n.text for n in peer.kinds(Notice) if n.level == "warning"]


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize(("settings", "change", "why"), CASES)
def test_the_connection_does_not_come_up_and_says_why(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], change: Change, why: str, side: int
) -> None:
    network = Network()
    with monkeypatch.context() as patch:
        says(patch, (MOAT, PORTAL)[not side], change)
        peers = met(network, at_moat=[settings, {}][side], at_portal=[{}, settings][side])
        network.run(network.now + 30.0)
        assert not connected(*peers)
        assert not peers[side].kinds(ChildUp)
        assert not peers[not side].outbound  # it has been told
        record = failure(peers[side])
        assert record.failure.side == "here"
        assert why in record.failure.what
        assert "set tfc to" in record.failure.remedy
        assert [text for text in warnings(peers[side]) if why in text]
        assert record.count <= 8  # it calls less and less
        assert not peers[side].ike._context.child_spis
    network.run(network.now + 400.0)  # from now on, the peer takes it
    assert connected(*peers)
    if settings is not PAD:
        assert all(up.child.aggfrag for up in peers[side].outbound.values())


def test_a_peer_that_takes_padding_needs_no_aggregation() -> None:
    peers = joined(Network(), (ABLE, NO_ABILITIES), at_moat=PAD)
    (up,) = peers[0].outbound.values()
    assert (up.child.aggfrag, up.child.tfc_padding) == (False, True)


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize(("settings", "change", "why"), CASES)
def test_a_rekey_of_ours_that_would_end_it_ends_the_connection(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], change: Change, why: str, side: int
) -> None:
    """The peer sends on the new CHILD_SA already, and the old one ends soon."""
    network = Network()
    peers = joined(network, at_moat=[settings, {}][side], at_portal=[{}, settings][side])
    ups = len(peers[side].kinds(ChildUp))
    says(monkeypatch, (MOAT, PORTAL)[not side], change)
    start(peers[side], "child", network)
    network.run(network.now + 20.0)
    assert not connected(*peers)
    assert not peers[not side].outbound
    assert len(peers[side].kinds(ChildUp)) == ups
    assert why in failure(peers[side]).failure.what


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize(("settings", "change", "why"), CASES)
def test_a_rekey_of_the_peers_that_would_end_it_is_refused(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], change: Change, why: str, side: int
) -> None:
    network = Network()
    peers = joined(network, at_moat=[settings, {}][side], at_portal=[{}, settings][side])
    before = dict(peers[side].outbound)
    spis = set(peers[side].ike._context.child_spis)
    says(monkeypatch, (MOAT, PORTAL)[not side], change)
    start(peers[not side], "child", network)
    network.run(network.now + 20.0)
    assert connected(*peers)
    assert peers[side].outbound == before
    assert why in failure(peers[side]).failure.what
    assert [text for text in warnings(peers[side]) if why in text]
    assert set(peers[side].ike._context.child_spis) == spis
