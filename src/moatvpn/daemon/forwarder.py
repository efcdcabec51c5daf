"""Moves packets between the drivers and the engine: the inner loops of the daemon."""

from __future__ import annotations

from collections.abc import Mapping

from moatvpn.daemon.engine import Engine
from moatvpn.drivers.interfaces import (
    STRANGERS_BATCH,
    Clock,
    EspArrival,
    RawSocket,
    Tun,
    UdpSocket,
)
from moatvpn.wire.endpoint import NAT_PORT, Datagram


class Forwarder:
    """One daemon's engine at its devices. Each method takes a bounded batch and never blocks.

    ports maps the numbers 500 and 4500 to our UDP ports.
    """

    def __init__(
        self,
        engine: Engine,
        tun: Tun,
        raw: RawSocket,
        ports: Mapping[int, UdpSocket],
        clock: Clock,
    ) -> None:
        self._engine = engine
        self._tun = tun
        self._raw = raw
        self._ports = ports
        self._clock = clock

    def from_tun(self) -> None:
        """Send the raw packets that wait at the TUN as envelopes."""
        now = self._clock()
        encapsulate = self._engine.from_tun
        send_raw, send_udp = self._raw.send_esp, self._ports[NAT_PORT].send_esp
        for packet in self._tun.read_batch():
            envelope = encapsulate(packet, now)
            if envelope is not None:
                send = send_udp if envelope.udp else send_raw
                send(envelope.data, envelope.peer, envelope.tos)
        self.flush()

    def from_raw(self) -> None:
        """Take in the ESP packets that wait at the raw socket."""
        self._decapsulate(self._raw.receive())
        self.flush()

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
            self._decapsulate(arrivals)
        self.flush()

    def _decapsulate(self, arrivals: list[EspArrival]) -> None:
        now = self._clock()
        decapsulate, write = self._engine.from_esp, self._tun.write
        for data, source, tos in arrivals:
            packet = decapsulate(data, source, tos, now)
            if packet is not None:
                write(packet)

    def handle_timer(self) -> None:
        """Do what is due, and send what comes of it."""
        self._engine.handle_timer(self._clock())
        self.flush()

    def flush(self) -> None:
        """Send the IKE messages that wait in the engine."""
        for datagram in self._engine.datagrams_to_send():
            self._ports[datagram.local.port].send_ike(datagram)
