"""Which address of our own a data plane is told to send from, and to receive at.

moat                                       portal (with a second address)
HDR, SK{IDi, AUTH, …}        ------->
                             <-------  HDR, SK{IDr, AUTH, …}      both: LocalAddress, ChildUp
                                                                  from the moat's new address:
HDR, SK{N(UPDATE_SA_ADDRESSES), …} -->                            moat: LocalAddress
                                                                  at the portal's second one:
HDR, SK{N(UPDATE_SA_ADDRESSES), …} -->                            portal: LocalAddress
"""

from __future__ import annotations

from mobile import NEW, SECOND, roam
from network import MOAT_HOST, PORTAL_HOST, Network, Peer, connected, established
from test_mobike_paths import two_homed

from moatvpn.ike.events import ChildUp, LocalAddress


def told(peer: Peer) -> list[str]:
    return [event.host for event in peer.kinds(LocalAddress)]


def test_it_is_told_before_the_first_child_sa() -> None:
    moat, portal = established(Network())
    for peer, name, host in ((moat, "portal", MOAT_HOST), (portal, "c0001", PORTAL_HOST)):
        kinds = [type(event) for event in peer.events]
        assert kinds.index(LocalAddress) < kinds.index(ChildUp)
        assert peer.kinds(LocalAddress) == [LocalAddress(name, host)]


def test_it_follows_a_moat_that_roams() -> None:
    network = Network()
    moat, portal = established(network)
    roam(network, moat, NEW)
    roam(network, moat, NEW)
    network.run(network.now + 2.0)
    assert told(moat) == [MOAT_HOST, NEW]
    assert told(portal) == [PORTAL_HOST]


def test_it_follows_the_peer_to_another_address_of_ours() -> None:
    network = Network()
    moat, portal = two_homed(network)
    portal.host = SECOND
    moat.ike.note_outbound("portal", network.now)
    network.run(network.now + 5.0)
    assert connected(moat, portal)
    assert told(portal) == [PORTAL_HOST, SECOND]
    assert told(moat) == [MOAT_HOST]


def test_rekeys_do_not_change_it() -> None:
    network = Network()
    moat, portal = established(network)
    for kind in ("ike", "child"):
        moat.ike.rekey("portal", kind, network.now)
        network.run(network.now + 10.0)
    assert (told(moat), told(portal)) == ([MOAT_HOST], [PORTAL_HOST])
