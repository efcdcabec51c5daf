"""Many moats in this process that carry packets, too: the benchmark's fleet with a data plane."""

from __future__ import annotations

import time
from collections.abc import Iterable

from scale_moats import PORTAL, Fleet, Moat

from moatvpn.counters import Counters
from moatvpn.esp.burst import Arrival
from moatvpn.esp.processor import EspProcessor
from moatvpn.ike.events import ChildUp
from moatvpn.wire.endpoint import NAT_PORT


class Crowd(Fleet):
    """Moats that carry packets. spis are those that they send on, by the moat's number.

    What comes out of their tunnels is kept in came, with the time; counters has their drops.
    """

    def __init__(self, namespace: str, moats: Iterable[Moat]) -> None:
        super().__init__(namespace, moats)
        self.spis: dict[int, int] = {}
        self.came: list[tuple[float, bytes]] = []
        self.counters = Counters()
        self._esp: dict[int, EspProcessor] = {}
        self._owners: dict[int, EspProcessor] = {}  # by inbound SPI

    def child_up(self, moat: Moat, event: ChildUp) -> None:
        """Carry packets on a CHILD_SA."""
        if moat.number not in self._esp:
            self._esp[moat.number] = EspProcessor(self.counters, several_addresses=True)
        esp, child = self._esp[moat.number], event.child
        esp.set_local(PORTAL, moat.host)
        esp.install(child, event.peer, activate_outbound=True)
        self._owners[child.spi_in] = esp
        self.spis[moat.number] = child.spi_out

    def send(self, moat: Moat, packet: bytes) -> None:
        """Send a raw packet through a moat's tunnel."""
        raw = memoryview(packet), b""
        for burst in self._esp[moat.number].encapsulate([raw], time.monotonic()):
            (self._ports[NAT_PORT] if burst.udp else self._raw).send_burst(burst)

    def envelopes(self, arrivals: Iterable[Arrival]) -> None:
        """Take in envelopes of the portal's."""
        now = time.monotonic()
        for arrival in arrivals:
            esp = self._owners.get(int.from_bytes(arrival[0][:4], "big"))
            for out in esp.decapsulate([arrival], now) if esp is not None else ():
                self.came += [(now, b"".join(pieces)) for pieces, _ in out.packets]
