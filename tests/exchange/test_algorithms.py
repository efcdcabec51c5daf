"""Every algorithm that may be configured, and how two sides come to the same (RFC 7296, 1.2, 2.7).

moat                                              portal
  HDR, SAi1, KEi (x25519), Ni ------------------->
                          <---  HDR, N(INVALID_KE_PAYLOAD, ecp384)
  HDR, SAi1, KEi (ecp384), Ni ------------------->
                                        <--------  HDR, SAr1, KEr (ecp384), Nr
"""

from __future__ import annotations

import pytest
from network import (
    MOAT,
    MOAT_HOST,
    PORTAL,
    PORTAL_HOST,
    SETTLED,
    Network,
    Peer,
    ask_for_cookies,
    connected,
    exchange_of,
    moat_config,
    portal_config,
    tables,
    watch_usable,
)

from moatvpn.counters import DropReason
from moatvpn.ike.events import ChildUp, IkeDown, IkeRekeyed
from moatvpn.ike.first import MOST_RESTARTS
from moatvpn.wire.algorithms import CipherSuite, Group
from moatvpn.wire.endpoint import Datagram
from moatvpn.wire.ike_header import Exchange

INIT, CREATE = Exchange.IKE_SA_INIT, Exchange.CREATE_CHILD_SA
CHEAP = (Group.X25519, Group.ECP_256)


def joined(network: Network, at_moat: dict, at_portal: dict) -> tuple[Peer, Peer]:
    moat, portal = Peer(MOAT, MOAT_HOST, 11), Peer(PORTAL, PORTAL_HOST, 22)
    network.join(moat, portal)
    portal.ike.add_connection(portal_config(moat, **at_portal), network.now)
    moat.ike.add_connection(moat_config(portal, **at_moat), network.now)
    return moat, portal


def choice_of(peer: Peer, name: str):
    sa = peer.ike._context.connections[name].sa
    assert sa is not None
    return sa.choice


def rekey_everything(network: Network, moat: Peer, portal: Peer) -> None:
    watch_usable(network, moat, portal)
    for peer, name in ((moat, "portal"), (portal, "c0001")):
        for sa in ("child", "ike"):
            peer.ike.rekey(name, sa, network.now)
            network.run(network.now + 4.0)
    assert connected(moat, portal)
    assert tables(moat) == tables(portal) == SETTLED
    assert len(moat.kinds(ChildUp)) == 3
    assert len(moat.kinds(IkeRekeyed)) == 2
    assert not moat.kinds(IkeDown)


@pytest.mark.parametrize("suite", CipherSuite)
def test_each_suite_protects_ike_and_envelopes_through_rekeys(suite):
    network = Network()
    every = tuple(CipherSuite)
    moat, portal = joined(
        network,
        {"ike_suites": (suite,), "esp_suites": (suite,)},
        {"ike_suites": every, "esp_suites": every},
    )
    network.run(1.0)
    assert connected(moat, portal)
    rekey_everything(network, moat, portal)
    assert choice_of(moat, "portal").suite is choice_of(portal, "c0001").suite is suite
    assert moat.outbound["portal"].child.suite is suite
    assert len(moat.outbound["portal"].child.key_out) == suite.material_length
    assert moat.counters.snapshot() == portal.counters.snapshot() == {}


@pytest.mark.parametrize("group", Group)
def test_each_group_makes_keys_through_rekeys(group):
    network = Network()
    moat, portal = joined(network, {"groups": (group,)}, {"groups": tuple(Group)})
    network.run(1.0)
    assert connected(moat, portal)
    assert len(network.log) == 4  # the key that came is the one that is taken
    rekey_everything(network, moat, portal)
    assert choice_of(moat, "portal").group is choice_of(portal, "c0001").group is group


@pytest.mark.parametrize("wanted", [Group.ECP_384, Group.ECP_256])
def test_a_portal_that_wants_another_group_says_so(wanted):
    network = Network()
    moat, portal = joined(network, {}, {"groups": (wanted,)})
    network.run(1.0)
    assert connected(moat, portal)
    assert [exchange_of(d)[0] for d in network.log][:4] == [INIT] * 4
    assert len(network.log) == 6
    assert choice_of(moat, "portal").group is wanted
    # The rekeys begin with the group that is known by now.
    before = len(network.log)
    rekey_everything(network, moat, portal)
    creating = [d for d in network.log[before:] if exchange_of(d)[0] == CREATE]
    assert len(creating) == 8


@pytest.mark.parametrize("loss", [0.0, 0.3])
def test_with_cookies_too_and_through_loss(loss):
    network = Network(5, loss=loss)
    moat, portal = joined(network, {}, {"groups": (Group.ECP_384,)})
    ask_for_cookies(portal)
    network.run(30.0)
    assert connected(moat, portal)


def test_an_answer_in_clear_cannot_make_us_use_what_we_do_not_offer():
    network = Network()
    moat, portal = joined(network, {"groups": CHEAP}, {"groups": (Group.MODP_3072,)})
    network.run(3.0)
    assert not connected(moat, portal)
    asked = [d for d in network.log if d.local.host == MOAT_HOST]
    assert len({d.data for d in asked}) == 1  # retransmissions of the one request


def test_asked_back_and_forth_it_ends():
    """Whoever answers in clear may ask for one group after the other, but not without end."""
    network = Network()
    moat, _ = joined(network, {"groups": CHEAP}, {})
    network.lose = lambda d: d.local.host == PORTAL_HOST
    moat.ike.handle_timer(0.4)
    (request,) = moat.ike.datagrams_to_send()
    asked = 0
    for group in [Group.ECP_256, Group.X25519] * 5:
        data = refusal(request.data, group)
        moat.ike.receive_datagram(Datagram(data, request.local, request.remote), 0.4)
        asked += len(moat.ike.datagrams_to_send())
    assert asked == MOST_RESTARTS
    assert moat.counters.value(DropReason.IKE_UNEXPECTED_EXCHANGE) > 0
    assert sum(moat.counters.snapshot().values()) == 10 - MOST_RESTARTS


def refusal(request: bytes, group: Group) -> bytes:
    """Return an INVALID_KE_PAYLOAD to a request, as anybody could send it."""
    notify = bytes((0, 0, 0, 10, 0, 0, 0, 17)) + group.number.to_bytes(2, "big")
    head = request[:8] + bytes(8) + bytes((41, 0x20, INIT, 0x20)) + bytes(4)
    return head + (28 + len(notify)).to_bytes(4, "big") + notify


@pytest.mark.parametrize(
    "only", [{"ike_suites": (CipherSuite.CHACHA20_POLY1305,)}, {"groups": (Group.ECP_384,)}]
)
def test_what_only_another_connection_allows_is_refused_once_it_is_known_who_calls(only):
    network = Network()
    moat, portal = joined(network, {"ike_suites": (CipherSuite.AES_256_GCM,),
                                    "groups": (Group.X25519,)}, only)  # fmt: skip
    other = Peer("m2.example.net", "192.0.2.11", 12)
    portal.ike.add_connection(
        portal_config(other, name="c0002", remote_selectors=("10.201.2.0/24",)), 0.0
    )
    network.run(1.0)
    assert not connected(moat, portal)
    assert portal.counters.value(DropReason.IKE_NO_PROPOSAL) > 0
    assert portal.ike.status("c0001").state == "waiting"


def test_once_such_a_connection_is_gone_its_algorithms_are_not_answered():
    network = Network()
    moat, portal = joined(network, {"groups": (Group.ECP_384,)}, {"groups": (Group.ECP_384,)})
    portal.ike.remove_connection("c0001", 0.0)
    portal.ike.add_connection(portal_config(moat, groups=(Group.X25519,)), 0.0)
    network.run(0.5)
    assert portal.counters.value(DropReason.IKE_NO_PROPOSAL) > 0
    assert tables(portal)["half_open"] == 0


@pytest.mark.parametrize("who", ["moat", "portal"])
def test_a_rekey_in_a_group_that_the_other_side_does_not_have_is_tried_in_its_own(who):
    network = Network()
    groups = {
        "moat": ({"groups": (Group.ECP_256, Group.X25519)}, {"groups": (Group.X25519,)}),
        "portal": ({"groups": (Group.X25519,)}, {"groups": (Group.ECP_256, Group.X25519)}),
    }[who]
    moat, portal = joined(network, *groups)
    network.run(1.0)
    assert connected(moat, portal)
    peer, name = {"moat": (moat, "portal"), "portal": (portal, "c0001")}[who]
    sa = peer.ike._context.connections[name].sa
    assert sa is not None
    sa.choice = None  # so that it begins with its own first group
    watch_usable(network, moat, portal)
    for kind in ("child", "ike"):
        peer.ike.rekey(name, kind, network.now)
        network.run(network.now + 4.0)
        assert connected(moat, portal)
    assert tables(moat) == tables(portal) == SETTLED
    assert len(moat.kinds(ChildUp)) == 2
    assert len(moat.kinds(IkeRekeyed)) == 1


@pytest.mark.parametrize(("at_moat", "at_portal", "works"), [
    (False, False, True), (True, False, True), (False, True, False),
])  # fmt: skip
def test_perfect_forward_secrecy_where_either_side_wants_it(at_moat, at_portal, works):
    network = Network()
    moat, portal = joined(network, {"pfs": at_moat}, {"pfs": at_portal})
    network.run(1.0)
    moat.ike.rekey("portal", "child", network.now)
    network.run(network.now + 4.0)
    assert connected(moat, portal)
    assert len(moat.kinds(ChildUp)) == (2 if works else 1)
