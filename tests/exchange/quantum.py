"""A moat and its portal with ML-KEM, and what tests of it look at."""

from __future__ import annotations

from typing import Any

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

from moatvpn.wire.algorithms import PostQuantum
from moatvpn.wire.ike_header import Exchange

OFF, PREFER, REQUIRE = PostQuantum
BOTH = "x25519+mlkem768"
CREATE, FOLLOWUP = Exchange.CREATE_CHILD_SA, Exchange.IKE_FOLLOWUP_KE
INTERMEDIATE = Exchange.IKE_INTERMEDIATE


def quantum_pair(
    network: Network, ours: PostQuantum = PREFER, theirs: PostQuantum = PREFER, **changes: Any
) -> tuple[Peer, Peer]:
    """Return a moat and its portal, about to connect."""
    moat, portal = Peer(MOAT, MOAT_HOST, 11), Peer(PORTAL, PORTAL_HOST, 22)
    network.join(moat, portal)
    portal.ike.add_connection(portal_config(moat, post_quantum=theirs, **changes), network.now)
    moat.ike.add_connection(moat_config(portal, post_quantum=ours, **changes), network.now)
    return moat, portal


def quantum(
    network: Network, ours: PostQuantum = PREFER, theirs: PostQuantum = PREFER, **changes: Any
) -> tuple[Peer, Peer]:
    """Return a moat and its portal with a tunnel between them."""
    moat, portal = quantum_pair(network, ours, theirs, **changes)
    network.run(network.now + 1.0)
    assert connected(moat, portal)
    network.log.clear()
    return moat, portal


def key_exchanges(moat: Peer, portal: Peer) -> tuple[str | None, str | None]:
    return moat.ike.status("portal").key_exchange, portal.ike.status("c0001").key_exchange


def start(peer: Peer, kind: Any, network: Network) -> None:
    """Have a peer rekey the SA of its only connection."""
    (name,) = peer.ike._context.connections
    peer.ike.rekey(name, kind, network.now)


def pending(peer: Peer) -> int:
    """Return how many key exchanges a peer waits for."""
    return len(peer.ike._context.followups)
