"""Moves packets between the drivers and the engine: the inner loops of the daemon."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from moatvpn.counters import Counters, DropReason
from moatvpn.daemon.engine import Engine
from moatvpn.daemon.kernel import KernelEngine
from moatvpn.daemon.packets import PacketEngine
from moatvpn.drivers.interfaces import (
    STRANGERS_BATCH,
    Clock,
    EspArrival,
    RawSocket,
    Tun,
    UdpSocket,
)
from moatvpn.wire.endpoint import NAT_PORT, Datagram


class Forwarder(ABC):
    """One daemon's engine at its UDP ports. Each method takes a bounded batch and never blocks.

    ports maps the numbers 500 and 4500 to our UDP ports.
    """

    def __init__(self, engine: Engine, ports: Mapping[int, UdpSocket], clock: Clock) -> None:
        self._engine = engine
        self._ports = ports
        self._clock = clock

    def from_udp(self, port: int) -> None:
        """Take in the ESP packets and IKE messages that wait at one of our UDP ports."""
        self._take(*self._ports[port].receive())

    def from_strangers(self, port: int) -> None:
        """Take in a few of the messages at one of our UDP ports that belong to no SA."""
        self._take(*self._ports[port].strangers.receive(STRANGERS_BATCH))

    def _take(self, arrivals: list[EspArrival], messages: list[Datagram]) -> None:
        now = self._clock()
        for message in messages:
            self._engine.from_ike(message, now)
        if arrivals:
            self._arrived(arrivals)
        self.flush()

    @abstractmethod
    def _arrived(self, arrivals: list[EspArrival]) -> None:
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
    """One daemon's engine at its devices, where it carries the packets itself."""

    def __init__(
        self,
        engine: PacketEngine,
        tun: Tun,
        raw: RawSocket,
        ports: Mapping[int, UdpSocket],
        clock: Clock,
    ) -> None:
        super().__init__(engine, ports, clock)
        self._from_tun, self._from_esp = engine.from_tun, engine.from_esp
        self._tun = tun
        self._raw = raw

    def from_tun(self) -> None:
        """Send the raw packets that wait at the TUN as envelopes."""
        now = self._clock()
        encapsulate = self._from_tun
        send_raw, send_udp = self._raw.send_esp, self._ports[NAT_PORT].send_esp
        for packet in self._tun.read_batch():
            envelope = encapsulate(packet, now)
            if envelope is not None:
                send = send_udp if envelope.udp else send_raw
                send(envelope.data, envelope.peer, envelope.tos, envelope.source)
        self.flush()

    def from_raw(self) -> None:
        """Take in the ESP packets that wait at the raw socket."""
        self._arrived(self._raw.receive())
        self.flush()

    def _arrived(self, arrivals: list[EspArrival]) -> None:
        now = self._clock()
        decapsulate, write = self._from_esp, self._tun.write
        for data, source, tos in arrivals:
            packet = decapsulate(data, source, tos, now)
            if packet is not None:
                write(packet)


class KernelForwarder(Forwarder):
    """One daemon's engine beside a kernel that carries the packets."""

    def __init__(
        self,
        engine: KernelEngine,
        ports: Mapping[int, UdpSocket],
        counters: Counters,
        clock: Clock,
    ) -> None:
        super().__init__(engine, ports, clock)
        self._take_news = engine.take_news
        self._counters = counters

    def from_kernel(self) -> None:
        """Take in the news that the kernel has of its SAs."""
        self._take_news(self._clock())
        self.flush()

    def _arrived(self, arrivals: list[EspArrival]) -> None:
        # The kernel takes all that could be ESP; what it leaves to us cannot.
        for _ in arrivals:
            self._counters.drop(DropReason.ESP_TOO_SHORT)
