"""A moat's and a portal's daemons in memory: real IKE and real ESP, through their forwarders.

Time is virtual: run() goes from deadline to deadline. A Nat may stand on the path between them.
"""

from __future__ import annotations

import random
import select
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from moatvpn.config import connection_from_dict
from moatvpn.counters import Counters
from moatvpn.crypto.sign import generate_private_key, load_private_key
from moatvpn.daemon.forwarder import NewsForwarder, PacketForwarder
from moatvpn.daemon.packets import PacketEngine
from moatvpn.daemon.workers_halves import Half, OpeningHalf, Reports, SealingHalf
from moatvpn.daemon.workers_link import new_pair
from moatvpn.daemon.workers_plane import WorkersEngine, WorkersPlane
from moatvpn.deadlines import earliest
from moatvpn.drivers.loop import HasFileno
from moatvpn.drivers.memory import MemoryNetwork, MemoryTun, WildPacket
from moatvpn.esp.processor import EspProcessor
from moatvpn.ike.endpoint import IkeEndpoint
from moatvpn.wire.endpoint import NAT_PORT, Endpoint

MOAT_WILD, PORTAL_WILD = "192.0.2.10", "198.51.100.2"


def ipv4(source: str, destination: str, payload: bytes) -> bytes:
    octets = [bytes(map(int, address.split("."))) for address in (source, destination)]
    total = (20 + len(payload)).to_bytes(2, "big")
    header = b"\x45\x00" + total + bytes(4) + b"\x40\x11" + bytes(2) + b"".join(octets)
    words = [int.from_bytes(header[at : at + 2], "big") for at in range(0, 20, 2)]
    folded = sum(words)
    while folded >> 16:
        folded = (folded & 0xFFFF) + (folded >> 16)
    return header[:10] + (~folded & 0xFFFF).to_bytes(2, "big") + header[12:] + payload


OUT = ipv4("10.201.1.5", "10.50.0.7", b"from pc to corp")
BACK = ipv4("10.50.0.7", "10.201.1.5", b"from corp to pc")


class Box:
    """One daemon's engine at in-memory devices; with workers, these are in the same process."""

    def __init__(
        self,
        lab: Lab,
        identity: str,
        address: str,
        seed: int,
        log: Any,
        own_hosts: tuple[str, ...] = (),
        workers: bool = False,
    ) -> None:
        self.clock: Callable[[], float] = lambda: lab.now
        self.counters = Counters()
        self.signer = load_private_key(generate_private_key())
        self.host = lab.network.attach(address, self.counters)
        self.tun = MemoryTun()
        self.soon: deque[Callable[[], None]] = deque()
        randomness = random.Random(seed)
        ike = IkeEndpoint(
            identity,
            self.signer,
            self.counters,
            randomness.randbytes,
            self.host.local_address,
            own_hosts=own_hosts,
        )
        for host in own_hosts[1:]:
            lab.network.also(self.host, host)
        self.halves: tuple[SealingHalf, OpeningHalf] | None = None
        self.engine: PacketEngine | WorkersEngine
        self.forwarder: PacketForwarder | NewsForwarder
        several = len(own_hosts) > 1
        if workers:
            self._start_workers(ike, log, several)
            return
        esp = EspProcessor(self.counters, several_addresses=several)
        engine = self.engine = PacketEngine(ike, esp, self.counters, log)
        self.forwarder = PacketForwarder(
            engine, self.tun, self.host.raw, self.host.ports, self._clock, self.soon.append
        )

    def _clock(self) -> float:
        return self.clock()

    def _start_workers(self, ike: IkeEndpoint, log: Any, several: bool) -> None:
        counters, clock, soon, host = self.counters, self._clock, self.soon.append, self.host
        (sealing, seals), (opening, opens) = new_pair("sealing"), new_pair("opening")
        self.links = sealing, seals, opening, opens
        at = self.tun, host.raw, host.ports[NAT_PORT], soon
        sealer = EspProcessor(counters, several_addresses=several)
        opener = EspProcessor(counters, sender=Reports(opens))
        self.halves = (
            SealingHalf(sealer, seals, counters, clock, *at),
            OpeningHalf(opener, opens, counters, clock, *at),
        )
        for link, half in zip((sealing, opening), self.halves, strict=True):
            # Whoever waits for an answer has to let the other one work.
            link.wait = partial(_let_work, half)  # type: ignore[method-assign]
        plane = WorkersPlane(sealing, opening, counters, clock, soon)
        engine = self.engine = WorkersEngine(ike, plane, counters, log)
        self.forwarder = NewsForwarder(engine, host.ports, clock)
        plane.call_later = self.forwarder.from_carrier

    def from_tun(self) -> None:
        if isinstance(self.forwarder, PacketForwarder):
            self.forwarder.from_tun()
        elif self.halves is not None:
            self.halves[0].from_tun_device()

    def from_raw(self) -> None:
        if isinstance(self.forwarder, PacketForwarder):
            self.forwarder.from_raw()
        elif self.halves is not None:
            self.halves[1].from_raw()

    def from_udp(self, port: int) -> None:
        if self.halves is not None and port == NAT_PORT:
            self.halves[1].from_udp()
        else:
            self.forwarder.from_udp(port)

    def turn(self) -> None:
        if isinstance(self.forwarder, PacketForwarder):
            self.forwarder.from_tun()
            self.forwarder.from_raw()
            for port in self.host.ports:
                self.forwarder.from_strangers(port)
                self.forwarder.from_established(port)
                self.forwarder.from_udp(port)
        else:
            self._turn_of_workers(self.forwarder)
        for _ in range(len(self.soon)):
            self.soon.popleft()()

    def _turn_of_workers(self, forwarder: NewsForwarder) -> None:
        assert self.halves is not None
        sealing, opening = self.halves
        for port in self.host.ports:
            forwarder.from_strangers(port)
            forwarder.from_established(port)
            if port != NAT_PORT:
                forwarder.from_udp(port)
        opening.from_raw()
        opening.from_udp()
        sealing.from_tun_device()
        forwarder.from_carrier()
        sealing.from_link()
        opening.from_link()

    def get_timer(self) -> float | None:
        halves = self.halves or ()
        return earliest(self.engine.get_timer(), *(half.get_timer() for half in halves))

    def handle_timer(self) -> None:
        self.forwarder.handle_timer()
        for half in self.halves or ():
            half.handle_timer()

    def busy(self) -> bool:
        ports = self.host.ports.values()
        return bool(
            self.soon
            or (self.halves is not None and any(_waits(link) for link in self.links))
            or self.tun.waiting
            or self.host.raw.waiting
            or any(port.established.messages or port.strangers.messages for port in ports)
            or any(port.arrivals for port in ports)
        )


def _let_work(half: Half, seconds: float) -> bool:
    del seconds
    half.take_orders()
    return True


def _waits(link: HasFileno) -> bool:
    return bool(select.select([link], [], [], 0)[0])


class Lab:
    """A moat and a portal, and time that goes where the test wants it."""

    def __init__(
        self,
        encapsulation: str,
        log: Any,
        own_hosts: tuple[str, ...] = (),
        *,
        workers: bool = False,
    ) -> None:
        self.now = 1000.0
        self.network = MemoryNetwork()
        self.moat = Box(self, "m1.moats.example.net", MOAT_WILD, 1, log, workers=workers)
        self.portal = Box(self, "portal.example.net", PORTAL_WILD, 2, log, own_hosts, workers)
        private, corporate = ["10.201.1.0/24"], ["10.50.0.0/24"]
        self.portal.engine.add(
            connection_from_dict(
                {
                    "name": "m0001",
                    "remote_identity": "m1.moats.example.net",
                    "remote_public_keys": [self.moat.signer.public_text],
                    "local_selectors": corporate,
                    "remote_selectors": private,
                    "encapsulation": encapsulation,
                }
            ),
            self.now,
        )
        self.moat.engine.add(
            connection_from_dict(
                {
                    "name": "portal1",
                    "remote_identity": "portal.example.net",
                    "remote_public_keys": [self.portal.signer.public_text],
                    "local_selectors": private,
                    "remote_selectors": corporate,
                    "remote_address": PORTAL_WILD,
                    "initiate": True,
                    "encapsulation": encapsulation,
                }
            ),
            self.now,
        )

    def settle(self) -> None:
        """Let everything that is under way arrive."""
        boxes = (self.moat, self.portal)
        while any(box.busy() for box in boxes):
            for box in boxes:
                box.turn()

    def run(self, seconds: float) -> None:
        """Let time go by, from deadline to deadline."""
        end = self.now + seconds
        while True:
            self.settle()
            timers = [box.get_timer() for box in (self.moat, self.portal)]
            due = min((timer for timer in timers if timer is not None), default=end)
            if due > end:
                self.now = end
                return
            self.now = max(self.now, due)
            for box in (self.moat, self.portal):
                box.handle_timer()

    def carries(self) -> bool:
        """Whether a packet goes each way."""
        for box, packet, other in (
            (self.moat, OUT, self.portal),
            (self.portal, BACK, self.moat),
        ):
            other.tun.delivered.clear()
            box.tun.waiting.append(packet)
            self.settle()
            if [packet[20:]] != [p[20:] for p in other.tun.delivered]:
                return False
        return True


class Nat:
    """What a home router does to a moat behind it: UDP gets mappings, protocol 50 is lost.

    A mapping lets in only what comes from where the moat has sent to through it. forget makes the
    router lose them all, and use other ports afterwards; outside may change, too.
    """

    def __init__(self, inside: str, outside: str) -> None:
        self.inside, self.outside = inside, outside
        self._next = 20000
        self._ports: dict[int, int] = {}
        self._allowed: set[tuple[int, Endpoint]] = set()

    def forget(self) -> None:
        self._ports.clear()
        self._allowed.clear()

    def __call__(self, packet: WildPacket) -> tuple[WildPacket, ...]:
        source, destination = packet.source, packet.destination
        if source.host == self.inside:
            if not source.port:
                return ()
            if source.port not in self._ports:
                self._next += 1
                self._ports[source.port] = self._next
            public = self._ports[source.port]
            self._allowed.add((public, destination))
            return (replace(packet, source=Endpoint(self.outside, public)),)
        if destination.host == self.outside:
            inside = [ours for ours, public in self._ports.items() if public == destination.port]
            if not inside or (destination.port, source) not in self._allowed:
                return ()
            return (replace(packet, destination=Endpoint(self.inside, inside[0])),)
        return () if destination.host == self.inside else (packet,)
