"""What ends is gone at once: nothing of a tunnel waits for the garbage collector.

On a portal with thousands of tunnels a full collection takes a second, in which nothing moves, so
moatd has almost none (daemon/main.py).
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Literal

import pytest
from network import Network, Peer, pair, portal_config

NAMES = {"moat": "portal", "portal": "c0001"}


@pytest.fixture(autouse=True)
def collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    yield
    gc.set_debug(0)
    gc.garbage.clear()
    gc.enable()


def forgotten(*peers: Peer) -> list[str]:
    """Return the types of our own that only the collector would have found."""
    for peer in peers:
        peer.events.clear()
    gc.collect()
    kinds = {type(thing) for thing in gc.garbage}
    gc.garbage.clear()
    return sorted(kind.__qualname__ for kind in kinds if kind.__module__.startswith("moatvpn"))


@pytest.mark.parametrize("sa", ["child", "ike"])
@pytest.mark.parametrize("who", [("moat",), ("portal",), ("moat", "portal")])
def test_set_up_and_rekeys_leave_nothing(who: tuple[str, ...], sa: Literal["child", "ike"]) -> None:
    network = Network()
    moat, portal = pair(network)
    network.run(1.0)
    assert forgotten(moat, portal) == []
    peers = {"moat": moat, "portal": portal}
    for name in who:
        peers[name].ike.rekey(NAMES[name], sa, network.now)
    network.run(network.now + 100.0)
    assert forgotten(moat, portal) == []


@pytest.mark.parametrize("who", ["moat", "portal"])
def test_a_removed_connection_leaves_nothing(who: str) -> None:
    network = Network()
    moat, portal = pair(network)
    network.run(1.0)
    peer = moat if who == "moat" else portal
    peer.ike.rekey(NAMES[who], "child", network.now)
    network.run(network.now + 1.0)  # the old CHILD_SA is to be deleted yet
    peer.ike.remove_connection(NAMES[who], network.now)
    network.run(network.now + 30.0)
    assert forgotten(moat, portal) == []


def test_a_peer_that_vanishes_leaves_nothing() -> None:
    network = Network()
    moat, portal = pair(network)
    network.run(1.0)
    network.lose = lambda _: True
    network.run(network.now + 120.0)
    network.lose = lambda _: False
    network.run(network.now + 30.0)
    assert portal.ike.status("c0001").state == "established"
    assert forgotten(moat, portal) == []
    portal.ike.remove_connection("c0001", network.now)
    portal.ike.add_connection(portal_config(moat), network.now)
    network.run(network.now + 30.0)
    assert forgotten(moat, portal) == []
