"""Another key takes the place of a box's: authenticated anew beside what there is."""

from __future__ import annotations

from dataclasses import replace

import pytest
from network import (
    SETTLED,
    Network,
    Peer,
    connected,
    established,
    many,
    moat_config,
    new_signer,
    portal_config,
    sa_of,
    tables,
    watch_usable,
)

from moatvpn.crypto.sign import Signer
from moatvpn.ike.events import IkeDown


def trust(network: Network, moat: Peer, portal: Peer, of: str, new: Signer) -> None:
    """Have the peer of one side trust a new key of it beside the one that it has."""
    mine, config = (moat, portal_config(moat)) if of == "moat" else (portal, moat_config(portal))
    keys = (mine.signer.public_text, new.public_text)
    other = portal if of == "moat" else moat
    assert other.ike.change_keys(replace(config, remote_public_keys=keys), network.now)


@pytest.mark.parametrize("of", ["moat", "portal"])
@pytest.mark.parametrize("seed", range(3))
def test_switch_breaks_nothing(of: str, seed: int) -> None:
    network = Network(seed, jitter=0.005)
    moat, portal = established(network)
    new = new_signer()
    trust(network, moat, portal, of, new)
    watch_usable(network, moat, portal)
    mine, other = (moat, portal) if of == "moat" else (portal, moat)
    since = [each.up_since for each in (moat.ike.status("portal"), portal.ike.status("c0001"))]
    assert mine.ike.use_keys((new, mine.signer), network.now) == 1
    network.run(network.now + 20.0)
    assert connected(moat, portal)
    assert sa_of(mine).local_key == sa_of(other).remote_key == new.public_key
    assert tables(moat) == tables(portal) == SETTLED
    assert since == [
        each.up_since for each in (moat.ike.status("portal"), portal.ike.status("c0001"))
    ]
    assert not moat.kinds(IkeDown)
    assert not portal.kinds(IkeDown)


@pytest.mark.parametrize("of", ["moat", "portal"])
def test_peer_that_does_not_trust_the_new_key_keeps_what_there_is(of: str) -> None:
    network = Network()
    moat, portal = established(network)
    watch_usable(network, moat, portal)
    mine, new = (moat if of == "moat" else portal), new_signer()
    before = sa_of(mine)
    mine.ike.use_keys((new, mine.signer), network.now)
    network.run(network.now + 60.0)
    assert sa_of(mine) is before
    assert tables(moat) == tables(portal) == SETTLED
    name = "portal" if of == "moat" else "c0001"
    status = mine.ike.status(name)
    assert status.key_refused
    assert status.failure is not None
    # Once it is trusted, the same again goes through.
    trust(network, moat, portal, of, new)
    mine.ike.use_keys((new, mine.signer), network.now)
    network.run(network.now + 20.0)
    assert sa_of(mine).local_key == new.public_key
    assert not mine.ike.status(name).key_refused


def watch_all_usable(network: Network, moats: list[Peer], portal: Peer) -> None:
    """From now on, whatever the portal and its moats would send is decryptable at the other end."""

    def usable() -> None:
        assert len(portal.outbound) == len(moats)
        for n, moat in enumerate(moats):
            for up, receiver in (
                (moat.outbound["portal"], portal),
                (portal.outbound[f"c{n}"], moat),
            ):
                twin = receiver.inbound.get(up.child.spi_out)
                assert twin is not None
                assert twin.child.key_in == up.child.key_out

    network.each_step = usable


def test_a_portal_switches_and_one_of_its_moats_does_not_know_the_next_key() -> None:
    """The others move to it; that one stays as it is, is found refusing, and moves once it is told.

    All moats                                        portal
                                 <----  HDR, SK{N(AUTH_LIFETIME)}     within 20 ms for each moat
    HDR, SAi1, KEi, Ni, … ---->
                                 <----  HDR, SAr1, KEr, Nr, …
    HDR, SK{IDi, CERT, AUTH, …} ---->
                                 <----  HDR, SK{IDr, CERT, AUTH, …}   by the next key
    the one: HDR, SK{N(AUTHENTICATION_FAILED)} ---->                  and the old IKE SA goes on
    """
    network = Network(jitter=0.005)
    moats, portal = many(network, 4)
    network.run(2.0)
    new, old = new_signer(), portal.signer
    for n, moat in enumerate(moats[1:], 1):
        config = moat_config(portal, local_selectors=(f"10.201.{n}.0/24",))
        both = (old.public_text, new.public_text)
        assert moat.ike.change_keys(replace(config, remote_public_keys=both), network.now)
    watch_all_usable(network, moats, portal)
    before = sa_of(moats[0])
    assert portal.ike.use_keys((new, old), network.now) == 4
    network.run(network.now + 60.0)
    status = [portal.ike.status(f"c{n}") for n in range(4)]
    assert [each.local_key == new.public_key for each in status] == [False, True, True, True]
    assert [each.key_refused for each in status] == [True, False, False, False]
    assert sa_of(moats[0]) is before
    # What is rekeyed stays what it is by.
    portal.ike.rekey("c0", "ike", network.now)
    portal.ike.rekey("c1", "ike", network.now)
    network.run(network.now + 20.0)
    assert portal.ike.status("c0").local_key == old.public_key
    assert portal.ike.status("c0").key_refused
    assert portal.ike.status("c1").local_key == new.public_key

    config = moat_config(portal, local_selectors=("10.201.0.0/24",))
    both = (old.public_text, new.public_text)
    assert moats[0].ike.change_keys(replace(config, remote_public_keys=both), network.now)
    assert portal.ike.use_keys((new, old), network.now) == 1
    network.run(network.now + 20.0)
    assert portal.ike.status("c0").local_key == new.public_key
    assert not portal.ike.status("c0").key_refused
    # The old one goes.
    assert portal.ike.use_keys((new,), network.now) == 0
    for n, moat in enumerate(moats):
        config = moat_config(portal, local_selectors=(f"10.201.{n}.0/24",))
        only = replace(config, remote_public_keys=(new.public_text,))
        assert moat.ike.change_keys(only, network.now)
    network.run(network.now + 20.0)
    assert not portal.kinds(IkeDown)
    assert tables(portal) == SETTLED | {"ike_sas": 4, "child_spis": 4}


@pytest.mark.parametrize("seed", range(4))
def test_both_switch_at_once_on_a_lossy_way(seed: int) -> None:
    network = Network(seed)
    moat, portal = established(network)
    keys = {"moat": new_signer(), "portal": new_signer()}
    for of, new in keys.items():
        trust(network, moat, portal, of, new)
    network.loss = 0.1
    moat.ike.use_keys((keys["moat"], moat.signer), network.now)
    portal.ike.use_keys((keys["portal"], portal.signer), network.now)
    network.run(network.now + 60.0)
    network.loss = 0.0
    network.run(network.now + 60.0)
    assert connected(moat, portal)
    assert sa_of(portal).remote_key == keys["moat"].public_key
    assert sa_of(moat).remote_key == keys["portal"].public_key
    assert tables(moat) == tables(portal) == SETTLED


def test_key_that_is_trusted_no_more_is_not_changed_in_place() -> None:
    network = Network()
    moat, portal = established(network)
    config = replace(portal_config(moat), remote_public_keys=(new_signer().public_text,))
    assert not portal.ike.change_keys(config, network.now)
