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
    assert mine.ike.use_keys((new, mine.signer), network.now) == 1
    network.run(network.now + 20.0)
    assert connected(moat, portal)
    assert sa_of(mine).local_key == sa_of(other).remote_key == new.public_key
    assert tables(moat) == tables(portal) == SETTLED
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
