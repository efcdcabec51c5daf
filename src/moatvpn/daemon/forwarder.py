"""Moves packets between the drivers and the engine: the inner loops of the daemon."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

from moatvpn.daemon.engine import Engine
from moatvpn.daemon.kernel import KernelEngine
from moatvpn.daemon.packets import PacketEngine
from moatvpn.daemon.ways import Inward, Outward
from moatvpn.daemon.workers_plane import WorkersEngine
from moatvpn.drivers.interfaces import MESSAGES_BATCH, Clock, RawSocket, Tun, UdpSocket
from moatvpn.esp.burst import Arrival
from moatvpn.wire.endpoint import NAT_PORT, Datagram


class Forwarder(ABC):
    """One daemon's engine at its UDP ports. Each method takes a bounded batch and never blocks.

    ports maps the numbers 500 and 4500 to our UDP ports.
    """

    def __init__(self, engine: Engine, ports: Mapping[int, UdpSocket], clock: Clock) -> None:
        self._engine = engine
        self._ports = ports
        self._clock = clock

    def from_udp(self, port: int) -> bool:
        """Take in the ESP packets that wait at one of our UDP ports, and what lies with them.

        Returns whether no deadline has changed by it.
        """
        self._take(*self._ports[port].receive())
        return False

    def from_established(self, port: int) -> None:
        """Take in the messages at one of our UDP ports that are about an IKE SA."""
        self._take(*self._ports[port].established.receive(MESSAGES_BATCH))

    def from_strangers(self, port: int) -> None:
        """Take in a few of the messages at one of our UDP ports that belong to no SA."""
        self._take(*self._ports[port].strangers.receive(MESSAGES_BATCH))

    def _take(self, arrivals: list[Arrival], messages: list[Datagram]) -> None:
        self._take_messages(messages)
        if arrivals:
            self._arrived(arrivals)
        self.flush()

    def _take_messages(self, messages: list[Datagram]) -> None:
        now = self._clock()
        for message in messages:
            self._engine.from_ike(message, now)

    @abstractmethod
    def _arrived(self, arrivals: list[Arrival]) -> None:
        """Take in ESP packets, or what could be."""

    def handle_timer(self) -> None:
        """Do what is due, and send what comes of it."""
        self._engine.handle_timer(self._clock())
        self.flush()

    def flush(self) -> None:
        """Send the IKE messages that wait in the engine."""
        for datagram in self._engine.datagrams_to_send():
            self._ports[datagram.local.port].send_ike(datagram)


class PacketForwarder(Forwarder):
    """One daemon's engine at its devices, where it carries the packets itself.

    soon has a callback called once all devices have been looked at.
    """

    def __init__(
        self,
        engine: PacketEngine,
        tun: Tun,
        raw: RawSocket,
        ports: Mapping[int, UdpSocket],
        clock: Clock,
        soon: Callable[[Callable[[], None]], None],
    ) -> None:
        super().__init__(engine, ports, clock)
        self._raw = raw
        self._outward = Outward(engine, tun, raw, ports[NAT_PORT], clock, soon, self.flush)
        self._inward = Inward(engine, tun, clock, soon, self.flush)

    def from_tun(self) -> bool:
        """Send the raw packets that wait at the TUN as envelopes; return as all three do here.

        That is whether no deadline has changed: nearly always where one packet alone has come.
        """
        return self._outward.from_tun()

    def from_raw(self) -> bool:
        """Take in the ESP packets that wait at the raw socket."""
        return self._inward.take_from(self._raw, self._raw.receive)

    def from_udp(self, port: int) -> bool:
        """Take in the ESP packets that wait at one of our UDP ports, and what lies with them."""
        queue, inward = self._ports[port], self._inward
        if inward.paused():
            arrivals, messages = queue.receive(1)
            if not messages and inward.opened_alone(arrivals):
                return True
            self._take(arrivals, messages)
            return False
        more_than_envelopes = False

        def receive() -> list[Arrival]:
            nonlocal more_than_envelopes
            arrivals, messages = queue.receive()
            if messages:
                more_than_envelopes = True
                self._take_messages(messages)
            return arrivals

        alone = inward.take_from(queue, receive)
        if more_than_envelopes:
            self.flush()
        return alone and not more_than_envelopes

    def handle_timer(self) -> None:
        """Do what is due, and send what comes of it."""
        self._inward.deliver_late()
        super().handle_timer()

    def flush(self) -> None:
        """Send the IKE messages that wait in the engine, and the envelopes that are due."""
        super().flush()
        self._outward.send_due()

    def _arrived(self, arrivals: list[Arrival]) -> None:
        self._inward.arrived(arrivals)


class NewsForwarder(Forwarder):
    """One daemon's engine beside others that carry the packets: a kernel, or workers."""

    def __init__(
        self,
        engine: KernelEngine | WorkersEngine,
        ports: Mapping[int, UdpSocket],
        clock: Clock,
    ) -> None:
        super().__init__(engine, ports, clock)
        self._take_news = engine.take_news
        self._misplaced = engine.misplaced

    def from_carrier(self) -> None:
        """Take in the news that whoever carries the packets has of the SAs."""
        self._take_news(self._clock())
        self.flush()

    def _arrived(self, arrivals: list[Arrival]) -> None:
        self._misplaced(arrivals)
