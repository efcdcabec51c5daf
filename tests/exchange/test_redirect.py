"""A portal hands its moat over to another one (RFC 5685), in each of the three ways.

moat                                       portal                       other portal
HDR, SAi1, KEi, Ni, N(REDIRECT_SUPPORTED) ----->
                           <-----  HDR, N(REDIRECT, other, Ni)
HDR, SAi1, KEi, Ni, N(REDIRECTED_FROM, portal) ---------------------------->
"""

from __future__ import annotations

import pytest
from network import (
    EMPTY,
    MOAT,
    MOAT_HOST,
    PORTAL,
    PORTAL_HOST,
    SETTLED,
    Network,
    Peer,
    exchange_of,
    moat_config,
    new_signer,
    portal_config,
    tables,
    watch_usable,
)

from moatvpn.config import ConnectionConfig, Gateway
from moatvpn.counters import DropReason
from moatvpn.ike.events import IkeDown, IkeUp, Notice
from moatvpn.ike.redirect import MOST_REDIRECTS
from moatvpn.wire.endpoint import Datagram
from moatvpn.wire.ike_header import HEADER_LENGTH, Exchange
from moatvpn.wire.ike_payloads import NotifyType
from moatvpn.wire.ike_redirect import parse_redirect, redirect, redirected_from

OTHER, OTHER_HOST = "portal2.example.net", "198.51.100.3"
STRANGER_HOST = "203.0.113.66"


def trio(network: Network, keys: Peer | None = None, before: str = "") -> tuple[Peer, Peer, Peer]:
    """Return a moat, its portal and the other one; before: how it is sent away from its first call.

    keys is whose key the moat expects of the other portal, where that is not its own.
    """
    moat, portal = Peer(MOAT, MOAT_HOST, 11), Peer(PORTAL, PORTAL_HOST, 22)
    other = Peer(OTHER, OTHER_HOST, 33)
    network.join(moat, portal, other)
    for each in (portal, other):
        each.ike.add_connection(portal_config(moat), 0.0)
    if before == "init":
        portal.ike.redirect_all(OTHER_HOST)
    elif before == "auth":
        portal.ike.redirect("c0001", OTHER_HOST, 0.0)
    gateway = Gateway(OTHER_HOST, OTHER, ((keys or other).signer.public_text,))
    moat.ike.add_connection(moat_config(portal, redirect_gateways=(gateway,)), 0.0)
    network.run(2.0)
    return moat, portal, other


def is_at(moat: Peer, portal: Peer) -> bool:
    """Whether the moat's traffic and the portal's meet."""
    out_m, out_p = moat.outbound.get("portal"), portal.outbound.get("c0001")
    if out_m is None or out_p is None:
        return False
    keys_in = portal.inbound[out_m.child.spi_out].child.key_in
    return keys_in == out_m.child.key_out and out_p.child.spi_out in moat.inbound


@pytest.mark.parametrize("gateway", [OTHER_HOST, OTHER])
def test_an_established_moat_moves_without_a_gap(gateway: str):
    network = Network()
    moat, portal, other = trio(network)
    assert is_at(moat, portal)
    assert portal.ike.redirect("c0001", gateway, network.now)
    gaps = []
    network.each_step = lambda: gaps.append("portal" not in moat.outbound)
    network.run(network.now + 2.0)
    assert not any(gaps)  # make before break
    assert is_at(moat, other)
    assert portal.ike.status("c0001").state == "waiting"
    assert not moat.kinds(IkeDown)
    network.run(network.now + 60.0)
    assert tables(moat) == tables(other) == SETTLED
    assert tables(portal) == EMPTY


@pytest.mark.parametrize("before", ["init", "auth"])
def test_a_moat_that_calls_is_sent_on(before: str):
    network = Network()
    moat, portal, other = trio(network, before=before)
    assert is_at(moat, other)
    assert not portal.kinds(IkeUp)
    assert portal.counters.value(DropReason.IKE_REDIRECTED) == (before == "init")
    network.run(network.now + 60.0)
    assert tables(moat) == tables(other) == SETTLED
    assert tables(portal) == EMPTY
    # The other portal is told where the moat comes from.
    init = [d for d in network.log if d.remote.host == OTHER_HOST and d.data[18] == 34]
    assert redirected_from(PORTAL_HOST).encode() in init[0].data


@pytest.mark.parametrize("sa", ["ike", "child"])
def test_the_redirect_works_after_rekeys_and_back_again(sa: str):
    network = Network()
    moat, portal, other = trio(network)
    portal.ike.rekey("c0001", "ike" if sa == "ike" else "child", network.now)
    network.run(network.now + 5.0)
    assert portal.ike.redirect("c0001", OTHER_HOST, network.now)
    network.run(network.now + 2.0)
    assert is_at(moat, other)
    portal.ike.redirect("c0001", None, network.now)
    assert other.ike.redirect("c0001", PORTAL_HOST, network.now)
    network.run(network.now + 2.0)
    assert is_at(moat, portal)
    network.run(network.now + 60.0)
    assert tables(moat) == tables(portal) == SETTLED


def test_a_gateway_that_is_not_configured_is_never_called():
    network = Network()
    moat, portal, _ = trio(network)
    assert portal.ike.redirect("c0001", STRANGER_HOST, network.now)
    network.run(network.now + 5.0)
    assert is_at(moat, portal)
    assert not [d for d in network.log if d.remote.host == STRANGER_HOST]
    assert any("ignored" in notice.text for notice in moat.kinds(Notice))


def test_a_portal_that_sends_to_itself_is_not_followed():
    network = Network()
    moat, portal, _ = trio(network)
    assert portal.ike.redirect("c0001", PORTAL_HOST, network.now)
    network.run(network.now + 5.0)
    assert is_at(moat, portal)
    assert len(moat.kinds(IkeUp)) == 1


def test_a_gateway_without_its_key_gets_nobody():
    network = Network()
    moat, portal, _ = trio(network, keys=Peer("x.example.net", "192.0.2.99", 5))
    portal.ike.redirect("c0001", OTHER_HOST, network.now)
    network.run(network.now + 1.0)
    portal.ike.redirect("c0001", None, network.now)
    network.run(network.now + 30.0)
    assert is_at(moat, portal)
    assert len(moat.kinds(IkeUp)) == 1
    assert not moat.kinds(IkeDown)


def test_a_gateway_that_is_silent_costs_nothing_while_the_portal_is_there():
    network = Network()
    moat, portal, other = trio(network)
    network.peers.remove(other)
    portal.ike.redirect("c0001", OTHER_HOST, network.now)
    network.run(network.now + 30.0)
    assert is_at(moat, portal)
    assert not moat.kinds(IkeDown)


def test_when_the_other_portal_dies_the_moat_comes_home():
    network = Network()
    moat, portal, other = trio(network)
    portal.ike.redirect("c0001", OTHER_HOST, network.now)
    network.run(network.now + 2.0)
    portal.ike.redirect("c0001", None, network.now)
    network.peers.remove(other)
    network.run(network.now + 60.0)
    assert is_at(moat, portal)
    assert tables(moat) == tables(portal) == SETTLED


def test_a_loop_ends():
    """Two portals that send the moat to each other: it stops after a few times (7)."""
    network = Network()
    moat, portal, other = trio(network)
    other.ike.redirect_all(PORTAL_HOST)
    portal.ike.redirect_all(OTHER_HOST)
    portal.ike.redirect("c0001", OTHER_HOST, network.now)
    before = len(network.log)
    network.run(network.now + 60.0)
    sent = [n.text for n in moat.kinds(Notice) if n.text.startswith("redirected to")]
    assert len(sent) == MOST_REDIRECTS
    assert is_at(moat, portal)
    calls = [d for d in network.log[before:] if exchange_of(d) == (Exchange.IKE_SA_INIT, False)]
    assert len(calls) < 40


def test_keys_of_either_portal_change_while_the_moat_is_at_the_other_one():
    network = Network()
    moat, portal, other = trio(network)
    portal.ike.redirect("c0001", OTHER, network.now)
    network.run(network.now + 20.0)
    assert is_at(moat, other)
    new, home = new_signer(), new_signer()

    def trusted(*of_other: str) -> ConnectionConfig:
        gateway = Gateway(OTHER_HOST, OTHER, of_other)
        keys = (portal.signer.public_text, home.public_text)
        return moat_config(portal, remote_public_keys=keys, redirect_gateways=(gateway,))

    assert moat.ike.change_keys(trusted(other.signer.public_text, new.public_text), network.now)
    watch_usable(network, moat, other)
    assert other.ike.use_keys((new, other.signer), network.now) == 1
    network.run(network.now + 20.0)
    assert is_at(moat, other)
    assert moat.ike.status("portal").remote_key == new.public_key
    assert moat.ike.change_keys(trusted(new.public_text), network.now)
    assert not moat.ike.change_keys(trusted(home.public_text), network.now)
    network.run(network.now + 20.0)
    assert tables(moat) == tables(other) == SETTLED
    # And back, to a portal that has its new key already.
    portal.ike.use_keys((home,), network.now)
    portal.ike.redirect("c0001", None, network.now)
    other.ike.redirect("c0001", PORTAL, network.now)
    network.each_step = lambda: None
    network.run(network.now + 20.0)
    assert is_at(moat, portal)
    assert moat.ike.status("portal").remote_key == home.public_key
    assert tables(moat) == tables(portal) == SETTLED


def test_in_clear_only_the_nonce_makes_it_count():
    network = Network()
    moat, portal, _ = trio(network)
    network.lose = lambda d: d.remote.host == MOAT_HOST
    moat.ike.note_outbound("portal", network.now)
    network.run(network.now + 4.0)
    asked = [d for d in network.log if exchange_of(d) == (Exchange.IKE_SA_INIT, False)][-1]
    body = redirect(OTHER_HOST, b"n" * 32).encode()
    payload = bytes((0, 0)) + (4 + len(body)).to_bytes(2, "big") + body
    length = (HEADER_LENGTH + len(payload)).to_bytes(4, "big")
    forged = asked.data[:16] + bytes((41, 0x20, 34, 0x20)) + bytes(4) + length + payload
    moat.ike.receive_datagram(Datagram(forged, asked.local, asked.remote), network.now)
    network.run(network.now + 0.2)
    assert not [d for d in network.log if d.remote.host == OTHER_HOST]
    network.lose = lambda _: False
    network.run(network.now + 20.0)
    assert is_at(moat, portal)


def test_a_moat_that_knows_no_redirects_is_left_alone():
    network = Network()
    moat, portal = Peer(MOAT, MOAT_HOST, 11), Peer(PORTAL, PORTAL_HOST, 22)
    network.join(moat, portal)
    portal.ike.add_connection(portal_config(moat), 0.0)
    portal.ike.redirect_all(OTHER_HOST)
    moat.ike.add_connection(moat_config(portal), 0.0)
    network.run(1.0)
    assert is_at(moat, portal)
    assert not portal.ike.redirect("c0001", OTHER_HOST, network.now)
    network.run(2.0)
    assert is_at(moat, portal)


@pytest.mark.parametrize("seed", range(20))
def test_on_a_bad_network(seed: int):
    network = Network(seed)
    moat, portal, other = trio(network)
    network.loss, network.repeat, network.jitter = 0.2, 0.1, 0.3
    portal.ike.redirect("c0001", OTHER_HOST, network.now)
    network.run(network.now + 40.0)
    network.loss = network.repeat = network.jitter = 0.0
    network.run(network.now + 60.0)
    assert is_at(moat, other) or is_at(moat, portal)
    assert tables(moat) == SETTLED


@pytest.mark.parametrize("gateway", [OTHER_HOST, OTHER, "2001:db8::1"])
def test_the_notify(gateway: str):
    notify = redirect(gateway, b"n" * 32)
    assert notify.type == NotifyType.REDIRECT
    assert parse_redirect(notify.data) == (gateway, b"n" * 32)
