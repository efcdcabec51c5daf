"""A moat that is a single machine is told its address, resolvers and networks (RFC 7296, 2.19).

moat                                              portal
  HDR, SK{IDi, CERT, AUTH, CP(CFG_REQUEST), SA, TSi, TSr} --->
             <---  HDR, SK{IDr, CERT, AUTH, CP(CFG_REPLY), SA, TSi, TSr}
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
    moat_config,
    portal_config,
)

from moatvpn.ike import configuration
from moatvpn.ike.events import Configured
from moatvpn.wire.ike_config import Assigned, encode_request
from moatvpn.wire.ike_header import PayloadType, RawPayload

CLIENT = {"request_addresses": True, "local_selectors": ("0.0.0.0/0", "::/0")}
GIVEN = {
    "remote_selectors": ("10.201.9.1/32", "fd00:201:9::1/128"),
    "assigned_addresses": ("10.201.9.1", "fd00:201:9::1"),
    "assigned_dns": ("10.50.0.53",),
    "assigned_domains": ("corp.example",),
}


def joined(network: Network, at_moat: dict, at_portal: dict) -> tuple[Peer, Peer]:
    moat, portal = Peer(MOAT, MOAT_HOST, 11), Peer(PORTAL, PORTAL_HOST, 22)
    network.join(moat, portal)
    portal.ike.add_connection(portal_config(moat, **at_portal), network.now)
    moat.ike.add_connection(moat_config(portal, **at_moat), network.now)
    return moat, portal


@pytest.mark.parametrize("behind", [("10.50.0.0/16", "fd00:50::/32"), ("0.0.0.0/0", "::/0")])
def test_address_resolver_and_networks_are_told(behind):
    network = Network()
    moat, portal = joined(network, CLIENT, GIVEN | {"local_selectors": behind})
    network.run(1.0)
    assert connected(moat, portal)
    (told,) = moat.kinds(Configured)
    split = () if "0.0.0.0/0" in behind else behind
    assert told.assigned == Assigned(
        GIVEN["assigned_addresses"], GIVEN["assigned_dns"], split, GIVEN["assigned_domains"]
    )
    # The traffic selectors are narrowed to the address.
    ours = [str(ts.start) for ts in moat.outbound["portal"].child.local_ts]
    assert ours == list(GIVEN["assigned_addresses"])
    assert [str(ts.end) for ts in moat.outbound["portal"].child.local_ts] == ours
    assert not portal.kinds(Configured)


def test_who_does_not_ask_is_not_told():
    network = Network()
    moat, portal = joined(network, {"local_selectors": ("10.201.9.1/32",)}, GIVEN)
    network.run(1.0)
    assert connected(moat, portal)
    assert not moat.kinds(Configured)


def test_who_asks_a_portal_that_assigns_nothing_is_set_up_without():
    network = Network()
    moat, portal = joined(network, {"request_addresses": True}, {})
    network.run(1.0)
    assert connected(moat, portal)
    assert not moat.kinds(Configured)


def test_what_nobody_asked_for_is_not_taken(monkeypatch):
    asked = RawPayload(PayloadType.CP, False, encode_request())  # the peer has not sent it
    real = configuration.reply
    monkeypatch.setattr(configuration, "reply", lambda config, _: real(config, [asked]))
    network = Network()
    moat, portal = joined(network, {"local_selectors": ("10.201.9.1/32",)}, GIVEN)
    network.run(1.0)
    assert connected(moat, portal)
    assert not moat.kinds(Configured)


@pytest.mark.parametrize("strange", ["127.0.0.1", "10.50.0.53", "224.0.0.1", "0.0.0.0"])
def test_an_address_that_the_tunnel_could_not_carry_is_not_taken(strange):
    network = Network()
    wrong = GIVEN | {"assigned_addresses": (strange, "10.201.9.1")}
    moat, _ = joined(network, CLIENT, wrong)
    network.run(1.0)
    (told,) = moat.kinds(Configured)
    assert told.assigned.addresses == ("10.201.9.1",)


def test_a_rekey_keeps_it_and_a_new_ike_sa_tells_it_again():
    network = Network()
    moat, portal = joined(network, CLIENT, GIVEN)
    network.run(1.0)
    moat.ike.rekey("portal", "ike", network.now)
    network.run(3.0)
    assert len(moat.kinds(Configured)) == 1
    portal.ike.remove_connection("c0001", network.now)
    changed = GIVEN | {"assigned_dns": ("10.50.0.54",)}
    portal.ike.add_connection(portal_config(moat, **changed), network.now)
    network.run(20.0)
    assert [told.assigned.dns for told in moat.kinds(Configured)] == [
        ("10.50.0.53",),
        ("10.50.0.54",),
    ]
