"""Two or more IKE endpoints in memory, joined by a network that loses, repeats and reorders.

Time is virtual: run() goes from deadline to deadline, so that hours take milliseconds.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from typing import Any

from moatvpn.config import ConnectionConfig
from moatvpn.counters import Counters
from moatvpn.crypto.sign import Signer, generate_private_key, load_private_key
from moatvpn.esp.child import NO_ABILITIES, Abilities
from moatvpn.ike.endpoint import IkeEndpoint
from moatvpn.ike.events import ChildActivate, ChildDown, ChildUp, IkeEvent
from moatvpn.ike.gate import DEFAULT_LIMITS, Limits
from moatvpn.ike.ike_sa import IkeSa
from moatvpn.ike.secrets import NO_CERTIFICATES, Certificates
from moatvpn.ike.tickets import TicketKeys
from moatvpn.wire.algorithms import PostQuantum
from moatvpn.wire.endpoint import KEEPALIVE, Datagram, Endpoint

MOAT, PORTAL = "m1.example.net", "portal.example.net"
MOAT_HOST, PORTAL_HOST = "192.0.2.10", "198.51.100.2"
DELAY = 0.01
# Connections here are without ML-KEM, so that a test shows its own exchange and no other;
# the tests that begin with quantum.py are about it.


def new_signer() -> Signer:
    return load_private_key(generate_private_key())


def line_of(up: ChildUp) -> str:
    """Return what names a line: its connection, and its number from the second on."""
    return up.child.connection + (f"#{up.child.line}" if up.child.line else "")


class Peer:
    """An endpoint with its address, and the CHILD_SAs that its events have installed."""

    def __init__(
        self,
        identity: str,
        host: str,
        seed: int,
        signer: Signer | None = None,
        limits: Limits = DEFAULT_LIMITS,
        own_hosts: tuple[str, ...] = (),
        certificates: Certificates = NO_CERTIFICATES,
        tickets: TicketKeys | None = None,
        abilities: Abilities = NO_ABILITIES,
    ) -> None:
        self.identity, self.host = identity, host
        self.signer = signer or new_signer()
        self.counters = Counters()
        self.random = random.Random(seed)
        self.ike = IkeEndpoint(
            identity,
            self.signer,
            self.counters,
            self.random.randbytes,
            lambda _: self.host,
            limits,
            own_hosts,
            certificates,
            tickets,
            abilities,
        )
        self.events: list[IkeEvent] = []
        self.inbound: dict[int, ChildUp] = {}
        self.outbound: dict[str, ChildUp] = {}

    def take_events(self) -> None:
        while (event := self.ike.next_event()) is not None:
            self.events.append(event)
            if isinstance(event, ChildUp):
                self.inbound[event.child.spi_in] = event
                if event.activate_outbound:
                    self.outbound[line_of(event)] = event
            elif isinstance(event, ChildActivate):
                up = self.inbound[event.spi_in]
                self.outbound[line_of(up)] = up
            elif isinstance(event, ChildDown):
                gone = self.inbound.pop(event.spi_in)
                if self.outbound.get(line_of(gone)) is gone:
                    del self.outbound[line_of(gone)]

    def kinds(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


def ask_for_cookies(peer: Peer) -> None:
    """Make peer ask every stranger for a cookie, as it does under load."""
    peer.ike._context.gate.limits = replace(DEFAULT_LIMITS, cookies_above=0)


class Network:
    """Delivers datagrams by host address. loss and repeat are probabilities; jitter is seconds."""

    def __init__(self, seed: int = 1, loss: float = 0, repeat: float = 0, jitter: float = 0):
        self.random = random.Random(seed)
        self.loss, self.repeat, self.jitter = loss, repeat, jitter
        self.now = 0.0
        self.peers: list[Peer] = []
        self.in_flight: list[tuple[float, int, Datagram]] = []
        self.order = count()
        self.log: list[Datagram] = []
        self.rewrite: Callable[[Datagram], Datagram] = lambda datagram: datagram
        self.each_step: Callable[[], None] = lambda: None
        self.lose: Callable[[Datagram], bool] = lambda _: False
        self.delay: Callable[[Datagram], float] = lambda _: 0.0

    def join(self, *peers: Peer) -> None:
        self.peers += peers

    def _collect(self) -> None:
        for peer in self.peers:
            peer.take_events()
            for datagram in peer.ike.datagrams_to_send():
                self.log.append(datagram)
                copies = (self.random.random() >= self.loss) + (self.random.random() < self.repeat)
                if self.lose(datagram):
                    continue
                for _ in range(copies):
                    when = self.now + DELAY + self.delay(datagram)
                    when += self.jitter * self.random.random()
                    heapq.heappush(self.in_flight, (when, next(self.order), datagram))

    def _deliver(self, datagram: Datagram) -> None:
        if datagram.data == KEEPALIVE:
            return  # a NAT sees it, and the peer's port drops it
        seen = self.rewrite(datagram)
        for peer in self.peers:
            if peer.host == seen.remote.host:
                arrived = Datagram(seen.data, seen.remote, seen.local)
                peer.ike.receive_datagram(arrived, self.now)

    def run(self, until: float) -> None:
        while True:
            self._collect()
            self.each_step()
            timers = [t for peer in self.peers if (t := peer.ike.get_timer()) is not None]
            arrival = self.in_flight[0][0] if self.in_flight else None
            when = min([*timers, *([arrival] if arrival is not None else [])], default=math.inf)
            if when > until:
                self.now = until
                return
            self.now = max(self.now, when)
            if arrival is not None and arrival <= self.now:
                self._deliver(heapq.heappop(self.in_flight)[2])
            for peer in self.peers:
                peer.ike.handle_timer(self.now)


def exchange_of(datagram: Datagram) -> tuple[int, bool]:
    """Return the exchange type of a message, and whether it is a response."""
    return datagram.data[18], bool(datagram.data[19] & 0x20)


def sa_of(peer: Peer) -> IkeSa:
    """Return the IKE SA of a peer's only connection."""
    (connection,) = peer.ike._context.connections.values()
    assert connection.sa is not None
    return connection.sa


def tables(peer: Peer) -> dict[str, int]:
    """Return how many entries each table of an endpoint has."""
    context = peer.ike._context
    return {
        "ike_sas": len(context.ike_sas),
        "half_open": len(context.half_open),
        "init_secrets": len(context.init_secrets),
        "child_spis": len(context.child_spis),
    }


# One IKE SA, one CHILD_SA, and nothing besides.
SETTLED = {"ike_sas": 1, "half_open": 0, "init_secrets": 0, "child_spis": 1}
EMPTY = dict.fromkeys(SETTLED, 0)


def moat_config(portal: Peer, **changes: Any) -> ConnectionConfig:
    settings: dict[str, Any] = {
        "name": "portal",
        "remote_identity": portal.identity,
        "remote_public_keys": (portal.signer.public_text,),
        "local_selectors": ("10.201.1.0/24", "fd00:201:1::/64"),
        "remote_selectors": ("0.0.0.0/0", "::/0"),
        "remote_address": portal.host,
        "initiate": True,
        "post_quantum": PostQuantum.OFF,
    }
    return ConnectionConfig(**(settings | changes))


def portal_config(moat: Peer, **changes: Any) -> ConnectionConfig:
    settings: dict[str, Any] = {
        "name": "c0001",
        "remote_identity": moat.identity,
        "remote_public_keys": (moat.signer.public_text,),
        "local_selectors": ("0.0.0.0/0", "::/0"),
        "remote_selectors": ("10.201.1.0/24", "fd00:201:1::/64"),
        "post_quantum": PostQuantum.OFF,
    }
    return ConnectionConfig(**(settings | changes))


def pair(network: Network, **moat_changes: Any) -> tuple[Peer, Peer]:
    """Return a moat and its portal on network, configured and about to connect."""
    moat, portal = Peer(MOAT, MOAT_HOST, 11), Peer(PORTAL, PORTAL_HOST, 22)
    network.join(moat, portal)
    portal.ike.add_connection(portal_config(moat), network.now)
    moat.ike.add_connection(moat_config(portal, **moat_changes), network.now)
    return moat, portal


def many(network: Network, number: int, limits: Limits = DEFAULT_LIMITS) -> tuple[list[Peer], Peer]:
    """Join number moats and one portal, whose connections to them are c0, c1 and so on."""
    portal = Peer(PORTAL, PORTAL_HOST, 2, limits=limits)
    network.join(portal)
    moats = [Peer(f"m{n}.example.net", f"192.0.2.{n + 10}", n) for n in range(number)]
    for n, moat in enumerate(moats):
        network.join(moat)
        selector = (f"10.201.{n}.0/24",)
        portal.ike.add_connection(portal_config(moat, name=f"c{n}", remote_selectors=selector), 0.0)
        moat.ike.add_connection(moat_config(portal, local_selectors=selector), 0.0)
    return moats, portal


def reborn(network: Network, moat: Peer, portal: Peer) -> Peer:
    """Put a moat in the place of moat that has its key and address, and nothing of its state."""
    network.peers.remove(moat)
    new = Peer(moat.identity, MOAT_HOST, 98, moat.signer)
    new.ike.add_connection(moat_config(portal), network.now)
    network.join(new)
    return new


def connected(moat: Peer, portal: Peer) -> bool:
    """Whether what each sends on now is what the other can receive, with the same keys."""
    out_m, out_p = moat.outbound.get("portal"), portal.outbound.get("c0001")
    if out_m is None or out_p is None:
        return False
    in_p = portal.inbound.get(out_m.child.spi_out)
    in_m = moat.inbound.get(out_p.child.spi_out)
    return (
        in_p is not None
        and in_m is not None
        and in_p.child.key_in == out_m.child.key_out
        and in_m.child.key_in == out_p.child.key_out
    )


def established(network: Network, **changes: object) -> tuple[Peer, Peer]:
    moat, portal = pair(network, **changes)
    network.run(network.now + 1.0)
    assert connected(moat, portal)
    return moat, portal


def watch_usable(network: Network, moat: Peer, portal: Peer) -> None:
    """From now on, whatever either side would send must be decryptable at the other."""

    def usable() -> None:
        for sender, receiver in ((moat, portal), (portal, moat)):
            for up in sender.outbound.values():
                twin = receiver.inbound.get(up.child.spi_out)
                assert twin is not None
                assert twin.child.key_in == up.child.key_out
            assert sender.outbound

    network.each_step = usable


def nat(outside: Endpoint, inside_host: str) -> Callable[[Datagram], Datagram]:
    """Return a rewrite that hides inside_host behind outside."""
    ports: dict[int, Endpoint] = {}

    def rewrite(datagram: Datagram) -> Datagram:
        if datagram.local.host == inside_host:
            public = Endpoint(outside.host, outside.port + datagram.local.port)
            ports[public.port] = datagram.local
            return Datagram(datagram.data, public, datagram.remote)
        if datagram.remote.host == outside.host:
            return Datagram(datagram.data, datagram.local, ports[datagram.remote.port])
        return datagram

    return rewrite
