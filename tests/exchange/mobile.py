"""Moats that roam: what the tests of MOBIKE have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest
from network import (
    MOAT_HOST,
    PORTAL,
    PORTAL_HOST,
    Network,
    Peer,
    connected,
    established,
    portal_config,
    sa_of,
)

from moatvpn.ike.task import Payloads, PlainTask, notifies_of
from moatvpn.wire.endpoint import NAT_PORT, Endpoint
from moatvpn.wire.ike_header import Exchange, PayloadType, RawPayload
from moatvpn.wire.ike_payloads import Notify

NEW, NEWER, HOME = "192.0.2.77", "192.0.2.78", "203.0.113.7"
SECOND = "198.51.100.3"  # another address of the portal's
NAT = ["NAT_DETECTION_SOURCE_IP", "NAT_DETECTION_DESTINATION_IP"]
UPDATE, CHECK, ECHO = ["UPDATE_SA_ADDRESSES", *NAT, "COOKIE2"], [*NAT, "COOKIE2"], ["COOKIE2", *NAT]

# Who said it, "?" for a request and "!" for a response, and the names of the notifies in it.
Said = tuple[str, str, list[str]]


def peer_of(peer: Peer) -> Endpoint | None:
    """Return where a box sends its traffic."""
    (name,) = peer.ike._context.connections
    return peer.ike.status(name).peer


def roam(network: Network, moat: Peer, host: str) -> None:
    moat.host = host
    moat.ike.local_address_changed(network.now)


@dataclass
class Ask(PlainTask):
    """A request of any notifies, and those of its response."""

    notifies: Sequence[Notify]
    answer: list[Notify] = field(default_factory=list)
    exchange: Exchange = Exchange.INFORMATIONAL

    def build(self, now: float) -> Payloads:
        return [(PayloadType.NOTIFY, notify.encode()) for notify in self.notifies]

    def complete(self, payloads: Sequence[RawPayload], now: float) -> None:
        self.answer = notifies_of(payloads)


def ask(network: Network, peer: Peer, *notifies: Notify) -> list[int]:
    """Let peer ask so; return the types of the notifies in the answer."""
    task = Ask(notifies)
    sa_of(peer).start(task, network.now)
    network.run(network.now + 0.5)
    return [int(notify.type) for notify in task.answer]


def called_by_the_portal(network: Network) -> tuple[Peer, Peer]:
    """Return a moat and its portal, which has called it after a restart, and so steers."""
    moat, portal = established(network, dpd_interval=300.0)
    network.peers.remove(portal)
    again = Peer(PORTAL, PORTAL_HOST, 97, portal.signer)
    again.ike.add_connection(portal_config(moat), network.now)
    again.ike.remember_peer("c0001", Endpoint(MOAT_HOST, NAT_PORT), network.now)
    network.join(again)
    network.run(network.now + 1.0)
    assert connected(moat, again)
    assert sa_of(again).mobility.steers
    assert not sa_of(moat).mobility.steers
    return moat, again


def steered_by_the_moat(network: Network) -> tuple[Peer, Peer]:
    return established(network)


BOTH = pytest.mark.parametrize("start", [steered_by_the_moat, called_by_the_portal])
Start = Callable[[Network], tuple[Peer, Peer]]
