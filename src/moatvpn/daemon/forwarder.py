"""Moves packets between the drivers and the engine: the inner loops of the daemon."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping

from moatvpn.counters import Counters, DropReason
from moatvpn.daemon.engine import Engine
from moatvpn.daemon.kernel import KernelEngine
from moatvpn.daemon.packets import PacketEngine
from moatvpn.drivers.interfaces import (
    MESSAGES_BATCH,
    Clock,
    RawSocket,
    Tun,
    UdpSocket,
)
from moatvpn.esp.burst import Arrival, Burst
from moatvpn.esp.coalesce import WORTH_JOINING, joined
from moatvpn.esp.inbound import Delivery
from moatvpn.wire.endpoint import NAT_PORT, Datagram

_FURTHER = 8  # batches that are read beyond the first, and wait
_PAUSE = 0.0005  # seconds without packets: what comes then is mostly alone, and waited for
# What is worked on, each way, of what waits, before the devices are read again: so many octets, in
# parts that begin within so many seconds. Who has just come waits for that about twice, whatever
# the machine's speed, and what is joined with its neighbours loses little by parts of this size.
_AT_ONCE, _PART, _SECONDS = 1 << 18, 1 << 16, 0.0005


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

    What a device has beyond one batch is read, too, and waits in fair shares (esp.shares): so the
    kernel's queues, which drop everybody's packets alike, stay short. soon has a callback called
    once all devices have been looked at.
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
        self._packets = engine
        self._shares = engine.shares
        self._tun = tun
        self._raw = raw
        self._soon = soon
        self._awaited = False  # _serve is to be called soon, for something waits in shares
        self._send_raw, self._send_udp = raw.send_burst, ports[NAT_PORT].send_burst
        self._left = self._came = 0.0  # when raw packets, and datagrams, were last there

    def from_tun(self) -> bool:
        """Send the raw packets that wait at the TUN as envelopes; return as all three do here.

        That is whether no deadline has changed: nearly always where one packet alone has come.
        """
        tun, shares = self._tun, self._shares
        now = self._clock()
        paused, self._left = now - self._left > _PAUSE, now
        # After a pause one is read and sent; whether there are more, the next call finds out.
        packets = tun.read_batch(1) if paused else tun.read_batch()
        if len(packets) == 1 and not self._awaited and (paused or not tun.more):
            burst = self._packets.seal_alone(packets[0], now)
            if burst is not None:
                (self._send_udp if burst.udp else self._send_raw)(burst)
                return True
            self._send(self._packets.from_tun(packets, now))
        elif tun.more or shares.packets_wait:
            shares.leave(packets)
            for _ in range(_FURTHER):
                if not tun.more:
                    break
                shares.leave(tun.read_batch())
            self._serve_soon()
        else:
            self._send(self._packets.from_tun(packets, now))
        self.flush()
        return False

    def from_raw(self) -> bool:
        """Take in the ESP packets that wait at the raw socket."""
        return self._take_from(self._raw, self._raw.receive)

    def from_udp(self, port: int) -> bool:
        """Take in the ESP packets that wait at one of our UDP ports, and what lies with them."""
        queue = self._ports[port]
        now = self._clock()
        paused, self._came = now - self._came > _PAUSE, now
        if paused and not self._awaited:
            arrivals, messages = queue.receive(1)
            if not messages and self._opened_alone(arrivals, now):
                return True
            self._take(arrivals, messages)
            return False

        def receive() -> list[Arrival]:
            arrivals, messages = queue.receive()
            self._take_messages(messages)
            return arrivals

        return self._take_from(queue, receive)

    def _take_from(
        self, source: RawSocket | UdpSocket, receive: Callable[[], list[Arrival]]
    ) -> bool:
        arrivals, shares = receive(), self._shares
        if source.more or (self._awaited and shares.arrivals_wait):
            shares.arrive(arrivals)
            for _ in range(_FURTHER):
                if not source.more or not arrivals:
                    break
                arrivals = receive()
                shares.arrive(arrivals)
            self._serve_soon()
        elif self._opened_alone(arrivals, self._clock()):
            return True
        else:
            self._work_on(arrivals)
        self.flush()
        return False

    def _opened_alone(self, arrivals: list[Arrival], now: float) -> bool:
        """Deliver what a single envelope holds; return False where arrivals need more than that."""
        if len(arrivals) != 1:
            return False
        packet = self._packets.open_alone(arrivals[0], now)
        if packet is None:
            return False
        self._tun.write((packet,))
        return True

    def _serve_soon(self) -> None:
        if not self._awaited:
            self._awaited = True
            self._soon(self._serve)

    def _serve(self) -> None:
        """Work on some of what waits, both ways, and come back for more."""
        self._awaited = False
        shares = self._shares
        for _ in self._parts():
            if not shares.arrivals_wait:
                break
            self._work_on(shares.arrivals(_PART))
        for _ in self._parts():
            if not shares.packets_wait:
                break
            self._send(self._packets.from_tun(shares.packets(_PART), self._clock()))
        if shares.arrivals_wait or shares.packets_wait:
            self._serve_soon()
        self.flush()

    def _parts(self) -> Iterator[None]:
        """Yield once for each part that there is time for, and for the first in any case."""
        end = self._clock() + _SECONDS
        for _ in range(_AT_ONCE // _PART):
            yield
            if self._clock() >= end:
                return

    def handle_timer(self) -> None:
        """Do what is due, and send what comes of it."""
        self._deliver(self._packets.late(self._clock()))
        super().handle_timer()

    def flush(self) -> None:
        """Send the IKE messages that wait in the engine, and the envelopes that are due."""
        super().flush()
        self._send(self._packets.bursts_to_send(self._clock()))

    def _arrived(self, arrivals: list[Arrival]) -> None:
        """Take in ESP packets that the kernel has joined to messages; they get in line, too."""
        if self._shares.arrivals_wait:
            self._shares.arrive(arrivals)
            self._serve_soon()
        else:
            self._work_on(arrivals)

    def _work_on(self, arrivals: list[Arrival]) -> None:
        self._deliver(self._packets.from_esp(arrivals, self._clock()))

    def _send(self, bursts: Iterable[Burst]) -> None:
        send_raw, send_udp = self._send_raw, self._send_udp
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

    def _arrived(self, arrivals: list[Arrival]) -> None:
        # The kernel takes all that could be ESP; what it leaves to us cannot.
        for _ in arrivals:
            self._counters.drop(DropReason.ESP_TOO_SHORT)
