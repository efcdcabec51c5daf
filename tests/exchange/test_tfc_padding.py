"""Padding for traffic-flow confidentiality (RFC 7296, 1.3.1): what a peer takes, we go by.

either                                                          the other
HDR, SK{..., SA, TSi, TSr, N(ESP_TFC_PADDING_NOT_SUPPORTED)} ---->
                                              <----  HDR, SK{..., SA, TSi, TSr}
"""

from __future__ import annotations

from typing import Any

import pytest
from envelopes import ABLE, NO_PADDING, joined, says
from network import MOAT, PORTAL, Network, Peer, connected, portal_config
from quantum import start

from moatvpn.errors import OperatorError
from moatvpn.esp.child import NO_ABILITIES, Abilities
from moatvpn.esp.tfc import NO_TFC, Tfc, TfcMode
from moatvpn.ike.events import Notice
from moatvpn.wire.ike_payloads import Notify

PAD: dict[str, Any] = {"tfc": TfcMode.PAD, "tfc_octets": 1200}
CONSTANT: dict[str, Any] = {"tfc": TfcMode.CONSTANT, "tfc_rate": 50}


def padding(peer: Peer) -> bool:
    """Return whether a peer pads what it sends, should it want to."""
    (up,) = peer.outbound.values()
    return up.child.tfc_padding


def warnings(peer: Peer) -> list[str]:
    return [n.text for n in peer.kinds(Notice) if n.level == "warning"]


def test_we_take_padding_and_say_nothing(said: list[tuple[str, str, list[str]]]) -> None:
    network = Network()
    moat, portal = joined(network)
    start(portal, "child", network)
    network.run(network.now + 10.0)
    assert padding(moat)
    assert padding(portal)
    assert not any(NO_PADDING.name in names for _, _, names in said)


@pytest.mark.parametrize("abilities", [ABLE, NO_ABILITIES])
@pytest.mark.parametrize("side", [0, 1])
def test_who_takes_none_gets_none_and_may_send_it(
    monkeypatch: pytest.MonkeyPatch, side: int, abilities: Abilities
) -> None:
    with monkeypatch.context() as patch:
        says(patch, (MOAT, PORTAL)[side], lambda said: [*said, Notify(NO_PADDING)])
        network = Network()
        peers = joined(network, (abilities, abilities))
        assert (padding(peers[side]), padding(peers[not side])) == (True, False)
        start(peers[not side], "child", network)
        network.run(network.now + 10.0)
        assert (padding(peers[side]), padding(peers[not side])) == (True, False)
    start(peers[side], "child", network)  # says it no more
    network.run(network.now + 10.0)
    assert connected(*peers)
    assert padding(peers[0])
    assert padding(peers[1])
    assert not warnings(peers[0]) + warnings(peers[1])  # nobody asked for anything


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("settings", [PAD, CONSTANT])
def test_each_side_hides_what_it_sends_by_its_own_settings(
    settings: dict[str, Any], side: int
) -> None:
    network = Network()
    peers = joined(network, at_moat=[settings, {}][side], at_portal=[{}, settings][side])
    for kind in ("child", "ike"):
        start(peers[not side], kind, network)
        network.run(network.now + 10.0)
    (ours,) = peers[side].outbound.values()
    (theirs,) = peers[not side].outbound.values()
    expected = Tfc(settings["tfc"], settings.get("tfc_octets", 0), settings.get("tfc_rate", 0))
    assert (ours.child.tfc, theirs.child.tfc) == (expected, NO_TFC)


@pytest.mark.parametrize("side", [0, 1])
def test_aggregation_has_padding_of_its_own(monkeypatch: pytest.MonkeyPatch, side: int) -> None:
    says(monkeypatch, (MOAT, PORTAL)[side], lambda said: [*said, Notify(NO_PADDING)])
    peers = joined(Network(), at_moat=PAD, at_portal=PAD)
    (up,) = peers[not side].outbound.values()
    assert up.child.aggfrag
    assert not warnings(peers[0]) + warnings(peers[1])


@pytest.mark.parametrize("settings", [PAD, CONSTANT])
def test_a_data_plane_that_hides_nothing_refuses_such_a_connection(
    settings: dict[str, Any],
) -> None:
    _, portal = joined(Network(), (ABLE, Abilities(aggfrag=True)))
    other = Peer("m2.example.net", "192.0.2.77", 5)
    config = portal_config(other, name="c0002", **settings)
    with pytest.raises(OperatorError, match=r"c0002: tfc: is .*hides nothing") as caught:
        portal.ike.add_connection(config, 5.0)
    assert caught.value.remedy
    portal.ike.add_connection(portal_config(other, name="c0002"), 5.0)
