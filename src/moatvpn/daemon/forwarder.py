"""Moves packets between the drivers and the engine: the inner loops of the daemon."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping

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
from moatvpn.esp.burst import Burst
from moatvpn.esp.coalesce import WORTH_JOINING, joined
from moatvpn.esp.inbound import Delivery
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
        self._packets = engine
        self._tun = tun
        self._raw = raw

    def from_tun(self) -> None:
        """Send the raw packets that wait at the TUN as envelopes."""
        now = self._clock()
        self._send(self._packets.from_tun(self._tun.read_batch(), now))
        self.flush()

    def from_raw(self) -> None:
        """Take in the ESP packets that wait at the raw socket."""
        self._arrived(self._raw.receive())
        self.flush()

    def handle_timer(self) -> None:
        """Do what is due, and send what comes of it."""
        self._deliver(self._packets.late(self._clock()))
        super().handle_timer()

    def flush(self) -> None:
        """Send the IKE messages that wait in the engine, and the envelopes that are due."""
        super().flush()
        self._send(self._packets.bursts_to_send(self._clock()))

    def _arrived(self, arrivals: list[EspArrival]) -> None:
        self._deliver(self._packets.from_esp(arrivals, self._clock()))

    def _send(self, bursts: Iterable[Burst]) -> None:
        send_raw, send_udp = self._raw.send_burst, self._ports[NAT_PORT].send_burst
        for burst in bursts:
            (send_udp if burst.udp else send_raw)(burst)

    def _deliver(self, arrived: Iterable[list[Delivery]]) -> None:
        tun = self._tun
        for packets in arrived:
            many = tun.takes_super_packets and len(packets) >= WORTH_JOINING
            for pieces, offload in joined(packets, udp=tun.takes_udp) if many else packets:
                tun.write(pieces, offload)


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
